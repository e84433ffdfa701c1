//! The refresh protocol as a model, searched exhaustively: every order of the steps of two or three processes, with kills,
//! stops, losses, consents, disconnects and uninstalls in between. Its names are the code's.
//!
//! A process that takes no step for a while is a stopped one: time passes it by. What the model takes for granted, because
//! no software can property it: nothing stops a process between its look and the token on the wire, and a request that was
//! given up does not arrive later than the next one.
//!
//! An answer is destroyed if its process dies, or the network loses it, before a journal had it; those alone excuse a token
//! that is presented again, beside what the look could not see: an answer that was stopped together with its process before
//! it was journaled, or in a journal out of reach. A disconnect leaves nothing behind if no grant is alive whose token
//! is known: Pipedrive knows one grant per user and app, so a new consent is no second grant.

mod environment;
mod properties;
mod protocol;
mod provider;
mod search;
mod state;

use environment::Environment;
use protocol::Protocol;
use provider::{Provider, Reinstall, Rotation};
use search::{Property, search};
use state::Faults;

const NONE: Faults = Faults {
    kills: 0,
    losses: 0,
    unwritable: 0,
    disconnects: 0,
    consents: 0,
    uninstalls: 0,
    rechecks: 0,
    unnamed: 0,
    failovers: 0,
};

const ROTATIONS: [Rotation; 3] = [
    Rotation::SingleUseWithReuseDetection,
    Rotation::SingleUse,
    Rotation::Sticky,
];

const ONE_JOURNAL: &[u8] = &[0, 0];
const TWO_JOURNALS: &[u8] = &[0, 1];

fn environment(disks: &'static [u8], rotation: Rotation, faults: Faults) -> Environment {
    let moves = faults.disconnects + faults.consents + faults.uninstalls;
    Environment {
        protocol: Protocol::OURS,
        provider: Provider {
            rotation,
            reinstall: Reinstall::ReplacesTokens,
        },
        disks,
        faults,
        wanted: 3 + moves.min(1),
        copied: false,
        back_within_grace: false,
    }
}

/// The same faults under each of the three rotations.
fn worlds(disks: &'static [u8], faults: &[Faults]) -> Vec<Environment> {
    let all = |faults: &Faults| ROTATIONS.map(|rotation| environment(disks, rotation, *faults));
    faults.iter().flat_map(all).collect()
}

/// Every property holds in every state that these worlds can come to.
#[track_caller]
fn hold(worlds: impl IntoIterator<Item = Environment>) {
    let mut states = 0;
    for environment in worlds {
        let searched = search(&environment);
        if let Some(found) = searched.found {
            panic!(
                "{:?} is broken in {environment:?}:\n{}",
                found.property, found.story
            );
        }
        assert!(
            searched.at_rest > 0,
            "nothing comes to rest in {environment:?}"
        );
        states += searched.states;
    }
    println!("{states} states");
}

/// Without a rule of the protocol its property is broken: the model can tell.
#[track_caller]
fn breaks(property: Property, mut environment: Environment, take_away: impl Fn(&mut Protocol)) {
    take_away(&mut environment.protocol);
    let found = search(&environment).found.expect("no property is broken");
    println!("{}", found.story);
    assert_eq!(found.property, property, "{}", found.story);
}

/// Single use with reuse detection, which forgives nothing.
fn strict(disks: &'static [u8], faults: Faults) -> Environment {
    environment(disks, Rotation::SingleUseWithReuseDetection, faults)
}

const DEATHS: [Faults; 3] = [
    Faults { kills: 2, ..NONE },
    Faults {
        kills: 1,
        losses: 1,
        rechecks: 1,
        ..NONE
    },
    Faults {
        kills: 1,
        losses: 1,
        unwritable: 1,
        ..NONE
    },
];

const PEOPLE: [Faults; 3] = [
    Faults {
        kills: 1,
        disconnects: 1,
        ..NONE
    },
    Faults {
        kills: 1,
        consents: 1,
        rechecks: 1,
        ..NONE
    },
    Faults {
        kills: 1,
        uninstalls: 1,
        ..NONE
    },
];

