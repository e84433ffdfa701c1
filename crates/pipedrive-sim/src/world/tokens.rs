//! Codes and tokens: what the simulator remembers of each that it handed out.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::outside::Random;
use crate::world::holder::Holder;

/// Where a grant stands in the list of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct GrantId(pub(crate) usize);

#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) holder: Holder,
    pub(crate) scopes: Vec<String>,
    pub(crate) issued_at: u64,
    pub(crate) exchanged_for: Option<GrantId>,
}

#[derive(Debug)]
pub(crate) struct RefreshToken {
    pub(crate) grant: GrantId,
    /// Which consent of the grant it comes from: the tokens of one consent are a family.
    pub(crate) consent: u64,
    pub(crate) used_at: u64,
    pub(crate) state: RefreshState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshState {
    Live,
    /// Exchanged for another one.
    Rotated,
    Dead,
}

#[derive(Debug)]
pub(crate) struct AccessToken {
    pub(crate) grant: GrantId,
    pub(crate) expires_at: u64,
    /// When it was used within the last two seconds, for the burst limits.
    pub(crate) calls: VecDeque<u64>,
    pub(crate) searches: VecDeque<u64>,
}

/// What a token answer is made of.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
    pub(crate) scope: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeRefused {
    /// Never issued, used, or another app's.
    Invalid,
    Expired,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshRefused {
    Invalid,
    /// It was exchanged for another one before.
    Reused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revoked {
    Grant,
    AccessToken,
    Nothing,
}

/// As long and as awkward as the real ones: two runs of base64 with `+`, `/` and `=` in them.
pub(crate) fn access_token(random: &mut Random) -> String {
    // 0xfbefbe… and 0xffffff… are `++++` and `////` in base64
    let mut head = vec![
        0x01, 0x02, 0x01, 0x00, 0x78, 0xfb, 0xef, 0xbe, 0xff, 0xff, 0xff,
    ];
    head.extend(random.bytes::<173>());
    format!(
        "v1u:{}:{}",
        STANDARD.encode(head),
        STANDARD.encode(random.bytes::<188>())
    )
}
