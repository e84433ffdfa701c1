//! Core against real databases, and against endpoints that answer oddly.

// Clippy's leave for tests reaches helpers only inside of `cfg(test)`.
#[cfg(test)]
mod http_client;
#[cfg(test)]
mod oauth;
#[cfg(test)]
mod refresher_client;
#[cfg(test)]
mod store;
