//! The backplane of a cluster: everything that crosses Redis.

mod ask;
pub(crate) mod backplane;
pub(crate) mod connection;
mod incoming;
mod lane;
mod live;
mod markers;
mod members;
mod order;
mod other_adapters;
mod presence;
mod publish;
mod rejected;
mod renewals;
mod requests;
mod resync;
mod returns;
mod run;
