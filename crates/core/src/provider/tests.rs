use super::*;
use crate::config::Sources;

const APP: &str = r#"
[apps.pipedrive]
provider = "pipedrive"
client_id = "id"
client_secret = "hunter2"
redirect_url = "https://app.example/webhook/pipedrive/callback"
"#;

fn load(defaults: &'static str, env: &[(&str, &str)]) -> (Apps, Vec<String>) {
    let env = env
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let mut loader = Loader::new(&Sources {
        defaults,
        file: None,
        env,
    })
    .unwrap();
    let apps = Apps::load(&mut loader, AppUse::Login);
    (
        apps,
        loader
            .finish()
            .err()
            .map_or_else(Vec::new, |problems| problems.0),
    )
}

fn pipedrive(env: &[(&str, &str)]) -> Arc<Provider> {
    let (apps, problems) = load(APP, env);
    assert_eq!(problems, Vec::<String>::new());
    Arc::clone(&apps.iter().next().unwrap().provider)
}

#[test]
fn a_bearer_goes_to_pipedrives_own_hosts_alone() {
    let provider = pipedrive(&[]);
    for good in ["https://acme.pipedrive.com", "https://ACME.pipedrive.com/"] {
        assert_eq!(
            provider.api_domain(good).unwrap().as_str(),
            "https://acme.pipedrive.com"
        );
    }
    let endless = format!("https://{}.pipedrive.com", "a".repeat(240));
    for (bad, why) in [
        ("acme.pipedrive.com", BadApiDomain::NotAUrl),
        ("http://acme.pipedrive.com", BadApiDomain::NotHttps),
        ("https://acme.pipedrive.com:444", BadApiDomain::NotAnOrigin),
        ("https://u@acme.pipedrive.com", BadApiDomain::NotAnOrigin),
        ("https://u:p@acme.pipedrive.com", BadApiDomain::NotAnOrigin),
        ("https://acme.pipedrive.com/api", BadApiDomain::NotAnOrigin),
        ("https://acme.pipedrive.com/?x", BadApiDomain::NotAnOrigin),
        ("https://acme.pipedrive.com/#x", BadApiDomain::NotAnOrigin),
        ("https://evil.com", BadApiDomain::ForeignHost),
        ("https://pipedrive.com", BadApiDomain::ForeignHost),
        (endless.as_str(), BadApiDomain::ForeignHost),
        ("https://.pipedrive.com", BadApiDomain::ForeignHost),
        ("https://evilpipedrive.com", BadApiDomain::ForeignHost),
        (
            "https://acme.pipedrive.com.evil.com",
            BadApiDomain::ForeignHost,
        ),
        (
            "https://evil.com\\@acme.pipedrive.com",
            BadApiDomain::NotAnOrigin,
        ),
    ] {
        assert_eq!(provider.api_domain(bad).unwrap_err(), why, "{bad}");
    }
}

#[test]
fn a_stand_in_on_loopback_is_configuration_alone() {
    let provider = pipedrive(&[
        ("PIPEKEEPER__PROVIDERS__PIPEDRIVE__ALLOW_HTTP", "true"),
        (
            "PIPEKEEPER__PROVIDERS__PIPEDRIVE__API_HOST_SUFFIX",
            "127.0.0.1",
        ),
        (
            "PIPEKEEPER__PROVIDERS__PIPEDRIVE__TOKEN_URL",
            "http://127.0.0.1:8090/oauth/token",
        ),
    ]);
    assert_eq!(
        provider
            .api_domain("http://127.0.0.1:8090")
            .unwrap()
            .as_str(),
        "http://127.0.0.1:8090"
    );
    assert!(provider.api_domain("http://127.0.0.2:8090").is_err());
}

#[test]
fn plain_http_needs_to_be_allowed() {
    let (_, problems) = load(
        APP,
        &[(
            "PIPEKEEPER__PROVIDERS__PIPEDRIVE__TOKEN_URL",
            "http://x/token",
        )],
    );
    assert!(
        problems[0].starts_with("providers.pipedrive.token_url: is not https"),
        "{problems:?}"
    );
}

#[test]
fn an_app_that_lacks_something_says_what() {
    let lacking = r#"
[apps.pipedrive]
provider = "pipedrive"
client_id = ""
[apps.other]
provider = "nobody"
client_id = "x"
client_secret = "x"
redirect_url = "x"
colour = "red"
"#;
    let (_, problems) = load(lacking, &[]);
    let all = problems.join("\n");
    for part in [
        "client_id: is not set",
        "client_secret: is not set",
        "redirect_url: is not set",
        "colour",
    ] {
        assert!(all.contains(part), "{part} in {all}");
    }
}

