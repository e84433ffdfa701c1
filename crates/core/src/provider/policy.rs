//! When an access token is renewed, other than for a 401.

use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Deserializer};

/// What an entry says of it. A 401 renews under all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshPolicy {
    /// Ahead of its end, so that no caller waits for it.
    #[default]
    BeforeExpiry,
    /// Not at all: what the row holds is sent, whatever the clock says.
    #[serde(rename = "on_401")]
    OnRefusal,
    /// Before each call, unless it was minted a moment ago.
    EveryRequest,
}

impl RefreshPolicy {
    /// An app's own word; nothing stands for its provider's.
    pub(super) fn unless_empty<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Self>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        Self::deserialize(text.into_deserializer()).map(Some)
    }
}