const PEOPLE_AT_ODDS: [Faults; 2] = [
    Faults {
        kills: 1,
        disconnects: 1,
        consents: 1,
        ..NONE
    },
    Faults {
        kills: 1,
        uninstalls: 1,
        consents: 1,
        ..NONE
    },
];

const A_KILL: Faults = Faults { kills: 1, ..NONE };
const A_LOSS: Faults = Faults { losses: 1, ..NONE };
const A_FULL_DISK: Faults = Faults {
    unwritable: 1,
    ..NONE
};
const A_FAILOVER: Faults = Faults {
    failovers: 1,
    ..NONE
};
const A_CONSENT: Faults = Faults {
    consents: 1,
    ..NONE
};
const A_DISCONNECT: Faults = Faults {
    disconnects: 1,
    ..NONE
};

#[test]
fn two_processes_with_one_journal_keep_every_promise() {
    hold(worlds(ONE_JOURNAL, &DEATHS));
    hold(worlds(ONE_JOURNAL, &PEOPLE));
    hold(PEOPLE_AT_ODDS.map(|faults| strict(ONE_JOURNAL, faults)));
}

#[test]
fn two_processes_with_a_journal_each_keep_every_promise() {
    hold(worlds(TWO_JOURNALS, &DEATHS));
    hold(worlds(TWO_JOURNALS, &PEOPLE));
    hold(PEOPLE_AT_ODDS.map(|faults| strict(TWO_JOURNALS, faults)));
}

#[test]
fn three_processes_keep_every_promise() {
    for disks in [&[0, 0, 0], &[0, 0, 1]] {
        hold(worlds(disks, &[A_KILL, A_LOSS, A_FULL_DISK]));
    }
}

#[test]
fn an_answer_out_of_reach_is_waited_for_by_those_who_give_it_the_grace() {
    let grace = |environment| Environment {
        back_within_grace: true,
        ..environment
    };
    hold(worlds(TWO_JOURNALS, &DEATHS).into_iter().map(grace));
}

/// All refreshers are there, and each has the time to write what it has.
#[test]
fn a_database_that_loses_its_last_commit_costs_nothing() {
    let losses = [
        A_FAILOVER,
        Faults {
            disconnects: 1,
            ..A_FAILOVER
        },
    ];
    for disks in [ONE_JOURNAL, TWO_JOURNALS] {
        hold(worlds(disks, &losses));
    }
    hold(worlds(&[0, 0, 1], &[A_FAILOVER]));
}

#[test]
fn copies_of_journals_change_nothing() {
    let copied = |environment| Environment {
        copied: true,
        ..environment
    };
    hold(
        worlds(TWO_JOURNALS, &[NONE, A_KILL])
            .into_iter()
            .map(copied),
    );
}

#[test]
fn callers_that_name_no_generation_delay_nobody() {
    let faults = Faults { unnamed: 2, ..NONE };
    hold(worlds(ONE_JOURNAL, &[faults]));
}

#[test]
fn a_consent_that_leaves_the_older_tokens_alive_breaks_nothing() {
    let faults = Faults {
        kills: 1,
        rechecks: 1,
        ..A_CONSENT
    };
    hold(worlds(ONE_JOURNAL, &[faults]).into_iter().map(keeping));
}

/// What is left: a consent is the provider's before it is ours, so a revocation on its way can't know of it.
#[test]
fn a_revocation_on_its_way_may_meet_a_newer_consent_where_older_tokens_live_on() {
    let faults = Faults {
        consents: 1,
        ..A_DISCONNECT
    };
    let environment = keeping(strict(ONE_JOURNAL, faults));
    breaks(Property::NewConsentIsSpared, environment, |_| {});
}

fn keeping(mut environment: Environment) -> Environment {
    environment.provider.reinstall = Reinstall::KeepsTokens;
    environment
}

#[test]
fn without_an_exclusive_lease_a_token_is_presented_twice() {
    breaks(
        Property::PresentedOnce,
        strict(ONE_JOURNAL, NONE),
        |rules| {
            rules.lease_is_exclusive = false;
        },
    );
}

