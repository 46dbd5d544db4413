//! What the cluster asks of this node's sessions and apps.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use fanout::{Control, LocalSocket, Reply, Sequenced};
use shared::adapter::Body;
use shared::ids::SocketId;
use tokio::sync::mpsc;

use crate::close::CloseReason;
use crate::context::Context;
use crate::metrics::{self, Limit};
use crate::session::Engine;

/// Does what is asked until nobody can ask any more.
pub(crate) async fn run(engine: Arc<Engine>, mut controls: mpsc::Receiver<Control>) {
    while let Some(control) = controls.recv().await {
        match control {
            Control::Disconnect { sockets, close } => {
                for socket in sockets {
                    disconnect(&engine, &socket, close);
                }
            }
            Control::Ask { sockets, body, timeout, reply } => {
                let context = engine.namespaces.context().clone();
                let tasks = context.tasks.clone();
                drop(tasks.spawn(ask(context, sockets, body, (timeout, reply))));
            }
            Control::Gone(gone) => {
                for app in engine.namespaces.apps_of(gone.namespace.as_str()) {
                    app.on_gone(&gone).await;
                }
            }
            Control::Back(back) => {
                for app in engine.namespaces.apps_of(back.namespace.as_str()) {
                    app.on_back(&back).await;
                }
            }
            Control::Resubscribed => {
                for app in engine.namespaces.apps() {
                    app.on_resubscribed().await;
                }
            }
        }
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

/// Looks for announcements that nobody has told, and has apps do what follows from telling them.
pub(crate) async fn tell_left_over(engine: Arc<Engine>) {
    let context = engine.namespaces.context().clone();
    loop {
        context.announcer.until_behind().await;
        for announcement in context.announcer.tell_left_over().await {
            for app in engine.namespaces.apps_of(announcement.namespace.as_str()) {
                app.on_told(&announcement).await;
            }
        }
    }
}

fn disconnect(engine: &Engine, socket: &LocalSocket, close: bool) {
    let Some(session) = engine.sessions.get(socket.outbox().session()) else { return };
    let leaving = if close { session.sockets() } else { vec![socket.id()] };
    for socket in leaving.into_iter().filter_map(|id| session.release(id)) {
        engine.namespaces.expire(socket);
    }
    if close {
        session.close(CloseReason::Forced);
    }
}

async fn ask(
    context: Context,
    sockets: Vec<Arc<LocalSocket>>,
    body: Body,
    (timeout, reply): (Duration, Reply),
) {
    let asked: HashSet<SocketId> = sockets.iter().map(|socket| socket.id()).collect();
    let count = asked.len();
    let Some(mut question) = context.acks.ask(reply.is_of_client(), asked) else {
        metrics::get().rate_limited(Limit::Questions);
        reply.asked(0).await;
        return;
    };
    reply.asked(count).await;
    if let Some(first) = sockets.first() {
        let packet = body.encode(first.namespace().as_str(), Some(question.id()));
        for socket in &sockets {
            context.fanout.emit(socket, packet.clone());
        }
    }
    // Who has not answered by then is missing; the asker counts.
    let _ = tokio::time::timeout(timeout, async {
        while let Some(answer) = question.next().await {
            reply.answered(&answer);
        }
    })
    .await;
}
