//! Each rule that can be broken: what holds with it, and what happens without it.

use pipekeeper_core::oauth::TokenBody;

use super::*;
use crate::rules::{Rule, Rules};

fn without(fixture: &Fixture, rule: Rule) -> Arc<Refresher> {
    fixture.door_keeping(
        Rules::without(rule),
        &[],
        fixture.journal(&fixture.journals),
        timing(),
    )
}

/// What a refresh comes to that keeps all rules, and one without one of them, each in a fixture of its own.
async fn compared<W, P>(rule: Rule, play: impl Fn(Fixture, Arc<Refresher>) -> W, prepare: P)
where
    W: Future<Output = bool>,
    P: AsyncFn(&Fixture),
{
    for broken in [false, true] {
        let fixture = Fixture::new().await;
        prepare(&fixture).await;
        let refresher = if broken {
            without(&fixture, rule)
        } else {
            fixture.refresher()
        };
        assert_eq!(play(fixture, refresher).await, broken, "{rule:?}");
    }
}

/// The lease of a process that was killed, and what it had written down, if it had.
async fn left_by_the_dead(fixture: &Fixture, response: Option<&Value>) {
    let journal = fixture.journal(&fixture.journals);
    fixture.leased_by(&format!("{}/0", journal.process())).await;
    if let Some(response) = response {
        let (spent, text) = (Secret::from("refresh-1"), response.to_string());
        let body = TokenBody::plain(text.as_bytes());
        let recorded = journal.record(&fixture.id, 1, &spent, at(0), &body).await;
        recorded.unwrap();
    }
    journal.die();
}

async fn disconnected(store: &Store, id: &ConnectionId) {
    let pending = Revocation::Pending;
    let ended = store.connection_revoke(id, 1, "disconnected", pending, at(0));
    assert!(ended.await.unwrap());
}

#[tokio::test]
async fn without_the_compare_of_generations_a_caller_with_an_older_one_causes_a_refresh() {
    compared(
        Rule::CompareGenerations,
        async |fixture, refresher| {
            drop(refresh(&refresher, &fixture.id, Some(0)).await);
            fixture.calls().await == 1
        },
        async |fixture| fixture.answer([granted()]).await,
    )
    .await;
}

#[tokio::test]
async fn without_the_journals_a_token_is_spent_whose_response_they_hold() {
    compared(
        Rule::SearchJournals,
        async |fixture, refresher| {
            drop(refresh(&refresher, &fixture.id, Some(1)).await);
            fixture.calls().await == 1
        },
        async |fixture| {
            fixture.answer([granted()]).await;
            left_by_the_dead(fixture, Some(&tokens())).await;
        },
    )
    .await;
}

#[tokio::test]
async fn without_leases_a_token_is_spent_while_another_process_holds_it() {
    compared(
        Rule::RespectLeases,
        async |fixture, refresher| {
            let patience = Duration::from_millis(300);
            drop(
                refresher
                    .refresh(&fixture.id, Some(1), Trigger::Webhook, patience)
                    .await,
            );
            fixture.calls().await == 1
        },
        async |fixture| {
            fixture.answer([granted()]).await;
            fixture.leased_by("somebody/0").await;
        },
    )
    .await;
}

#[tokio::test]
async fn without_the_doubt_a_lost_response_is_reported_as_a_rejection_and_a_spent_token_revoked() {
    compared(
        Rule::RememberDoubt,
        async |fixture, refresher| {
            drop(refresh(&refresher, &fixture.id, Some(1)).await);
            let row = fixture.row().await;
            row.state_reason.as_deref() == Some("rejected")
        },
        async |fixture| {
            fixture.answer([refusal(400, "invalid_grant")]).await;
            left_by_the_dead(fixture, None).await;
        },
    )
    .await;
    compared(
        Rule::RememberDoubt,
        async |fixture, refresher| {
            drop(refresher.sweep_once().await);
            fixture.calls().await == 0
        },
        async |fixture| {
            fixture.answer([granted()]).await;
            left_by_the_dead(fixture, None).await;
            disconnected(&fixture.store, &fixture.id).await;
        },
    )
    .await;
}

#[tokio::test]
async fn without_the_end_of_revoked_rows_each_response_revives_them() {
    let is_active = async |fixture: Fixture| fixture.row().await.state == ConnectionState::Active;
    // The response comes after the disconnect.
    compared(
        Rule::KeepRevoked,
        async |fixture, refresher| {
            drop(refresh(&refresher, &fixture.id, Some(1)).await);
            is_active(fixture).await
        },
        async |fixture| {
            let user = fixture.elsewhere(async |store, id| disconnected(&store, &id).await);
            fixture.answer([after(user, granted())]).await;
        },
    )
    .await;
    // A journal has it.
    compared(
        Rule::KeepRevoked,
        async |fixture, refresher| {
            drop(refresher.replay_once().await);
            is_active(fixture).await
        },
        async |fixture| {
            left_by_the_dead(fixture, Some(&tokens())).await;
            disconnected(&fixture.store, &fixture.id).await;
        },
    )
    .await;
    // A caller asks.
    compared(
        Rule::KeepRevoked,
        async |fixture, refresher| {
            drop(refresh(&refresher, &fixture.id, Some(2)).await);
            is_active(fixture).await
        },
        async |fixture| {
            fixture.answer([granted()]).await;
            disconnected(&fixture.store, &fixture.id).await;
        },
    )
    .await;
}
