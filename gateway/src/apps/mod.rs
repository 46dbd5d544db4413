//! The applications. Each app is a folder with an [`AppKind`], which describes it, and an [`App`], which runs. Apps
//! use [`Socket`] and [`Context`] and never each other.
//!
//! To add an app, add a folder and an entry in [`APPS`] (ARCHITECTURE.md, "Adding an app").

mod care;
mod chat;
mod emergencies;
mod reconciler;
mod relay;
mod sos;

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanout::{Gone, Left, Sequenced};
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::auth::Claims;
use shared::config::AppDeclaration;
use shared::names::{Namespace, Room, UserId};
use shared::sio::Args;
use tokio::sync::oneshot;

use crate::context::Context;
use crate::describe::Section;
use crate::describe::forms::True;
use crate::error::{AppError, Say};
use crate::jobs::{Job, Ran};
use crate::limiter::Meters;
use crate::metrics::{self, Limit};
use crate::rest::Served;
use crate::socket::Socket;
use crate::text::json;

/// Every app of this program, in the order of the documentation, whether it is mounted or not.
pub(crate) static APPS: &[&AppKind] =
    &[&sos::KIND, &emergencies::KIND, &chat::KIND, &care::KIND, &relay::KIND];

/// The static description of an app, mounted or not.
#[derive(Debug)]
pub(crate) struct AppKind {
    /// What the settings need: its name, its default namespace, and its own settings.
    pub(crate) declaration: AppDeclaration,
    /// Describes the app and its events. A node accepts only the client events that are described here.
    pub(crate) describe: fn(&mut Section),
    /// Its fixed maxima, for the reference.
    pub(crate) limits: &'static [shared::limits::Limit],
    /// The app's own rooms. Clients of other apps may not name them.
    pub(crate) rooms: OwnRooms,
    /// Starts the app on its namespace.
    pub(crate) start: fn(Mount<'_>) -> Arc<dyn App>,
}

/// Rooms that belong to an app.
#[derive(Debug, Default)]
pub(crate) struct OwnRooms {
    /// Exact names.
    pub(crate) names: &'static [&'static str],
    /// Prefixes of names.
    pub(crate) prefixes: &'static [&'static str],
}

/// Where an app is mounted.
#[derive(Debug)]
pub(crate) struct Mount<'a> {
    pub(crate) context: Context,
    pub(crate) namespace: Namespace,
    /// All apps of the namespace, including this one.
    pub(crate) neighbours: &'a [&'static AppKind],
}

/// The future that a hook runs. `None` means that there is nothing to do, and costs nothing.
pub(crate) type Hook<'a> = Option<BoxFuture<'a, ()>>;

/// A running app. Every hook except [`Self::on_event`] has a default that does nothing.
///
/// An app whose futures outlive a call implements this for its `Arc`, so that a hook can move the app into them.
pub(crate) trait App: Debug + Send + Sync {
    /// Its static description.
    fn kind(&self) -> &'static AppKind;

