//! What a refresher does that keeps one of its [`Rules`](crate::Rules) less: `scripts/chaos --sabotage` starts such ones. With all rules
//! nothing here has an effect.

use pipekeeper_core::connection::{Connection, ConnectionState};
use pipekeeper_core::granted::Consent;
use pipekeeper_core::store::{Commit, StoreError};

use super::{Refresher, Rule};

impl Refresher {
    /// The generation that a lease is taken on: the row's as it was read, or whatever it is by now.
    pub(super) async fn lease_generation(&self, row: &Connection) -> Result<i64, StoreError> {
        if self.rules.keep(Rule::CompareGenerations) {
            return Ok(row.generation);
        }
        let current = self.reread(row).await?;
        Ok(current.map_or(row.generation, |current| current.generation))
    }

    /// Takes over a lease. What its holder sent is unknown: the row is in doubt, or its token taken for unspent.
    pub(super) async fn take_over(
        &self,
        row: &Connection,
        owner: &str,
        mine: &str,
    ) -> Result<bool, StoreError> {
        if self.rules.keep(Rule::RememberDoubt) {
            return self.store.lease_take_over(&row.id, owner, mine).await;
        }
        self.store.lease_release(&row.id, owner).await?;
        self.store
            .lease_acquire(&row.id, row.generation, row.state, mine)
            .await
    }

    /// Whether the token may have been spent by a holder that got lost.
    pub(super) fn doubt(&self, in_doubt: bool) -> bool {
        in_doubt && self.rules.keep(Rule::RememberDoubt)
    }

    /// Whether a row was revoked and stays so.
    pub(super) fn stays_revoked(&self, row: &Connection) -> bool {
        row.state == ConnectionState::Revoked && self.rules.keep(Rule::KeepRevoked)
    }

    /// Writes the response to a refresh into a row that is revoked, as a new consent would. False if it stays revoked.
    pub(super) async fn revive(
        &self,
        row: &Connection,
        commit: &Commit,
    ) -> Result<bool, StoreError> {
        if self.rules.keep(Rule::KeepRevoked) {
            return Ok(false);
        }
        let current = self.reread(row).await?;
        let Some(current) = current.filter(|row| row.state == ConnectionState::Revoked) else {
            return Ok(false);
        };
        let generation = current.generation;
        let consent = Consent {
            account_id: current.account_id,
            owner: current.owner,
            company_id: current.company_id,
            company_domain: current.company_domain,
            company_name: current.company_name,
            user_id: current.user_id,
            user_name: current.user_name,
            api_domain: current.api_domain,
            scope: current.scope,
            access_token: commit.access_token.clone(),
            refresh_token: commit.refresh_token.clone(),
            expires_at: commit.expires_at,
            authorized_at: current.authorized_at,
            idle_deadline: commit.idle_deadline,
            due_at: commit.due_at,
        };
        let now = self.clock.now();
        self.retry_until_stored(row, || {
            self.store
                .connection_reconnect(&row.id, generation, &consent, now)
        })
        .await
    }
}
