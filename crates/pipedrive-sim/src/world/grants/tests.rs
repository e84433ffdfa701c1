use super::*;

const APP: &str = "app";
const NOW: u64 = 1_000_000;

struct Case {
    grants: Grants,
    random: Random,
    settings: Settings,
}

impl Case {
    fn new(rotation: Rotation) -> Self {
        Self {
            grants: Grants::default(),
            random: Random::new(Some(1)),
            settings: Settings {
                rotation,
                ..Settings::default()
            },
        }
    }

    fn code(&mut self) -> String {
        let holder = Holder {
            client_id: APP.to_owned(),
            company_id: 1,
            user_id: 7,
        };
        self.grants
            .code_issue(holder, vec!["base".to_owned()], NOW, &mut self.random)
    }

    fn install(&mut self) -> Issued {
        let code = self.code();
        self.grants
            .code_spend(APP, &code, &self.settings, NOW, &mut self.random)
            .unwrap()
    }

    fn refresh_at(&mut self, token: &str, now: u64) -> Result<Issued, RefreshRefused> {
        self.grants
            .refresh(APP, token, &self.settings, now, &mut self.random)
    }

    fn good(&mut self, access_token: &str) -> bool {
        self.grants.bearer(access_token, NOW).is_some()
    }
}

#[test]
fn tokens_look_like_pipedrives() {
    let mut case = Case::new(Rotation::Sticky);
    let code = case.code();
    let issued = case.install();

    assert!(code.starts_with("1.7.") && code.len() == 44);
    assert!(issued.refresh_token.starts_with("1:7:") && issued.refresh_token.len() == 44);
    assert!(issued.access_token.starts_with("v1u:AQIBAH"));
    assert!((400..768).contains(&issued.access_token.len()));
    for awkward in ['+', '/', '='] {
        assert!(issued.access_token.contains(awkward));
    }
}

#[test]
fn a_code_is_spent_once_and_in_time() {
    let mut case = Case::new(Rotation::Sticky);
    let code = case.code();
    let spend = |case: &mut Case, now| {
        case.grants
            .code_spend(APP, &code, &case.settings, now, &mut case.random)
            .map(drop)
    };

    assert_eq!(spend(&mut case, NOW + 300_000), Err(CodeRefused::Expired));
    assert_eq!(spend(&mut case, NOW + 299_999), Ok(()));
    assert_eq!(spend(&mut case, NOW + 299_999), Err(CodeRefused::Invalid));
}

#[test]
fn another_app_can_spend_neither_code_nor_token() {
    let mut case = Case::new(Rotation::Sticky);
    let code = case.code();
    let issued = case.install();

    let Case {
        grants,
        random,
        settings,
    } = &mut case;
    assert_eq!(
        grants.code_check("other", &code, settings, NOW),
        Err(CodeRefused::Invalid)
    );
    let refused = grants.refresh("other", &issued.refresh_token, settings, NOW, random);
    assert_eq!(refused.err(), Some(RefreshRefused::Invalid));
    assert_eq!(
        grants.revoke("other", &issued.refresh_token),
        Revoked::Nothing
    );
}

#[test]
fn sticky_refreshes_give_the_same_refresh_token_and_push_its_end_out() {
    let mut case = Case::new(Rotation::Sticky);
    let first = case.install();
    let idle = case.settings.refresh_idle_secs * 1000;

    let second = case
        .refresh_at(&first.refresh_token, NOW + idle - 1)
        .unwrap();
    assert_eq!(second.refresh_token, first.refresh_token);
    assert_ne!(second.access_token, first.access_token);
    assert!(
        case.refresh_at(&first.refresh_token, NOW + 2 * idle - 2)
            .is_ok()
    );

    let late = case.refresh_at(&first.refresh_token, NOW + 3 * idle - 2);
    assert_eq!(late.err(), Some(RefreshRefused::Invalid));
}

#[test]
fn single_use_refuses_the_old_token_and_keeps_the_new_one() {
    let mut case = Case::new(Rotation::SingleUse);
    let first = case.install();
    let second = case.refresh_at(&first.refresh_token, NOW).unwrap();

    let reused = case.refresh_at(&first.refresh_token, NOW);

    assert_eq!(reused.err(), Some(RefreshRefused::Reused));
    assert!(case.refresh_at(&second.refresh_token, NOW).is_ok());
}

#[test]
fn reuse_detection_kills_the_whole_family() {
    let mut case = Case::new(Rotation::SingleUseWithReuseDetection);
    let first = case.install();
    let second = case.refresh_at(&first.refresh_token, NOW).unwrap();

    let reused = case.refresh_at(&first.refresh_token, NOW);

    assert_eq!(reused.err(), Some(RefreshRefused::Reused));
    assert!(case.refresh_at(&second.refresh_token, NOW).is_err());
    assert!(!case.good(&first.access_token));
    assert!(!case.good(&second.access_token));
}

#[test]
fn a_stale_token_of_an_earlier_consent_does_not_kill_the_new_family() {
    let mut case = Case::new(Rotation::SingleUseWithReuseDetection);
    let first = case.install();
    case.refresh_at(&first.refresh_token, NOW).unwrap();
    let reinstalled = case.install();

    let reused = case.refresh_at(&first.refresh_token, NOW);

    assert_eq!(reused.err(), Some(RefreshRefused::Reused));
    assert!(case.refresh_at(&reinstalled.refresh_token, NOW).is_ok());
}

#[test]
fn a_refresh_can_kill_the_old_access_token() {
    let mut case = Case::new(Rotation::Sticky);
    let first = case.install();
    case.refresh_at(&first.refresh_token, NOW).unwrap();
    assert!(case.good(&first.access_token));

    case.settings.old_access_token_after_refresh = OldAccessToken::Dead;
    let third = case.refresh_at(&first.refresh_token, NOW).unwrap();

    assert!(!case.good(&first.access_token));
    assert!(case.good(&third.access_token));
}

#[test]
fn a_second_consent_keeps_or_replaces_the_tokens_of_the_first() {
    let mut case = Case::new(Rotation::Sticky);
    let first = case.install();
    let second = case.install();
    assert!(case.good(&first.access_token));
    assert!(case.refresh_at(&first.refresh_token, NOW).is_ok());

    case.settings.reinstall = Reinstall::ReplacesTokens;
    let third = case.install();

    assert!(case.refresh_at(&second.refresh_token, NOW).is_err());
    assert!(!case.good(&second.access_token));
    assert!(case.good(&third.access_token));
    assert_eq!(case.grants.iter().count(), 1);
    assert_eq!(case.grants.iter().next().unwrap().consents, 3);
}

#[test]
fn revoking_an_access_token_leaves_the_grant() {
    let mut case = Case::new(Rotation::Sticky);
    let issued = case.install();

    assert_eq!(
        case.grants.revoke(APP, &issued.access_token),
        Revoked::AccessToken
    );

    assert!(!case.good(&issued.access_token));
    assert!(case.refresh_at(&issued.refresh_token, NOW).is_ok());
}

#[test]
fn expired_tokens_do_not_pile_up() {
    let mut case = Case::new(Rotation::Sticky);
    let issued = case.install();
    for hour in 1..10 {
        case.refresh_at(&issued.refresh_token, NOW + hour * 3_600_000)
            .unwrap();
    }

    assert_eq!(case.grants.access_tokens.len(), 1);
}
