//! The scenarios, one file each, and what they share: a prepared swarm.

use std::hash::{BuildHasher, RandomState};

use anyhow::Result;

use crate::args::TargetArgs;
use crate::check::Faults;
use crate::client::Swarm;
use crate::client::script::{Rooms, Script};
use crate::measure::Span;
use crate::procfs::Server;
use crate::report::Found;
use crate::traffic::Traffic;

pub(crate) mod churn;
pub(crate) mod echo;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod publish_http;
mod restless;
pub(crate) mod soak;
pub(crate) mod storm;

/// A swarm without connections; they will be in rooms of `room_size`.
fn swarm(target: &TargetArgs, room_size: usize) -> Result<Swarm> {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&random().to_ne_bytes());
    key[8..].copy_from_slice(&random().to_ne_bytes());
    let script = Script::new(target, Rooms::new(&target.room_prefix, room_size), key)?;
    let addresses = target.url.iter().map(|url| url.address).collect();
    Swarm::new(addresses, script, random())
}

/// A swarm without connections and the traffic for it.
fn swarm_with_traffic(target: &TargetArgs, connections: usize, room_size: usize) -> Result<(Swarm, Traffic)> {
    let rooms = Rooms::new(&target.room_prefix, room_size);
    let traffic = Traffic::new(target, &rooms, connections, run_id()?)?;
    Ok((swarm(target, room_size)?, traffic))
}

/// Distinguishes this run's messages from those of another tester on the same server.
fn run_id() -> Result<u32> {
    Ok(u32::try_from(random() >> 32)?)
}

/// A different number every time: the standard library seeds its hash maps with one.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// The results of all scenarios, without data for plots.
fn found(server: &Server, swarm: &Swarm, faults: Faults, span: Span) -> Found {
    let tally = swarm.tally();
    let mut warnings = span.warnings(server);
    warnings.extend(tally.first_disconnect.iter().map(|reason| format!("disconnected: {reason}")));
    warnings.extend(tally.first_refusal.iter().map(|reason| format!("refused: {reason}")));
    Found { faults, span, samples: Vec::new(), counted: "", curves: Vec::new(), warnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random(), random());
    }
}
