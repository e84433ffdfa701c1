//! What the services promise together, on each backend that `TEST_BACKENDS` names.

// Clippy's leave for tests reaches helpers only inside of `cfg(test)`.
#[cfg(test)]
mod accounts;
#[cfg(test)]
mod client_secrets;
#[cfg(test)]
mod composed;
#[cfg(test)]
mod consent;
#[cfg(test)]
mod crowd;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod generated;
#[cfg(test)]
mod graph;
#[cfg(test)]
mod healing;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod logins;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod operators_commands;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod person_answers;
#[cfg(test)]
mod person_failures;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod refresh_answers;
#[cfg(test)]
mod refresh_failures;
#[cfg(test)]
mod support;
#[cfg(test)]
mod surface;
#[cfg(test)]
mod uninstalls;
#[cfg(test)]
mod up;

/// One test per case and backend: `sqlite::fifty_callers_cost_one_refresh`.
macro_rules! promises {
    (every backend: $($cases:tt)+) => {
        promises!(@stamp sqlite on_sqlite Sqlite $($cases)+);
        promises!(@stamp postgres on_postgres Postgres $($cases)+);
        promises!(@stamp mysql on_mysql Mysql $($cases)+);
    };
    (every server: $($cases:tt)+) => {
        promises!(@stamp postgres_server on_postgres Postgres $($cases)+);
        promises!(@stamp mysql_server on_mysql Mysql $($cases)+);
    };
    (@stamp $module:ident $on:ident $backend:ident $($file:ident { $($case:ident)+ })+) => {
        #[cfg(test)]
        mod $module {
            use pipekeeper_core::store::Backend;

            $($(
                pipekeeper_testing::$on! {
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        Box::pin(crate::$file::$case(Backend::$backend)).await;
                    }
                }
            )+)+
        }
    };
}

