use super::*;

const DEFAULTS: &str = r#"
[database]
url = "sqlite:data/x.db"
[webhook]
user = "n8n"
password = ""
password_file = ""
retries = 3
[apps.pipedrive]
provider = "pipedrive"
client_id = ""
"#;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Webhook {
    user: String,
    password: Secret,
    password_file: String,
    retries: u32,
}

fn loader(env: &[(&str, &str)]) -> Loader {
    Loader::new(&Sources {
        defaults: DEFAULTS,
        file: None,
        env: env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    })
    .unwrap()
}

#[test]
fn the_environment_goes_over_aliases_and_both_over_defaults() {
    let shown = loader(&[("DATABASE_URL", "sqlite:alias.db")]).effective();
    assert!(
        shown.contains(r#"database.url = "sqlite:alias.db""#),
        "{shown}"
    );

    let shown = loader(&[
        ("DATABASE_URL", "sqlite:alias.db"),
        ("PIPEKEEPER__DATABASE__URL", "sqlite:own.db"),
    ])
    .effective();
    assert!(
        shown.contains(r#"database.url = "sqlite:own.db""#),
        "{shown}"
    );
}

#[test]
fn an_alias_of_a_key_that_the_service_does_not_have_is_not_for_it() {
    let shown = loader(&[("PIPE_DRIVE_REDIRECT_URL", "http://x/")]).effective();
    assert!(!shown.contains("redirect_url"), "{shown}");
}

#[test]
fn numbers_come_out_of_the_environment_as_numbers() {
    let mut loader = loader(&[("PIPEKEEPER__WEBHOOK__RETRIES", "7")]);
    let webhook = loader.section::<Webhook>("webhook").unwrap();
    assert_eq!((webhook.retries, webhook.user.as_str()), (7, "n8n"));
    assert!(webhook.password.is_empty() && webhook.password_file.is_empty());
}

#[test]
fn all_problems_are_listed_at_once() {
    let mut loader = loader(&[
        ("PIPEKEEPER__WEBHOOK__RETRIES", "many"),
        ("PIPEKEEPER__WEBHOK__USER", "x"),
        ("PIPEKEEPER__DATABASE__URI", "x"),
    ]);
    assert!(loader.section::<Webhook>("webhook").is_none());
    assert!(
        loader
            .section::<BTreeMap<String, String>>("database")
            .is_some()
    );
    assert!(loader.url("http.base", "ftp://x").is_none());
    for section in ["apps", "providers"] {
        loader.section::<Value>(section);
    }
    let Problems(lines) = loader.finish().unwrap_err();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("webhok: no such section"))
    );
}

#[test]
fn a_secret_comes_from_its_file() {
    let mut loader = loader(&[]);
    let path = std::env::temp_dir().join(format!("pipekeeper-secret-{}", std::process::id()));
    std::fs::write(&path, "s3cret\r\n").unwrap();
    let secret = loader.secret(
        "webhook.password",
        Secret::default(),
        path.to_str().unwrap(),
    );
    assert_eq!(secret.expose(), "s3cret");
    loader.secret(
        "webhook.password",
        Secret::from("x"),
        path.to_str().unwrap(),
    );
    loader.secret("webhook.password", Secret::default(), "/nowhere/at/all");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(loader.problems.len(), 2, "{:?}", loader.problems);
}

#[test]
fn nothing_secret_is_shown() {
    let shown = loader(&[
        ("PIPEKEEPER__WEBHOOK__PASSWORD", "hunter2"),
        ("DATABASE_URL", "postgres://u:hunter2@h/db?password=hunter2"),
    ])
    .effective();
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("postgres://u:redacted@h/db"), "{shown}");
}

#[test]
fn whatever_is_called_a_password_or_a_secret_is_not_shown() {
    let shown = loader(&[
        ("PIPEKEEPER__LOGIN__OPERATOR_PASSWORD", "hunter2"),
        ("PIPEKEEPER__APPS__PIPEDRIVE__CLIENT_SECRET", "hunter2"),
        ("PIPEKEEPER__ENCRYPTION__KEYS", "hunter2"),
        ("PIPEKEEPER__WEBHOOK__PASSWORD_FILE", "/run/secrets/x"),
    ])
    .effective();
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains(r#"webhook.password_file = "/run/secrets/x""#));
}

#[test]
fn a_password_that_was_not_escaped_is_not_shown_either() {
    for url in [
        "postgres://u:1#hunter2@h/db",
        "postgres://u:1?hunter2@h/db",
        "mysql://u:1/hunter2@h/db",
        "mysql://u:hunter2/x@h/db",
        "not a url with hunter2",
    ] {
        let shown = loader(&[("DATABASE_URL", url)]).effective();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_value_in_a_sections_place_is_a_problem_that_does_not_show_it() {
    let mut loader = loader(&[
        ("PIPEKEEPER__WEBHOOK", "hunter2"),
        ("PIPEKEEPER__APPS__PIPEDRIVE", "hunter2"),
        ("PIPEKEEPER__PROVIDERS", "hunter2"),
    ]);
    assert!(loader.section::<Webhook>("webhook").is_none());
    assert!(loader.entries::<Webhook>("apps").is_empty());
    assert!(loader.entries::<Webhook>("providers").is_empty());
    assert_eq!(
        loader.problems,
        ["webhook", "apps.pipedrive", "providers"]
            .map(|key| format!("{key}: is a section, and can't be a value"))
    );
}

#[test]
fn every_key_of_a_section_that_is_of_no_use_is_named() {
    let mut loader = loader(&[
        ("PIPEKEEPER__WEBHOOK__RETRIES", "many"),
        ("PIPEKEEPER__WEBHOOK__USR", "x"),
        ("PIPEKEEPER__WEBHOOK__PASWORD", "hunter2"),
    ]);

    assert!(loader.section::<Webhook>("webhook").is_none());

    loader.problems.sort();
    let [pasword, retries, usr] = &loader.problems[..] else {
        panic!("{:?}", loader.problems)
    };
    assert!(
        pasword.starts_with("webhook.pasword: unknown field"),
        "{pasword}"
    );
    assert!(
        retries.starts_with("webhook.retries: invalid type"),
        "{retries}"
    );
    assert!(usr.starts_with("webhook.usr: unknown field"), "{usr}");
    assert!(!loader.problems.concat().contains("hunter2"));
}
