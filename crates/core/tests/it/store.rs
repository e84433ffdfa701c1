//! What the store promises, on each backend that `TEST_BACKENDS` names.

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{AccountName, AppKey, Connection, ConnectionId};
use pipekeeper_core::granted::Consent;
use pipekeeper_core::sealed::Sealed;
use pipekeeper_core::store::{Commit, NewConnection, SpendFailure, Store};

mod again;
mod app_credentials;
mod app_tok;
mod commits;
mod conflicts;
mod doubt;
mod endings;
mod figures;
mod imports;
mod leases;
mod listing;
mod logins;
mod migrations;
mod obstacles;
mod odd_defaults;
mod outages;
mod plans;
mod pooler;
mod read_only;
mod records;
mod replaced_file;
mod role;
mod rows;
mod selection;
mod shared_file;
mod supabase;
mod sweep;
mod tls;

/// One test per case and backend: `sqlite::lease_is_exclusive`.
macro_rules! contract {
    (every backend: $($cases:tt)+) => {
        contract!(@stamp sqlite on_sqlite (pipekeeper_core::store::Backend::Sqlite) $($cases)+);
        contract!(@stamp postgres on_postgres (pipekeeper_core::store::Backend::Postgres) $($cases)+);
        contract!(@stamp mysql on_mysql (pipekeeper_core::store::Backend::Mysql) $($cases)+);
    };
    (every server: $($cases:tt)+) => {
        contract!(@stamp postgres_server on_postgres (pipekeeper_core::store::Backend::Postgres) $($cases)+);
        contract!(@stamp mysql_server on_mysql (pipekeeper_core::store::Backend::Mysql) $($cases)+);
    };
    (postgres alone: $($cases:tt)+) => {
        contract!(@stamp postgres_alone on_postgres () $($cases)+);
    };
    (mysql alone: $($cases:tt)+) => {
        contract!(@stamp mysql_alone on_mysql () $($cases)+);
    };
    (@stamp $module:ident $on:ident $backend:tt $($file:ident { $($case:ident)+ })+) => {
        mod $module {
            $($(
                pipekeeper_testing::$on! {
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        super::$file::$case $backend .await;
                    }
                }
            )+)+
        }
    };
}

contract! { every backend:
    leases {
        lease_is_exclusive
        lease_needs_a_row_that_is_as_it_was_seen
        lease_ends_by_its_holders_word_alone
        orphan_is_taken_over_by_one_and_in_doubt
        failed_spend_of_a_stale_lease_owner_changes_nothing
    }
    commits {
        stale_generation_cannot_commit
        commit_clears_what_went_before
        commit_never_revives_a_revoked_row
        text_that_a_database_does_not_hold_is_refused_for_good
        texts_of_a_provider_are_made_to_fit
        held_row_keeps_everybody_waiting_and_its_lease
    }
    doubt {
        doubt_stays_until_a_commit
        doubt_outlives_a_commit_that_revives
        doubt_ends_under_its_own_lease_alone
        what_was_never_in_doubt_is_revived_without_any
        a_refusal_reads_the_rows_own_doubt
    }
    endings {
        reconnect_revives_a_revoked_row
        only_what_has_ended_for_good_is_forgotten
        reauth_required_never_overrides_a_moved_generation
        ending_twice_moves_the_generation_once
        a_late_token_is_revoked_in_place_of_the_older_one
        a_disconnect_leaves_the_lease_of_a_refresh_under_way_and_a_doubt
        a_response_is_looked_for_at_the_generation_that_it_was_given_for
        a_recheck_that_is_refused_again_changes_neither_reason_nor_since
        an_active_row_is_never_still_refused
    }
    rows {
        every_column_survives
        tokens_of_any_bytes_survive
        instants_survive_to_the_microsecond
        keepers_that_look_alike_are_different
        two_rows_cannot_hold_one_grant_or_one_keeper
        reconnect_cannot_take_what_another_row_holds
        rows_are_found_by_keeper_and_by_grant
        use_is_noted
        use_makes_an_active_row_due_sooner_never_later
    }
    selection {
        who_names_no_account_gets_the_default_connection
        no_connection_takes_the_place_of_a_default_that_has_ended
        without_a_default_the_only_one_says_why_nothing_is_active
        consent_and_its_defaults_are_written_together_or_not_at_all
        default_follows_the_person_whose_row_makes_room
        migration_keeps_what_callers_got
    }
    listing {
        every_row_is_listed_once_in_the_order_of_its_listing
        listings_neither_skip_nor_repeat_what_stays_where_it_is
        an_overview_has_the_columns_of_the_view
    }
    sweep {
        due_rows_come_in_pages_and_in_order
        pages_neither_skip_nor_repeat_what_stays_where_it_is
        refused_rows_are_due_when_somebody_asks
        the_sweeps_delay_is_told_by_active_rows
        only_pending_revocations_are_due
        a_row_is_postponed_unless_it_moved
    }
    figures {
        rejections_are_counted_per_app_and_time
        deadlines_are_counted_by_day_week_and_month
    }
    app_credentials {
        a_change_of_credentials_is_told_once
        of_several_processes_one_hears_of_new_credentials
    }
    app_tok {
        rows_of_the_old_table_are_read_whatever_their_types
        times_of_the_old_table_are_read_with_their_zone
        row_level_security_that_hides_rows_is_seen
        old_row_is_written_to_by_its_id_and_as_it_was_seen
        row_that_would_not_hold_what_it_is_given_is_left_as_it_was
        write_is_not_tried_where_it_cannot_be_undone
        old_table_that_lacks_a_column_is_said
    }
    imports {
        what_a_row_has_become_is_noted_once
        a_row_is_handed_back_once
        handing_back_waits_for_who_is_at_it
        what_is_handed_back_is_never_due_and_never_committed
    }
    logins {
        login_is_kept_until_it_is_pruned
        code_is_claimed_once_and_so_is_a_state
        claim_is_finished_by_its_claimer_once
        callbacks_whose_tokens_are_not_stored_are_pruned_first
    }
    records {
        refresh_log_is_read_newest_first_and_trimmed_by_age
        refresh_log_keeps_the_order_it_was_given
        of_two_page_marks_the_earlier_record_stays
        ended_page_marks_are_as_good_as_gone
    }
    migrations {
        six_processes_can_migrate_at_once
        migrations_run_on_a_runtime_of_one_thread
        up_down_up_gives_the_same_schema
        schema_status_tells_behind_from_newer
        overview_shows_no_secrets
    }
    read_only {
        a_full_disk_is_told_from_a_database_that_is_away
    }
    plans {
        every_hot_query_goes_by_its_index
    }
}

