//! What stands between us and the database, as far as it shows, and what to do about it.
//!
//! Told by codes (SQLSTATE, `MySQL`'s numbers, the system's) where a driver keeps them, otherwise by its words.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::iter::successors;

use rustls::CertificateError;

/// The common reasons for which a database can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Diagnosis {
    Password,
    /// Not with this user, or not from here.
    Login,
    /// Supabase's poolers find the project by the user's name.
    Tenant,
    Database,
    Permission,
    TlsMissing,
    TlsRequired,
    Certificate,
    CertificateExpired,
    CertificateName,
    HostUnknown,
    Refused,
    Ipv6Only,
    Unreachable,
    Silent,
    TooManyConnections,
    NotReady,
    NotADatabase,
    NoDirectory,
    NotWritable,
    /// The file that was the database is no longer there.
    FileGone,
    ReadOnly,
    DiskFull,
    /// Transactions are undone in favour of others, again and again.
    Conflicts,
}

impl Diagnosis {
    /// Whether it may go by itself, as it does while a database starts.
    pub fn may_pass(self) -> bool {
        matches!(
            self,
            Self::HostUnknown
                | Self::Refused
                | Self::Unreachable
                | Self::Silent
                | Self::TooManyConnections
                | Self::NotReady
                | Self::FileGone
                | Self::ReadOnly
                | Self::DiskFull
                | Self::Conflicts
        )
    }

    /// Whether a database may still be read.
    pub fn refuses_writes(self) -> bool {
        matches!(self, Self::NotWritable | Self::ReadOnly | Self::DiskFull)
    }

