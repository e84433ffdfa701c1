//! The simulator as its users see it: over real sockets, in JSON.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing it did not expect; clippy sees that in test functions, not in their helpers"
)]

mod callback;
mod controls;
mod faults;
mod limits;
mod log;
mod oauth;
mod persons;
mod rotation;
mod sim;
