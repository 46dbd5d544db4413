//! An event to its app, and what the app says back to the client: an ack, or an `error` event.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::sio::{Args, Encoded, encode_ack};

use super::{Namespaces, Taken, Work};
use crate::apps::{Event, Handled, Handling, Reply};
use crate::close::CloseReason;
use crate::error::AppError;
use crate::metrics::{self, Limit, Outcome};
use crate::socket::{Admitted, Socket};
use crate::text::json;
use crate::users::units;

/// The event that extends a socket's life; no app's.
pub(crate) const REFRESH: &str = "auth:refresh";

/// What it weighs: a signature is verified, and every room looked at.
const REFRESH_WEIGHT: u32 = 10;

/// An event as it came.
#[derive(Debug)]
pub(crate) struct Called<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) args: Args<'a>,
    pub(crate) ack: Option<u64>,
    pub(crate) attachments: Vec<Bytes>,
}

impl Called<'_> {
    fn bytes(&self) -> usize {
        let args: usize = self.args.raw.iter().map(|raw| raw.len()).sum();
        args + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Namespaces {
    /// Brings an event to its app. The next event of the session waits until the work is done.
    pub(crate) fn dispatch(self: &Arc<Self>, socket: &Arc<Socket>, called: Called<'_>) -> Work {
        let Some(mounted) = self.by_name.get(socket.namespace()) else { return Work::None };
        let taken = mounted.by_event.get(&*called.name);
        let weight = match taken {
            Some(taken) => taken.weight,
            None => {
                if called.name == REFRESH {
                    REFRESH_WEIGHT
                } else {
                    1
                }
            }
        };
        let caller = Caller {
            socket: Arc::clone(socket),
            ack: called.ack,
            app: taken.map(|taken| taken.number).or(mounted.first_app),
        };
        if let Some(rate) = self.event_rate {
            match socket.admit(rate, self.event_burst, units(weight, called.bytes())) {
                Admitted::Yes => {}
                refused @ (Admitted::No | Admitted::NotForUser) => {
                    let of_user = refused == Admitted::NotForUser;
                    metrics::get().rate_limited(if of_user {
                        Limit::EventsOfUser
                    } else {
                        Limit::EventsPerSecond
                    });
                    let error = AppError::Limited("Rate limit exceeded".into(), 1);
                    return Work::reply(caller.answer(Err(error)));
                }
                Admitted::Flood => return Work::Close(CloseReason::RateLimited),
            }
        }
        if called.args.too_many {
            return Work::reply(caller.answer(Err(AppError::BadInput("Too many arguments".into()))));
        }
        if called.name == REFRESH {
            return self.refresh(socket, &called.args, caller);
        }
        let Some(Taken { app, .. }) = taken else {
            return Work::reply(caller.answer(Err(AppError::BadInput("Unknown event".into()))));
        };
        let event = Event { name: called.name, args: called.args, attachments: called.attachments };
        let handling = std::panic::catch_unwind(AssertUnwindSafe(|| app.on_event(socket, event)));
        match handling {
            Ok(Handling::Done(handled)) => Work::reply(caller.answer(handled)),
            Ok(Handling::Later(future)) => Work::Later(Box::pin(caller.follow(future))),
            Ok(Handling::Apart(future)) => {
                let socket = Arc::clone(socket);
                drop(self.context.tasks.spawn(async move {
                    if let Some(answer) = caller.follow(future).await {
                        socket.local().queue().send(answer.into_wire(), 1);
                    }
                }));
                Work::None
            }
            Err(_) => Work::reply(caller.panicked()),
        }
    }
}

/// Whom to answer, and for whom it counts.
pub(super) struct Caller {
    socket: Arc<Socket>,
    ack: Option<u64>,
    /// The app's number.
    app: Option<usize>,
}

impl Caller {
    fn count(&self, outcome: Outcome) {
        if let Some(app) = self.app {
            metrics::get().event(app, outcome);
        }
    }

    /// Waits for the app, and answers.
    async fn follow(self, future: BoxFuture<'static, Handled>) -> Option<Encoded> {
        match AssertUnwindSafe(future).catch_unwind().await {
            Ok(handled) => self.answer(handled),
            Err(_) => self.panicked(),
        }
    }

    /// The ack, or the `error` event; nothing for a success that wants no ack.
    pub(super) fn answer(&self, handled: Handled) -> Option<Encoded> {
        let namespace = self.socket.namespace();
        match handled {
            Ok(Reply { json, attachments }) => {
                self.count(Outcome::Ok);
                self.ack.map(|id| encode_ack(namespace.as_str(), id, &[&json], &attachments))
            }
            Err(error) => {
                self.count(error.outcome());
                Some(self.refuse(&error))
            }
        }
    }

    fn refuse(&self, error: &AppError) -> Encoded {
        let namespace = self.socket.namespace();
        match self.ack {
            Some(id) => {
                let body = json(&error.refusal());
                encode_ack(namespace.as_str(), id, &[&body], &[])
            }
            None => self.socket.event("error", &error.event()),
        }
    }

    fn panicked(&self) -> Option<Encoded> {
        self.count(Outcome::Panicked);
        let cause = "an event's handler panicked";
        Some(self.refuse(&AppError::internal(&cause)))
    }
}

impl Work {
    fn reply(packet: Option<Encoded>) -> Self {
        packet.map_or(Self::None, Self::Reply)
    }
}
