//! Handles a namespace's packets: [`connect`] admits sockets, [`dispatch`] passes their events to apps and returns the
//! answers, [`expiry`] ends them when their tokens expire. [`access`] removes sockets from rooms that they may no
//! longer be in.

mod access;
mod connect;
mod describe;
mod dispatch;
mod expiry;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use shared::config::{AuthConfig, AuthErrors};
use shared::limits::{DISCONNECT_WAIT_MS, HOLD_MAX_MS, RATED_USERS_MAX, RENEWALS_BURST, RENEWALS_PER_SECOND};
use shared::names::{Namespace, UserId};
use shared::sio::Encoded;
use tokio::sync::Notify;

use crate::apps::App;
use crate::close::CloseReason;
use crate::context::Context;
use crate::limiter::{Meters, Rate};
use crate::socket::Socket;
use crate::users::Users;
pub(crate) use access::Unreviewed;
pub(crate) use connect::{Admitted, Connected, Handshake, Refusal, Token};
pub(crate) use describe::describe;
pub(crate) use dispatch::{Called, REFRESH};

/// How long an answer may hold back other packets to its client.
pub(crate) const HOLD_MAX: Duration = Duration::from_millis(HOLD_MAX_MS);

/// The work for a received packet, to be done before the next one.
pub(crate) enum Work {
    /// Nothing.
    None,
    /// Queue this packet.
    Reply(Encoded),
    /// Run this to completion, then queue the packet that it returns.
    Later(BoxFuture<'static, Option<Encoded>>),
    /// Close the session.
    Close(CloseReason),
}

/// The namespaces of this node and the apps mounted on them.
#[derive(Debug)]
pub(crate) struct Namespaces {
    context: Context,
    by_name: HashMap<Namespace, Arc<Mounted>>,
    event_rate: Option<Rate>,
    event_burst: u32,
    /// Limits how often one user's sockets change to tokens with other rights, because each change checks every room of
    /// the socket.
    renewals: Meters<UserId>,
    unreviewed: Unreviewed,
    resubscribed: Notify,
    users: Users,
}

/// One namespace.
#[derive(Debug)]
pub(crate) struct Mounted {
    name: Namespace,
    apps: Vec<Arc<dyn App>>,
    /// The index of the app that unknown events count for.
    first_app: Option<usize>,
    by_event: HashMap<&'static str, Taken>,
    auth_errors: AuthErrors,
    /// One of its apps delays the answer to CONNECT ([`App::holds_connect`]).
    holds_connect: bool,
}

/// An event that an app handles.
#[derive(Debug)]
struct Taken {
    app: Arc<dyn App>,
    /// The app's index, for metrics.
    number: usize,
    /// What one event costs the node.
    weight: u32,
}

/// Two apps on one namespace have an event with the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} cannot share the namespace {namespace}: both have the event {event}")]
pub(crate) struct Collision {
    pub(crate) namespace: Namespace,
    pub(crate) event: &'static str,
    pub(crate) first: &'static str,
    pub(crate) second: &'static str,
}

impl Namespaces {
    /// Mounts `apps`. A socket may send `events_per_second`, with a burst of four times as many. The budget of a user's
    /// sockets follows from it ([`Users`]).
    ///
    /// # Errors
    /// [`Collision`].
    pub(crate) fn new(
        context: Context,
        apps: Vec<(Arc<dyn App>, Namespace)>,
        auth: &AuthConfig,
        events_per_second: u32,
    ) -> Result<Self, Collision> {
        let mut by_name: HashMap<Namespace, Mounted> = HashMap::new();
        for (app, namespace) in apps {
            let single = auth.errors_by_namespace.iter().find(|(name, _)| *name == namespace);
            let mounted = by_name.entry(namespace.clone()).or_insert_with(|| Mounted {
                name: namespace,
                apps: Vec::new(),
                first_app: None,
                by_event: HashMap::new(),
                auth_errors: single.map_or(auth.errors, |(_, errors)| *errors),
                holds_connect: false,
            });
            mounted.add(app)?;
        }
        let by_name = by_name.into_iter().map(|(name, mounted)| (name, Arc::new(mounted))).collect();
        let event_burst = events_per_second.saturating_mul(4);
        let event_rate = Rate::new(events_per_second, event_burst);
        let renewals = Meters::new(Rate::new(RENEWALS_PER_SECOND, RENEWALS_BURST), RATED_USERS_MAX);
        let (unreviewed, resubscribed) = (Unreviewed::default(), Notify::new());
        let users = Users::new(events_per_second);
        Ok(Self { context, by_name, event_rate, event_burst, renewals, unreviewed, resubscribed, users })
    }

