//! The provider: it rotates, refuses, revokes.

use super::search::Property;
use super::state::{Family, ProviderResponse, Token, TokenRecords};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// The same refresh token for ever, as Pipedrive documents.
    Sticky,
    SingleUse,
    /// A token that is presented again ends its grant (RFC 9700 §4.14.2).
    SingleUseWithReuseDetection,
}

/// What a new consent does to the tokens of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reinstall {
    ReplacesTokens,
    /// They live on beside the new ones, of the same grant: whatever ends the grant ends both.
    KeepsTokens,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Provider {
    pub(super) rotation: Rotation,
    pub(super) reinstall: Reinstall,
}

impl Provider {
    pub(super) fn spend(self, records: &mut TokenRecords, token: Token) -> ProviderResponse {
        let newest = token.family + 1 == records.consents;
        let family = &mut records.families[usize::from(token.family)];
        if !family.alive {
            return ProviderResponse::InvalidGrant;
        }
        if token.serial == family.serial {
            family.lost = false;
            if self.rotation != Rotation::Sticky {
                family.serial += 1;
            }
            return ProviderResponse::Tokens(Token {
                serial: family.serial,
                ..token
            });
        }
        if newest && self.rotation == Rotation::SingleUseWithReuseDetection {
            end(records);
            records.families[usize::from(token.family)].ended_by_reuse = true;
        }
        ProviderResponse::InvalidGrant
    }

    /// RFC 7009: one grant per user and app, so a token that is good ends all there is; any other changes nothing.
    pub(super) fn revoke(records: &mut TokenRecords, token: Token) -> Option<Property> {
        let family = records.families[usize::from(token.family)];
        if !family.alive || family.serial != token.serial {
            return None;
        }
        end(records);
        (token.family + 1 < records.consents).then_some(Property::NewConsentIsSpared)
    }

    pub(super) fn uninstall(records: &mut TokenRecords) {
        end(records);
    }

    pub(super) fn consent(self, records: &mut TokenRecords) -> u8 {
        if self.reinstall == Reinstall::ReplacesTokens {
            end(records);
        }
        let family = records.consents;
        records.families[usize::from(family)] = Family {
            alive: true,
            ..Family::default()
        };
        records.consents += 1;
        family
    }

    /// What the answer carried is lost; a token that stays the same is in the row as well.
    pub(super) fn destroyed(self, records: &mut TokenRecords, answer: Token) {
        let family = &mut records.families[usize::from(answer.family)];
        if self.rotation != Rotation::Sticky && family.serial == answer.serial {
            family.lost = true;
        }
    }
}

fn end(records: &mut TokenRecords) {
    for family in &mut records.families {
        family.alive = false;
    }
}
