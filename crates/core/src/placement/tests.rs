use super::*;
use crate::clock::Timestamp;
use crate::sealed::Sealed;

/// A row of `account`/`boss` that holds the grant of a user of a company.
fn row(id: &str, account: &str, (company, user): (&str, &str), state: State) -> Connection {
    let at = Timestamp::from_unix_micros(0).unwrap();
    let (state, reason, is_wiped) = match state {
        Active => (ConnectionState::Active, None, false),
        Refused => (ConnectionState::ReauthRequired, Some("rejected"), false),
        Disconnected => (ConnectionState::Revoked, Some("disconnected"), false),
        Uninstalled => (ConnectionState::Revoked, Some("uninstalled"), true),
        BeingHandedBack => (ConnectionState::Revoked, Some(HANDED_BACK), false),
        HandedBack => (ConnectionState::Revoked, Some(HANDED_BACK), true),
    };
    let token = Sealed::from(if is_wiped { Vec::new() } else { vec![1] });
    Connection {
        id: id.parse().unwrap(),
        platform: "Pipedrive".to_owned(),
        app_id: "app".to_owned(),
        account_id: account.parse().unwrap(),
        owner: "boss".parse().unwrap(),
        company_id: company.to_owned(),
        company_domain: String::new(),
        company_name: String::new(),
        user_id: user.to_owned(),
        user_name: String::new(),
        api_domain: String::new(),
        scope: String::new(),
        access_token: token.clone(),
        refresh_token: token,
        expires_at: at,
        refreshed_at: None,
        authorized_at: at,
        idle_deadline: None,
        last_used_at: None,
        generation: 1,
        state,
        state_reason: reason.map(str::to_owned),
        state_since: at,
        in_doubt: false,
        lease_owner: None,
        due_at: at,
        early_renewals: 0,
        failures: 0,
        retry_at: None,
        last_error: None,
        revoke_pending: false,
        created_at: at,
        updated_at: at,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Refused,
    /// Its tokens wait to be revoked.
    Disconnected,
    Uninstalled,
    BeingHandedBack,
    HandedBack,
}

use State::{Active, BeingHandedBack, Disconnected, HandedBack, Refused, Uninstalled};

const MARKETPLACE: &str = "~pipedrive:1";

/// User 1 of company 1.
fn person() -> Identity {
    Identity {
        company_id: "1".to_owned(),
        company_domain: "acme".to_owned(),
        company_name: String::new(),
        user_id: "1".to_owned(),
        user_name: String::new(),
    }
}

/// `held`: the person's row, by its account and state. `own`: the row of the account `acme` that the consent is for, by its
/// person and state. `one` in its place: they are the same row.
#[track_caller]
fn decided(
    arrival: Arrival,
    held: Option<(&str, State)>,
    own: Option<((&str, &str), State)>,
) -> String {
    let held = held.map(|(account, state)| row("held", account, ("1", "1"), state));
    let own = own.map(|(person, state)| row("own", "acme", person, state));
    let placement = decide(
        &person(),
        arrival,
        Rows {
            of_person: held.as_ref(),
            of_account: own.as_ref(),
        },
    );
    said(placement)
}

fn said(placement: Placement<'_>) -> String {
    match placement {
        Placement::Insert => "insert".to_owned(),
        Placement::Update {
            row,
            owner,
            removes,
        } => {
            let owner = match owner {
                Owner::Unchanged => "unchanged",
                Owner::Named => "named",
            };
            let removes = removes.map_or_else(String::new, |removal| {
                let follows = if removal.default_follows {
                    ", default follows"
                } else {
                    ""
                };
                format!(", remove {}{follows}", removal.row.id)
            });
            format!("update {} ({owner}){removes}", row.id)
        }
        Placement::Keep(row) => format!("keep {}", row.id),
        Placement::Refuse { refusal, tokens } => {
            let refusal = match refusal {
                Refusal::DifferentCompany => "different company".to_owned(),
                Refusal::AlreadyConnected => "already connected".to_owned(),
                Refusal::CompanyNotAllowed => "company not allowed".to_owned(),
                Refusal::Ended(row) => format!("{} has ended", row.id),
                Refusal::BeingHandedBack(row) => format!("{} is being handed back", row.id),
                Refusal::AccountTaken(row) => format!("account taken by {}", row.id),
            };
            let tokens = match tokens {
                RefusedTokens::StoreIn(row) => format!("store in {}", row.id),
                RefusedTokens::Revoke => "revoke".to_owned(),
                RefusedTokens::Leave => "leave".to_owned(),
            };
            format!("{refusal}; {tokens}")
        }
    }
}

#[test]
fn a_login_writes_the_row_of_its_account_or_adopts_what_nobody_else_keeps() {
    const COLLEAGUE: (&str, &str) = ("1", "2");
    const STRANGER: (&str, &str) = ("2", "1");
    for (held, own, expected) in [
        (None, None, "insert"),
        // No row has the person's grant: the account's row.
        (None, Some((COLLEAGUE, Active)), "update own (named)"),
        (None, Some((COLLEAGUE, Refused)), "update own (named)"),
        (None, Some((STRANGER, Active)), "different company; revoke"),
        (None, Some((STRANGER, Refused)), "different company; revoke"),
        (None, Some((STRANGER, Uninstalled)), "update own (named)"),
        (None, Some((STRANGER, Disconnected)), "update own (named)"),
        (
            None,
            Some((STRANGER, BeingHandedBack)),
            "different company; revoke",
        ),
        (None, Some((STRANGER, HandedBack)), "update own (named)"),
        // The person has a row, the account has none.
        (Some((MARKETPLACE, Active)), None, "update held (named)"),
        (Some((MARKETPLACE, Refused)), None, "update held (named)"),
        (
            Some(("other", Active)),
            None,
            "already connected; store in held",
        ),
        (
            Some(("other", Refused)),
            None,
            "already connected; store in held",
        ),
        (Some(("other", Disconnected)), None, "update held (named)"),
        (Some(("other", Uninstalled)), None, "update held (named)"),
        (Some(("other", HandedBack)), None, "update held (named)"),
        // Two rows.
        (
            Some((MARKETPLACE, Active)),
            Some((COLLEAGUE, Active)),
            "different company; store in held",
        ),
        (
            Some((MARKETPLACE, Active)),
            Some((STRANGER, Uninstalled)),
            "update held (named), remove own",
        ),
        (
            Some((MARKETPLACE, Active)),
            Some((STRANGER, Disconnected)),
            "different company; store in held",
        ),
        (
            Some(("other", Active)),
            Some((STRANGER, Uninstalled)),
            "already connected; store in held",
        ),
        (
            Some(("other", Uninstalled)),
            Some((COLLEAGUE, Active)),
            "update own (named), remove held, default follows",
        ),
        (
            Some(("other", Uninstalled)),
            Some((STRANGER, Active)),
            "different company; revoke",
        ),
        (
            Some(("other", Uninstalled)),
            Some((STRANGER, Uninstalled)),
            "update own (named), remove held, default follows",
        ),
        (
            Some(("other", Disconnected)),
            Some((COLLEAGUE, Active)),
            "different company; revoke",
        ),
        // The grant lives on in the old table.
        (
            Some(("other", BeingHandedBack)),
            Some((COLLEAGUE, Active)),
            "different company; store in held",
        ),
        (
            Some(("other", HandedBack)),
            Some((STRANGER, Active)),
            "different company; store in held",
        ),
    ] {
        let got = decided(Arrival::Login, held, own);
        assert_eq!(got, expected, "{held:?} {own:?}");
    }
}

#[test]
fn a_login_of_the_account_that_has_the_person_renews_its_row_in_any_state() {
    for state in [Active, Refused, Disconnected, Uninstalled, HandedBack] {
        let own = row("own", "acme", ("1", "1"), state);
        let rows = Rows {
            of_person: Some(&own),
            of_account: Some(&own),
        };
        let got = said(decide(&person(), Arrival::Login, rows));
        assert_eq!(got, "update own (named)", "{state:?}");
    }
}

#[test]
fn an_install_renews_the_same_persons_row_and_touches_no_other() {
    use Admission::{Listed, Open, Unlisted};
    for (admission, held, own, expected) in [
        (Open, None, None, "insert"),
        (Listed, None, None, "insert"),
        (Unlisted, None, None, "company not allowed; revoke"),
        // It stays with its account, whether a login or an install made it.
        (
            Open,
            Some(("acme", Active)),
            None,
            "update held (unchanged)",
        ),
        (
            Open,
            Some(("acme", Refused)),
            None,
            "update held (unchanged)",
        ),
        (
            Open,
            Some(("acme", Disconnected)),
            None,
            "update held (unchanged)",
        ),
        (
            Open,
            Some(("acme", Uninstalled)),
            None,
            "update held (unchanged)",
        ),
        (
            Open,
            Some((MARKETPLACE, Active)),
            None,
            "update held (unchanged)",
        ),
        (
            Listed,
            Some(("acme", Active)),
            None,
            "update held (unchanged)",
        ),
        // What lives is renewed; what has ended is not revived.
        (
            Unlisted,
            Some(("acme", Active)),
            None,
            "update held (unchanged)",
        ),
        (
            Unlisted,
            Some(("acme", Refused)),
            None,
            "update held (unchanged)",
        ),
        (
            Unlisted,
            Some(("acme", Uninstalled)),
            None,
            "company not allowed; revoke",
        ),
        // Its derived names are another person's: only where something else wrote the row.
        (
            Open,
            None,
            Some((("2", "1"), Active)),
            "different company; revoke",
        ),
        (
            Open,
            None,
            Some((("1", "2"), Active)),
            "different company; revoke",
        ),
        (
            Listed,
            None,
            Some((("1", "2"), Refused)),
            "different company; revoke",
        ),
        (
            Open,
            None,
            Some((("1", "2"), BeingHandedBack)),
            "different company; revoke",
        ),
        (
            Open,
            None,
            Some((("1", "2"), Uninstalled)),
            "update own (named)",
        ),
    ] {
        let got = decided(Arrival::Install(admission), held, own);
        assert_eq!(got, expected, "{admission:?} {held:?} {own:?}");
    }
}

#[test]
fn an_import_revives_only_what_newer_tokens_can_and_takes_no_ones_place() {
    use ImportedToken::{Different, Known, Replaces};
    for (token, held, own, expected) in [
        (Different, None, None, "insert"),
        (
            Different,
            None,
            Some((("2", "1"), Uninstalled)),
            "account taken by own; leave",
        ),
        (Different, Some(("acme", Active)), None, "keep held"),
        (Known, Some(("acme", Active)), None, "keep held"),
        (
            Replaces,
            Some(("acme", Active)),
            None,
            "update held (unchanged)",
        ),
        (
            Replaces,
            Some(("acme", Refused)),
            None,
            "update held (unchanged)",
        ),
        (
            Replaces,
            Some(("acme", Uninstalled)),
            None,
            "update held (unchanged)",
        ),
        (
            Replaces,
            Some(("acme", Disconnected)),
            None,
            "held has ended; leave",
        ),
        (
            Replaces,
            Some(("acme", BeingHandedBack)),
            None,
            "held is being handed back; leave",
        ),
        (
            Different,
            Some(("acme", Refused)),
            None,
            "update held (unchanged)",
        ),
        (
            Known,
            Some(("acme", Refused)),
            None,
            "held has ended; leave",
        ),
        (
            Different,
            Some(("acme", Disconnected)),
            None,
            "held has ended; leave",
        ),
        (
            Different,
            Some(("acme", Uninstalled)),
            None,
            "held has ended; leave",
        ),
        (
            Known,
            Some(("acme", HandedBack)),
            None,
            "update held (unchanged)",
        ),
        (
            Different,
            Some(("acme", BeingHandedBack)),
            None,
            "held is being handed back; leave",
        ),
    ] {
        let got = decided(Arrival::Import(token), held, own);
        assert_eq!(got, expected, "{token:?} {held:?} {own:?}");
    }
}

#[test]
fn a_default_is_set_once_and_by_a_stranger_only_where_there_is_nothing_else() {
    use Admission::{Listed, Open, Unlisted};
    use Beside::{Default, Nothing, Others};
    let import = Arrival::Import(ImportedToken::Different);
    for (arrival, beside, expected) in [
        (import, Nothing, Some(DefaultReason::Import)),
        (import, Others, Some(DefaultReason::Import)),
        (import, Default, None),
        (Arrival::Login, Nothing, Some(DefaultReason::Login)),
        (Arrival::Login, Others, Some(DefaultReason::Login)),
        (Arrival::Login, Default, None),
        (
            Arrival::Install(Listed),
            Nothing,
            Some(DefaultReason::AllowedCompany),
        ),
        (
            Arrival::Install(Listed),
            Others,
            Some(DefaultReason::AllowedCompany),
        ),
        (Arrival::Install(Listed), Default, None),
        (
            Arrival::Install(Open),
            Nothing,
            Some(DefaultReason::FirstInstall),
        ),
        (Arrival::Install(Open), Others, None),
        (Arrival::Install(Open), Default, None),
        (Arrival::Install(Unlisted), Nothing, None),
        (Arrival::Install(Unlisted), Others, None),
        (Arrival::Install(Unlisted), Default, None),
    ] {
        let got = default_reason(arrival, beside);
        assert_eq!(got, expected, "{arrival:?} {beside:?}");
    }
}
