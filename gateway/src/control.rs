//! Carries out the cluster's requests to this node's sessions and apps.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fanout::{Audience, Control, Gone, LocalSocket, Reply, Sequenced, Turn};
use futures_util::future::{BoxFuture, join_all};
use shared::adapter::Body;
use shared::ids::SocketId;
use shared::limits::{AUTO_JOIN_RETRY_MS, MOVED_AT_ONCE, SOCKETS_PER_TURN};
use shared::names::{Room, UserId};
use tokio::sync::mpsc;

use crate::close::CloseReason;
use crate::context::Context;
use crate::jobs::{Job, Ran, Runner};
use crate::metrics::{self, Limit};
use crate::session::Engine;

/// How many times, and at which interval, to check whether a leaving socket has left.
const LEAVE_TRIES: u32 = 20;
const LEAVE_PAUSE: Duration = Duration::from_millis(10);

/// Carries out requests until the last sender is dropped.
pub(crate) async fn run(engine: Arc<Engine>, mut controls: mpsc::Receiver<Control>) {
    while let Some(control) = controls.recv().await {
        match control {
            Control::Disconnect { sockets, close, turn, left } => {
                let left = Arc::new(left);
                for some in sockets.chunks(SOCKETS_PER_TURN) {
                    for socket in some {
                        disconnect(&engine, socket, close, &left).await;
                    }
                    tokio::task::yield_now().await;
                }
                drop(turn);
            }
            Control::Ask { audience, body, timeout, reply, turn } => {
                let context = engine.namespaces.context().clone();
                let tasks = context.tasks.clone();
                drop(tasks.spawn(ask(context, (audience, turn), body, (timeout, reply))));
            }
            moved @ (Control::Gone(_) | Control::Back(_)) => on_moved(&engine, moved).await,
            Control::Bring { sockets, room, reply } => {
                let tasks = engine.namespaces.context().tasks.clone();
                drop(tasks.spawn(bring(Arc::clone(&engine), sockets, room, reply)));
            }
            Control::Review { sockets, room, reply } => {
                let tasks = engine.namespaces.context().tasks.clone();
                drop(tasks.spawn(review(Arc::clone(&engine), sockets, room, reply)));
            }
            Control::Resubscribed => engine.namespaces.resubscribed().notify_one(),
        }
    }
}

/// Notifies the apps of users who left or returned, until the last sender is dropped: several users at a time, and the
/// reports about one user in order.
pub(crate) async fn run_moved(engine: Arc<Engine>, mut moved: mpsc::Receiver<Control>) {
    let mut some = Vec::with_capacity(MOVED_AT_ONCE);
    while moved.recv_many(&mut some, MOVED_AT_ONCE).await > 0 {
        let mut by_user = HashMap::<UserId, Vec<Control>>::new();
        for moved in some.drain(..) {
            if let Control::Gone(user) | Control::Back(user) = &moved {
                by_user.entry(user.user.clone()).or_default().push(moved);
            }
        }
        let each = by_user.into_values().map(|moves| on_moves(Arc::clone(&engine), moves));
        join_all(each).await;
    }
}

async fn on_moves(engine: Arc<Engine>, moves: Vec<Control>) {
    for moved in moves {
        on_moved(&engine, moved).await;
    }
}

async fn on_moved(engine: &Engine, moved: Control) {
    match moved {
        Control::Gone(gone) => on_gone(engine, &gone).await,
        Control::Back(back) => on_back(engine, &back).await,
        // Not a report about a user.
        _ => {}
    }
}

/// Notifies the apps that a user's last socket in a room is gone, unless the user has returned since. A user who returns
/// while the apps notify the other members is announced again, so that the last event is true.
async fn on_gone(engine: &Engine, gone: &Gone) {
    let (fanout, apps) =
        (&engine.namespaces.context().fanout, engine.namespaces.apps_of(gone.namespace.as_str()));
    let mut hooks = Vec::new();
    for app in apps {
        hooks.extend(app.on_gone(gone));
    }
    if hooks.is_empty() || (gone.held_back && fanout.is_back(gone).await) {
        return;
    }
    for hook in hooks {
        hook.await;
    }
    if gone.held_back && fanout.is_back(gone).await {
        on_back(engine, gone).await;
    }
}

