//! The parameters of a database URL: taken out, encoded, and named when they are refused.

use std::io;

use url::{Url, form_urlencoded};

/// Why a database URL can't be used. Says nothing of what it holds but the name of a parameter: a password with an
/// unescaped `/`, `?` or `#` ends up in any part of it.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    #[error("it begins with none of postgres:, postgresql:, mysql:, mariadb:, sqlite:")]
    UnknownScheme,
    #[error("it does not read as a URL (special characters of a password must be percent-encoded)")]
    Malformed,
    #[error("it names several hosts, and one is supported")]
    SeveralHosts,
    #[error("its parameter `{0}` is unknown, or has an invalid value")]
    Parameter(String),
    #[error("sqlite: takes no parameters, and it has `{0}`")]
    NoParameters(String),
    #[error("it names no file, or has parameters, which sqlite: does not take")]
    SqliteFile,
    #[error(
        "verify_identity=false does not work: name the host that the certificate is for with ssl_host=NAME, or check \
         nothing with verify_ca=false"
    )]
    Identity,
    #[error("the root certificates that it names can't be used")]
    RootCertificates {
        #[source]
        source: io::Error,
    },
}

/// The URL without the named parameters, and these, decoded. What stays is percent-encoded anew: one driver takes a `+`
/// for a blank and the other for itself, and to libpq it is itself.
pub(super) fn without_parameters(
    text: &str,
    names: &[&str],
) -> Result<(Url, Vec<(String, String)>), UrlError> {
    let mut url = Url::parse(text).map_err(|_says_nothing_more| malformed(text))?;
    // Nothing of ours has one: it is the rest of a password with an unescaped `#`.
    if url.fragment().is_some() {
        return Err(UrlError::Malformed);
    }
    let (taken, kept): (Vec<_>, Vec<_>) =
        parameters(&url).partition(|(name, _)| names.contains(&name.as_str()));
    let kept: Vec<String> = kept.iter().map(encoded).collect();
    url.set_query((!kept.is_empty()).then(|| kept.join("&")).as_deref());
    Ok((url, taken))
}

/// The parameters of a URL, decoded.
fn parameters(url: &Url) -> impl Iterator<Item = (String, String)> {
    // The parser is one of HTML forms.
    let query = url.query().unwrap_or_default().replace('+', "%2B");
    let decoded: Vec<_> = form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    decoded.into_iter()
}

fn encoded((name, value): &(String, String)) -> String {
    let encode = |text: &str| {
        let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        encoded.replace('+', "%20")
    };
    format!("{}={}", encode(name), encode(value))
}

/// Which parameter keeps a URL from being read, where that is one alone and its name can be shown.
pub(super) fn refused_parameter(url: &Url, is_read: impl Fn(&str) -> bool) -> UrlError {
    // An unescaped `?` in a password leaves the rest of it, up to an `@`, in the query.
    if url.query().is_some_and(|query| query.contains('@')) {
        return UrlError::Malformed;
    }
    let reads_with = |query: Option<&str>| {
        let mut url = url.clone();
        url.set_query(query);
        is_read(url.as_str())
    };
    if !reads_with(None) {
        return UrlError::Malformed;
    }
    let refused = parameters(url).find(|parameter| !reads_with(Some(&encoded(parameter))));
    match refused {
        Some((name, _)) if is_name(&name) => UrlError::Parameter(name),
        _ => UrlError::Malformed,
    }
}

pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 40
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

fn malformed(text: &str) -> UrlError {
    let authority = text.split("://").nth(1).unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    let hosts = hosts.split('/').next().unwrap_or_default();
    if hosts.contains(',') {
        UrlError::SeveralHosts
    } else {
        UrlError::Malformed
    }
}
