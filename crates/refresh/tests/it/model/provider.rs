//! The provider: it rotates, refuses, revokes.

use super::search::Promise;
use super::state::{Answer, Books, Family, Token};

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
    pub(super) fn spend(self, books: &mut Books, token: Token) -> Answer {
        let newest = token.family + 1 == books.consents;
        let family = &mut books.families[usize::from(token.family)];
        if !family.alive {
            return Answer::InvalidGrant;
        }
        if token.serial == family.serial {
            family.lost = false;
            if self.rotation != Rotation::Sticky {
                family.serial += 1;
            }
            return Answer::Tokens(Token {
                serial: family.serial,
                ..token
            });
        }
        if newest && self.rotation == Rotation::SingleUseWithReuseDetection {
            end(books);
            books.families[usize::from(token.family)].ended_by_reuse = true;
        }
        Answer::InvalidGrant
    }

    /// RFC 7009: one grant per user and app, so a token that is good ends all there is; any other changes nothing.
    pub(super) fn revoke(books: &mut Books, token: Token) -> Option<Promise> {
        let family = books.families[usize::from(token.family)];
        if !family.alive || family.serial != token.serial {
            return None;
        }
        end(books);
        (token.family + 1 < books.consents).then_some(Promise::NewConsentIsSpared)
    }

    pub(super) fn uninstall(books: &mut Books) {
        end(books);
    }

    pub(super) fn consent(self, books: &mut Books) -> u8 {
        if self.reinstall == Reinstall::ReplacesTokens {
            end(books);
        }
        let family = books.consents;
        books.families[usize::from(family)] = Family {
            alive: true,
            ..Family::default()
        };
        books.consents += 1;
        family
    }

    /// What the answer carried is lost; a token that stays the same is in the row as well.
    pub(super) fn destroyed(self, books: &mut Books, answer: Token) {
        let family = &mut books.families[usize::from(answer.family)];
        if self.rotation != Rotation::Sticky && family.serial == answer.serial {
            family.lost = true;
        }
    }
}

fn end(books: &mut Books) {
    for family in &mut books.families {
        family.alive = false;
    }
}