    /// What is the matter, in one sentence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "The database refuses this user and password.",
            Self::Login => "The database does not let this user in.",
            Self::Tenant => "The pooler knows no such project.",
            Self::Database => "There is no such database for this user.",
            Self::Permission => "The database's user lacks rights.",
            Self::TlsMissing => "The database offers no TLS.",
            Self::TlsRequired => "The database asks for TLS.",
            Self::Certificate => "The database's certificate is not signed by a trusted authority.",
            Self::CertificateExpired => "The database's certificate is not valid at this time.",
            Self::CertificateName => "The database's certificate is for another host.",
            Self::HostUnknown => "The database's host is not known.",
            Self::Refused => "The database's host refuses the connection.",
            Self::Ipv6Only | Self::Unreachable => "The database's host is out of reach.",
            Self::Silent => "The database's host does not answer.",
            Self::TooManyConnections => "The database has no connection left.",
            Self::NotReady => "The database is not ready.",
            Self::NotADatabase => "The database file is none.",
            Self::NoDirectory => "The database file's directory does not exist.",
            Self::NotWritable => "The database file can't be written.",
            Self::FileGone => "The database file is gone.",
            Self::ReadOnly => "The database is read-only.",
            Self::DiskFull => "The database's disk is full.",
            Self::Conflicts => "The database undid the transaction because of conflicts.",
        }
    }

    /// What to do next. Holds nothing of the URL.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Password => {
                "check user and password in the database URL: special characters are percent-encoded, and Supabase's \
                 poolers want the user postgres.<project ref>"
            }
            Self::Login => {
                "check the user's name, that it may log in, and that the server lets it in from this address"
            }
            Self::Tenant => {
                "copy the URL from the project's Connect page: the user is postgres.<project ref>, and the pooler's host \
                 that of the project's region"
            }
            Self::Database => {
                "check the name at the end of the database URL; create the database, or give this user rights on it"
            }
            Self::Permission => {
                "`migrate` needs the owner of the schema; the other commands need a role with its rights, which \
                 `migrate --role NAME` makes, and renews after an update"
            }
            Self::TlsMissing => {
                "switch TLS on at the server, or allow plain connections with sslmode=disable (MySQL: without require_ssl)"
            }
            Self::TlsRequired => {
                "add sslmode=require to the database URL (MySQL: require_ssl=true), or verify-full with the server's CA"
            }
            Self::Certificate => {
                "name the file of the authority that signed it: sslrootcert=FILE (MySQL: ssl_ca=FILE)"
            }
            Self::CertificateExpired => {
                "renew the server's certificate, and check the clocks of both machines"
            }
            Self::CertificateName => {
                "use the host name that the certificate is for, or sslmode=verify-ca (MySQL: ssl_host=NAME)"
            }
            Self::HostUnknown => {
                "check the host's name in the database URL, and the network's name server"
            }
            Self::Refused => {
                "nothing listens there: check host and port in the database URL, and that the server runs"
            }
            Self::Ipv6Only => {
                "the database's host has IPv6 addresses alone and this network has no IPv6: use the host of Supabase's \
                 session pooler, its IPv4 add-on, or a network with IPv6"
            }
            Self::Unreachable => {
                "there is no way to the database's host: check networks and firewalls"
            }
            Self::Silent => {
                "the host answers nothing: check host and port in the database URL, and firewalls between here and there"
            }
            Self::TooManyConnections => {
                "lower database.max_connections (of every service), or raise the server's or the pooler's limit"
            }
            Self::NotReady => "the server is starting or stopping",
            Self::NotADatabase => {
                "the file holds something else: name another one in the database URL"
            }
            Self::NoDirectory => "create the directory, or name another one in the database URL",
            Self::NotWritable => {
                "this process needs to write the file and its directory: check their owner, and whether the disk is \
                 mounted read-only"
            }
            Self::FileGone => {
                "put the file back in its place; only a process that starts makes a new one"
            }
            Self::ReadOnly => {
                "a standby is no primary: check the host in the database URL; a hosted database may be read-only because \
                 its disk is nearly full; Postgres: default_transaction_read_only, MySQL and MariaDB: read_only"
            }
            Self::DiskFull => "make space on the disk of the database",
            Self::Conflicts => {
                "each transaction was tried again for up to 5 s: check for locks that other programs hold on our tables"
            }
        }
    }

    pub(super) fn of_postgres(error: &tokio_postgres::Error) -> Option<Self> {
        if let Some(said) = error.as_db_error() {
            return Self::of_sqlstate(said.code().code(), said.message());
        }
        let first: Option<&(dyn Error + 'static)> = error.source();
        successors(first, |&cause| cause.source()).find_map(|cause| {
            match cause.downcast_ref::<io::Error>() {
                Some(cause) => Self::of_io(cause),
                None => Self::of_words(&cause.to_string()),
            }
        })
    }

    pub(super) fn of_mysql(error: &mysql_async::Error) -> Option<Self> {
        use mysql_async::{DriverError, IoError, TlsError};
        match error {
            mysql_async::Error::Server(said) => Self::of_mysql_number(said.code),
            mysql_async::Error::Io(IoError::Io(cause)) => Self::of_io(cause),
            mysql_async::Error::Io(IoError::Tls(TlsError::Tls(cause))) => Self::of_tls(cause),
            mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => {
                Some(Self::TlsMissing)
            }
            _ => None,
        }
    }

    pub(super) fn of_io(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref();
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref()) {
            return Self::of_tls(tls);
        }
        match error.kind() {
            ErrorKind::ConnectionRefused => Some(Self::Refused),
            ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::AddrNotAvailable => Some(Self::Unreachable),
            ErrorKind::TimedOut => Some(Self::Silent),
            _ => Self::of_words(&error.to_string()),
        }
    }

    pub(super) fn of_file(error: &io::Error) -> Option<Self> {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Some(Self::NoDirectory),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some(Self::NotWritable),
            ErrorKind::IsADirectory => Some(Self::NotADatabase),
            _ => None,
        }
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        let rustls::Error::InvalidCertificate(why) = error else {
            return None;
        };
        Some(match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::CertificateExpired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::CertificateName
            }
            _ => Self::Certificate,
        })
    }

    /// Postgres manual, appendix A. Poolers have few codes of their own: their words tell.
    fn of_sqlstate(code: &str, message: &str) -> Option<Self> {
        match code {
            "28P01" => Some(Self::Password),
            "28000"
                if ["no encryption", "SSL off"]
                    .iter()
                    .any(|end| message.ends_with(end)) =>
            {
                Some(Self::TlsRequired)
            }
            "28000" => Some(Self::Login),
            "3D000" => Some(Self::Database),
            "42501" => Some(Self::Permission),
            "25006" => Some(Self::ReadOnly),
            "53100" => Some(Self::DiskFull),
            "53300" => Some(Self::TooManyConnections),
            "57P01" | "57P02" | "57P03" => Some(Self::NotReady),
            "08P01" if message.starts_with("database ") && message.ends_with(" not exist") => {
                Some(Self::Database)
            }
            _ => Self::of_words(message),
        }
    }

    fn of_mysql_number(number: u16) -> Option<Self> {
        match number {
            1045 | 1698 => Some(Self::Password),
            1129 | 1130 => Some(Self::Login),
            1044 | 1049 => Some(Self::Database),
            1142 | 1143 | 1227 => Some(Self::Permission),
            1040 | 1203 | 1226 => Some(Self::TooManyConnections),
            1053 => Some(Self::NotReady),
            1036 | 1290 | 1792 | 1836 => Some(Self::ReadOnly),
            1021 | 1114 => Some(Self::DiskFull),
            3159 => Some(Self::TlsRequired),
            _ => None,
        }
    }

    /// diesel keeps words alone, and so do poolers and the resolver.
    pub(super) fn of_words(said: &str) -> Option<Self> {
        const WORDS: [(&str, Diagnosis); 39] = [
            ("SQLSTATE 42501", Diagnosis::Permission),
            ("SQLSTATE 25006", Diagnosis::ReadOnly),
            ("SQLSTATE 53100", Diagnosis::DiskFull),
            ("running with the --read-only", Diagnosis::ReadOnly),
            ("running with the --super-read-only", Diagnosis::ReadOnly),
            ("READ ONLY transaction", Diagnosis::ReadOnly),
            ("Running in read-only mode", Diagnosis::ReadOnly),
            ("' is read only", Diagnosis::ReadOnly),
            ("SQLSTATE 40001", Diagnosis::Conflicts),
            ("SQLSTATE 40P01", Diagnosis::Conflicts),
            ("Deadlock found", Diagnosis::Conflicts),
            ("Lock wait timeout exceeded", Diagnosis::Conflicts),
            ("Record has changed since last read", Diagnosis::Conflicts),
            ("WSREP detected deadlock/conflict", Diagnosis::Conflicts),
            ("database or disk is full", Diagnosis::DiskFull),
            ("No space left on device", Diagnosis::DiskFull),
            ("Disk full", Diagnosis::DiskFull),
            ("' is full", Diagnosis::DiskFull),
            (" command denied to user ", Diagnosis::Permission),
            ("you need (at least one of) the", Diagnosis::Permission),
            ("server does not support TLS", Diagnosis::TlsMissing),
            ("SSL required", Diagnosis::TlsRequired),
            ("insecure transport are prohibited", Diagnosis::TlsRequired),
            ("password missing", Diagnosis::Password),
            ("SASL authentication failed", Diagnosis::Password),
            ("Tenant or user not found", Diagnosis::Tenant),
            ("(ENOTFOUND) tenant", Diagnosis::Tenant),
            ("max clients reached", Diagnosis::TooManyConnections),
            ("no more connections allowed", Diagnosis::TooManyConnections),
            (
                "Max client connections reached",
                Diagnosis::TooManyConnections,
            ),
            ("no such database", Diagnosis::Database),
            ("no such user", Diagnosis::Password),
            (
                "failed to lookup address information",
                Diagnosis::HostUnknown,
            ),
            ("could not resolve any addresses", Diagnosis::HostUnknown),
            // A kernel without IPv6.
            ("Address family not supported", Diagnosis::Unreachable),
            ("file is not a database", Diagnosis::NotADatabase),
            ("unable to open database file", Diagnosis::NotWritable),
            (
                "attempt to write a readonly database",
                Diagnosis::NotWritable,
            ),
            ("server login has been failing", Diagnosis::NotReady),
        ];
        WORDS
            .iter()
            .find(|(words, _)| said.contains(words))
            .map(|(_, diagnosis)| *diagnosis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What can't be had from a server on demand.
    #[test]
    fn codes_and_the_words_of_poolers_are_told_apart() {
        for (code, said, diagnosis) in [
            (
                "57P03",
                "the database system is starting up",
                Diagnosis::NotReady,
            ),
            (
                "28000",
                "role \"crm\" is not permitted to log in",
                Diagnosis::Login,
            ),
            (
                "28000",
                "no pg_hba.conf entry for host \"10.0.0.1\", user \"u\", database \"d\", no encryption",
                Diagnosis::TlsRequired,
            ),
            (
                "28000",
                "no pg_hba.conf entry for host \"10.0.0.1\", user \"u\", database \"d\", SSL encryption",
                Diagnosis::Login,
            ),
            (
                "53300",
                "sorry, too many clients already",
                Diagnosis::TooManyConnections,
            ),
            (
                "XX000",
                "(EMAXCONNSESSION) max clients reached in session mode",
                Diagnosis::TooManyConnections,
            ),
            ("XX000", "Tenant or user not found", Diagnosis::Tenant),
            (
                "XX000",
                "(ENOTFOUND) tenant/user postgres.abcdefgh not found",
                Diagnosis::Tenant,
            ),
            ("08P01", "SSL required", Diagnosis::TlsRequired),
            (
                "08P01",
                "database \"crm\" does not exist",
                Diagnosis::Database,
            ),
            (
                "08P01",
                "no more connections allowed (max_client_conn)",
                Diagnosis::TooManyConnections,
            ),
        ] {
            assert_eq!(
                Diagnosis::of_sqlstate(code, said),
                Some(diagnosis),
                "{said}"
            );
        }
        assert_eq!(Diagnosis::of_sqlstate("42P01", "no such relation"), None);
    }

    #[test]
    fn a_mistake_does_not_pass_and_an_outage_may() {
        use Diagnosis::{Database, HostUnknown, Ipv6Only, NotReady, Password, Permission, Refused};
        assert!(
            [HostUnknown, NotReady, Refused]
                .iter()
                .all(|it| it.may_pass())
        );
        let mistakes = [Database, Ipv6Only, Password, Permission];
        assert!(!mistakes.iter().any(|it| it.may_pass()));
    }
}
