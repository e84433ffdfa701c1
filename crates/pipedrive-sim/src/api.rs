//! The API hosts: `/v1`, `/api/v1` and `/api/v2`, behind one gateway.

pub(crate) mod errors;
pub(crate) mod gateway;
pub(crate) mod limits;
pub(crate) mod persons;
pub(crate) mod users;
