//! Simulates nodes that join, leave, lose their connection to the store, freeze, die and return, on a clock that jumps. When
//! the faults end, every node must count correctly and every watcher must know the right members.
//!
//! A watcher is what a client in the room sees: `+user` on a first entry, `-user` on a leave or a [`MembershipChange`]. The
//! node that notices an event reports it, so a watcher may be notified twice. In the end it must know the actual members.
//!
//! The rules are the rows on members of `gateway/docs/concepts/order.md`: joins, leaves, disconnects and counts of the same
//! user and the same room. Events, snapshots and grants are not simulated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use shared::ids::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::agreement::NodeTraits;
use super::model::{Faults, Handle, Server};
use super::store::Store;
use super::stored::StoredMember;
use super::{LocalMembers, Presence, PresenceOptions};
use crate::local::node::MembershipChange;
use crate::stats::{Distributions, Stats};

const LEASE: Duration = Duration::from_secs(6);
const HOLDBACK: Duration = Duration::from_secs(3);
const ROOMS: [&str; 3] = ["/#a", "/#b", "/#c"];

/// Sockets of a node: room → socket → user.
#[derive(Debug, Default)]
struct Sockets(Mutex<BTreeMap<String, BTreeMap<String, String>>>);

fn member(socket: &str, user: &str) -> StoredMember {
    StoredMember { socket: socket.to_owned(), user: user.to_owned(), info: "{}".to_owned() }
}

impl LocalMembers for Sockets {
    fn rooms(&self) -> Vec<String> {
        self.0
            .lock()
            .iter()
            .filter(|(_, sockets)| !sockets.is_empty())
            .map(|(room, _)| room.clone())
            .collect()
    }

    fn members(&self, room: &str) -> Vec<StoredMember> {
        let sockets = self.0.lock();
        sockets.get(room).into_iter().flatten().map(|(socket, user)| member(socket, user)).collect()
    }
}

struct Node {
    presence: Arc<Presence>,
    sockets: Arc<Sockets>,
    faults: Arc<Mutex<Faults>>,
    /// The connection to the store of the thread that renews the lease.
    apart: Arc<Store>,
    task: JoinHandle<()>,
    /// Answers to it were lost.
    flaky: bool,
}

/// The last state of each user that each room's watchers were notified of, and since when.
type Beliefs = Arc<Mutex<BTreeMap<(String, String), Instant>>>;

/// A leave and an entry decided within this time may be reported in either order: they come from two nodes.
const RACE: Duration = Duration::from_millis(250);