promises! { every backend:
    healing {
        expired_token_costs_one_refresh_and_no_caller_notices
        fifty_callers_cost_one_refresh
        fifty_callers_cost_one_refresh_of_a_single_use_token
        two_refreshers_and_two_data_apis_cost_one_refresh
        api_that_refuses_everything_costs_few_refreshes_at_once
        token_that_ends_before_it_is_used_is_no_dead_connection
    }
    policies {
        failing_refresh_ahead_is_not_felt
        first_use_of_a_connection_brings_the_sweep_to_it
        on_401_a_token_is_sent_until_it_is_refused
        every_request_goes_with_a_token_of_the_last_half_minute
        every_request_heals_a_401_all_the_same
        every_request_goes_out_although_the_token_cannot_be_renewed
        every_request_goes_out_although_the_refresh_takes_too_long
        every_request_waits_once_for_a_refresher_that_does_not_answer
        every_request_of_a_dead_grant_is_refused
    }
    client_secrets {
        consent_goes_through_by_the_second_secret
        notice_is_taken_from_who_knows_either_secret
    }
    consent {
        install_connects_the_one_who_consented
        every_callback_url_takes_a_code
        second_install_of_the_same_user_renews_the_same_row
        declined_consent_stores_nothing
        code_that_is_missing_stores_nothing
        code_that_is_used_expired_or_anothers_stores_nothing
        provider_that_fails_stores_nothing
        id_that_is_too_long_is_refused_and_its_grant_revoked
        consent_that_the_database_refuses_is_revoked
        wrong_client_secret_is_said_and_stores_nothing
        provider_that_does_not_know_its_token_yet_is_asked_again
        switched_off_installs_connect_nobody
        code_is_exchanged_once_though_it_comes_twice
        code_is_exchanged_once_though_it_comes_to_two_replicas
        claimer_that_died_is_told_of
        prefetch_does_nothing
        callbacks_that_nobody_started_share_their_limits
        callback_url_is_sent_as_it_was_configured
        browsers_get_pages_that_can_run_and_leak_nothing
    }
    logins {
        login_connects_the_account_that_the_operator_named
        login_ends_once
        login_ends_once_though_many_bring_it_back_together
        login_ends_in_the_browser_that_began_it
        declined_login_is_over
        only_the_operator_names_accounts
        login_cookie_is_for_this_site_and_this_way_back_alone
        login_adopts_the_marketplace_row_of_the_same_person
        second_account_is_refused_and_the_holder_goes_on
        ended_connection_keeps_nobody_out
        ended_connection_of_another_user_is_not_in_the_way
        same_persons_install_renews_the_connection_that_a_login_made
        login_without_credentials_is_stored_nowhere
        state_with_our_prefix_is_a_good_one_or_refused
        state_carries_its_app_and_its_verifier
        own_install_link_counts_as_an_install
        login_starts_at_the_host_of_its_callback
        refused_consent_is_not_left_alive
        refused_consent_is_not_revoked_over_a_later_one
        account_keeps_its_company
        account_whose_connection_ended_may_connect_another_company
        same_account_logs_in_again_on_its_own_row
    }
    uninstalls {
        uninstall_ends_the_connection
        uninstall_of_one_user_leaves_the_others_alone
        notice_without_the_apps_credentials_changes_nothing
        notice_about_nobody_is_fine_and_changes_nothing
        notice_that_cannot_be_read_is_refused
        ids_of_a_notice_are_numbers_or_text
        late_notice_does_not_end_a_reinstall
        notice_without_a_readable_time_is_checked_by_one_refresh
        notice_from_about_the_time_of_the_consent_is_checked_by_one_refresh
        notice_is_not_answered_by_a_token_from_before_it
        notice_that_cannot_be_checked_ends_nothing
        reinstall_after_an_uninstall_works_again
    }
    accounts {
        refresh_of_one_account_leaves_the_other_alone
        each_account_is_answered_from_its_own_company
        connection_id_names_one_connection_to_both_webhooks
        end_of_one_account_leaves_the_other_alone
        stranger_s_install_changes_nothing_for_callers_who_name_no_account
        default_connection_is_the_first_that_somebody_vouches_for
        default_connection_that_has_ended_is_told
        default_connection_of_another_company_is_not_served
        default_connection_of_another_user_is_not_served
        default_connection_follows_its_person
        installs_are_restricted_to_the_companies_that_are_named
        of_several_apps_one_is_meant_by_callers_who_name_none
        reconnect_is_not_refreshed_for_the_older_tokens_sake
    }
    refresh_answers {
        strangers_get_no_refresh
        refreshed_row_is_answered_without_its_tokens
        refresh_takes_json_and_forms_and_numbers_as_text
        body_of_no_use_is_named
        connection_that_is_not_there_is_not_found
        dead_grant_is_told_and_not_asked_for_again
        token_that_is_refused_right_after_its_renewal_waits
        newer_token_is_answer_enough
        caller_without_a_generation_gets_a_new_token_once_the_last_is_seconds_old
    }
    refresh_failures {
        wrong_client_secret_is_ours_and_probed_once_a_minute
        app_that_the_refresher_does_not_have_is_said
        provider_that_makes_no_sense_costs_no_connection
        ended_token_is_not_said_to_be_good
        one_lost_answer_is_asked_for_again_at_once
        lost_answer_of_a_single_use_token_is_named
        odd_token_answers_are_made_good
        odd_scope_is_made_to_fit_the_database
        what_the_database_refuses_beside_the_tokens_stays_as_it_was
        tokens_that_the_database_refuses_are_stored_by_the_next_process
        caller_waits_no_longer_than_it_said_and_the_refresh_goes_on
    }
    person_answers {
        strangers_get_no_person
        name_comes_as_the_caller_asks_for_it
        connection_may_be_named
        every_email_is_found_exactly
        what_is_only_like_the_email_is_nobodys
        nothing_connected_is_not_found
        body_without_a_usable_email_is_refused
        bodies_are_json_whatever_they_claim
    }
    person_failures {
        dead_grant_is_told_to_its_callers
        every_401_heals_whatever_its_body_says
        token_that_ended_by_the_clock_is_not_sent
        expired_token_behind_a_burst_limit_heals
        burst_limit_is_waited_for_and_then_told
        spent_daily_budget_is_told_at_once
        time_to_come_back_is_passed_on_however_it_is_written
        failing_api_is_told_and_costs_no_refresh
        refresher_that_cannot_be_asked_is_told
        failing_refresh_is_told_with_the_refreshers_word
        slow_refresh_is_told_as_busy
    }
    endings {
        caller_that_gives_up_does_not_abort_the_refresh
        stop_in_the_middle_of_a_refresh_commits_it
        stop_in_the_middle_of_an_abandoned_refresh_commits_it
        refresh_that_loses_to_an_uninstall_revokes_what_it_got
        refresh_that_loses_to_a_reconnect_leaves_it_alone
        callers_that_go_away_harm_nobody
    }
    operators_commands {
        connections_are_listed_and_shown
        operator_chooses_the_default_connection
        operator_refreshes_like_a_caller
        operator_disconnects_and_the_provider_is_told
    }
    migration {
        import_says_what_it_would_do_and_writes_nothing
        import_takes_over_what_is_good_and_the_second_time_changes_nothing
        import_finds_out_by_a_refresh_whose_an_expired_grant_is
        import_asks_again_later_what_the_provider_does_not_say_now
        import_revives_by_newer_tokens_alone
        import_orders_rows_by_time_and_not_by_text
        import_gives_no_living_grant_up_for_ended
        import_spends_one_refresh_token_of_a_person
        blanks_and_quotes_around_values_are_not_used
        row_without_an_id_of_its_own_is_open
        import_names_row_level_security
        exports_and_documents_are_taken_over_alike
        import_that_was_killed_before_it_knew_whose_it_is_goes_on
        import_that_was_killed_after_it_had_filed_spends_nothing_twice
        two_imports_at_once_lose_nothing
        import_that_was_killed_in_its_refresh_goes_on
        hand_back_that_was_killed_is_ended_by_the_next
        after_the_way_back_the_old_table_has_the_newest_tokens_and_we_spend_none
        token_in_doubt_is_not_handed_back
        connection_without_a_row_stays_here
        row_that_cannot_take_the_tokens_is_not_handed_back
        workflow_that_reads_the_old_row_after_a_refresh_finds_the_new_token
        renewal_that_no_workflow_asked_for_is_mirrored_too
        old_table_that_is_away_is_brought_up_to_date_later
        row_that_lags_behind_is_no_reason_to_refresh
        mirrored_connection_counts_as_in_use
        table_that_cannot_be_written_is_named_at_the_start
        same_person_who_installs_again_through_n8n_replaces_our_tokens
        other_person_who_installs_through_n8n_gets_a_connection_of_their_own
        expired_tokens_of_a_changed_row_wait_for_the_import
        import_takes_the_new_tokens_of_a_row_that_it_knows
        default_while_mirroring_is_the_connection_of_the_newest_row
        tokens_are_kept_until_each_row_has_them
        row_that_no_update_changes_is_named
        guide_is_walked_as_it_is_printed
    }
    outages {
        database_that_takes_no_writes_is_named
    }
    keys {
        token_under_an_unknown_key_is_said_and_kept
        token_moved_to_another_row_does_not_open
        keys_are_rotated_without_an_outage
    }
}

promises! { every server:
    outages {
        outage_is_said_and_heals_by_itself
        refreshed_token_outlives_a_cut_before_its_commit
        new_grant_outlives_a_cut_before_it_is_stored
        consent_whose_commit_lost_its_response_is_not_stored_again
        silent_database_is_given_up_on
        newer_token_that_cannot_be_read_is_no_dead_connection
        failover_that_loses_commits_costs_no_token
    }
}
