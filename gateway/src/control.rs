//! What the cluster asks of this node's sessions and apps.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fanout::{Control, LocalSocket, Reply, Sequenced, Turn};
use futures_util::future::BoxFuture;
use shared::adapter::Body;
use shared::ids::SocketId;
use shared::limits::{AUTO_JOIN_RETRY_MS, SOCKETS_PER_TURN};
use shared::names::Room;
use tokio::sync::mpsc;

use crate::close::CloseReason;
use crate::context::Context;
use crate::jobs::{Job, Ran, Runner};
use crate::metrics::{self, Limit};
use crate::session::Engine;

/// How often, and after which pause, a socket that is connecting or leaving is looked for again.
const CONNECT_TRIES: u32 = 20;
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// Does what is asked until nobody can ask any more.
pub(crate) async fn run(engine: Arc<Engine>, mut controls: mpsc::Receiver<Control>) {
    while let Some(control) = controls.recv().await {
        match control {
            Control::Disconnect { sockets, close, turn } => {
                for some in sockets.chunks(SOCKETS_PER_TURN) {
                    for socket in some {
                        disconnect(&engine, socket, close).await;
                    }
                    tokio::task::yield_now().await;
                }
                drop(turn);
            }
            Control::Ask { sockets, body, timeout, reply, turn } => {
                let context = engine.namespaces.context().clone();
                let tasks = context.tasks.clone();
                drop(tasks.spawn(ask(context, (sockets, turn), body, (timeout, reply))));
            }
            Control::Gone(gone) => {
                for app in engine.namespaces.apps_of(gone.namespace.as_str()) {
                    if let Some(hook) = app.on_gone(&gone) {
                        hook.await;
                    }
                }
            }
            Control::Back(back) => {
                for app in engine.namespaces.apps_of(back.namespace.as_str()) {
                    if let Some(hook) = app.on_back(&back) {
                        hook.await;
                    }
                }
            }
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

/// Has apps look for what other nodes may have asked in vain, whenever the subscriptions were made anew; then judges every
/// room of every socket, since a withdrawal of access may have been missed.
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

/// Judges the rooms of sockets where that could not be done at once.
pub(crate) async fn review_later(engine: Arc<Engine>) {
    loop {
        for local in engine.namespaces.unreviewed().take().await {
            match engine.socket(&local) {
                Some(socket) => drop(engine.namespaces.review_socket(&socket).await),
                // Its CONNECT is under way.
                None if local.is_attached() => engine.namespaces.unreviewed().add([local]),
                None => {}
            }
            // There may be very many, and most need no records.
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(AUTO_JOIN_RETRY_MS)).await;
    }
}

async fn bring(engine: Arc<Engine>, sockets: Vec<Arc<LocalSocket>>, room: Room, reply: Option<Reply>) {
    // Whose CONNECT is under way enters by itself when it is done.
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
        // Its CONNECT is under way, or its end: both take a moment.
        let mut tries = 0..CONNECT_TRIES;
        while local.is_attached() && engine.socket(&local).is_none() && tries.next().is_some() {
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
        match engine.socket(&local) {
            Some(socket) => all &= engine.namespaces.review_room(vec![socket], &room).await,
            None if local.is_attached() => {
                engine.namespaces.unreviewed().add([local]);
                all = false;
            }
            None => {}
        }
    }
    if let Some(reply) = reply.filter(|_| all) {
        reply.done();
    }
}

/// Brings broadcasts with a place in an app's order to that app.
pub(crate) async fn run_sequenced(engine: Arc<Engine>, mut sequenced: mpsc::Receiver<Sequenced>) {
    'next: while let Some(broadcast) = sequenced.recv().await {
        for app in engine.namespaces.apps_of(broadcast.namespace.as_str()) {
            if app.on_sequenced(&broadcast) {
                continue 'next;
            }
        }
        // No app of ours keeps this order: it goes out as it came.
        let Sequenced { namespace, room, packet, .. } = broadcast;
        engine.namespaces.context().fanout.deliver(namespace.as_str(), &room, packet);
    }
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

/// Ends a socket, or its whole connection: when this has ended it gets nothing more, whatever is broadcast. One whose CONNECT
/// is under way is ended when that is done.
async fn disconnect(engine: &Engine, local: &Arc<LocalSocket>, close: bool) {
    let Some(session) = engine.sessions.get(local.queue().session()) else { return };
    let leaving = if close { session.sockets() } else { vec![local.id()] };
    for socket in leaving.into_iter().filter_map(|id| session.socket(id)) {
        session.end(socket).await;
    }
    // Where it is not in its session yet, whose task finds that.
    engine.namespaces.context().fanout.expel(local).await;
    // Its CONNECT may have been answered between the two.
    if let Some(socket) = session.socket(local.id()) {
        session.end(socket).await;
    } else {
        // Its client may have left meanwhile, and found that another one takes it out of its rooms.
        engine.namespaces.context().fanout.detach(local).await;
    }
    if close {
        session.close(CloseReason::Forced);
    }
}

async fn ask(
    context: Context,
    (sockets, turn): (Vec<Arc<LocalSocket>>, Turn),
    body: Body,
    (timeout, reply): (Duration, Reply),
) {
    let asked: HashSet<SocketId> = sockets.iter().map(|socket| socket.id()).collect();
    let count = asked.len();
    let is_of_client = reply.is_of_client();
    let Some(mut question) = context.acks.ask(is_of_client, asked) else {
        metrics::get().rate_limited(Limit::Questions);
        reply.asked(0);
        if !is_of_client {
            // What a server sends arrives even where its answers cannot be waited for.
            tracing::warn!(
                sockets = count,
                "too many answers are waited for: an event is sent without asking for an ack"
            );
            emit(&context, &sockets, &body, None).await;
        }
        return;
    };
    reply.asked(count);
    emit(&context, &sockets, &body, Some(question.id())).await;
    drop(turn);
    // Who has not answered by then is missing; the asker counts.
    let _ = tokio::time::timeout(timeout, async {
        while let Some(answer) = question.next().await {
            reply.answered(answer).await;
        }
    })
    .await;
}

/// Sends an event to sockets of one namespace, some at a time.
async fn emit(context: &Context, sockets: &[Arc<LocalSocket>], body: &Body, ack: Option<u64>) {
    let Some(first) = sockets.first() else { return };
    let packet = body.encode(first.namespace().as_str(), ack);
    for some in sockets.chunks(SOCKETS_PER_TURN) {
        some.iter().for_each(|socket| context.fanout.emit(socket, packet.clone()));
        tokio::task::yield_now().await;
    }
}
