//! Calls between users on any nodes.
//!
//! Each call is a record. [`super::call`] defines its transitions, and a transition is a compare-and-swap of the
//! record, so the first decision wins on all nodes. The jobs that follow are stored with the transition. One job
//! per call monitors it ([`look_after`]), first until its ringing time is over, then while it goes on. The node of
//! the last transition runs the job, or another node if that one is gone, so a call stops ringing even if the node
//! that started it is dead. Nodes' clocks are assumed to agree within a second.

use std::sync::Arc;
use std::time::Duration;

use fanout::{LocalSocket, Target};
use serde_json::value::RawValue;
use shared::names::UserId;
use shared::sio::Encoded;
use uuid::Uuid;

use super::call::{Happening, Refusal, State};
use super::call_events::{
    Accepted, AnsweredElsewhere, Ended, Incoming, Missed, Rejected, Signalled, Stepped as Called,
    SteppedToEnd,
};
use super::call_store::{self as store, Begun, Call, Move};
use super::events::NewCall;
use super::limits::CALL_CHECK_MS;
use super::{Care, NAME, if_late, notifications_room, presence};
use crate::apps::{Handled, Reply};
use crate::clock::{ago_ms, iso, now_ms, passed_ms};
use crate::error::AppError;
use crate::jobs::{Audience, EventJob, Job, Ran, WithId, enqueue};
use crate::socket::{self, Socket};

const INCOMING: &str = "call:incoming";

const CALLER_BUSY: &str = "You are already in a call";
const RECIPIENT_BUSY: &str = "User is busy";

/// The kind of the job that monitors a call.
pub(super) const LOOK_AFTER: &str = "call";

/// The kind of the job that updates the parties' presence after a call's transition.
pub(super) const PRESENCE: &str = "presence";

/// The interval between checks for the parties' sockets.
const CHECK: Duration = Duration::from_millis(CALL_CHECK_MS);

/// How long after its due time a call of a node with an older version counts as abandoned.
const OLDER_AFTER_MS: u64 = 10_000;

/// How many times to retry a transition that races with others of the same call.
const STEPS_TRIED: usize = 5;

/// A transition of a call, and its cause.
struct Step<'a> {
    happening: Happening,
    by: Option<&'a Socket>,
    reason: Option<&'a str>,
}

impl<'a> Step<'a> {
    fn by(happening: Happening, socket: &'a Socket) -> Self {
        Self { happening, by: Some(socket), reason: None }
    }

    fn of(happening: Happening) -> Self {
        Self { happening, by: None, reason: None }
    }
}

/// The result of a transition.
struct Stepped {
    duration: u64,
    realtime: bool,
}

impl Call {
    fn is_of(&self, user: &UserId) -> bool {
        self.caller == *user || self.recipient == *user
    }

    /// The subject of jobs about the call.
    fn subject(&self) -> String {
        format!("care:call:{}", self.id)
    }

    /// The job that monitors the call, starting after `delay`.
    fn look_after(&self, delay: Duration) -> Job {
        let id = format!("care:look:{}", self.id);
        Job::of_app(NAME, LOOK_AFTER, &self.subject(), &self.id).known_as(id).after(delay)
    }

    /// The job that updates the parties' presence.
    fn follow_in_presence(&self) -> Job {
        Job::of_app(NAME, PRESENCE, &self.subject(), &self.id)
    }

    /// Distinguishes the call from the user's other calls, since no user is in two at once.
    fn began(&self) -> i64 {
        i64::try_from(self.created_at_ms).unwrap_or(i64::MAX)
    }

    /// The remaining ringing time in milliseconds, if any. `ring` is this node's setting; the node that started the
    /// call may have had a shorter one.
    fn rings_for(&self, ring: u64) -> Option<u64> {
        let meant = self.check_at_ms.checked_sub(self.created_at_ms).map_or(ring, |meant| meant.min(ring));
        meant.checked_sub(passed_ms(self.created_at_ms)).filter(|left| *left > 0)
    }

    fn incoming(&self) -> Incoming<'_> {
        Incoming {
            call_id: &self.id,
            caller_id: self.caller.as_str(),
            caller_name: &self.caller_name,
            call_type: &self.call_type,
            visit_id: self.visit.as_deref(),
            timestamp: iso(self.created_at_ms),
        }
    }
}

fn refused(refusal: Refusal) -> AppError {
    AppError::WrongState(match refusal {
        Refusal::Over => "Call is over".into(),
        Refusal::NotRinging => "Call is not ringing".into(),
        Refusal::NotActive | Refusal::Nothing => "Call is not active".into(),
    })
}