contract! { postgres alone:
    conflicts {
        a_session_that_postgres_ends_is_a_lost_connection
        no_isolation_level_of_postgres_reaches_a_caller
    }
    odd_defaults {
        options_of_a_url_reach_the_server
    }
    pooler {
        the_stores_promises_hold_behind_a_pooler_without_named_statements
        the_stores_promises_hold_behind_a_pooler_as_it_comes
    }
    read_only {
        a_default_of_postgres_that_forbids_writes_is_told_without_a_request
    }
    role {
        an_owner_without_all_rights_can_make_the_role
    }
    supabase {
        visitors_read_and_delete_nothing
        rights_without_a_policy_show_no_rows
    }
    tls {
        postgres_is_held_to_its_sslmode
    }
}

contract! { mysql alone:
    odd_defaults {
        sessions_of_mysql_are_what_we_make_them
    }
    tls {
        mysql_is_held_to_its_tls_parameters
    }
}

contract! { every server:
    tls {
        a_server_without_tls_is_told_of_when_tls_is_asked_for
    }
    outages {
        store_recovers_from_a_cut_by_itself
        a_heartbeat_tells_of_a_lost_connection
        connections_outlive_the_runtime_that_asked_first
        silent_server_is_given_up_on
        dropped_request_does_not_garble_the_next
        refused_logins_say_why_without_the_password
    }
    conflicts {
        a_query_that_lost_a_conflict_is_repeated
        a_conflict_without_end_is_given_up_on
        other_errors_are_not_repeated
    }
    obstacles {
        what_keeps_a_server_from_being_used_is_told
        a_user_with_too_few_rights_is_told_what_to_do
        a_host_that_answers_nothing_is_told_of
    }
    role {
        the_stores_promises_hold_for_a_service_role
        a_service_role_can_do_nothing_else
        a_role_covers_what_a_later_migration_adds
        a_role_has_whatever_name_and_password_it_was_given
        roles_that_are_not_for_services_are_left_alone
    }
}

pub(crate) const NOW: i64 = 1_800_000_000_123_456;

/// So many seconds from when all of this happens.
pub(crate) fn at(secs: i64) -> Timestamp {
    Timestamp::from_unix_micros(NOW + secs * 1_000_000).unwrap()
}

pub(crate) fn app() -> AppKey {
    AppKey {
        platform: "Pipedrive".to_owned(),
        app_id: "57db0bab2932f657".to_owned(),
    }
}

pub(crate) fn other_app() -> AppKey {
    AppKey {
        app_id: "0000000000000000".to_owned(),
        ..app()
    }
}

pub(crate) fn name(text: &str) -> AccountName {
    text.parse().unwrap()
}

pub(crate) fn sealed(text: &str) -> Sealed {
    text.as_bytes().to_vec().into()
}

/// A consent of a person without another row.
pub(crate) fn consent(account_id: &str, owner: &str) -> Consent {
    let upstream = ConnectionId::generate();
    Consent {
        account_id: account_id.parse().unwrap(),
        owner: owner.parse().unwrap(),
        company_id: format!("c-{upstream}"),
        company_domain: "acme".to_owned(),
        company_name: "Åcme \u{1f980} GmbH".to_owned(),
        user_id: "11".to_owned(),
        user_name: "Jane".to_owned(),
        api_domain: "https://acme.pipedrive.com".to_owned(),
        scope: "base deals:full".to_owned(),
        access_token: sealed("access-1"),
        refresh_token: sealed("refresh-1"),
        expires_at: at(3600),
        authorized_at: at(0),
        idle_deadline: Some(at(86_400 * 60)),
        due_at: at(3000),
    }
}

pub(crate) fn commit() -> Commit {
    Commit {
        spent_under: None,
        access_token: sealed("access-2"),
        refresh_token: sealed("refresh-2"),
        scope: Some("base".to_owned()),
        api_domain: Some("https://acme2.pipedrive.com".to_owned()),
        expires_at: at(7200),
        refreshed_at: at(60),
        idle_deadline: Some(at(86_400 * 61)),
        early_renewals: 2,
        due_at: at(6000),
    }
}

pub(crate) fn failure(in_doubt: bool) -> SpendFailure {
    SpendFailure {
        retry_at: at(30),
        last_error: "timeout".to_owned(),
        in_doubt,
        due_at: at(31),
    }
}

pub(crate) async fn insert(store: &Store, consent: Consent) -> ConnectionId {
    let id = ConnectionId::generate();
    let new = NewConnection {
        id: id.clone(),
        app: app(),
        consent,
    };
    store.connection_insert(&new, at(0)).await.unwrap();
    id
}

pub(crate) async fn get(store: &Store, id: &ConnectionId) -> Connection {
    store.connection_find(id).await.unwrap().unwrap()
}
