//! What a service is told, and what it says of that.

use std::fs;

use pipekeeper_core::config::Sources;

use super::{Home, MARKER, Program, as_variables, set, taken_port, variable};
use pipekeeper_service::{Loaded, Service};

impl<S: Service + std::fmt::Debug> Program<S> {
    pub fn its_version_names_the_commit(&self) {
        let run = self.run(&["--version"], &[]).expect_code(0);
        let version = run.stdout.trim();
        let (_, commit) = version.split_once(" (").expect("a commit in parentheses");
        assert!(
            version.starts_with(&format!("{} {} (", S::NAME, env!("CARGO_PKG_VERSION")))
                && commit.ends_with(')')
                && commit.len() > 7,
            "{version}"
        );
    }

    pub fn every_problem_is_listed_at_once(&self) {
        let mistakes = [
            set("http.listen", "nowhere"),
            set("http.metrics_listen", "nowhere"),
            set("telemetry.filter", "a=b=c"),
            set("database.max_connections", "0"),
            set("database.url", format!("oracle://u:{MARKER}@h/db")),
            set("cors.allowed_origins", "* https://app.example/path"),
            set("providers.pipedrive.token_url", "http://x/"),
            set("apps.second.provider", "nobody"),
            set("apps.second.client_id", "x"),
        ];
        for command in [
            &["serve"][..],
            &[],
            &["migrate"],
            &["healthcheck"],
            &["config"],
        ] {
            self.run_with(command, &mistakes)
                .keeps_secrets()
                .expect_stderr(&[
                    "the configuration can't be used:",
                    "http.listen: is not an address",
                    "http.metrics_listen: is not an address",
                    "telemetry.filter: is no filter",
                    "database.max_connections: is 0",
                    "database.url: ",
                    "cors.allowed_origins: `*`",
                    "cors.allowed_origins: `https://app.example/path`",
                    "encryption.keys: holds no key",
                    "apps.pipedrive.client_id: is not set",
                    "providers.pipedrive.token_url: is not https",
                    "apps.second.provider: no providers.nobody",
                ])
                .expect_code(64);
        }
    }

    pub fn a_bad_configuration_ends_before_a_socket_opens(&self) {
        let home = Home::new();
        let (_held, addr) = taken_port();
        let mut settings = Self::settings(&home);
        settings.push(set("http.listen", addr.to_string()));
        settings.push(set("database.max_connections", "0"));

        let run = self.run_with(&["serve"], &settings).expect_code(64);

        assert_eq!(run.stdout, "");
        assert!(
            fs::read_dir(&home.directory)
                .expect("it is there")
                .next()
                .is_none()
        );
    }

    pub fn what_is_in_no_section_is_refused(&self) {
        let home = Home::new();
        let mut settings = Self::settings(&home);
        let mut sections: Vec<String> = Self::keys()
            .iter()
            .filter_map(|key| key.rsplit_once('.').map(|(section, _)| section.to_owned()))
            .collect();
        sections.dedup();
        sections.push("providers.pipedrive".to_owned());
        settings.extend(
            sections
                .iter()
                .map(|at| set(&format!("{at}.colour"), "red")),
        );
        settings.push(set("databse.url", "sqlite:x.db"));

        let run = self.run_with(&["config"], &settings).expect_code(64);

        let lines: Vec<&str> = run.stderr.lines().collect();
        for section in &sections {
            let told = lines
                .iter()
                .any(|line| line.trim().starts_with(section) && line.contains("colour"));
            assert!(told, "{section} in {run:#?}");
        }
        run.expect_stderr(&["databse: no such section"]);

        // A value where a section belongs is most likely a secret that lost its key.
        let home = Home::new();
        for section in ["encryption", "apps", "apps.pipedrive"] {
            let mut settings = Self::settings(&home);
            settings.retain(|(key, _)| !key.starts_with(section));
            settings.push(set(section, MARKER));
            self.run_with(&["config"], &settings)
                .keeps_secrets()
                .expect_stderr(&[&format!("{section}: ")])
                .expect_code(64);
        }
    }

