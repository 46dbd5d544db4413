//! The backplane of a node alone.

pub(crate) mod live;