async fn on_back(engine: &Engine, back: &Gone) {
    for app in engine.namespaces.apps_of(back.namespace.as_str()) {
        if let Some(hook) = app.on_back(back) {
            hook.await;
        }
    }
}

/// After each resubscription, lets the apps look for requests of other nodes that this node missed, then reevaluates every
/// room of every socket, because it may have missed a withdrawal of access.
pub(crate) async fn catch_up(engine: Arc<Engine>) {
    let namespaces = &engine.namespaces;
    loop {
        namespaces.resubscribed().notified().await;
        namespaces.context().jobs.retry_now();
        for app in namespaces.apps() {
            if let Some(hook) = app.on_resubscribed() {
                hook.await;
            }
        }
        for (_, namespace) in namespaces.mounted() {
            namespaces.unreviewed().add(namespaces.context().fanout.sockets(namespace));
        }
    }
}

/// Reevaluates the rooms of sockets for which that was not possible at once.
pub(crate) async fn review_later(engine: Arc<Engine>) {
    loop {
        for local in engine.namespaces.unreviewed().take().await {
            match engine.socket(&local) {
                Some(socket) => drop(engine.namespaces.review_socket(&socket).await),
                // It is leaving.
                None if local.is_attached() => engine.namespaces.unreviewed().add([local]),
                None => {}
            }
            // There may be very many, and most need no read of the records.
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(AUTO_JOIN_RETRY_MS)).await;
    }
}

async fn bring(engine: Arc<Engine>, sockets: Vec<Arc<LocalSocket>>, room: Room, reply: Option<Reply>) {
    // A leaving socket enters no more rooms.
    let sockets = sockets.iter().filter_map(|socket| engine.socket(socket)).collect();
    match (engine.namespaces.bring(sockets, &room).await, reply) {
        (Ok(()), Some(reply)) => reply.done(),
        (Ok(()), None) => {}
        (Err(error), _) => tracing::warn!(error = error.say(), room = %room, "sockets did not enter a room"),
    }
}

async fn review(engine: Arc<Engine>, sockets: Vec<Arc<LocalSocket>>, room: Room, reply: Option<Reply>) {
    let (known, unknown): (Vec<_>, Vec<_>) =
        sockets.into_iter().map(|local| engine.socket(&local).ok_or(local)).partition(Result::is_ok);
    let mut all = engine.namespaces.review_room(known.into_iter().flatten().collect(), &room).await;
    for local in unknown.into_iter().filter_map(Result::err) {
        // The socket is leaving, which takes a moment.
        let mut tries = 0..LEAVE_TRIES;
        while local.is_attached() && tries.next().is_some() {
            tokio::time::sleep(LEAVE_PAUSE).await;
        }
        if local.is_attached() {
            engine.namespaces.unreviewed().add([local]);
            all = false;
        }
    }
    if let Some(reply) = reply.filter(|_| all) {
        reply.done();
    }
}

/// Passes a broadcast to the app that keeps the order of its room.
pub(crate) fn pass_sequenced(engine: &Engine, mut broadcast: Sequenced) {
    let namespace = broadcast.namespace.clone();
    for app in engine.namespaces.apps_of(namespace.as_str()) {
        // A panic must not end the task that receives broadcasts.
        match catch_unwind(AssertUnwindSafe(|| app.on_sequenced(broadcast))) {
            Ok(Some(not_taken)) => broadcast = not_taken,
            Ok(None) => return,
            Err(_) => {
                tracing::error!(namespace = namespace.as_str(), "an app panicked at a broadcast");
                return;
            }
        }
    }
    // No app takes it: deliver it unchanged.
    engine.namespaces.context().fanout.deliver_sequenced(&broadcast);
}

