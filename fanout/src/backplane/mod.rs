//! What lies between the nodes: nothing for a node alone, Redis for a cluster.

pub(crate) mod departures;
pub(crate) mod memory;
pub(crate) mod questions;
pub(crate) mod redis;
