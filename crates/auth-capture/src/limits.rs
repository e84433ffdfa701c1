//! What keeps callbacks that no authenticated caller started from crowding out anything else: a rate per client address, and a number of
//! exchanges at one time.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::HttpRequest;
use moka::sync::Cache;
use pipekeeper_core::clock::SharedClock;
use pipekeeper_service::problem::{Code, Problem};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Addresses that are remembered; of more the oldest start afresh.
const ADDRESSES: u64 = 100_000;

/// How long a callback waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// The header in which the edge says who its client is. The last address is the one that it saw itself.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Callbacks that no authenticated caller started.
#[derive(Debug)]
pub(crate) struct InstallLimits {
    turns: Arc<Semaphore>,
    rate: AddressRate,
    trusted_proxies: TrustedProxies,
}

impl InstallLimits {
    pub(crate) fn new(
        concurrency: usize,
        per_minute: u16,
        trusted_proxies: TrustedProxies,
        clock: SharedClock,
    ) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(concurrency)),
            rate: AddressRate::new(per_minute, clock),
            trusted_proxies,
        }
    }

    /// Counts one callback of the request's client.
    pub(crate) fn count(&self, request: &HttpRequest) -> Result<(), Problem> {
        let forwarded: Vec<&str> = request
            .headers()
            .get_all(FORWARDED_FOR)
            .filter_map(|value| value.to_str().ok())
            .collect();
        let peer = request
            .peer_addr()
            .map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |peer| peer.ip());
        let client = self.trusted_proxies.client(peer, &forwarded);
        self.rate.count(client).map_err(|wait| {
            Problem::new(
                Code::RateLimited,
                "Too many installs from this address; try again later.",
            )
            .retry_after(Some(wait))
        })
    }

    /// Waits, but not for long, until the callback may be exchanged.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        match tokio::time::timeout(TURN_WAIT, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(Problem::new(
                Code::TooManyInstalls,
                "Other installs are being processed; try again.",
            )
            .retry_after(Some(TURN_WAIT))),
        }
    }
}

/// A rate per address, with bursts of a minute's worth (GCRA: per address only the time at which it would be even).
#[derive(Debug)]
struct AddressRate {
    interval: Duration,
    burst: Duration,
    even_at: Cache<IpAddr, Arc<Mutex<Duration>>>,
    clock: SharedClock,
}

impl AddressRate {
    fn new(per_minute: u16, clock: SharedClock) -> Self {
        let minute = Duration::from_mins(1);
        let interval = minute / u32::from(per_minute.max(1));
        Self {
            interval,
            burst: minute.saturating_sub(interval),
            even_at: Cache::builder()
                .max_capacity(ADDRESSES)
                .time_to_idle(2 * minute)
                .build(),
            clock,
        }
    }

    /// # Errors
    /// How long to wait.
    fn count(&self, address: IpAddr) -> Result<(), Duration> {
        let even_at = self.even_at.get_with(network(address), Arc::default);
        let mut even_at = even_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        let from = (*even_at).max(now);
        let ahead = from.saturating_sub(now);
        if ahead > self.burst {
            return Err(ahead.saturating_sub(self.burst));
        }
        *even_at = from + self.interval;
        Ok(())
    }
}

/// A client with one IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The networks of proxies whose [`FORWARDED_FOR`] is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TrustedProxies(Vec<(IpAddr, u8)>);

impl TrustedProxies {
    /// Addresses, or networks such as `10.0.0.0/8`, separated by blanks.
    ///
    /// # Errors
    /// What is neither.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        text.split_whitespace()
            .map(|entry| {
                let (address, length) = entry.split_once('/').unwrap_or((entry, ""));
                let address: IpAddr = address.parse().ok()?;
                let longest = if address.is_ipv4() { 32 } else { 128 };
                let length = match length {
                    "" if !entry.contains('/') => longest,
                    length => length.parse().ok().filter(|length| *length <= longest)?,
                };
                Some((address, length))
            })
            .zip(text.split_whitespace())
            .map(|(network, entry)| network.ok_or_else(|| entry.to_owned()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|(network, length)| {
            network.is_ipv4() == address.is_ipv4()
                && bits(*network)
                    .checked_shr(128 - u32::from(*length))
                    .unwrap_or_default()
                    == bits(address)
                        .checked_shr(128 - u32::from(*length))
                        .unwrap_or_default()
        })
    }

