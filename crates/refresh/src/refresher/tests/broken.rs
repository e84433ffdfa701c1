//! Each rule that can be broken: what holds with it, and what happens without it.

use pipekeeper_core::oauth::TokenBody;

use super::*;
use crate::rules::{Rule, Rules};

fn without(world: &World, rule: Rule) -> Arc<Refresher> {
    world.door_keeping(
        Rules::without(rule),
        &[],
        world.journal(&world.journals),
        timing(),
    )
}

/// What a refresh comes to that keeps all rules, and one without one of them, each in a world of its own.
async fn compared<W, P>(rule: Rule, play: impl Fn(World, Arc<Refresher>) -> W, prepare: P)
where
    W: Future<Output = bool>,
    P: AsyncFn(&World),
{
    for broken in [false, true] {
        let world = World::new().await;
        prepare(&world).await;
        let refresher = if broken {
            without(&world, rule)
        } else {
            world.refresher()
        };
        assert_eq!(play(world, refresher).await, broken, "{rule:?}");
    }
}

/// The lease of a process that was killed, and what it had written down, if it had.
async fn left_by_the_dead(world: &World, response: Option<&Value>) {
    let journal = world.journal(&world.journals);
    world.leased_by(&format!("{}/0", journal.process())).await;
    if let Some(response) = response {
        let (spent, text) = (Secret::from("refresh-1"), response.to_string());
        let body = TokenBody::plain(text.as_bytes());
        let recorded = journal.record(&world.id, 1, &spent, at(0), &body).await;
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
        async |world, refresher| {
            drop(refresh(&refresher, &world.id, Some(0)).await);
            world.calls().await == 1
        },
        async |world| world.answer([granted()]).await,
    )
    .await;
}

#[tokio::test]
async fn without_the_journals_a_token_is_spent_whose_response_they_hold() {
    compared(
        Rule::SearchJournals,
        async |world, refresher| {
            drop(refresh(&refresher, &world.id, Some(1)).await);
            world.calls().await == 1
        },
        async |world| {
            world.answer([granted()]).await;
            left_by_the_dead(world, Some(&tokens())).await;
        },
    )
    .await;
}

#[tokio::test]
async fn without_leases_a_token_is_spent_while_another_process_holds_it() {
    compared(
        Rule::RespectLeases,
        async |world, refresher| {
            let patience = Duration::from_millis(300);
            drop(
                refresher
                    .refresh(&world.id, Some(1), Trigger::Webhook, patience)
                    .await,
            );
            world.calls().await == 1
        },
        async |world| {
            world.answer([granted()]).await;
            world.leased_by("somebody/0").await;
        },
    )
    .await;
}

#[tokio::test]
async fn without_the_doubt_a_lost_response_is_reported_as_a_rejection_and_a_spent_token_revoked() {
    compared(
        Rule::RememberDoubt,
        async |world, refresher| {
            drop(refresh(&refresher, &world.id, Some(1)).await);
            let row = world.row().await;
            row.state_reason.as_deref() == Some("rejected")
        },
        async |world| {
            world.answer([refusal(400, "invalid_grant")]).await;
            left_by_the_dead(world, None).await;
        },
    )
    .await;
    compared(
        Rule::RememberDoubt,
        async |world, refresher| {
            drop(refresher.sweep_once().await);
            world.calls().await == 0
        },
        async |world| {
            world.answer([granted()]).await;
            left_by_the_dead(world, None).await;
            disconnected(&world.store, &world.id).await;
        },
    )
    .await;
}

#[tokio::test]
async fn without_the_end_of_revoked_rows_each_response_revives_them() {
    let is_active = async |world: World| world.row().await.state == ConnectionState::Active;
    // The response comes after the disconnect.
    compared(
        Rule::KeepRevoked,
        async |world, refresher| {
            drop(refresh(&refresher, &world.id, Some(1)).await);
            is_active(world).await
        },
        async |world| {
            let user = world.elsewhere(async |store, id| disconnected(&store, &id).await);
            world.answer([after(user, granted())]).await;
        },
    )
    .await;
    // A journal has it.
    compared(
        Rule::KeepRevoked,
        async |world, refresher| {
            drop(refresher.replay_once().await);
            is_active(world).await
        },
        async |world| {
            left_by_the_dead(world, Some(&tokens())).await;
            disconnected(&world.store, &world.id).await;
        },
    )
    .await;
    // A caller asks.
    compared(
        Rule::KeepRevoked,
        async |world, refresher| {
            drop(refresh(&refresher, &world.id, Some(2)).await);
            is_active(world).await
        },
        async |world| {
            world.answer([granted()]).await;
            disconnected(&world.store, &world.id).await;
        },
    )
    .await;
}
