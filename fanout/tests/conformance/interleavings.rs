//! The actions of one source take effect, and every observer sees them, in their order: random scripts of two concurrent
//! senders, by seed. `INTERLEAVINGS=17` runs only the script of seed 17.

use std::time::Duration;

use fanout::{Fanout, Posted, Target, Turn};
use futures_util::{StreamExt as _, stream};
use shared::names::{Namespace, Room};
use shared::sio::Event;

use crate::world::{Client, NAMESPACE, World, broadcast, namespace, room, until};

/// Scripts of each run.
const SCRIPTS: u64 = 200;

/// Scripts that run concurrently.
const AT_ONCE: usize = 16;

/// Actions of each of a script's two senders.
const STEPS: usize = 12;

const LONG: Duration = Duration::from_secs(20);

/// Numbers derived from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// An action of a sender, on its own node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Broadcasts to the room, with or without an offset.
    Post { tracked: bool },
    /// Broadcasts to the room, and asks its members for acks.
    Ask,
    /// Enters the room.
    Enter,
    /// Leaves it.
    Leave,
    /// Moves all sockets of its user into the room.
    JoinUser,
    /// Removes all sockets of its user from the room.
    LeaveUser,
}

fn step(random: &mut Random) -> Step {
    match random.below(10) {
        0..=2 => Step::Post { tracked: false },
        3..=4 => Step::Post { tracked: true },
        5 => Step::Ask,
        6 => Step::Enter,
        7 => Step::Leave,
        8 => Step::JoinUser,
        _ => Step::LeaveUser,
    }
}

/// A client that performs steps.
struct Sender {
    client: Client,
    name: String,
    steps: Vec<Step>,
}

/// Broadcasts without waiting for the outcome.
pub(crate) fn post(fanout: &Fanout, target: Target<'_>, name: &str) -> Posted {
    let event = Event { namespace: NAMESPACE, name, args: &[], ack: None, attachments: &[] };
    let packet = fanout.packet(&target, &event);
    fanout.post(target, packet)
}

impl Sender {
    /// Performs its steps.
    async fn run(&self, namespace: &Namespace, room: &Room) -> Done {
        let (fanout, socket, user) =
            (&self.client.fanout, &self.client.socket, self.client.socket.user().clone());
        let (mut done, mut is_in) = (Done::default(), false);
        // It may or may not receive broadcasts that are under way when it enters.
        let mut outside = Vec::new();
        let (mut posted, mut asked) = (Vec::new(), Vec::new());
        // A request that removes it may take effect after an entry made here, because nothing waits for the request.
        let mut is_taken_out = false;
        for (number, step) in self.steps.iter().enumerate() {
            let name = format!("{}.{number}", self.name);
            let target = Target::room(namespace, room.as_str());
            match step {
                Step::Post { tracked } => {
                    let target = if *tracked { target.tracked() } else { target };
                    posted.push(post(fanout, target, &name));
                }
                Step::Ask => {
                    let (turn, placed) = Turn::new();
                    let (fanout, namespace, room, name) =
                        (fanout.clone(), namespace.clone(), room.clone(), name.clone());
                    asked.push(spawn(async move {
                        let event = Event {
                            namespace: NAMESPACE,
                            name: &name,
                            args: &[],
                            ack: None,
                            attachments: &[],
                        };
                        let target = Target::room(&namespace, room.as_str());
                        fanout.ask(target, &event, LONG, turn).await.unwrap()
                    }));
                    // A dropped turn has ended, too.
                    let _ = placed.await;
                }
                Step::Enter if is_taken_out => continue,
                Step::Enter => {
                    done.may_get.append(&mut outside);
                    fanout.enter(socket, room).await.unwrap();
                    is_in = true;
                }
                Step::Leave => {
                    fanout.leave(socket, room.as_str()).await;
                    is_in = false;
                }
                Step::JoinUser => {
                    fanout.join_user(namespace, &user, room).await.unwrap();
                    (is_in, is_taken_out) = (true, false);
                }
                Step::LeaveUser => {
                    fanout.leave_user(namespace, &user, room).await.unwrap();
                    (is_in, is_taken_out) = (false, true);
                }
            }
            if matches!(step, Step::Post { .. } | Step::Ask) {
                if is_in { &mut done.must_get } else { &mut outside }.push(name.clone());
                done.sent.push(name);
            }
        }
        for posted in posted {
            posted.outcome().await.unwrap();
        }
        for asked in asked {
            asked.await.unwrap();
        }
        done
    }
}