    pub fn config_shows_everything_but_secrets(&self) {
        let home = Home::new();
        let mut settings = Self::settings(&home);
        settings.push(set("database.url", Self::secret_for("database.url")));
        settings.push(set("http.shutdown_grace_secs", "17"));

        let run = self
            .run_with(&["config"], &settings)
            .keeps_secrets()
            .expect_code(0);

        assert_eq!(run.stderr, "");
        for key in Self::keys() {
            let shown = run
                .stdout
                .lines()
                .any(|line| line.starts_with(&format!("{key} = ")));
            assert!(shown, "{key} in {run:#?}");
        }
        for secret in Self::secrets().iter().filter(|key| *key != "database.url") {
            let line = format!("{secret} = \"[redacted]\"\n");
            assert!(run.stdout.contains(&line), "{secret} in {run:#?}");
        }
        for line in [
            "database.url = \"postgres://u:redacted@127.0.0.1:9/db?sslmode=disable\"\n",
            "http.shutdown_grace_secs = \"17\"\n",
            "providers.pipedrive.token_url = \"https://oauth.pipedrive.com/oauth/token\"\n",
        ] {
            assert!(run.stdout.contains(line), "{line} in {run:#?}");
        }

        for url in [
            format!("postgres://u@h/db?password={MARKER}"),
            format!("postgres://u:1#{MARKER}@h/db"),
            format!("postgres://u:1?{MARKER}@h/db"),
            format!("mysql://u:1/{MARKER}@h/db"),
        ] {
            let mut settings = Self::settings(&home);
            settings.push(set("database.url", url));
            self.run_with(&["config"], &settings).keeps_secrets();
        }
    }

    pub fn a_value_that_is_no_text_is_refused_for_a_text(&self) {
        let home = Home::new();
        let mut file = String::new();
        let mut told = Vec::new();
        for key in Self::secrets() {
            let (section, name) = key.rsplit_once('.').expect("section.key");
            if matches!(section, "webhook" | "refresher" | "login") {
                file = format!("{file}[{section}]\n{name} = 1234567890123\n");
                told.push(format!("{key}: is not text; put quotes around the value"));
            }
        }
        // Of entries by hand, and of a key that is no secret: whatever TOML has beside texts.
        for (index, value) in [
            "1e5",
            "nan",
            "inf",
            "-inf",
            "1979-05-27",
            "07:32:00",
            "1979-05-27T07:32:00Z",
            "0x1F",
            "true",
            "[\"a\"]",
        ]
        .into_iter()
        .enumerate()
        {
            file = format!("{file}[apps.no-{index}]\nclient_id = {value}\n");
            told.push(format!("apps.no-{index}.client_id: is not text"));
        }
        file.push_str("[telemetry]\nfilter = true\n");
        told.push("telemetry.filter: is not text".to_owned());
        let mut settings = Self::settings(&home);
        settings.retain(|(key, _)| !key.ends_with("password"));
        let path = home.write("numbers.toml", &file);

        let run = self.run_with(&["config", "--config", &path], &settings);

        assert!(!run.stdout.contains("1234567890123"), "{run:#?}");
        assert!(!run.stderr.contains("1234567890123"), "{run:#?}");
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        run.expect_stderr(&told).expect_code(64);
    }

    /// The CR of a Windows file, quotes of `docker --env-file`, a byte order mark of PowerShell, blanks of a copied line.
    pub fn values_that_caught_something_on_their_way_are_refused_by_name(&self) {
        let home = Home::new();
        let carriage_return = "has a control character (U+000D)";
        for (key, value, says) in [
            ("apps.pipedrive.client_id", "cid\r", carriage_return),
            (
                "apps.pipedrive.client_id",
                "\"cid\"",
                "has quotes around it",
            ),
            ("apps.pipedrive.client_id", "cid ", "has a blank"),
            ("database.url", "sqlite:x.db\r", carriage_return),
            ("database.url", "sqlite:x.db ", "has a blank"),
            ("http.listen", " 127.0.0.1:0", "has a blank"),
            (
                "providers.pipedrive.token_url",
                "https://x/\r",
                carriage_return,
            ),
        ] {
            let mut settings = Self::settings(&home);
            settings.retain(|(known, _)| known != key);
            settings.push(set(key, value));
            let line = format!("{key}: {says}");
            self.run_with(&["serve"], &settings)
                .expect_stderr(&[&line])
                .expect_code(64);
        }

        for secret in Self::secrets() {
            let value = Self::secret_for(&secret);
            let mut settings = Self::settings(&home);
            settings.retain(|(known, _)| *known != secret);
            let control = format!("{value}\u{7}");
            settings.push(set(&secret, control));
            let line = format!("{secret}: has a control character (U+0007)");
            self.run_with(&["config"], &settings)
                .keeps_secrets()
                .expect_stderr(&[&line])
                .expect_code(64);

            settings.pop();
            let path = home.write("marked", &format!("\u{feff}{value}\r\n"));
            settings.push(set(&format!("{secret}_file"), path));
            let line = format!("{secret}_file: has a byte order mark");
            self.run_with(&["config"], &settings)
                .keeps_secrets()
                .expect_stderr(&[&line])
                .expect_code(64);
        }

        // A password may be meant so.
        let is_password = |secret: &String| secret.ends_with("password");
        if let Some(secret) = Self::secrets().into_iter().find(is_password) {
            let mut settings = Self::settings(&home);
            settings.push(set(&secret, "'quoted'"));
            let line = format!("warning: {secret}: has quotes around it");
            self.run_with(&["config"], &settings)
                .expect_stderr(&[&line])
                .expect_code(0);
        }
    }

