//! Dispatches an event to its app, and sends the app's answer to the client: an ack, or an `error` event.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use fanout::SendQueue;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::sio::{Args, Encoded, encode_ack};

use super::{HOLD_MAX, Namespaces, Taken, Work};
use crate::apps::{Event, Handled, Handling, Reply};
use crate::close::CloseReason;
use crate::error::AppError;
use crate::metrics::{self, Limit, Outcome};
use crate::socket::{Admitted, Socket};
use crate::text::json;
use crate::users::units;

/// The event that extends a socket's life; it belongs to no app.
pub(crate) const REFRESH: &str = "auth:refresh";

/// Its weight: it verifies a signature and checks every room.
const REFRESH_WEIGHT: u32 = 10;

/// An event as received.
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
    /// Dispatches an event to its app. The session's next event waits until the work is done.
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
            Ok(Handling::Snapshot(future)) => {
                let queue = Arc::clone(socket.local().queue());
                Work::Later(Box::pin(async move {
                    let answering = caller.follow(future);
                    answer_first(&queue, answering).await
                }))
            }
            Ok(Handling::Apart(future)) => {
                self.handle_apart(socket, caller, future);
                Work::None
            }
            Ok(Handling::Placing { work, placed }) => {
                self.handle_apart(socket, caller, work);
                Work::Later(Box::pin(async move {
                    // If the sender was dropped, placing has ended, too.
                    let _ = placed.await;
                    None
                }))
            }
            Err(_) => Work::reply(caller.panicked()),
        }
    }

    /// Handles an event in a separate task, which sends the answer.
    fn handle_apart(&self, socket: &Arc<Socket>, caller: Caller, future: BoxFuture<'static, Handled>) {
        let socket = Arc::clone(socket);
        drop(self.context.tasks.spawn(async move {
            if let Some(answer) = caller.follow(future).await {
                socket.local().queue().send(answer.into_wire(), 1);
            }
        }));
    }
}

/// Where the answer goes, and the app that the event counts for.
pub(super) struct Caller {
    socket: Arc<Socket>,
    ack: Option<u64>,
    /// The app's index.
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

    /// The ack, or the `error` event; `None` for a success without an ack.
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

/// Sends the answer before everything that is sent to the session while the answer is created. The answer may or may
/// not include changes that happen meanwhile: their events follow it, so the client ends with the current state. `None`
/// if the answer is queued.
async fn answer_first(
    queue: &Arc<SendQueue>,
    answering: impl Future<Output = Option<Encoded>>,
) -> Option<Encoded> {
    let hold = queue.hold();
    let mut answering = std::pin::pin!(answering);
    match tokio::time::timeout(HOLD_MAX, &mut answering).await {
        Ok(answer) => {
            if let Some(answer) = answer {
                queue.answer(answer.into_wire());
            }
            None
        }
        Err(_) => {
            drop(hold);
            answering.await
        }
    }
}

impl Work {
    fn reply(packet: Option<Encoded>) -> Self {
        packet.map_or(Self::None, Self::Reply)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use fanout::Polled;
    use shared::ids::SessionId;
    use tokio::sync::oneshot;

    use super::*;
    use crate::context::Context;

    async fn queue() -> Arc<SendQueue> {
        let context = Context::alone(&[]).await;
        context.fanout.send_queue(SessionId::new(context.fanout.node(), [0; 16]))
    }

    fn answer() -> Encoded {
        encode_ack("/", 7, &["1"], &[])
    }

    /// What the client has received so far, in order.
    fn received(queue: &SendQueue) -> Vec<Bytes> {
        match queue.poll_packets(Waker::noop()) {
            Polled::Packets(packets) => packets,
            Polled::Nothing | Polled::Ended => Vec::new(),
        }
    }

    const EVENT: Bytes = Bytes::from_static(b"an event");

    #[tokio::test]
    async fn events_sent_while_an_answer_is_created_follow_it() {
        let queue = queue().await;
        let answering = async {
            queue.send(EVENT, 1);
            tokio::task::yield_now().await;
            assert!(received(&queue).is_empty());
            Some(answer())
        };
        assert!(answer_first(&queue, answering).await.is_none());
        assert_eq!(received(&queue), [answer().into_wire(), EVENT]);
    }

    #[tokio::test]
    async fn without_an_ack_the_held_events_leave() {
        let queue = queue().await;
        let answering = async {
            queue.send(EVENT, 1);
            None
        };
        assert!(answer_first(&queue, answering).await.is_none());
        assert_eq!(received(&queue), [EVENT]);
    }

    #[tokio::test]
    async fn an_answer_that_takes_too_long_holds_nothing_back() {
        let queue = queue().await;
        // Pauses time from here on, because opening the records needed real time.
        tokio::time::pause();
        let (ready, waiting) = oneshot::channel();
        let answering = answer_first(&queue, async { waiting.await.ok() });
        let client = async {
            queue.send(EVENT, 1);
            assert!(received(&queue).is_empty());
            tokio::time::sleep(HOLD_MAX * 2).await;
            assert_eq!(received(&queue), [EVENT]);
            ready.send(answer()).unwrap();
        };
        let (answered, ()) = tokio::join!(answering, client);
        // The caller queues it.
        assert_eq!(answered.map(Encoded::into_wire), Some(answer().into_wire()));
    }
}
