//! The backplane of a cluster: everything that crosses Redis.

pub(crate) mod cluster;
pub(crate) mod connection;
pub(crate) mod lane;
pub(crate) mod live;
mod other_adapters;
pub(crate) mod presence;
mod publish;
mod rejected;
pub(crate) mod requests;
mod resync;
