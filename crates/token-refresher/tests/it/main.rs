//! The service as its operators meet it.

#[cfg(test)]
mod cli;
