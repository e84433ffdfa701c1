//! Core against real databases.

// Clippy's leave for tests reaches helpers only inside of `cfg(test)`.
#[cfg(test)]
mod store;
