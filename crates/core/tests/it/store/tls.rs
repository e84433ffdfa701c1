//! TLS to the servers, with an authority of one's own.

use std::path::PathBuf;

use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Diagnosis};
use pipekeeper_testing::{TestDatabase, TestDirectory, TlsFiles, TlsServer, open};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> String {
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}

/// A server whose certificate is for `localhost`, two files with an authority each, and the server's own before that.
struct Fixture {
    server: TlsServer,
    directory: TestDirectory,
}

impl Fixture {
    fn start(backend: Backend) -> Self {
        let (own, other) = (Authority::new("own"), Authority::new("other"));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = own.sign(&params, &key);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
        let expired = own.sign(&params, &key);
        let directory = TestDirectory::create();
        std::fs::write(directory.path().join("own.pem"), &own.certificate).unwrap();
        std::fs::write(directory.path().join("other.pem"), &other.certificate).unwrap();
        let files = TlsFiles {
            certificate,
            other_certificate: expired,
            key: key.serialize_pem(),
        };
        Self {
            server: TlsServer::start(backend, files),
            directory,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What comes of connecting so.
    async fn connect(&self, host: &str, query: &str) -> Result<(), Option<Diagnosis>> {
        let query = query
            .replace("OWN", &self.file("own.pem").display().to_string())
            .replace("OTHER", &self.file("other.pem").display().to_string());
        let mut url = url::Url::parse(self.server.url().expose()).unwrap();
        url.set_host(Some(host)).unwrap();
        url.set_query(Some(&query));
        open(&Secret::new(url.into()))
            .ping()
            .await
            .map_err(|error| {
                assert!(error.is_unavailable(), "{error:?}");
                error.diagnosis()
            })
    }

    async fn is_refused(&self, host: &str, query: &str, why: Diagnosis) {
        let outcome = self.connect(host, query).await;
        assert_eq!(outcome, Err(Some(why)), "{host} {query}");
    }

    async fn is_let_in(&self, host: &str, query: &str) {
        let outcome = self.connect(host, query).await;
        assert_eq!(outcome, Ok(()), "{host} {query}");
    }
}

const NAME: &str = "localhost";
const ADDRESS: &str = "127.0.0.1";

pub(super) async fn postgres_is_held_to_its_sslmode() {
    let fixture = Fixture::start(Backend::Postgres);
    for query in [
        "sslmode=disable",
        "sslmode=prefer",
        "sslmode=require",
        "sslmode=require&sslrootcert=OWN",
        "sslmode=verify-ca&sslrootcert=OWN",
        "sslmode=verify-full&sslrootcert=OWN",
    ] {
        fixture.is_let_in(NAME, query).await;
    }
    fixture
        .is_let_in(ADDRESS, "sslmode=verify-ca&sslrootcert=OWN")
        .await;
    for (host, query, why) in [
        (
            ADDRESS,
            "sslmode=verify-full&sslrootcert=OWN",
            Diagnosis::CertificateName,
        ),
        (NAME, "sslmode=verify-full", Diagnosis::Certificate),
        (
            NAME,
            "sslmode=verify-full&sslrootcert=system",
            Diagnosis::Certificate,
        ),
        (
            NAME,
            "sslmode=verify-full&sslrootcert=OTHER",
            Diagnosis::Certificate,
        ),
        (
            NAME,
            "sslmode=verify-ca&sslrootcert=OTHER",
            Diagnosis::Certificate,
        ),
        (
            NAME,
            "sslmode=require&sslrootcert=OTHER",
            Diagnosis::Certificate,
        ),
    ] {
        fixture.is_refused(host, query, why).await;
    }
    encrypts_as_asked(&fixture).await;

    fixture.server.change_certificate();
    for query in [
        "sslmode=verify-full&sslrootcert=OWN",
        "sslmode=verify-ca&sslrootcert=OWN",
    ] {
        fixture
            .is_refused(NAME, query, Diagnosis::CertificateExpired)
            .await;
    }

    // Who does not speak TLS is turned away by name.
    fixture.server.only_tls();
    fixture
        .is_refused(NAME, "sslmode=disable", Diagnosis::TlsRequired)
        .await;
    fixture.is_let_in(NAME, "").await;
}

async fn encrypts_as_asked(fixture: &Fixture) {
    for (mode, encrypted) in [("disable", "f"), ("prefer", "t"), ("require", "t")] {
        let mut url = url::Url::parse(fixture.server.url().expose()).unwrap();
        let query = format!("sslmode={mode}&application_name=asked_{mode}");
        url.set_query(Some(&query));
        let store = open(&Secret::new(url.into()));
        store.ping().await.unwrap();
        let seen = format!(
            "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name = 'asked_{mode}'"
        );
        assert_eq!(fixture.server.lines(&seen).unwrap(), [encrypted], "{mode}");
    }
}

pub(super) async fn mysql_is_held_to_its_tls_parameters() {
    let fixture = Fixture::start(Backend::Mysql);
    for query in [
        "",
        "ssl_ca=OWN",
        "require_ssl=true&ssl_ca=OWN",
        "require_ssl=true&verify_ca=false",
    ] {
        fixture.is_let_in(NAME, query).await;
    }
    for query in [
        "ssl_ca=OWN&ssl_host=localhost",
        "require_ssl=true&verify_ca=false&verify_identity=false",
    ] {
        fixture.is_let_in(ADDRESS, query).await;
    }
    for (host, query, why) in [
        (NAME, "require_ssl=true", Diagnosis::Certificate),
        (NAME, "ssl_ca=OTHER", Diagnosis::Certificate),
        (
            NAME,
            "require_ssl=true&ssl_ca=OTHER",
            Diagnosis::Certificate,
        ),
        (
            NAME,
            "ssl_ca=OWN&ssl_host=db.example.com",
            Diagnosis::CertificateName,
        ),
        (ADDRESS, "ssl_ca=OWN", Diagnosis::CertificateName),
    ] {
        fixture.is_refused(host, query, why).await;
    }

    fixture.server.only_tls();
    fixture.is_refused(NAME, "", Diagnosis::TlsRequired).await;
    fixture.is_let_in(NAME, "ssl_ca=OWN").await;
}

/// The servers that the other tests share have no TLS.
pub(super) async fn a_server_without_tls_is_told_of_when_tls_is_asked_for(backend: Backend) {
    let asked = match backend {
        Backend::Postgres => "sslmode=require",
        _ => "require_ssl=true",
    };
    let database = TestDatabase::create(backend);
    let has_tls = match backend {
        Backend::Postgres => "SHOW ssl",
        _ => "SELECT @@have_ssl",
    };
    let said = database.lines(has_tls).unwrap();
    if said == ["on"] || said == ["YES"] {
        // A server of one's own.
        return;
    }
    let mut url = url::Url::parse(database.url().expose()).unwrap();
    url.set_query(Some(asked));

    let error = open(&Secret::new(url.into())).ping().await.unwrap_err();

    assert_eq!(error.diagnosis(), Some(Diagnosis::TlsMissing), "{error:?}");
    database.store().ping().await.unwrap();
}