    /// The address of the client behind a peer: of those that trusted proxies have added, the last that is none of theirs.
    fn client(&self, peer: IpAddr, forwarded: &[&str]) -> IpAddr {
        let mut client = peer;
        let added = forwarded.iter().rev().flat_map(|value| value.rsplit(','));
        for address in added {
            if !self.trusts(client) {
                break;
            }
            match forwarded_address(address.trim()) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }
}

/// An address as proxies write it: some add the port, some put brackets around IPv6.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let plain = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    plain.parse().ok().or_else(|| {
        let with_port: SocketAddr = text.parse().ok()?;
        Some(with_port.ip())
    })
}

/// An address at the upper end.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use pipekeeper_core::clock::Timestamp;
    use pipekeeper_testing::ManualClock;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_rate_and_takes_none_of_anothers() {
        let clock = ManualClock::at(Timestamp::from_unix_micros(0).unwrap());
        let rate = AddressRate::new(6, Arc::<ManualClock>::clone(&clock));
        let allowed = |address: &str| (0..10).filter(|_| rate.count(ip(address)).is_ok()).count();

        assert_eq!(allowed("192.0.2.1"), 6);
        assert_eq!(rate.count(ip("192.0.2.1")), Err(Duration::from_secs(10)));
        assert_eq!(allowed("192.0.2.2"), 6);
        // The same network, and the same address otherwise written.
        assert_eq!(allowed("2001:db8::1"), 6);
        assert_eq!(allowed("2001:db8::2"), 0);
        assert_eq!(allowed("2001:db8:0:1::2"), 6);
        assert_eq!(allowed("::ffff:192.0.2.1"), 0);

        clock.advance(Duration::from_secs(20));
        assert_eq!(allowed("192.0.2.1"), 2);
        clock.advance(Duration::from_mins(10));
        assert_eq!(allowed("192.0.2.1"), 6);
    }

    #[test]
    fn the_client_is_who_the_last_trusted_proxy_saw() {
        let proxies = TrustedProxies::parse("10.0.0.0/8 192.168.1.7 fd00::/8").unwrap();
        for (peer, forwarded, client) in [
            ("203.0.113.9", &[][..], "203.0.113.9"),
            // A stranger says what it likes.
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["198.51.100.1, 10.9.9.9"], "198.51.100.1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            ("192.168.1.7", &["198.51.100.1"], "198.51.100.1"),
            ("192.168.1.8", &["198.51.100.1"], "192.168.1.8"),
            ("10.1.2.3", &["198.51.100.1:5678"], "198.51.100.1"),
            ("10.1.2.3", &["1.1.1.1:1, 10.9.9.9:2"], "1.1.1.1"),
            ("10.1.2.3", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.1.2.3", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.1.2.3", &["unknown"], "10.1.2.3"),
            ("10.1.2.3", &["1.1.1.1:port"], "10.1.2.3"),
            ("10.1.2.3", &[], "10.1.2.3"),
        ] {
            let got = proxies.client(ip(peer), forwarded);
            assert_eq!(got, ip(client), "{peer} {forwarded:?}");
        }
        let none = TrustedProxies::parse("").unwrap();
        assert_eq!(none.client(ip("10.1.2.3"), &["1.1.1.1"]), ip("10.1.2.3"));
        let any = TrustedProxies::parse("0.0.0.0/0 ::/0").unwrap();
        assert_eq!(any.client(ip("10.1.2.3"), &["1.1.1.1"]), ip("1.1.1.1"));
        for bad in [
            "proxy",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::/129",
            "10.0.0.0/8,::1",
        ] {
            let parsed = TrustedProxies::parse(&format!("127.0.0.1 {bad}"));
            assert_eq!(parsed, Err(bad.to_owned()));
        }
    }
}