#[test]
fn without_a_lease_length_for_holders_that_run_a_token_is_presented_twice() {
    breaks(
        Property::PresentedOnce,
        strict(ONE_JOURNAL, NONE),
        |rules| {
            rules.running_holder_keeps_lease = false;
        },
    );
}

#[test]
fn without_the_orphan_grace_a_token_is_presented_twice() {
    let environment = Environment {
        back_within_grace: true,
        ..strict(TWO_JOURNALS, NONE)
    };
    breaks(Property::PresentedOnce, environment, |rules| {
        rules.orphan_grace = false;
    });
}

#[test]
fn without_the_locks_own_identity_a_copied_journal_has_a_token_presented_twice() {
    let copied = Environment {
        copied: true,
        ..strict(TWO_JOURNALS, NONE)
    };
    breaks(Property::PresentedOnce, copied, |rules| {
        rules.death_is_seen_at_the_lock_itself = false;
    });
}

#[test]
fn without_quiet_after_a_loss_a_token_is_presented_twice() {
    breaks(
        Property::PresentedOnce,
        strict(TWO_JOURNALS, A_FAILOVER),
        |rules| {
            rules.quiet_after_a_loss = false;
        },
    );
}

#[test]
fn without_rewritten_responses_a_token_is_presented_twice() {
    breaks(
        Property::PresentedOnce,
        strict(TWO_JOURNALS, A_FAILOVER),
        |rules| {
            rules.responses_are_rewritten = false;
        },
    );
}

#[test]
fn without_rewritten_leases_a_token_is_presented_twice() {
    breaks(
        Property::PresentedOnce,
        strict(TWO_JOURNALS, A_FAILOVER),
        |rules| {
            rules.leases_are_rewritten = false;
        },
    );
}

#[test]
fn without_a_lease_that_outlives_a_disconnect_a_grant_is_left_behind() {
    let faults = Faults {
        kills: 1,
        ..A_DISCONNECT
    };
    breaks(
        Property::NothingLeftBehind,
        strict(ONE_JOURNAL, faults),
        |rules| {
            rules.disconnect_keeps_the_lease = false;
        },
    );
}

#[test]
fn without_an_end_to_the_doubt_a_disconnect_leaves_a_grant_behind() {
    let faults = Faults {
        kills: 1,
        ..A_DISCONNECT
    };
    breaks(
        Property::NothingLeftBehind,
        strict(ONE_JOURNAL, faults),
        |rules| {
            rules.revocation_settles_the_doubt = false;
        },
    );
}

#[test]
fn without_a_wait_for_the_holder_a_disconnect_has_its_token_presented_twice() {
    breaks(
        Property::PresentedOnce,
        strict(ONE_JOURNAL, A_DISCONNECT),
        |rules| {
            rules.revocation_waits_for_the_holder = false;
        },
    );
}

#[test]
fn without_a_back_off_of_their_own_callers_that_name_no_generation_delay_others() {
    let faults = Faults { unnamed: 1, ..NONE };
    breaks(
        Property::OthersAreNotDelayed,
        strict(ONE_JOURNAL, faults),
        |rules| {
            rules.unnamed_refreshes_make_no_streak = false;
        },
    );
}

#[test]
fn without_a_look_before_spending_a_token_is_presented_twice() {
    breaks(
        Property::PresentedOnce,
        strict(ONE_JOURNAL, A_KILL),
        |rules| {
            rules.look_before_spending = false;
        },
    );
}

#[test]
fn without_a_look_before_the_release_a_token_is_presented_twice() {
    let environment = Environment {
        back_within_grace: true,
        ..strict(TWO_JOURNALS, A_KILL)
    };
    breaks(Property::PresentedOnce, environment, |rules| {
        rules.look_before_release = false;
    });
}

#[test]
fn with_a_wait_between_look_and_call_a_token_is_presented_twice() {
    breaks(
        Property::PresentedOnce,
        strict(ONE_JOURNAL, NONE),
        |rules| {
            rules.look_is_fresh = false;
        },
    );
}

