//! Time, randomness and the HTTP client: the one module that asks the outside world for them.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Longer than any test holds a request.
const CALL_TIMEOUT: Duration = Duration::from_mins(2);

/// Microseconds since 1970, the only clock of the simulator.
#[expect(
    clippy::disallowed_methods,
    reason = "the simulator shares no code with the services, so it has a clock of its own"
)]
pub(crate) fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

/// The same in milliseconds.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1000
}

/// The way Pipedrive writes instants, with milliseconds.
pub(crate) fn rfc3339(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Tokens, codes and ids: from the operating system, or the same ones in every run when a seed is given.
#[derive(Debug)]
pub(crate) struct Random(StdRng);

impl Random {
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulator shares no code with the services, so it has a generator of its own"
    )]
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        })
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill_bytes(&mut out);
        out
    }

    pub(crate) fn hex40(&mut self) -> String {
        hex::encode(self.bytes::<20>())
    }

    /// Looks like a version 4 UUID, as `x-correlation-id` does.
    pub(crate) fn uuid(&mut self) -> String {
        let bits = u128::from_be_bytes(self.bytes());
        let bits = bits & !(0xf000_u128 << 64) | (0x4000_u128 << 64);
        let bits = bits & !(0xc000_u128 << 48) | (0x8000_u128 << 48);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            bits >> 96,
            (bits >> 80) & 0xffff,
            (bits >> 64) & 0xffff,
            (bits >> 48) & 0xffff,
            bits & 0xffff_ffff_ffff,
        )
    }
}

/// The client for uninstall notices and `call` faults, made at first use: most runs need none.
pub(crate) fn http_client() -> Result<&'static reqwest::Client, reqwest::Error> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    // an image without CA certificates is no reason to fail at plain http
    let client = client_builder()
        .build()
        .or_else(|_no_certificates| client_builder().tls_certs_only([]).build())?;
    Ok(CLIENT.get_or_init(|| client))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the simulator shares no code with the services, so it has a client of its own"
)]
fn client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .timeout(CALL_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        // a pooled connection belongs to the runtime that opened it, and simulators come and go with theirs
        .pool_max_idle_per_host(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_tokens_in_every_run() {
        assert_eq!(Random::new(Some(7)).hex40(), Random::new(Some(7)).hex40());
        assert_ne!(Random::new(None).hex40(), Random::new(None).hex40());
    }

    #[test]
    fn correlation_ids_are_version_4_uuids() {
        let id = Random::new(Some(1)).uuid();

        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }

    #[test]
    fn instants_are_written_with_milliseconds() {
        assert_eq!(rfc3339(1_795_255_200_007), "2026-11-21T10:00:00.007Z");
    }
}