    /// The context for apps.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// The namespace called `name`.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Mounted>> {
        self.by_name.get(name).cloned()
    }

    /// Sockets whose rooms still have to be checked.
    pub(crate) fn unreviewed(&self) -> &Unreviewed {
        &self.unreviewed
    }

    /// Notified when this node has subscribed again: it may have missed requests from other nodes.
    pub(crate) fn resubscribed(&self) -> &Notify {
        &self.resubscribed
    }

    /// Removes a socket from its rooms. Runs to completion even if the session has ended, because the other members
    /// must be notified.
    pub(crate) fn leave(
        &self,
        socket: Arc<Socket>,
        reason: CloseReason,
    ) -> impl Future<Output = Option<Encoded>> + Send + 'static {
        let context = self.context.clone();
        async move {
            context.fanout.detach(socket.local()).await;
            tracing::debug!(socket = %socket.id(), user = %socket.user(), reason = reason.as_str(), "socket left");
            None
        }
    }

    /// Like [`Self::leave`], awaited before the disconnect packet of a socket that the server ends: a client that has
    /// received the packet no longer finds the socket in its rooms. Waits for Redis for at most [`DISCONNECT_WAIT_MS`].
    pub(crate) async fn leave_before_end(&self, socket: &Arc<Socket>, reason: CloseReason) {
        let leaving = self.context.tasks.spawn(self.leave(Arc::clone(socket), reason));
        let at_most = Duration::from_millis(DISCONNECT_WAIT_MS);
        if tokio::time::timeout(at_most, leaving).await.is_err() {
            tracing::debug!(socket = %socket.id(), "disconnecting a client before its socket has left on all nodes");
        }
    }

    /// Lets the apps place a published socket in its rooms while the answer to its client's CONNECT waits. The client's
    /// first event waits for that, too.
    pub(crate) async fn welcome(&self, socket: &Arc<Socket>) {
        let Some(mounted) = self.by_name.get(socket.namespace()) else { return };
        for app in &mounted.apps {
            if let Some(hook) = app.on_connect(socket) {
                hook.await;
            }
        }
    }

    /// All apps of a namespace, for events from the cluster.
    pub(crate) fn apps_of(&self, namespace: &str) -> &[Arc<dyn App>] {
        self.by_name.get(namespace).map_or(&[], |mounted| &mounted.apps)
    }

    /// All apps of the node with their namespaces.
    pub(crate) fn mounted(&self) -> impl Iterator<Item = (&Arc<dyn App>, &Namespace)> {
        self.by_name.values().flat_map(|mounted| mounted.apps.iter().map(|app| (app, &mounted.name)))
    }

    /// All apps of the node.
    pub(crate) fn apps(&self) -> impl Iterator<Item = &Arc<dyn App>> {
        self.by_name.values().flat_map(|mounted| &mounted.apps)
    }
}

impl Mounted {
    fn add(&mut self, app: Arc<dyn App>) -> Result<(), Collision> {
        let kind = app.kind();
        let number = kind.number();
        for (event, weight) in kind.section(&self.name).taken() {
            let taken = Taken { app: Arc::clone(&app), number, weight };
            if let Some(other) = self.by_event.insert(event, taken) {
                return Err(Collision {
                    namespace: self.name.clone(),
                    event,
                    first: other.app.kind().name(),
                    second: kind.name(),
                });
            }
        }
        self.first_app.get_or_insert(number);
        self.holds_connect |= app.holds_connect();
        self.apps.push(app);
        Ok(())
    }
}
