//! Configuration as processes and in-process services are given it.

/// A simulator in Pipedrive's place: configuration alone.
pub fn stand_in(url: &str) -> [(&'static str, String); 5] {
    [
        (
            "providers.pipedrive.authorize_url",
            format!("{url}/oauth/authorize"),
        ),
        (
            "providers.pipedrive.token_url",
            format!("{url}/oauth/token"),
        ),
        (
            "providers.pipedrive.revoke_url",
            format!("{url}/oauth/revoke"),
        ),
        (
            "providers.pipedrive.api_host_suffix",
            "127.0.0.1".to_owned(),
        ),
        ("providers.pipedrive.allow_http", "true".to_owned()),
    ]
}

/// The environment variable of a configuration key.
pub fn variable(key: &str) -> String {
    format!("PIPEKEEPER__{}", key.to_uppercase().replace('.', "__"))
}