#[test]
fn an_app_is_found_by_what_n8n_calls_it() {
    let (apps, _) = load(APP, &[]);
    for (id, platform) in [
        (None, None),
        (Some("id"), None),
        (Some("id"), Some("pipedrive")),
    ] {
        assert!(
            matches!(apps.find(id, platform), AppChoice::One(_)),
            "{id:?} {platform:?}"
        );
    }
    assert!(matches!(apps.find(Some("other"), None), AppChoice::Unknown));
    assert!(matches!(apps.by_key("pipedrive", None), AppChoice::One(_)));
    assert!(matches!(
        apps.by_key("pipedrive", Some("b")),
        AppChoice::Unknown
    ));
}

#[test]
fn an_apps_debug_does_not_tell_its_secret() {
    let (apps, _) = load(APP, &[]);
    let shown = format!("{apps:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn policy_is_the_apps_or_its_providers() {
    let own = "PIPEKEEPER__APPS__PIPEDRIVE__REFRESH_POLICY";
    let providers = "PIPEKEEPER__PROVIDERS__PIPEDRIVE__REFRESH_POLICY";
    for (env, policy) in [
        (&[][..], RefreshPolicy::BeforeExpiry),
        (&[(own, "")], RefreshPolicy::BeforeExpiry),
        (&[(own, "on_401")], RefreshPolicy::OnRefusal),
        (&[(providers, "every_request")], RefreshPolicy::EveryRequest),
        (
            &[(providers, "on_401"), (own, "before_expiry")],
            RefreshPolicy::BeforeExpiry,
        ),
    ] {
        let (apps, problems) = load(APP, env);
        assert_eq!(problems, Vec::<String>::new(), "{env:?}");
        assert_eq!(apps.iter().next().unwrap().policy(), policy, "{env:?}");
    }
    for key in [own, providers] {
        let (_, problems) = load(APP, &[(key, "sometimes")]);
        let all = problems.join("\n");
        assert!(
            all.contains("refresh_policy") && all.contains("sometimes"),
            "{all}"
        );
    }
}

#[test]
fn second_secret_comes_after_the_first() {
    let second = "PIPEKEEPER__APPS__PIPEDRIVE__SECOND_CLIENT_SECRET";
    for (env, secrets) in [
        (&[][..], &["hunter2"][..]),
        (&[(second, "")], &["hunter2"]),
        (&[(second, "hunter3")], &["hunter2", "hunter3"]),
    ] {
        let (apps, problems) = load(APP, env);
        assert_eq!(problems, Vec::<String>::new());
        let app = apps.iter().next().unwrap();
        let known: Vec<_> = app.client_secrets().map(Secret::expose).collect();
        assert_eq!(known, secrets);
        assert!(!format!("{app:?}").contains("hunter"), "{app:?}");
    }
}

#[test]
fn token_that_lives_no_time_at_all_is_no_default() {
    let key = "PIPEKEEPER__PROVIDERS__PIPEDRIVE__DEFAULT_EXPIRES_IN_SECS";
    let (_, problems) = load(APP, &[(key, "0")]);
    assert!(
        problems[0].starts_with("providers.pipedrive.default_expires_in_secs: is 0"),
        "{problems:?}"
    );
}

#[test]
fn an_app_is_found_by_what_its_callers_called_it() {
    let second = [
        (
            "PIPEKEEPER__APPS__PIPEDRIVE__ALIASES",
            "57db0bab2932f657  old",
        ),
        ("PIPEKEEPER__APPS__SECOND__PROVIDER", "pipedrive"),
        ("PIPEKEEPER__APPS__SECOND__CLIENT_ID", "id2"),
        ("PIPEKEEPER__APPS__SECOND__CLIENT_SECRET", "hunter3"),
        (
            "PIPEKEEPER__APPS__SECOND__REDIRECT_URL",
            "https://app.example/2",
        ),
    ];
    let (apps, problems) = load(APP, &second);
    assert_eq!(problems, Vec::<String>::new());
    for (word, key) in [
        ("57db0bab2932f657", "pipedrive"),
        ("old", "pipedrive"),
        ("id2", "second"),
    ] {
        let AppChoice::One(app) = apps.find(Some(word), None) else {
            panic!("{word}");
        };
        assert_eq!(app.key, key, "{word}");
    }
    assert!(matches!(apps.find(Some("57db"), None), AppChoice::Unknown));

    for taken in ["id", "old"] {
        let mut both = second.to_vec();
        both.push(("PIPEKEEPER__APPS__SECOND__ALIASES", taken));
        let (_, problems) = load(APP, &both);
        let said =
            format!("apps.second.aliases: `{taken}` is the client id or an alias of another app");
        assert!(problems.contains(&said), "{problems:?}");
    }
}