impl Care {
    /// Finds a call of a user. Other users' calls are reported as not found.
    async fn call_of(&self, id: &str, user: &UserId) -> Result<Call, AppError> {
        let records = &self.context.records;
        let call = records.run(store::find(records.pool(), id)).await?;
        call.filter(|call| call.is_of(user)).ok_or_else(|| AppError::NotFound("Call not found".into()))
    }

    /// Moves a call to its next state, updates the parties' presence, and notifies the parties.
    async fn step(self: &Arc<Self>, id: &str, step: &Step<'_>) -> Result<Stepped, AppError> {
        let records = &self.context.records;
        for _ in 0..STEPS_TRIED {
            let call = records.run(store::find(records.pool(), id)).await?;
            let call = call.ok_or_else(|| AppError::NotFound("Call not found".into()))?;
            let next = call.state.after(step.happening).map_err(refused)?;
            if next == call.state {
                return Ok(Stepped { duration: 0, realtime: true });
            }
            let now = now_ms();
            let duration = call.accepted_at_ms.map_or(0, |at| passed_ms(at) / 1_000);
            let accepts = next == State::Accepted;
            let change = Move {
                recipient_socket: step.by.filter(|_| accepts).map(Socket::id),
                accepted_at_ms: accepts.then_some(now),
                ended_at_ms: next.is_over().then_some(now),
                ended_by: step.by.filter(|_| next.is_over()).map(|socket| socket.user().as_str()),
                check_at_ms: now + CALL_CHECK_MS,
            };
            let mut jobs = Vec::new();
            if accepts || next.is_over() {
                // Before the events, so that clients that react to an event by reading presence find it changed.
                jobs.push(call.follow_in_presence());
            }
            jobs.extend(self.after_step(&call, next, step, duration));
            jobs.push(call.look_after(CHECK));
            let batch = self.context.jobs.batch(jobs);
            let moved = store::advance(records.pool(), (&call, next), &change, &batch);
            if records.run(moved).await? {
                tracing::debug!(call = id, state = next.as_str(), "a call has changed its state");
                let realtime = batch.run().await.is_done;
                return Ok(Stepped { duration, realtime });
            }
        }
        Err(AppError::Unavailable)
    }

    /// The events for the parties after a transition.
    fn after_step(&self, call: &Call, next: State, step: &Step<'_>, duration: u64) -> Vec<Job> {
        let subject = call.subject();
        let both = |event: &dyn Fn(&UserId) -> EventJob| {
            [&call.caller, &call.recipient].map(|user| event(user).into()).to_vec()
        };
        let by = step.by.map(|socket| socket.user().as_str());
        let call_id = &*call.id;
        match next {
            State::Accepted => {
                let (user_id, timestamp) = (call.recipient.as_str(), iso(now_ms()));
                let body = Accepted { call_id, user_id, timestamp };
                let elsewhere = AnsweredElsewhere { call_id };
                let elsewhere =
                    self.to_user(&subject, &call.recipient, "call:answered_elsewhere", &elsewhere);
                let elsewhere = match step.by {
                    Some(socket) => elsewhere.except(socket.id()),
                    None => elsewhere,
                };
                let accepted = self.to_user(&subject, &call.caller, "call:accepted", &body);
                vec![accepted.into(), elsewhere.into()]
            }
            State::Rejected => {
                let user_id = by.unwrap_or_default();
                let body = Rejected { call_id, user_id, reason: step.reason };
                both(&|user| self.to_user(&subject, user, "call:rejected", &body))
            }
            State::Missed => {
                let (caller_id, recipient_id) = (call.caller.as_str(), call.recipient.as_str());
                let body = Missed { call_id, caller_id, recipient_id };
                both(&|user| self.to_user(&subject, user, "call:missed", &body))
            }
            State::Ended | State::Failed => {
                let reason = if next == State::Ended { "ended" } else { "failed" };
                let body = Ended { call_id, duration, reason, ended_by: by };
                both(&|user| self.to_user(&subject, user, "call:ended", &body))
            }
            State::Initiating | State::Ringing | State::InProgress => Vec::new(),
        }
    }

    /// Updates the parties' presence for the call's state. The job that monitors the call retries failures, last a
    /// few seconds after the call's end. Returns whether all updates succeeded.
    async fn move_presence(self: &Arc<Self>, call: &Call, state: State) -> bool {
        let records = &self.context.records;
        let mut state = state;
        loop {
            let set = |user| presence::set_call(self, user, &call.id, state.is_active());
            let (caller, recipient) = tokio::join!(set(&call.caller), set(&call.recipient));
            let all = caller.is_ok() && recipient.is_ok();
            if state.is_over() {
                return all;
            }
            // The call may have ended meanwhile, and presence may have been cleared before it was set.
            match records.run(store::find(records.pool(), &call.id)).await {
                Ok(Some(now)) if now.state.is_over() => state = now.state,
                Ok(_) | Err(_) => return all,
            }
        }
    }