    /// Handles a client event that the app describes.
    fn on_event(&self, socket: &Arc<Socket>, event: Event<'_>) -> Handling;

    /// Its HTTP endpoints.
    fn routes(&self) -> Served {
        Served::default()
    }

    /// Whether a socket with these claims may be in a room. Every access decision of the app is made here: joins
    /// call it, and the node calls it again whenever access changes.
    fn admits<'a>(&'a self, _claims: &'a Claims, _room: &'a Room) -> Admission<'a> {
        Admission::Known(None)
    }

    /// Whether [`Self::on_connect`] does anything. The CONNECT reply then waits for it, for at most `HOLD_MAX_MS`.
    fn holds_connect(&self) -> bool {
        false
    }

    /// A socket has connected. The CONNECT reply is sent when this hook has finished, and events that are sent to
    /// the socket meanwhile follow the reply.
    fn on_connect<'a>(&'a self, _socket: &'a Arc<Socket>) -> Hook<'a> {
        None
    }

    /// A socket lost access to a room and was removed from it. The app notifies the other members.
    fn on_removed<'a>(&'a self, _socket: &'a Arc<Socket>, _room: &'a Room, _left: Left) -> Hook<'a> {
        None
    }

    /// A socket renewed its token, which may grant more rights.
    fn on_renewed<'a>(&'a self, _socket: &'a Arc<Socket>) -> Hook<'a> {
        None
    }

    /// A user's last socket has left a room for good, or a backend has removed it.
    fn on_gone<'a>(&'a self, _gone: &'a Gone) -> Hook<'a> {
        None
    }

    /// A user is in a room, and the other members do not know it: either their node was cut off and their departure
    /// was announced, or a backend moved them into the room.
    fn on_back<'a>(&'a self, _back: &'a Gone) -> Hook<'a> {
        None
    }

    /// A broadcast to a room whose order an app keeps. Returns it when another app keeps the order, or when it may be
    /// delivered at once. Runs where the node receives broadcasts, so it must not wait.
    fn on_sequenced(&self, broadcast: Sequenced) -> Option<Sequenced> {
        Some(broadcast)
    }

    /// Runs one of the app's jobs. A job may run a second time after a crash.
    fn run_job<'a>(&'a self, _job: &'a Job) -> BoxFuture<'a, Ran> {
        Box::pin(std::future::ready(Ran::done()))
    }

    /// Whether this node may run a job that another node also runs, perhaps at the same time. That is safe for jobs
    /// that apply the current records. This node's later work on the same subject then follows the job's effects.
    fn repeats(&self, _job: &Job) -> bool {
        false
    }

    /// Another node has left or died. Only one of the remaining nodes calls this.
    fn on_departure(&self, _namespace: &Namespace) {}

    /// Converts the pending work of a node with an older version into jobs.
    fn adopt_older(&self) -> Hook<'_> {
        None
    }

    /// The node's subscriptions were lost for a while, so it may have missed events of any room.
    fn on_resubscribed(&self) -> Hook<'_> {
        None
    }
}

/// Whether a socket may be in a room. `None` means that the room is not one of the app's.
pub(crate) enum Admission<'a> {
    /// Decided by the claims and the room's name.
    Known(Option<bool>),
    /// Decided by the records, which may be unavailable.
    Asked(BoxFuture<'a, Result<Option<bool>, AppError>>),
}

impl Admission<'_> {
    /// Waits for the decision.
    ///
    /// # Errors
    /// The records are unavailable.
    pub(crate) async fn get(self) -> Result<Option<bool>, AppError> {
        match self {
            Self::Known(known) => Ok(known),
            Self::Asked(asked) => asked.await,
        }
    }
}

fn hook<'a>(future: impl Future<Output = ()> + Send + 'a) -> Hook<'a> {
    Some(Box::pin(future))
}

/// The names of all apps, indexed by [`AppKind::number`].
pub(crate) fn names() -> Vec<&'static str> {
    APPS.iter().map(|kind| kind.name()).collect()
}

/// What the settings need to know about all apps.
pub(crate) fn declarations() -> Vec<&'static AppDeclaration> {
    APPS.iter().map(|kind| &kind.declaration).collect()
}

/// Finds an app by its name.
pub(crate) fn find(name: &str) -> Option<&'static AppKind> {
    APPS.iter().copied().find(|kind| kind.name() == name)
}

impl AppKind {
    /// Its name in settings, metrics and documents.
    pub(crate) fn name(&self) -> &'static str {
        self.declaration.name
    }

    /// Its index in [`APPS`], which metrics use.
    pub(crate) fn number(&self) -> usize {
        APPS.iter().position(|kind| kind.name() == self.name()).unwrap_or_default()
    }

    /// The description of the app and its events, mounted on `namespace`.
    pub(crate) fn section(&self, namespace: &Namespace) -> Section {
        let mut section = Section::new(self.name(), vec![namespace.as_str().to_owned()]);
        (self.describe)(&mut section);
        section
    }
}