/// What a sender has done.
#[derive(Default)]
struct Done {
    sent: Vec<String>,
    /// Those of them that it must receive itself, and those that it may receive.
    must_get: Vec<String>,
    may_get: Vec<String>,
}

/// The events that `name` has sent.
fn of<'a>(events: &'a [String], name: &str) -> Vec<&'a String> {
    events.iter().filter(|event| event.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))).collect()
}

/// Runs the script of a seed. Returns its errors.
async fn script(world: &World, seed: u64) -> Vec<String> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (namespace, room) = (namespace(), room(&format!("r{seed}")));
    let mut senders = Vec::new();
    for node in 0..2 {
        let name = format!("s{seed}-{node}");
        let client = world.client(node, &name).await;
        let steps = (0..STEPS).map(|_| step(&mut random)).collect();
        senders.push(Sender { client, name, steps });
    }
    let mut observers = Vec::new();
    for node in 0..2 {
        observers.push(world.member(node, &format!("o{seed}-{node}"), room.as_str()).await);
    }
    let (first, second) = tokio::join!(senders[0].run(&namespace, &room), senders[1].run(&namespace, &room));
    for sender in &senders {
        // Behind all earlier requests about this user.
        sender.client.fanout.join_user(&namespace, sender.client.socket.user(), &room).await.unwrap();
    }
    broadcast(&senders[0].client.fanout, Target::room(&namespace, room.as_str()), "end").await;
    let all = observers[0].receive_until("end").await;
    let mut wrong = Vec::new();
    let mut check = |what: &str, is_right: bool, seen: &dyn std::fmt::Debug| {
        if !is_right {
            let steps: Vec<_> = senders.iter().map(|sender| &sender.steps).collect();
            wrong.push(format!("seed {seed}: {what}: {seen:?}; of {steps:?}"));
        }
    };
    let other = observers[1].receive_until("end").await;
    check("observers differ", all == other, &(&all, &other));
    for (sender, Done { sent, must_get, may_get }) in senders.iter().zip([&first, &second]) {
        let observed = of(&all, &sender.name);
        check("an observer has them so", observed.iter().copied().eq(sent), &(&observed, sent));
        let received = sender.client.receive_until("end").await;
        let got: Vec<_> =
            of(&received, &sender.name).into_iter().filter(|event| !may_get.contains(event)).collect();
        check("a sender gets its own so", got.iter().copied().eq(must_get), &(&got, must_get));
        let mut left = all.iter();
        let is_part = received.iter().all(|event| left.any(|one| one == event));
        check("a sender sees another order", is_part, &(&received, &all));
    }
    for client in senders.iter().map(|sender| &sender.client).chain(&observers) {
        client.detach().await;
    }
    wrong
}

/// The seed of the only script to run.
#[expect(clippy::disallowed_methods, reason = "set to reproduce a failure")]
fn asked_for() -> Option<u64> {
    std::env::var("INTERLEAVINGS").ok().and_then(|seed| seed.parse().ok())
}

pub(crate) async fn operations_of_one_source_take_effect_in_order(world: World) {
    let seeds = asked_for().map_or(1..SCRIPTS + 1, |seed: u64| seed..seed + 1);
    let wrong: Vec<_> = stream::iter(seeds)
        .map(|seed| script(&world, seed))
        .buffer_unordered(AT_ONCE)
        .flat_map(stream::iter)
        .collect()
        .await;
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
}

pub(crate) async fn a_leaving_user_receives_their_own_earlier_posts(world: World) {
    let (namespace, room) = (namespace(), room("r"));
    let witness = world.member(0, "ben", "r").await;
    for round in 0..200 {
        let client = world.client(0, "ann").await;
        client.fanout.enter(&client.socket, &room).await.unwrap();
        let target = Target::room(&namespace, "r");
        let posted = post(&client.fanout, if round % 2 == 0 { target } else { target.tracked() }, "mine");
        client.fanout.leave(&client.socket, "r").await;
        assert!(!client.socket.is_in("r"));
        assert_eq!(client.receive(1).await, ["mine"], "round {round}");
        posted.outcome().await.unwrap();
        broadcast(&world.node(1).fanout, target, "not mine").await;
        assert_eq!(witness.receive(2).await, ["mine", "not mine"]);
        client.expect_nothing().await;
        client.detach().await;
    }
    until(async || world.node(0).fanout.count(NAMESPACE, "r").await.unwrap().count.sockets == 1).await;
}

#[expect(clippy::disallowed_methods, reason = "it ends with the runtime of its test")]
fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::spawn(future)
}