    /// Rings at a socket of this node, unless the call that began at `began` has already rung there.
    fn ring_once(&self, socket: &LocalSocket, began: i64, packet: Encoded) {
        if self.rung.insert(socket.id(), began) != Some(began) {
            self.context.fanout.emit(socket, packet);
        }
    }

    /// Whether the user has a socket, or this particular one.
    async fn has_socket(
        &self,
        user: &UserId,
        socket: Option<shared::ids::SocketId>,
    ) -> Result<bool, AppError> {
        let room = notifications_room(user);
        let members = self.context.fanout.members(self.namespace.as_str(), room.as_str()).await?;
        Ok(members.iter().any(|member| socket.is_none_or(|socket| member.socket == socket)))
    }
}

/// Calls a user.
pub(super) async fn initiate(care: &Arc<Care>, socket: &Arc<Socket>, new: NewCall) -> Handled {
    let claims = socket.claims();
    if new.recipient == claims.user {
        return Err(AppError::BadInput("Recipient must be another user".into()));
    }
    care.rates.call(&claims.user, &new.recipient)?;
    let now = now_ms();
    let ring = u64::try_from(care.settings.call_ring.as_millis()).unwrap_or(u64::MAX);
    let call = Call {
        id: Uuid::now_v7().to_string(),
        caller: claims.user.clone(),
        caller_name: claims.display_name.to_string(),
        recipient: new.recipient,
        call_type: new.call_type.to_owned(),
        visit: new.visit,
        state: State::Initiating.after(Happening::Ring).map_err(refused)?,
        caller_socket: Some(socket.id()),
        recipient_socket: None,
        created_at_ms: now,
        accepted_at_ms: None,
        check_at_ms: now.saturating_add(ring),
        lost_since_ms: None,
        lost_user: None,
    };
    let (care, context) = (Arc::clone(care), care.context.clone());
    context
        .to_the_end(async move {
            let records = &care.context.records;
            let to = (&care.namespace, Audience::Room(notifications_room(&call.recipient)));
            let incoming = Job::event_known_as(&call.id, &call.subject(), to, INCOMING, &call.incoming());
            let look_after = call.look_after(Duration::from_millis(ring));
            let batch = care.context.jobs.batch([incoming.sequenced(call.began()).into(), look_after]);
            match records.run(store::begin(records.pool(), &call, &batch)).await? {
                Begun::Yes => {}
                busy => {
                    care.rates.did_not_ring(&call.caller, &call.recipient);
                    let whose = if busy == Begun::CallerBusy { CALLER_BUSY } else { RECIPIENT_BUSY };
                    return Err(AppError::WrongState(whose.into()));
                }
            }
            let realtime = batch.run().await.is_done;
            Ok(Reply::success(&Called { call_id: &call.id, realtime: if_late(realtime) }))
        })
        .await
}

/// Refuses users other than the call's recipient.
async fn as_recipient(care: &Care, socket: &Socket, id: &str) -> Result<(), AppError> {
    let call = care.call_of(id, socket.user()).await?;
    if call.recipient == *socket.user() {
        Ok(())
    } else {
        Err(AppError::Forbidden("Only the recipient may do this".into()))
    }
}

/// The recipient accepts the call with this socket.
pub(super) async fn accept(care: &Arc<Care>, socket: &Arc<Socket>, id: String) -> Handled {
    as_recipient(care, socket, &id).await?;
    let (care, socket, context) = (Arc::clone(care), Arc::clone(socket), care.context.clone());
    context
        .to_the_end(async move {
            let stepped = care.step(&id, &Step::by(Happening::Accept, &socket)).await?;
            Ok(Reply::success(&Called { call_id: &id, realtime: if_late(stepped.realtime) }))
        })
        .await
}

/// The recipient rejects the call.
pub(super) async fn reject(
    care: &Arc<Care>,
    socket: &Arc<Socket>,
    id: String,
    reason: Option<String>,
) -> Handled {
    as_recipient(care, socket, &id).await?;
    let (care, socket, context) = (Arc::clone(care), Arc::clone(socket), care.context.clone());
    context
        .to_the_end(async move {
            let step = Step { reason: reason.as_deref(), ..Step::by(Happening::Reject, &socket) };
            let stepped = care.step(&id, &step).await?;
            Ok(Reply::success(&Called { call_id: &id, realtime: if_late(stepped.realtime) }))
        })
        .await
}

