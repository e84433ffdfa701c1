#![doc = include_str!("../README.md")]
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a serde_json::Value gives null where there is nothing, it does not panic"
)]

pub mod chaos;
pub mod load;
pub mod results;
pub mod rng;