/// Runs the jobs of apps, for as long as the node has any.
pub(crate) struct AppRunner(pub(crate) Weak<Engine>);

impl Runner for AppRunner {
    fn run<'a>(&'a self, app: &'a str, job: &'a Job) -> BoxFuture<'a, Option<Ran>> {
        Box::pin(async move {
            let engine = self.0.upgrade()?;
            let app =
                engine.namespaces.apps().find(|mounted| mounted.kind().name() == app).map(Arc::clone)?;
            drop(engine);
            Some(app.run_job(job).await)
        })
    }

    fn repeats(&self, job: &Job) -> bool {
        let Some(engine) = self.0.upgrade() else { return false };
        let mut apps = engine.namespaces.apps();
        apps.find(|app| app.kind().name() == job.app()).is_some_and(|app| app.repeats(job))
    }

    fn on_departure(&self) {
        let Some(engine) = self.0.upgrade() else { return };
        engine.namespaces.mounted().for_each(|(app, namespace)| app.on_departure(namespace));
    }

    fn adopt_older(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(engine) = self.0.upgrade() else { return };
            for app in engine.namespaces.apps() {
                if let Some(hook) = app.adopt_older() {
                    hook.await;
                }
            }
        })
    }
}

/// Disconnects a socket, or closes its whole connection. When this returns, no broadcast reaches the socket any more. `left` is
/// held until the socket has left its rooms on all nodes and its client has been notified.
async fn disconnect(engine: &Engine, local: &Arc<LocalSocket>, close: bool, left: &Arc<Turn>) {
    let session = engine.sessions.get(local.queue().session());
    // A client that has left the namespace by itself keeps its other namespaces.
    let close = close && local.is_attached();
    let context = engine.namespaces.context();
    let (mut notifying, mut is_ended) = (Vec::new(), false);
    if let Some(session) = &session {
        let leaving = if close { session.sockets() } else { vec![local.id()] };
        for socket in leaving.into_iter().filter_map(|id| session.socket(id)) {
            is_ended |= socket.id() == local.id();
            notifying.push(session.end(socket).await);
        }
    }
    if !is_ended {
        // Its client has just disconnected, or another request has ended it, and it has not left all of its rooms yet.
        context.fanout.expel(local).await;
    }
    let (fanout, local, left) = (context.fanout.clone(), Arc::clone(local), Arc::clone(left));
    drop(context.tasks.spawn(async move {
        join_all(notifying).await;
        if close && let Some(session) = session {
            // Its client has received the end of each namespace before.
            session.close(CloseReason::Forced);
        }
        // Its client did not wait for Redis as long as this.
        fanout.detach(&local).await;
        drop(left);
    }));
}

async fn ask(
    context: Context,
    (audience, turn): (Audience, Turn),
    body: Body,
    (timeout, reply): (Duration, Reply),
) {
    let mut question = None;
    let namespace = audience.namespace().as_str();
    let write = |ids: Vec<SocketId>| {
        let (count, is_of_client) = (ids.len(), reply.is_of_client());
        match context.acks.ask(is_of_client, ids.into_iter().collect()) {
            Some(asked) => {
                reply.asked(count);
                let packet = body.encode(namespace, Some(asked.number()));
                question = Some(asked);
                Some(packet)
            }
            None => {
                metrics::get().rate_limited(Limit::Questions);
                reply.asked(0);
                if is_of_client {
                    return None;
                }
                // A server's event is delivered even if its acks cannot be collected.
                tracing::warn!(
                    sockets = count,
                    "too many acks are pending: an event is sent without asking for an ack"
                );
                Some(body.encode(namespace, None))
            }
        }
    };
    audience.send(write).await;
    drop(turn);
    let Some(mut question) = question else { return };
    // Acks that come later are missing; the sender counts them.
    let _ = tokio::time::timeout(timeout, async {
        while let Some(answer) = question.next().await {
            reply.answered(answer).await;
        }
    })
    .await;
}