#[test]
fn without_a_look_at_the_row_a_token_is_presented_twice() {
    breaks(
        Property::PresentedOnce,
        strict(ONE_JOURNAL, A_FULL_DISK),
        |rules| {
            rules.look_rereads_the_row = false;
        },
    );
}

#[test]
fn without_the_journal_before_the_commit_an_answer_is_lost() {
    breaks(
        Property::ReachedIsKept,
        strict(ONE_JOURNAL, A_KILL),
        |rules| {
            rules.journal_before_commit = false;
        },
    );
}

#[test]
fn without_the_compare_on_the_generation_an_older_token_overwrites_a_newer_one() {
    breaks(Property::NewestIsHeld, strict(ONE_JOURNAL, NONE), |rules| {
        rules.commit_compares_generation = false;
    });
}

#[test]
fn without_a_new_look_at_the_row_a_lost_race_ends_a_connection() {
    breaks(
        Property::ReauthOnlyIfDead,
        strict(ONE_JOURNAL, A_CONSENT),
        |rules| {
            rules.reread_after_invalid_grant = false;
        },
    );
}

#[test]
fn without_a_generation_for_the_revocation_a_token_is_presented_twice() {
    let environment = strict(ONE_JOURNAL, A_DISCONNECT);
    breaks(Property::PresentedOnce, environment, |rules| {
        rules.revoke_moves_generation = false;
    });
}

/// Two rules keep it revoked, the generation and the state. The first is enough.
#[test]
fn without_both_guards_of_a_revoked_row_it_is_revived() {
    let faults = Faults {
        kills: 1,
        ..A_DISCONNECT
    };
    let mut by_generation = strict(ONE_JOURNAL, faults);
    by_generation.protocol.commit_spares_revoked = false;
    hold([by_generation]);

    breaks(
        Property::RevokedStays,
        strict(ONE_JOURNAL, faults),
        |rules| {
            rules.revoke_moves_generation = false;
            rules.commit_spares_revoked = false;
        },
    );
}

/// With a journal the sweep would find it all the same.
#[test]
fn without_storing_what_comes_late_a_disconnect_has_its_token_presented_twice() {
    let faults = Faults {
        unwritable: 1,
        ..A_DISCONNECT
    };
    breaks(
        Property::PresentedOnce,
        strict(ONE_JOURNAL, faults),
        |rules| {
            rules.overtaken_by_revoke_revokes = false;
        },
    );
}

#[test]
fn without_the_rule_that_the_newest_is_revoked_a_late_replay_leaves_a_grant_behind() {
    let faults = Faults {
        kills: 1,
        ..A_DISCONNECT
    };
    let environment = strict(ONE_JOURNAL, faults);
    breaks(Property::NothingLeftBehind, environment, |rules| {
        rules.revoke_also_takes_the_newest = false;
    });
}

#[test]
fn without_a_replay_a_good_grant_stays_refused() {
    let environment = environment(TWO_JOURNALS, Rotation::SingleUse, A_KILL);
    breaks(Property::ReauthOnlyIfDead, environment, |rules| {
        rules.replay = false;
    });
}

#[test]
fn without_a_memory_of_doubt_a_lost_answer_is_called_a_refusal() {
    breaks(
        Property::LostIsToldAsLost,
        strict(ONE_JOURNAL, NONE),
        |rules| {
            rules.in_doubt_is_remembered = false;
        },
    );
}

#[test]
fn without_the_rows_own_doubt_a_lost_answer_is_called_a_refusal() {
    breaks(
        Property::LostIsToldAsLost,
        strict(ONE_JOURNAL, A_KILL),
        |rules| {
            rules.refusal_reads_the_rows_doubt = false;
        },
    );
}

#[test]
fn without_the_lease_a_commit_must_not_end_the_doubt() {
    breaks(
        Property::LostIsToldAsLost,
        strict(ONE_JOURNAL, NONE),
        |rules| {
            rules.doubt_ends_under_its_own_lease = false;
        },
    );
}