/// A party ends the call, which may still be ringing.
pub(super) async fn end(care: &Arc<Care>, socket: &Arc<Socket>, id: String) -> Handled {
    care.call_of(&id, socket.user()).await?;
    let (care, socket, context) = (Arc::clone(care), Arc::clone(socket), care.context.clone());
    context
        .to_the_end(async move {
            let stepped = care.step(&id, &Step::by(Happening::End, &socket)).await?;
            let call = Called { call_id: &id, realtime: if_late(stepped.realtime) };
            Ok(Reply::success(&SteppedToEnd { call, duration: stepped.duration }))
        })
        .await
}

/// Forwards a WebRTC signal to the other party's socket of the call.
pub(super) async fn signal(care: &Arc<Care>, socket: &Arc<Socket>, id: &str, signal: &RawValue) -> Handled {
    care.rates.signal(socket.user())?;
    let call = care.call_of(id, socket.user()).await?;
    let next = call.state.after(Happening::Signal).map_err(refused)?;
    let is_caller = call.caller == *socket.user();
    let (own, other, other_user) = if is_caller {
        (call.caller_socket, call.recipient_socket, &call.recipient)
    } else {
        (call.recipient_socket, call.caller_socket, &call.caller)
    };
    if own != Some(socket.id()) {
        // The device that sends a signal becomes the party's device in the call.
        let records = &care.context.records;
        records.run(store::seat(records.pool(), id, is_caller, socket.id())).await?;
    }
    if next != call.state {
        care.step(id, &Step::by(Happening::Signal, socket)).await?;
    }
    let body = Signalled { call_id: id, signal, user_id: socket.user().as_str() };
    let target = match &other {
        Some(other) => Target::room(&care.namespace, other.as_str()),
        None => Target::user(&care.namespace, other_user),
    };
    socket::broadcast(&care.context, target, "call:signal", &body).await?;
    Ok(Reply::ok())
}

/// Rings a call at a user's sockets on this node. Each socket rings once: it may already have rung when it
/// connected.
pub(super) fn rings(care: &Care, user: &UserId, (began, incoming): (i64, &Encoded)) {
    for socket in care.context.fanout.sockets_of(&care.namespace, user) {
        care.ring_once(&socket, began, incoming.clone());
    }
}

/// A user's socket has connected. A ringing call rings there, too, and a party that was cut off continues the call
/// on it.
pub(super) async fn ring_again(care: &Arc<Care>, socket: &Arc<Socket>) {
    let records = &care.context.records;
    let user = socket.user();
    let Ok(Some(id)) = records.run(store::of_user(records.pool(), user.as_str())).await else { return };
    let Ok(call) = care.call_of(&id, user).await else { return };
    let is_caller = call.caller == *user;
    if call.state == State::Ringing && !is_caller {
        let incoming = call.incoming();
        let packet = socket::encode(&care.namespace, INCOMING, &WithId::new(&call.id, &incoming));
        let ring = || care.ring_once(socket.local(), call.began(), packet);
        if let Err(error) = records.run(store::while_it_rings(records.pool(), &id, ring)).await {
            tracing::debug!(error = error.say(), "a call could not ring at a new socket");
        }
        return;
    }
    let own = if is_caller { call.caller_socket } else { call.recipient_socket };
    if own.is_some() && matches!(care.has_socket(user, own).await, Ok(false)) {
        // The other party's signals go to the new socket.
        let _ = records.run(store::seat(records.pool(), &id, is_caller, socket.id())).await;
    }
}

