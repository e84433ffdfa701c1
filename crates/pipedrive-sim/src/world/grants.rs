//! Grants: who may do what, and what consents, refreshes and revocations change about it.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;
use utoipa::ToSchema;

use crate::outside::Random;
use crate::settings::{CodeReuse, OldAccessToken, Reinstall, Rotation, Settings};
use crate::world::holder::{Holder, Selection};
use crate::world::tokens::{
    AccessToken, Code, CodeRefused, GrantId, Issued, RefreshRefused, RefreshState, RefreshToken,
    Revoked, access_token,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GrantState {
    Active,
    Revoked,
    Uninstalled,
}

#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) holder: Holder,
    pub(crate) state: GrantState,
    pub(crate) scopes: Vec<String>,
    /// The ones that can be exchanged, the newest last: a second consent may leave the first one's alive.
    pub(crate) refresh_tokens: Vec<String>,
    pub(crate) access_tokens: Vec<String>,
    pub(crate) consents: u64,
    pub(crate) refreshes: u64,
    pub(crate) issued_at: u64,
    pub(crate) refreshed_at: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Grants {
    list: Vec<Grant>,
    by_holder: HashMap<Holder, GrantId>,
    codes: HashMap<String, Code>,
    refresh_tokens: HashMap<String, RefreshToken>,
    access_tokens: HashMap<String, AccessToken>,
}

impl Grants {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.list.iter()
    }

    /// The grant's access tokens that the API would take now.
    pub(crate) fn access_tokens_good<'a>(
        &'a self,
        grant: &'a Grant,
        now: u64,
    ) -> impl Iterator<Item = &'a str> {
        let good = move |token: &&String| {
            let found = self.access_tokens.get(token.as_str());
            found.is_some_and(|found| now < found.expires_at)
        };
        grant.access_tokens.iter().filter(good).map(String::as_str)
    }

    pub(crate) fn code_issue(
        &mut self,
        holder: Holder,
        scopes: Vec<String>,
        now: u64,
        random: &mut Random,
    ) -> String {
        let code = format!(
            "{}.{}.{}",
            holder.company_id,
            holder.user_id,
            random.hex40()
        );
        let issued = Code {
            holder,
            scopes,
            issued_at: now,
            exchanged_for: None,
        };
        self.codes.insert(code.clone(), issued);
        code
    }

    /// Whether the app could spend this code now. Looking does not spend: a wrong redirect URI leaves it good.
    pub(crate) fn code_check(
        &self,
        client_id: &str,
        code: &str,
        settings: &Settings,
        now: u64,
    ) -> Result<(), CodeRefused> {
        let found = self
            .codes
            .get(code)
            .filter(|found| found.holder.client_id == client_id && found.exchanged_for.is_none())
            .ok_or(CodeRefused::Invalid)?;
        if now >= found.issued_at + settings.code_ttl_secs * 1000 {
            return Err(CodeRefused::Expired);
        }
        Ok(())
    }

    pub(crate) fn code_spend(
        &mut self,
        client_id: &str,
        code: &str,
        settings: &Settings,
        now: u64,
        random: &mut Random,
    ) -> Result<Issued, CodeRefused> {
        self.code_check(client_id, code, settings, now)?;
        let found = self.codes.get(code).ok_or(CodeRefused::Invalid)?;
        let (holder, scopes) = (found.holder.clone(), found.scopes.clone());

        let id = self.grant_open(holder, scopes, settings, now);
        if let Some(found) = self.codes.get_mut(code) {
            found.exchanged_for = Some(id);
        }
        let refresh_token = self.refresh_token_issue(id, now, random);
        let access_token = self.access_token_issue(id, settings, now, random);
        Ok(self.issued(id, access_token, refresh_token))
    }

    /// A code was shown that can't be exchanged: if it was exchanged before, its grant ends where the settings say so.
    pub(crate) fn code_reused(&mut self, client_id: &str, code: &str, settings: &Settings) {
        let found = self.codes.get(code);
        let found = found.filter(|found| found.holder.client_id == client_id);
        if let Some(id) = found.and_then(|found| found.exchanged_for)
            && settings.code_reuse == CodeReuse::EndsGrant
        {
            self.kill(id, GrantState::Revoked);
        }
    }

    pub(crate) fn refresh(
        &mut self,
        client_id: &str,
        token: &str,
        settings: &Settings,
        now: u64,
        random: &mut Random,
    ) -> Result<Issued, RefreshRefused> {
        let (grant, found) = self
            .refresh_tokens
            .get(token)
            .and_then(|found| Some((self.grant(found.grant)?, found)))
            .filter(|(grant, _)| grant.holder.client_id == client_id)
            .ok_or(RefreshRefused::Invalid)?;
        let RefreshToken {
            grant: id,
            used_at,
            state,
            consent,
        } = *found;
        if state == RefreshState::Rotated {
            let of_this_family = consent == grant.consents;
            if of_this_family && settings.rotation == Rotation::SingleUseWithReuseDetection {
                self.kill(id, GrantState::Revoked);
            }
            return Err(RefreshRefused::Reused);
        }
        let idle = now >= used_at + settings.refresh_idle_secs * 1000;
        if state == RefreshState::Dead || idle {
            return Err(RefreshRefused::Invalid);
        }

        if settings.old_access_token_after_refresh == OldAccessToken::Dead {
            self.access_tokens_drop(id);
        }
        let refresh_token = match settings.rotation {
            Rotation::Sticky => token.to_owned(),
            Rotation::SingleUse | Rotation::SingleUseWithReuseDetection => {
                self.refresh_token_issue(id, now, random)
            }
        };
        if let Some(used) = self.refresh_tokens.get_mut(token) {
            used.used_at = now;
            if refresh_token != token {
                used.state = RefreshState::Rotated;
            }
        }
        if let Some(grant) = self.grant_mut(id) {
            grant.refreshes += 1;
            grant.refreshed_at = Some(now);
            if refresh_token != token {
                grant.refresh_tokens.retain(|held| held != token);
            }
        }
        let access_token = self.access_token_issue(id, settings, now, random);
        Ok(self.issued(id, access_token, refresh_token))
    }

    /// Whose refresh token this is or was, and how the grant stands.
    pub(crate) fn of_refresh_token(&self, token: &str) -> Option<(&Holder, GrantState)> {
        let grant = self.grant(self.refresh_tokens.get(token)?.grant)?;
        Some((&grant.holder, grant.state))
    }

    /// The grant behind a bearer, and the token's own books, if it is good now.
    pub(crate) fn bearer(&mut self, token: &str, now: u64) -> Option<(&Grant, &mut AccessToken)> {
        let access = self.access_tokens.get_mut(token)?;
        let grant = self.list.get(access.grant.0)?;
        (now < access.expires_at).then_some((grant, access))
    }

    /// RFC 7009: tries what the hint names first, then the other kind.
    pub(crate) fn revoke(&mut self, client_id: &str, token: &str) -> Revoked {
        let mine = |grants: &Self, id| {
            grants
                .grant(id)
                .is_some_and(|grant: &Grant| grant.holder.client_id == client_id)
        };
        // the two kinds never share a value, so the order in which they are searched cannot be seen
        if let Some(found) = self.refresh_tokens.get(token) {
            let (id, state) = (found.grant, found.state);
            if state == RefreshState::Live && mine(self, id) {
                self.kill(id, GrantState::Revoked);
                return Revoked::Grant;
            }
            return Revoked::Nothing;
        }
        match self.access_tokens.get(token).map(|found| found.grant) {
            Some(id) if mine(self, id) => {
                self.access_tokens.remove(token);
                if let Some(grant) = self.grant_mut(id) {
                    grant.access_tokens.retain(|held| held != token);
                }
                Revoked::AccessToken
            }
            _ => Revoked::Nothing,
        }
    }

    /// Ends the active grants that are meant; their holders come back.
    pub(crate) fn end(&mut self, selection: &Selection, state: GrantState) -> Vec<Holder> {
        let ids: Vec<GrantId> = (0..self.list.len()).map(GrantId).collect();
        let mut ended = Vec::new();
        for id in ids {
            let Some(grant) = self.grant(id) else {
                continue;
            };
            if grant.state == GrantState::Active && selection.covers(&grant.holder) {
                ended.push(grant.holder.clone());
                self.kill(id, state);
            }
        }
        ended
    }

    /// Whose grants are meant, dead ones included.
    pub(crate) fn holders(&self, selection: &Selection) -> Vec<Holder> {
        let meant = self
            .list
            .iter()
            .filter(|grant| selection.covers(&grant.holder));
        meant.map(|grant| grant.holder.clone()).collect()
    }

    /// Every access token of the grants that are meant is worth nothing from now on; how many there were.
    pub(crate) fn expire(&mut self, selection: &Selection, now: u64) -> usize {
        let mut expired = 0;
        for access in self.access_tokens.values_mut() {
            let meant = self
                .list
                .get(access.grant.0)
                .is_some_and(|grant| selection.covers(&grant.holder));
            if meant && now < access.expires_at {
                access.expires_at = now;
                expired += 1;
            }
        }
        expired
    }

    fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.list.get(id.0)
    }

    fn grant_mut(&mut self, id: GrantId) -> Option<&mut Grant> {
        self.list.get_mut(id.0)
    }

    fn grant_open(
        &mut self,
        holder: Holder,
        scopes: Vec<String>,
        settings: &Settings,
        now: u64,
    ) -> GrantId {
        let Some(&id) = self.by_holder.get(&holder) else {
            let id = GrantId(self.list.len());
            self.by_holder.insert(holder.clone(), id);
            self.list.push(Grant {
                holder,
                state: GrantState::Active,
                scopes,
                refresh_tokens: Vec::new(),
                access_tokens: Vec::new(),
                consents: 1,
                refreshes: 0,
                issued_at: now,
                refreshed_at: None,
            });
            return id;
        };
        if settings.reinstall == Reinstall::ReplacesTokens {
            self.kill(id, GrantState::Revoked);
        }
        if let Some(grant) = self.grant_mut(id) {
            grant.state = GrantState::Active;
            grant.scopes = scopes;
            grant.consents += 1;
            grant.issued_at = now;
        }
        id
    }

    fn kill(&mut self, id: GrantId, state: GrantState) {
        self.access_tokens_drop(id);
        let Some(grant) = self.list.get_mut(id.0) else {
            return;
        };
        grant.state = state;
        for token in grant.refresh_tokens.drain(..) {
            if let Some(token) = self.refresh_tokens.get_mut(&token) {
                token.state = RefreshState::Dead;
            }
        }
    }

    fn access_tokens_drop(&mut self, id: GrantId) {
        let Some(grant) = self.list.get_mut(id.0) else {
            return;
        };
        for token in grant.access_tokens.drain(..) {
            self.access_tokens.remove(&token);
        }
    }

    fn refresh_token_issue(&mut self, id: GrantId, now: u64, random: &mut Random) -> String {
        let Some(grant) = self.list.get_mut(id.0) else {
            return String::new();
        };
        let Holder {
            company_id,
            user_id,
            ..
        } = grant.holder;
        let token = format!("{company_id}:{user_id}:{}", random.hex40());
        grant.refresh_tokens.push(token.clone());
        let issued = RefreshToken {
            grant: id,
            consent: grant.consents,
            used_at: now,
            state: RefreshState::Live,
        };
        self.refresh_tokens.insert(token.clone(), issued);
        token
    }

    fn access_token_issue(
        &mut self,
        id: GrantId,
        settings: &Settings,
        now: u64,
        random: &mut Random,
    ) -> String {
        let token = access_token(random);
        let issued = AccessToken {
            grant: id,
            expires_at: now + settings.access_ttl_secs * 1000,
            calls: VecDeque::new(),
            searches: VecDeque::new(),
        };
        if let Some(grant) = self.list.get_mut(id.0) {
            // tokens that are over would pile up in a long run
            grant.access_tokens.retain(|held| {
                let good = self
                    .access_tokens
                    .get(held)
                    .is_some_and(|token| now < token.expires_at);
                if !good {
                    self.access_tokens.remove(held);
                }
                good
            });
            grant.access_tokens.push(token.clone());
        }
        self.access_tokens.insert(token.clone(), issued);
        token
    }

    fn issued(&self, id: GrantId, access_token: String, refresh_token: String) -> Issued {
        Issued {
            access_token,
            refresh_token,
            scope: self
                .grant(id)
                .map_or_else(String::new, |grant| grant.scopes.join(",")),
        }
    }
}

#[cfg(test)]
mod tests;
