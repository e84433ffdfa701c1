//! Randomness: the one place that asks for it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng as _;

/// `N` bytes from the operating system's generator.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks for randomness"
)]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::rng().fill_bytes(&mut out);
    out
}

/// 256 random bits as 43 characters of unpadded base64url: `state`, PKCE verifiers, cookies, passwords.
pub fn token() -> String {
    URL_SAFE_NO_PAD.encode(bytes::<32>())
}

/// Somewhere between the two, evenly.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks for randomness"
)]
pub fn between(low: Duration, high: Duration) -> Duration {
    if high <= low {
        return low;
    }
    rand::RngExt::random_range(&mut rand::rng(), low..=high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_as_long_as_rfc_7636_asks_and_differ() {
        assert_eq!(token().len(), 43);
        assert_ne!(token(), token());
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let (low, high) = (Duration::from_millis(5), Duration::from_millis(6));
        for _ in 0..100 {
            let some = between(low, high);
            assert!(low <= some && some <= high);
        }
        assert_eq!(between(high, low), high);
    }
}