/// A user's last socket is gone, so their call fails.
pub(super) async fn party_lost(care: &Arc<Care>, user: &UserId) -> Result<(), AppError> {
    let records = &care.context.records;
    let Some(id) = records.run(store::of_user(records.pool(), user.as_str())).await? else { return Ok(()) };
    let Some(call) = records.run(store::find(records.pool(), &id)).await? else { return Ok(()) };
    let lost = if call.caller == *user { Happening::CallerLost } else { Happening::RecipientLost };
    match care.step(&id, &Step::of(lost)).await {
        Ok(_) | Err(AppError::WrongState(_) | AppError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Updates the parties' presence to match the record of a call.
pub(super) async fn run_presence(care: &Arc<Care>, job: &Job) -> Ran {
    let Some(id) = job.payload::<String>() else { return Ran::done() };
    let records = &care.context.records;
    match records.run(store::find(records.pool(), &id)).await {
        Ok(Some(call)) if care.move_presence(&call, call.state).await => Ran::done(),
        Ok(None) => Ran::done(),
        Ok(Some(_)) | Err(_) => Ran::Failed,
    }
}

/// Monitors a call: stops its ringing in time, fails it when a party is gone, and clears it from presence when it
/// is over.
pub(super) async fn look_after(care: &Arc<Care>, job: &Job) -> Ran {
    let Some(id) = job.payload::<String>() else { return Ran::done() };
    match look_at(care, &id).await {
        Ok(Some(again)) => Ran::Later(again),
        Ok(None) => Ran::done(),
        // Another transition happened meanwhile.
        Err(AppError::WrongState(_)) => Ran::Later(CHECK),
        Err(error) => {
            tracing::debug!(error = error.say(), call = id, "a call could not be checked; retrying");
            Ran::Failed
        }
    }
}

/// Checks a call. Returns the delay until the next check, or `None` if no work is left.
async fn look_at(care: &Arc<Care>, id: &str) -> Result<Option<Duration>, AppError> {
    let records = &care.context.records;
    let Some(call) = records.run(store::find(records.pool(), id)).await? else { return Ok(None) };
    if call.state.is_over() {
        let is_moved = care.move_presence(&call, call.state).await;
        return if is_moved { Ok(None) } else { Err(AppError::Unavailable) };
    }
    if call.state == State::Ringing {
        // The ringing time may not be over yet: another node may have started the call, or the wall clock may have
        // jumped.
        let ring = u64::try_from(care.settings.call_ring.as_millis()).unwrap_or(u64::MAX);
        if let Some(left) = call.rings_for(ring) {
            return Ok(Some(Duration::from_millis(left)));
        }
        care.step(id, &Step::of(Happening::RingTimeout)).await?;
        return Ok(Some(CHECK));
    }
    look_for_parties(care, &call).await?;
    Ok(Some(CHECK))
}

async fn look_for_parties(care: &Arc<Care>, call: &Call) -> Result<(), AppError> {
    let records = &care.context.records;
    let mut lost = None;
    for (user, happening) in
        [(&call.caller, Happening::CallerLost), (&call.recipient, Happening::RecipientLost)]
    {
        if !care.has_socket(user, None).await? {
            lost = Some((user.as_str(), happening));
        }
    }
    let Some((user, happening)) = lost else {
        if call.lost_user.is_some() {
            records.run(store::set_lost(records.pool(), &call.id, None, None)).await?;
        }
        care.move_presence(call, call.state).await;
        return Ok(());
    };
    let grace = u64::try_from(care.settings.presence_grace.as_millis()).unwrap_or(u64::MAX);
    match call.lost_since_ms.filter(|_| call.lost_user.as_deref() == Some(user)) {
        Some(since) if passed_ms(since) >= grace => {
            care.step(&call.id, &Step::of(happening)).await?;
        }
        Some(_) => {}
        None => {
            let since = Some(now_ms());
            records.run(store::set_lost(records.pool(), &call.id, since, Some(user))).await?;
        }
    }
    Ok(())
}

/// Creates jobs for calls that a node of an older version has abandoned. Such nodes may run beside this one, or may
/// have run before an upgrade.
pub(super) async fn adopt_older(care: &Care) {
    let records = &care.context.records;
    let before = ago_ms(OLDER_AFTER_MS);
    let Ok(found) = records.run(store::unsettled(records.pool(), before)).await else { return };
    for id in found {
        let Ok(Some(call)) = records.run(store::find(records.pool(), &id)).await else { continue };
        let batch = care.context.jobs.batch([call.look_after(Duration::from_millis(1))]);
        let adopted = async {
            let mut transaction = records.pool().begin().await?;
            if store::set_settled(&mut transaction, &id).await? {
                enqueue(&mut transaction, &batch).await?;
            }
            transaction.commit().await
        };
        if records.run(adopted).await.is_ok() {
            batch.run_later();
        }
    }
}

/// Rings the calls that this node may have missed while its subscriptions were lost.
pub(super) async fn ring_all(care: &Arc<Care>) {
    let records = &care.context.records;
    let Ok(ringing) = records.run(store::ringing(records.pool())).await else { return };
    for call in ringing {
        for socket in care.context.fanout.sockets_of(&care.namespace, &call.recipient) {
            let incoming = call.incoming();
            let packet = socket::encode(&care.namespace, INCOMING, &WithId::new(&call.id, &incoming));
            let ring = || care.ring_once(&socket, call.began(), packet);
            if records.run(store::while_it_rings(records.pool(), &call.id, ring)).await.is_err() {
                return;
            }
        }
    }
}