    pub fn secrets_come_from_files(&self) {
        let home = Home::new();
        let secrets = Self::secrets();
        let mut settings = Self::settings(&home);
        settings.retain(|(key, _)| !secrets.contains(key));
        for key in &secrets {
            let value = match key.as_str() {
                "database.url" => home.database.url().expose().to_owned(),
                other => Self::secret_for(other),
            };
            let path = home.write(key, &format!("{value}\n"));
            settings.push(set(&format!("{key}_file"), path));
        }

        self.run_with(&["config"], &settings)
            .keeps_secrets()
            .expect_code(0);
        // What is in the file is what is used.
        self.run_with(&["migrate"], &settings).expect_code(0);
        assert!(home.directory.join("test.db").exists());

        // The default of database.url is there to be replaced; of the others only one may be set.
        for key in secrets.iter().filter(|key| *key != "database.url") {
            settings.push((key.clone(), Self::secret_for(key)));
        }
        let twice = self
            .run_with(&["config"], &settings)
            .keeps_secrets()
            .expect_code(64);
        for key in secrets.iter().filter(|key| *key != "database.url") {
            let line = format!("{key}: is set, and so is its _file: keep one");
            assert!(twice.stderr.contains(&line), "{line} in {twice:#?}");
        }
    }

    pub fn files_that_cannot_be_read_are_problems(&self) {
        let home = Home::new();
        let secrets = Self::secrets();
        let mut settings = Self::settings(&home);
        settings.retain(|(key, _)| !secrets.contains(key));
        for key in &secrets {
            let path = home.directory.join("absent").join(key);
            settings.push(set(&format!("{key}_file"), path.display().to_string()));
        }

        let run = self.run_with(&["serve"], &settings).expect_code(64);

        for key in &secrets {
            let told = run.stderr.lines().any(|line| {
                line.trim().starts_with(&format!("{key}_file: can't read "))
                    && line.contains("No such file")
            });
            assert!(told, "{key} in {run:#?}");
        }
    }

    pub fn aliases_stand_for_their_keys(&self) {
        let home = Home::new();
        let aliases = [
            ("DATABASE_URL", "database.url"),
            ("PIPE_DRIVE_CLIENT_ID", "apps.pipedrive.client_id"),
            ("PIPE_DRIVE_CLIENT_SECRET", "apps.pipedrive.client_secret"),
            ("PIPE_DRIVE_REDIRECT_URL", "apps.pipedrive.redirect_url"),
        ];
        let mut settings = Self::settings(&home);
        settings.retain(|(key, _)| aliases.iter().all(|(_, aliased)| key != aliased));
        let mut env = as_variables(&settings);
        for (name, value) in [
            ("DATABASE_URL", "sqlite:aliased.db"),
            ("PIPE_DRIVE_CLIENT_ID", "aliased-id"),
            ("PIPE_DRIVE_CLIENT_SECRET", MARKER),
            ("PIPE_DRIVE_REDIRECT_URL", "https://aliased.example/cb"),
        ] {
            env.push((name.to_owned(), value.to_owned()));
        }

        let run = self.run(&["config"], &env).keeps_secrets().expect_code(0);

        let keys = Self::keys();
        for (key, shown) in [
            ("database.url", "sqlite:aliased.db"),
            ("apps.pipedrive.client_id", "aliased-id"),
            ("apps.pipedrive.client_secret", "[redacted]"),
            ("apps.pipedrive.redirect_url", "https://aliased.example/cb"),
        ] {
            let line = format!("{key} = \"{shown}\"\n");
            let has_key = keys.iter().any(|known| known == key);
            assert_eq!(run.stdout.contains(&line), has_key, "{line} in {run:#?}");
        }

        // Our own name for a key goes over the alias.
        env.push((variable("apps.pipedrive.client_id"), "own-id".to_owned()));
        let run = self.run(&["config"], &env).expect_code(0);
        assert!(
            run.stdout
                .contains("apps.pipedrive.client_id = \"own-id\"\n")
        );
    }

