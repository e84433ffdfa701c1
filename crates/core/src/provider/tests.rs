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
    assert!(apps.by_key("pipedrive", None).is_some());
    assert!(apps.by_key("pipedrive", Some("b")).is_none());
    assert!(apps.by_key("other", Some("pipedrive")).is_none());
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

/// `KEY=VALUE` of `[apps.*]`; the first is `pipedrive`.
fn with_apps(set: &[(&str, &str)]) -> (Apps, Vec<String>) {
    const ELSEWHERE: &str = r#"
[apps.pipedrive]
provider = "pipedrive"
client_id = "id"
client_secret = "hunter2"
redirect_url = "https://app.example/webhook/pipedrive/callback"
[providers.elsewhere]
platform = "Elsewhere"
authorize_url = "https://elsewhere.example/authorize"
token_url = "https://elsewhere.example/token"
client_auth = "body"
api_host_suffix = "elsewhere.example"
identity_url = "/me"
identity_user_id = "/id"
default_expires_in_secs = 3600
"#;
    let mut env = Vec::new();
    for key in ["SECOND", "THIRD", "FOURTH"] {
        let prefix = format!("PIPEKEEPER__APPS__{key}");
        let own: Vec<_> = set
            .iter()
            .filter(|(name, _)| name.starts_with(key))
            .collect();
        if own.is_empty() {
            continue;
        }
        for (name, value) in [
            ("CLIENT_ID", key),
            ("CLIENT_SECRET", "hunter3"),
            ("REDIRECT_URL", "https://app.example/2"),
        ] {
            env.push((format!("{prefix}__{name}"), value.to_owned()));
        }
    }
    for (name, value) in set {
        env.push((format!("PIPEKEEPER__APPS__{name}"), (*value).to_owned()));
    }
    let env: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    load(ELSEWHERE, &env)
}

#[test]
fn of_several_apps_one_is_meant_where_none_is_named() {
    let second = ("SECOND__PROVIDER", "pipedrive");
    let third = ("THIRD__PROVIDER", "elsewhere");
    let by_default = ("SECOND__DEFAULT", "true");
    for (set, platform, key) in [
        (&[][..], None, "pipedrive"),
        (&[second], None, "pipedrive"),
        (&[second], Some("pipedrive"), "pipedrive"),
        (&[second, by_default], None, "second"),
        (&[second, by_default, third], None, "second"),
        (&[third], None, "pipedrive"),
        (&[third], Some("elsewhere"), "third"),
    ] {
        let (apps, problems) = with_apps(set);
        assert_eq!(problems, Vec::<String>::new(), "{set:?}");
        let AppChoice::One(app) = apps.meant(None, platform) else {
            panic!("{set:?} {platform:?}");
        };
        assert_eq!(app.key, key, "{set:?} {platform:?}");
        let provider = platform.unwrap_or("pipedrive");
        assert_eq!(apps.by_key(provider, None).unwrap().key, key, "{set:?}");
        // Who names one gets that one; an import does not guess.
        let AppChoice::One(app) = apps.meant(Some("id"), None) else {
            panic!("{set:?}");
        };
        assert_eq!(app.key, "pipedrive");
    }
    let (two, _) = with_apps(&[second]);
    assert!(matches!(two.find(None, None), AppChoice::Several));

    for (set, problem) in [
        (
            &[second, by_default, ("PIPEDRIVE__DEFAULT", "true")][..],
            "apps.second.default: is set in another app of this provider too",
        ),
        (
            &[third, ("FOURTH__PROVIDER", "elsewhere")],
            "apps: has several apps of provider elsewhere: set default = true in one of them",
        ),
    ] {
        let (_, problems) = with_apps(set);
        assert!(problems.iter().any(|said| said == problem), "{problems:?}");
    }
}

#[test]
fn the_callback_url_is_kept_as_it_was_written() {
    let key = "PIPEKEEPER__APPS__PIPEDRIVE__REDIRECT_URL";
    for text in [
        "https://app.example",
        "https://APP.Example/callback",
        "https://app.example:443/callback",
        "https://b\u{fc}cher.example/callback",
        "https://app.example/callback?x='1'",
        "http://LOCALHOST:28700/auth/callback",
    ] {
        let (apps, problems) = load(APP, &[(key, text)]);
        assert_eq!(problems, Vec::<String>::new(), "{text}");
        let app = apps.iter().next().unwrap();
        assert_eq!(app.redirect_url.as_ref().unwrap().as_str(), text);
    }
    for (text, why) in [
        ("https://app.example/callback#x", "has a fragment"),
        ("https://app.example/callback#", "has a fragment"),
        ("https://app.example/call back", "has a blank"),
        ("https://app.example/call\tback", "has a blank"),
        (" https://app.example/callback", "has a blank"),
    ] {
        let (_, problems) = load(APP, &[(key, text)]);
        assert!(
            problems[0].starts_with(&format!("apps.pipedrive.redirect_url: {why}")),
            "{text:?}: {problems:?}"
        );
    }
}

#[test]
fn names_that_are_no_configuration_keys_are_refused_by_name() {
    for (file, said) in [
        (
            "[apps.\"acme.eu\"]\nclient_id = \"x\"",
            "apps.\"acme.eu\": ",
        ),
        (
            "[apps.\"acme eu\"]\nclient_id = \"x\"",
            "apps.\"acme eu\": ",
        ),
        ("[apps.\"\"]\nclient_id = \"x\"", "apps.\"\": "),
        (
            "[providers.\"a.b\"]\nplatform = \"x\"",
            "providers.\"a.b\": ",
        ),
    ] {
        let defaults: &'static str = format!("{APP}\n{file}\n").leak();
        let (_, problems) = load(defaults, &[]);
        let told = problems
            .iter()
            .any(|problem| problem.starts_with(said) && problem.contains("letters, digits"));
        assert!(told, "{file}: {problems:?}");
    }
}

#[test]
fn an_ipv6_host_may_be_written_as_in_a_url() {
    let suffix = "PIPEKEEPER__PROVIDERS__PIPEDRIVE__API_HOST_SUFFIX";
    for text in ["::1", "[::1]"] {
        let provider = pipedrive(&[
            ("PIPEKEEPER__PROVIDERS__PIPEDRIVE__ALLOW_HTTP", "true"),
            (suffix, text),
        ]);
        assert!(provider.api_domain("http://[::1]:8090").is_ok(), "{text}");
        assert!(provider.api_domain("http://[::2]:8090").is_err(), "{text}");
    }
}
