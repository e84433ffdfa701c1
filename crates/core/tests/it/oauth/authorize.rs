use std::collections::BTreeMap;

use pipekeeper_core::crypto::pkce_challenge;
use pipekeeper_core::oauth::authorization_url;
use pipekeeper_core::secret::Secret;

use super::{CLIENT_ID, VERIFIER, app};

const STATE: &str = "st+te/=";
const REDIRECT: &str = "https://APP.example:443/webhook/pipedrive/callback?a='b'";

#[test]
fn pipedrive_is_sent_the_three_parameters_it_documents() {
    let url = authorization_url(&app(&[]), STATE, None);

    assert_eq!(url.path(), "/oauth/authorize");
    assert_eq!(url.host_str(), Some("oauth.pipedrive.com"));
    let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let expected = [
        ("client_id", CLIENT_ID),
        ("redirect_uri", REDIRECT),
        ("state", STATE),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(query, expected);
    let raw = url.query().unwrap();
    assert!(raw.ends_with("state=st%2Bte%2F%3D"), "{raw}");
}

#[test]
fn another_provider_is_sent_what_its_entry_says() {
    let app = app(&[
        ("response_type", "true"),
        ("scope", "deals:read,deals:write offline"),
        ("pkce", "true"),
        ("authorize_url", "https://id.example/authorize?tenant=t"),
    ]);

    let url = authorization_url(&app, STATE, Some(&Secret::from(VERIFIER)));

    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    let challenge = pkce_challenge(VERIFIER);
    let expected = [
        ("tenant", "t"),
        ("response_type", "code"),
        ("client_id", CLIENT_ID),
        ("redirect_uri", REDIRECT),
        ("scope", "deals:read,deals:write offline"),
        ("state", STATE),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(query, BTreeMap::from(expected));
    assert!(!url.as_str().contains(VERIFIER));
}