    pub fn the_file_goes_over_the_defaults_and_the_environment_over_both(&self) {
        let home = Home::new();
        let file = |name: &str, workers: u8| {
            home.write(
                name,
                &format!("[http]\nworkers = {workers}\nshutdown_grace_secs = {workers}\n"),
            )
        };
        let (named, variable_named) = (file("named.toml", 13), file("variable.toml", 14));
        let shown = |arguments: &[&str], more: &[(String, String)]| {
            let mut env = as_variables(&Self::settings(&home));
            env.extend_from_slice(more);
            let run = self.run(arguments, &env).expect_code(0);
            let value = |key: &str| {
                let line = run.stdout.lines().find_map(|line| line.strip_prefix(key));
                line.expect("every key is shown").to_owned()
            };
            (
                value("http.workers = "),
                value("http.shutdown_grace_secs = "),
            )
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let by_variable = [("PIPEKEEPER_CONFIG".to_owned(), variable_named)];

        assert_eq!(shown(&["config"], &[]), pair("0", "30"));
        assert_eq!(
            shown(&["config", "--config", &named], &[]),
            pair("13", "13")
        );
        assert_eq!(
            shown(&["--config", &named, "config"], &[]),
            pair("13", "13")
        );
        assert_eq!(shown(&["config"], &by_variable), pair("14", "14"));
        assert_eq!(
            shown(&["config", "--config", &named], &by_variable),
            pair("13", "13")
        );
        let own = [(variable("http.workers"), "5".to_owned())];
        assert_eq!(
            shown(&["config", "--config", &named], &own),
            pair("\"5\"", "13")
        );
    }

    pub fn a_broken_file_is_told_of_without_its_lines(&self) {
        let home = Home::new();
        let settings = Self::settings(&home);
        let absent = home.directory.join("absent.toml").display().to_string();
        self.run_with(&["serve", "--config", &absent], &settings)
            .expect_stderr(&["absent.toml"])
            .expect_code(64);

        for (name, text) in [
            ("open.toml", format!("[webhook]\npassword = \"{MARKER}\n")),
            ("bare.toml", format!("[webhook]\npassword = {MARKER}\n")),
            (
                "twice.toml",
                format!("[webhook]\npassword = \"{MARKER}\"\npassword = \"x\"\n"),
            ),
        ] {
            let path = home.write(name, &text);
            self.run_with(&["serve", "--config", &path], &settings)
                .keeps_secrets()
                .expect_stderr(&[name, "line "])
                .expect_code(64);
        }
    }

    pub fn every_key_of_the_defaults_is_needed(&self) {
        let home = Home::new();
        let settings = Self::settings(&home);
        let with_settings = |left_out: Option<&str>| {
            let mut section = "";
            let mut text = String::new();
            for line in S::DEFAULTS.lines() {
                let mut line = line.to_owned();
                if let Some(name) = line.strip_prefix('[') {
                    section = S::DEFAULTS
                        .lines()
                        .find_map(|known| (known == line).then(|| known.trim_matches(['[', ']'])))
                        .unwrap_or_default();
                    assert_eq!(name.trim_end_matches(']'), section);
                } else if let Some((key, _)) = line.clone().split_once(" = ") {
                    let key = format!("{section}.{key}");
                    if left_out == Some(key.as_str()) {
                        continue;
                    }
                    let set = settings.iter().rfind(|(name, _)| *name == key);
                    if let Some((_, value)) = set {
                        let name = key.rsplit('.').next().unwrap_or_default();
                        line = format!("{name} = {}", serde_json::Value::from(value.as_str()));
                    }
                }
                text.push_str(&line);
                text.push('\n');
            }
            Loaded::<S>::from(&Sources {
                defaults: text.leak(),
                file: None,
                env: Vec::new(),
            })
        };
        let loaded = with_settings(None).expect("the defaults and what has to be set");
        let shown = format!("{loaded:?}");
        assert!(!shown.contains(MARKER), "{shown}");

        for key in Self::keys() {
            // Further apps are written by hand, where a key that is not needed may be left out.
            if [
                "aliases",
                "default",
                "client_secret_file",
                "second_client_secret",
                "second_client_secret_file",
                "refresh_policy",
            ]
            .iter()
            .any(|name| key == format!("apps.pipedrive.{name}"))
            {
                continue;
            }
            let problems = with_settings(Some(&key))
                .map(|_| ())
                .expect_err(&format!("{key} is missed"));
            let name = key.rsplit('.').next().unwrap_or_default();
            assert!(problems.to_string().contains(name), "{key}: {problems}");
        }
    }
}
