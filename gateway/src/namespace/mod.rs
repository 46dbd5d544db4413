//! What a namespace does with packets: [`connect`] lets sockets in, [`dispatch`] brings their events to
//! apps and answers back, [`expiry`] sees them out when their tokens end. [`access`] takes sockets out of rooms that they
//! may not be in any more.

mod access;
mod connect;
mod describe;
mod dispatch;
mod expiry;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use shared::config::{AuthConfig, AuthErrors};
use shared::limits::{RATED_USERS_MAX, RENEWALS_BURST, RENEWALS_PER_SECOND};
use shared::names::{Namespace, UserId};
use shared::sio::Encoded;
use tokio::sync::Notify;

use crate::apps::{App, Departure};
use crate::close::CloseReason;
use crate::context::Context;
use crate::limiter::{Meters, Rate};
use crate::socket::Socket;
use crate::users::Users;
pub(crate) use access::Unreviewed;
pub(crate) use connect::{Handshake, Refusal, Token};
pub(crate) use describe::describe;
pub(crate) use dispatch::{Called, REFRESH};

/// What to do about something received, before the next is brought.
pub(crate) enum Work {
    /// Nothing.
    None,
    /// Queue this packet.
    Reply(Encoded),
    /// Run this to its end, then queue the packet it gives.
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
    /// Tokens of other rights that one user's sockets change to: each has every room of the socket judged.
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
    /// The number of the app that an unknown event is counted for.
    first_app: Option<usize>,
    by_event: HashMap<&'static str, Taken>,
    auth_errors: AuthErrors,
}

/// An event that an app takes.
#[derive(Debug)]
struct Taken {
    app: Arc<dyn App>,
    /// Of the app, for metrics.
    number: usize,
    /// What one costs the node.
    weight: u32,
}

/// Two apps on one namespace have an event of the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} cannot share the namespace {namespace}: both have the event {event}")]
pub(crate) struct Collision {
    pub(crate) namespace: Namespace,
    pub(crate) event: &'static str,
    pub(crate) first: &'static str,
    pub(crate) second: &'static str,
}

impl Namespaces {
    /// Mounts `apps`; `events_per_second` may come from one socket, four times as many at once. What all sockets of a user
    /// may do follows from it ([`Users`]).
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

    /// What apps may use.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// The namespace called `name`.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Mounted>> {
        self.by_name.get(name).cloned()
    }

    /// Sockets whose rooms are to be judged.
    pub(crate) fn unreviewed(&self) -> &Unreviewed {
        &self.unreviewed
    }

    /// Notified when this node's subscriptions were made anew: requests of other nodes may have been missed.
    pub(crate) fn resubscribed(&self) -> &Notify {
        &self.resubscribed
    }

    /// Takes a socket out of its rooms and tells its apps. Runs to its end even when the session is gone,
    /// because the others in the rooms must still hear of it.
    pub(crate) fn leave(
        &self,
        socket: Arc<Socket>,
        reason: CloseReason,
    ) -> impl Future<Output = Option<Encoded>> + Send + 'static {
        let mounted = self.find(socket.namespace().as_str());
        let context = self.context.clone();
        async move {
            let rooms = context.fanout.detach(socket.local()).await;
            tracing::debug!(socket = %socket.id(), user = %socket.user(), reason = reason.as_str(), "socket left");
            let departure = Departure { rooms };
            for app in mounted.iter().flat_map(|mounted| &mounted.apps) {
                app.on_disconnect(&departure);
            }
            None
        }
    }

    /// A socket is connected and its client knows: its apps do what they do then. The client's first event waits
    /// for it.
    pub(crate) async fn welcome(&self, socket: &Arc<Socket>) {
        let Some(mounted) = self.by_name.get(socket.namespace()) else { return };
        for app in &mounted.apps {
            if let Some(hook) = app.on_connect(socket) {
                hook.await;
            }
        }
    }

    /// Every app of a namespace, for what the cluster tells.
    pub(crate) fn apps_of(&self, namespace: &str) -> &[Arc<dyn App>] {
        self.by_name.get(namespace).map_or(&[], |mounted| &mounted.apps)
    }

    /// Every app of the node, and where it is mounted.
    pub(crate) fn mounted(&self) -> impl Iterator<Item = (&Arc<dyn App>, &Namespace)> {
        self.by_name.values().flat_map(|mounted| mounted.apps.iter().map(|app| (app, &mounted.name)))
    }

    /// Every app of the node.
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
        self.apps.push(app);
        Ok(())
    }
}