struct World {
    server: Arc<Server>,
    nodes: Vec<Node>,
    beliefs: Beliefs,
    gone: mpsc::Sender<MembershipChange>,
    /// Users whose entry may not have been reported.
    unreported: BTreeSet<(String, String)>,
    /// Users whose leave was reported just after they had returned.
    raced: Arc<Mutex<BTreeSet<(String, String)>>>,
    next: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let (gone, mut reports) = mpsc::channel::<MembershipChange>(10_000);
        let beliefs = Beliefs::default();
        let believed = Arc::clone(&beliefs);
        let raced = Arc::<Mutex<BTreeSet<(String, String)>>>::default();
        let races = Arc::clone(&raced);
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of its test")]
        drop(tokio::spawn(async move {
            while let Some(gone) = reports.recv().await {
                let key = (gone.room, gone.user);
                if gone.returned {
                    believed.lock().entry(key).or_insert_with(Instant::now);
                    continue;
                }
                if believed.lock().remove(&key).is_some_and(|since| since.elapsed() < RACE) {
                    races.lock().insert(key);
                }
            }
        }));
        Self {
            server: Server::new(seed),
            nodes: Vec::new(),
            beliefs,
            gone,
            unreported: BTreeSet::new(),
            raced,
            next: 0,
        }
    }

    fn start_node(&mut self) {
        self.next += 1;
        let id = NodeId::from_random(self.next.to_le_bytes());
        let faults = Arc::<Mutex<Faults>>::default();
        let way = || Store::Model(Handle { server: Arc::clone(&self.server), faults: Arc::clone(&faults) });
        let sockets = Arc::<Sockets>::default();
        let (info, traits) = (String::new(), NodeTraits::default());
        let options = PresenceOptions { node: id, lease: LEASE, holdback: HOLDBACK, info, traits };
        let stats = Arc::new(Stats::new(Distributions::ignored()));
        let local: Arc<dyn LocalMembers> = sockets.clone();
        let presence = Arc::new(Presence::new(options, way(), local, self.gone.clone(), stats));
        let apart = Arc::new(way());
        let task = run_node(&presence, &apart);
        self.nodes.push(Node { presence, sockets, faults, apart, task, flaky: false });
    }

    async fn enter(&mut self, at: usize, room: &str, user: &str) {
        self.next += 1;
        let socket = format!("s{}", self.next);
        let node = &self.nodes[at];
        let _changing = node.presence.changing(room).await;
        node.sockets.0.lock().entry(room.to_owned()).or_default().insert(socket.clone(), user.to_owned());
        let key = (room.to_owned(), user.to_owned());
        // An entry that could not be written to the store could not be reported to other nodes either.
        if node.presence.entered(room, &member(&socket, user)).await.is_some() {
            self.raced.lock().remove(&key);
            self.beliefs.lock().entry(key).or_insert_with(Instant::now);
        } else {
            self.unreported.insert(key);
        }
    }

    async fn leave(&mut self, rng: &mut StdRng, at: usize, room: &str, linger: bool) {
        let node = &self.nodes[at];
        let found = {
            let mut sockets = node.sockets.0.lock();
            let Some(inside) = sockets.get_mut(room).filter(|inside| !inside.is_empty()) else { return };
            let pick = rng.random_range(0..inside.len());
            let socket = inside.keys().nth(pick).unwrap().clone();
            let user = inside.remove(&socket).unwrap();
            (socket, user)
        };
        let _changing = node.presence.changing(room).await;
        if node.presence.left(room, &member(&found.0, &found.1), linger).await {
            self.beliefs.lock().remove(&(room.to_owned(), found.1));
        }
    }

    fn kill(&mut self, at: usize) {
        self.nodes.swap_remove(at).task.abort();
    }

    fn truth(&self) -> BTreeMap<&'static str, Vec<String>> {
        let users = |room: &str| -> Vec<String> {
            self.nodes.iter().flat_map(|node| node.sockets.members(room)).map(|kept| kept.user).collect()
        };
        ROOMS.map(|room| (room, users(room))).into_iter().collect()
    }

    async fn check(&self, seed: u64) {
        for (room, users) in self.truth() {
            let distinct: BTreeSet<&String> = users.iter().collect();
            for node in &self.nodes {
                let counted = node.presence.count(room).await.unwrap();
                let found = (counted.count.sockets, counted.count.users);
                assert_eq!(found, (users.len(), distinct.len()), "seed {seed}: {room}");
                assert_eq!(
                    node.presence.members(room).await.unwrap().len(),
                    users.len(),
                    "seed {seed}: {room}"
                );
            }
            let beliefs = self.beliefs.lock();
            let believed: BTreeSet<&String> =
                beliefs.keys().filter(|(other, _)| other == room).map(|(_, user)| user).collect();
            let ghosts: Vec<_> = believed.difference(&distinct).collect();
            assert!(ghosts.is_empty(), "seed {seed}: ghosts in {room}: {ghosts:?}");
            let raced = self.raced.lock();
            let is_reported = |user: &&&String| {
                let key = (room.to_owned(), (**user).clone());
                !self.unreported.contains(&key) && !raced.contains(&key)
            };
            let steady = |user: &&&String| {
                let hosts = self.nodes.iter().filter(|node| !node.flaky);
                hosts.flat_map(|node| node.sockets.members(room)).any(|kept| kept.user == ***user)
            };
            let missing: Vec<_> = distinct.difference(&believed).filter(is_reported).filter(steady).collect();
            assert!(missing.is_empty(), "seed {seed}: no member of {room} knows of {missing:?}");
        }
    }
}

/// A node's own work, unless it is frozen or dead.
fn run_node(presence: &Arc<Presence>, apart: &Arc<Store>) -> JoinHandle<()> {
    let (running, apart) = (Arc::clone(presence), Arc::clone(apart));
    #[expect(clippy::disallowed_methods, reason = "aborted when its node dies")]
    tokio::spawn(async move {
        tokio::join!(running.run(), running.renew_apart(&apart));
    })
}

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(seed);
    for _ in 0..3 {
        world.start_node();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..rng.random_range(10..60) {
        let at = rng.random_range(0..world.nodes.len());
        let room = ROOMS[rng.random_range(0..ROOMS.len())];
        let user = format!("u{}", rng.random_range(0..4));
        match rng.random_range(0..100) {
            0..40 => world.enter(at, room, &user).await,
            40..52 => world.leave(&mut rng, at, room, false).await,
            52..64 => world.leave(&mut rng, at, room, true).await,
            64..72 => {
                let flaky = Faults { cut: false, lost_before: 20, lost_after: 20 };
                *world.nodes[at].faults.lock() = flaky;
                // A lost answer may hide that users have returned, never that they have left.
                world.nodes[at].flaky = true;
            }
            72..78 => *world.nodes[at].faults.lock() = Faults { cut: true, ..Faults::default() },
            78..86 => *world.nodes[at].faults.lock() = Faults::default(),
            86..90 if world.nodes.len() > 1 => world.kill(at),
            90..93 if world.nodes.len() < 4 => world.start_node(),
            _ => tokio::time::sleep(Duration::from_millis(rng.random_range(0..9_000))).await,
        }
    }
    for node in &world.nodes {
        *node.faults.lock() = Faults::default();
    }
    // A claim whose holder failed to clean up passes to another node after a minute.
    tokio::time::sleep(Duration::from_secs(150)).await;
    world.check(seed).await;
    let _ = rng.next_u32();
}

