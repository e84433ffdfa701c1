//! The protocol as a model.

#[cfg(test)]
mod model;