/// An event for an app.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) args: Args<'a>,
    pub(crate) attachments: Vec<Bytes>,
}

/// A successful answer: raw JSON of the ack's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) json: String,
    pub(crate) attachments: Vec<Bytes>,
}

/// The outcome of an event.
pub(crate) type Handled = Result<Reply, AppError>;

/// How an app handles an event.
pub(crate) enum Handling {
    /// Handled without waiting.
    Done(Handled),
    /// Runs asynchronously. The client's next event waits for it.
    Later(BoxFuture<'static, Handled>),
    /// Like [`Self::Later`], for an answer that describes current state about which the client also receives
    /// events. Events that are sent to the client meanwhile follow the answer, after at most `HOLD_MAX_MS`, so the
    /// answer is never older than an event that the client has received.
    Snapshot(BoxFuture<'static, Handled>),
    /// Waits for clients, perhaps for this one, or already has its place in the order. The client's next events are
    /// handled meanwhile.
    Apart(BoxFuture<'static, Handled>),
    /// Like [`Self::Apart`], but without a place in the order yet. The client's next event waits for `placed`.
    Placing {
        /// Handles the event.
        work: BoxFuture<'static, Handled>,
        /// Resolves when the event has its place, or when `work` ends without one.
        placed: oneshot::Receiver<()>,
    },
}

/// A successful answer with a body.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}Ack")]
pub(crate) struct Success<'a, T> {
    #[schemars(with = "True")]
    success: bool,
    #[serde(flatten)]
    body: &'a T,
}

/// The ack `{success: true, …T}`, for an event's description.
pub(crate) type Ack<T> = Success<'static, T>;

/// A successful answer without a body.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SuccessAck")]
pub(crate) struct Done {
    #[schemars(with = "True")]
    success: bool,
}

impl Reply {
    /// `{success: true, …body}`.
    pub(crate) fn success(body: &impl Serialize) -> Self {
        Self { json: json(&Success { success: true, body }), attachments: Vec::new() }
    }

    /// `{success: true}`.
    pub(crate) fn ok() -> Self {
        Self { json: json(&Done { success: true }), attachments: Vec::new() }
    }
}

impl Handling {
    pub(crate) fn later(future: impl Future<Output = Handled> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }

    pub(crate) fn snapshot(future: impl Future<Output = Handled> + Send + 'static) -> Self {
        Self::Snapshot(Box::pin(future))
    }

    pub(crate) fn refuse(say: impl Into<Say>) -> Self {
        Self::Done(Err(AppError::BadInput(say.into())))
    }
}

/// Counts one use against a user's rate limit.
///
/// # Errors
/// [`AppError::Limited`]. The refusal is counted in the metrics.
fn within(meters: &Meters<UserId>, user: &UserId) -> Result<(), AppError> {
    if meters.take(user.clone(), Instant::now()) {
        return Ok(());
    }
    Err(limited(1))
}

/// The refusal for a user who exceeds a rate limit, counted in the metrics. `seconds` is the time until a retry can
/// succeed.
fn limited(seconds: u64) -> AppError {
    metrics::get().rate_limited(Limit::UserRate);
    AppError::Limited("Too many requests".into(), seconds)
}

/// The refusal of an event that the app does not describe.
fn unknown_event() -> AppError {
    AppError::BadInput("Unknown event".into())
}

/// Decodes the first argument as `T`. Returns `None` if it is missing or invalid.
pub(crate) fn first<T: DeserializeOwned>(args: &Args<'_>) -> Option<T> {
    shared::json::read(args.raw.first()?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use axum::body::Body;
    use axum::http::Request;
    use fanout::SocketInfo;
    use serde_json::json;
    use shared::ids::{NodeId, SessionId, SocketId};
    use shared::limits::USER_EVENTS_FACTOR;
    use tower::ServiceExt as _;

    use super::*;
    use crate::users::Users;

    /// Starts every app on its own namespace, each with a socket that has all rights.
    async fn started() -> Vec<(Arc<dyn App>, Arc<Socket>)> {
        let of = |kind: &AppKind| Namespace::parse(&format!("/{}", kind.name())).unwrap();
        let context = Context::alone(&APPS.iter().map(|kind| of(kind)).collect::<Vec<_>>()).await;
        let mut all = Vec::new();
        for (kind, id) in APPS.iter().zip(1..) {
            let mount = Mount { context: context.clone(), namespace: of(kind), neighbours: &[] };
            let claims = json!({"sub": "u", "exp": 1, "rooms": ["*"], "publish": ["*"]});
            let claims = Claims::from_json(claims.as_object().unwrap()).unwrap();
            let node = NodeId::from_random([0; 4]);
            let info = SocketInfo {
                id: SocketId::new(node, [id; 16]),
                user: claims.user.clone(),
                display_name: "U".into(),
                connected_at_ms: 0,
                email: None,
                role: None,
            };
            let queue = context.fanout.send_queue(SessionId::new(node, [id; 16]));
            let prepared = context.fanout.prepare(of(kind).as_str(), info).await.unwrap();
            let local = prepared.attach(queue, || ()).unwrap();
            let share = Users::new(0).share(&claims.user);
            all.push(((kind.start)(mount), Arc::new(Socket::new(local, claims, share))));
        }
        all
    }

    #[tokio::test]
    async fn an_app_handles_the_events_that_it_describes_and_no_others() {
        for (app, socket) in started().await {
            let kind = app.kind();
            let is_known = |name: &str| {
                let event = Event { name: name.into(), args: Args::default(), attachments: Vec::new() };
                let unknown = unknown_event();
                match app.on_event(&socket, event) {
                    Handling::Done(Err(error)) => error.say() != unknown.say(),
                    Handling::Done(Ok(_))
                    | Handling::Later(_)
                    | Handling::Snapshot(_)
                    | Handling::Apart(_)
                    | Handling::Placing { .. } => true,
                }
            };
            let section = kind.section(&Namespace::parse("/").unwrap());
            for (event, weight) in section.taken() {
                assert!(is_known(event), "{} describes {event}", kind.name());
                assert!((1..=USER_EVENTS_FACTOR).contains(&weight), "{event}");
            }
            assert!(!is_known("no:such:event"), "{}", kind.name());
        }
    }

    #[tokio::test]
    async fn an_endpoint_lets_in_whom_it_says() {
        for (app, _) in started().await {
            let Served { public, internal, operations } = app.routes();
            for operation in operations {
                let path = operation.path().replace(['{', '}'], "");
                let request = Request::builder()
                    .method(&*operation.method().as_str().to_uppercase())
                    .uri(&path)
                    .body(Body::empty());
                let router = if operation.is_public() { &public } else { &internal };
                let status = router.clone().oneshot(request.unwrap()).await.unwrap().status();
                let expected = if operation.is_of_user() { 401 } else { 403 };
                assert_eq!(status, expected, "{:?} {path}", operation.method());
                assert!(operation.is_of_user() == operation.is_public(), "{path}");
            }
        }
    }

    #[tokio::test]
    async fn an_app_that_does_something_on_connect_holds_the_answer() {
        for (app, socket) in started().await {
            assert_eq!(app.on_connect(&socket).is_some(), app.holds_connect(), "{}", app.kind().name());
        }
    }

    #[tokio::test]
    async fn apps_share_no_endpoint_and_no_name() {
        let mut endpoints = HashSet::new();
        for (app, _) in started().await {
            for operation in app.routes().operations {
                let endpoint = (operation.method(), operation.path());
                assert!(endpoints.insert(endpoint), "{endpoint:?}");
            }
        }
        assert_eq!(names().into_iter().collect::<HashSet<_>>().len(), APPS.len());
    }
}