/// The seeds of one run; `SIMULATION_SEEDS=from..to` chooses others.
#[expect(clippy::disallowed_methods, reason = "a test's own setting")]
fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("SIMULATION_SEEDS").unwrap_or_default();
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.unwrap_or(0..2_000)
}

#[test]
fn after_the_faults_every_node_is_right() {
    for seed in seeds() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(seed));
    }
}

/// Runs a scene once for each seed, each on its own clock.
fn on_many_seeds<F: Future<Output = ()>>(scene: impl Fn(u64) -> F) {
    for seed in 0..50 {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(scene(seed));
    }
}

#[test]
fn a_node_that_was_frozen_registers_again_before_it_counts() {
    on_many_seeds(async |seed| {
        let mut world = World::new(seed);
        world.start_node();
        world.start_node();
        tokio::time::sleep(Duration::from_secs(3)).await;
        // Of many rooms, the room that is asked for is registered last.
        for room in 0..1_000 {
            world.enter(1, &format!("/#r{room}"), "u1").await;
        }
        for at in [0, 1] {
            world.enter(at, "/#z", &format!("u{at}")).await;
        }
        world.nodes[1].task.abort();
        tokio::time::sleep(LEASE * 3).await;
        assert_eq!(world.nodes[0].presence.count("/#z").await.unwrap().count.sockets, 1, "seed {seed}");
        world.nodes[1].task = run_node(&world.nodes[1].presence, &world.nodes[1].apart);
        for at in [1, 0] {
            let counted = world.nodes[at].presence.count("/#z").await.unwrap();
            assert_eq!((counted.count.sockets, counted.count.users), (2, 2), "seed {seed}: node {at}");
        }
    });
}

#[test]
fn a_node_that_registers_again_is_counted_once_throughout() {
    on_many_seeds(async |seed| {
        let mut world = World::new(seed);
        world.start_node();
        world.start_node();
        tokio::time::sleep(Duration::from_secs(3)).await;
        for user in ["u", "u", "v"] {
            world.enter(0, "/#a", user).await;
        }
        world.nodes[0].presence.needs_resync();
        let until = Instant::now() + LEASE / 10;
        let (mut whole, mut stale) = (0, 0);
        while Instant::now() < until {
            let counted = world.nodes[1].presence.count("/#a").await.unwrap();
            assert_eq!((counted.count.sockets, counted.count.users), (3, 2), "seed {seed}");
            assert_eq!(world.nodes[1].presence.members("/#a").await.unwrap().len(), 3, "seed {seed}");
            if counted.stale { stale += 1 } else { whole += 1 }
        }
        assert!(whole > 0, "seed {seed}: {whole} sure counts, {stale} others");
    });
}

#[tokio::test(start_paused = true)]
async fn the_dead_stop_counting_within_their_lease_and_leave_nothing_behind() {
    let mut world = World::new(0);
    for _ in 0..2 {
        world.start_node();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.enter(0, "/#a", "stays").await;
    world.enter(1, "/#a", "dies").await;
    world.kill(1);
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    assert_eq!(world.nodes[0].presence.count("/#a").await.unwrap().count.sockets, 1);
    tokio::time::sleep(LEASE + HOLDBACK).await;
    assert_eq!(world.beliefs.lock().len(), 1);
    let mut rng = StdRng::seed_from_u64(0);
    world.leave(&mut rng, 0, "/#a", false).await;
    world.nodes[0].presence.close().await;
    world.kill(0);
    // The next node finds what the last one gave up, and cleans it up.
    world.start_node();
    tokio::time::sleep(LEASE * 3).await;
    world.nodes[0].presence.close().await;
    world.kill(0);
    world.start_node();
    tokio::time::sleep(LEASE * 3).await;
    world.nodes[0].task.abort();
    assert!(world.beliefs.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn members_that_the_store_lost_are_registered_again() {
    let mut world = World::new(0);
    for _ in 0..2 {
        world.start_node();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.enter(0, "/#a", "u").await;
    world.enter(1, "/#a", "v").await;
    world.server.flush();
    assert!(world.server.is_empty());
    tokio::time::sleep(LEASE).await;
    for node in &world.nodes {
        assert_eq!(node.presence.count("/#a").await.unwrap().count.sockets, 2);
    }
}
