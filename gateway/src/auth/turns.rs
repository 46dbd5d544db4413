//! The queue before the threads that hash passwords.
//!
//! A few passwords are hashed at once and a few more wait; further ones are refused. Strangers can send as many logins
//! as they like, so the queue is fair: addresses take turns, and when it is full, the address with the most places
//! loses one to an address with fewer. Known pairs (the e-mail has logged in from this address before) get at least
//! every second turn.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::limits::PASSWORD_HASH_WAIT_MS;
use tokio::sync::oneshot;

use super::password::Hasher;
use crate::limiter::source;
use crate::metrics;

/// The queue is full, or the wait took too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// The hashers and the queue before them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max_waiting: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The last one used is used next, because its memory is still allocated.
    free: Vec<Hasher>,
    /// In order of arrival.
    waiting: Vec<Waiting>,
    /// The address that had the last turn.
    last: Option<IpAddr>,
    /// Whether known pairs go first this time.
    known_first: bool,
}

#[derive(Debug)]
struct Waiting {
    address: IpAddr,
    is_known: bool,
    ready: oneshot::Sender<Turn>,
}

/// A hasher, borrowed for one password.
#[derive(Debug)]
pub(crate) struct Turn {
    hasher: Option<Hasher>,
    turns: Arc<Shared>,
}

impl Turn {
    /// Whether `password` matches the hash `stored`; `None` if the hasher failed.
    pub(crate) async fn matches(&self, password: String, stored: Arc<str>) -> Option<bool> {
        self.hasher.as_ref()?.matches(password, stored).await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(hasher) = self.hasher.take() {
            Shared::pass_on(&self.turns, hasher);
        }
    }
}

/// A place in the queue, freed when the client disconnects.
struct Place<'a> {
    turns: &'a Shared,
    ready: oneshot::Receiver<Turn>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.ready.close();
        self.turns.state.lock().forget_gone();
    }
}

impl Turns {
    /// A queue of `max_waiting` places before some hashers.
    pub(crate) fn new(hashers: Vec<Hasher>, max_waiting: usize) -> Self {
        let state = State { free: hashers, waiting: Vec::new(), last: None, known_first: true };
        Self(Arc::new(Shared { max_waiting, state: Mutex::new(state) }))
    }

    /// Waits for a hasher. `is_known`: the e-mail has logged in from this address before. Dropping the future leaves
    /// the queue.
    ///
    /// # Errors
    /// [`Busy`], at once or after [`PASSWORD_HASH_WAIT_MS`].
    pub(crate) async fn turn(&self, address: IpAddr, is_known: bool) -> Result<Turn, Busy> {
        let ready = {
            let mut state = self.0.state.lock();
            if let Some(hasher) = state.free.pop() {
                state.last = Some(source(address));
                return Ok(Turn { hasher: Some(hasher), turns: Arc::clone(&self.0) });
            }
            let (sender, ready) = oneshot::channel();
            let waiting = Waiting { address: source(address), is_known, ready: sender };
            state.line_up(waiting, self.0.max_waiting)?;
            ready
        };
        let mut place = Place { turns: &self.0, ready };
        let at_most = Duration::from_millis(PASSWORD_HASH_WAIT_MS);
        match tokio::time::timeout(at_most, &mut place.ready).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }
}

impl Shared {
    fn pass_on(turns: &Arc<Self>, hasher: Hasher) {
        let mut state = turns.state.lock();
        let Some(next) = state.next() else {
            state.free.push(hasher);
            return;
        };
        drop(state);
        // If the client has just disconnected, the turn is dropped and goes to the next client.
        let _ = next.ready.send(Turn { hasher: Some(hasher), turns: Arc::clone(turns) });
    }
}

impl State {
    fn forget_gone(&mut self) {
        self.waiting.retain(|waiting| !waiting.ready.is_closed());
        self.show();
    }

    fn show(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::get().logins_waiting.set(self.waiting.len() as f64);
    }

    fn line_up(&mut self, newcomer: Waiting, max: usize) -> Result<(), Busy> {
        if self.waiting.len() >= max {
            let victim = self.victim(&newcomer).ok_or(Busy)?;
            // Dropping its sender refuses it.
            self.waiting.remove(victim);
        }
        self.waiting.push(newcomer);
        self.show();
        Ok(())
    }

    /// The one to be removed for a newcomer: the latest of the address with the most places, if the newcomer's address has
    /// fewer. Known pairs displace unknown ones, never the reverse.
    fn victim(&self, newcomer: &Waiting) -> Option<usize> {
        let has_strangers = self.waiting.iter().any(|waiting| !waiting.is_known);
        let is_known = newcomer.is_known && !has_strangers;
        let places = |address: IpAddr| {
            self.waiting.iter().filter(|other| other.is_known == is_known && other.address == address).count()
        };
        let line = self.waiting.iter().enumerate().filter(|(_, waiting)| waiting.is_known == is_known);
        let (victim, most) =
            line.map(|(at, waiting)| (at, places(waiting.address))).max_by_key(|(_, places)| *places)?;
        let gives_way = newcomer.is_known && !is_known;
        (gives_way || most > places(newcomer.address) + 1).then_some(victim)
    }

    /// Removes the next one from the queue.
    fn next(&mut self) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.ready.is_closed());
        let prefers = self.known_first;
        self.known_first = !prefers;
        let first = |is_known: bool, last: Option<IpAddr>| {
            let line = |waiting: &Waiting| waiting.is_known == is_known && Some(waiting.address) != last;
            self.waiting.iter().position(line)
        };
        let at = first(prefers, self.last)
            .or_else(|| first(prefers, None))
            .or_else(|| first(!prefers, self.last))
            .or_else(|| first(!prefers, None));
        let next = at.map(|at| self.waiting.remove(at));
        self.last = next.as_ref().map_or(self.last, |next| Some(next.address));
        self.show();
        next
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    fn turns(max_waiting: usize) -> Turns {
        Turns::new(vec![Hasher::start().unwrap()], max_waiting)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn waiting(turns: &Turns) -> usize {
        turns.0.state.lock().waiting.len()
    }

    #[tokio::test]
    async fn a_client_that_disconnects_frees_its_place() {
        let turns = turns(1);
        let busy = turns.turn(address(1), false).await.unwrap();
        let mut first = Box::pin(turns.turn(address(2), false));
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(turns.turn(address(3), false).await.unwrap_err(), Busy);
        drop(first);
        assert_eq!(waiting(&turns), 0);
        let mut second = pin!(turns.turn(address(3), false));
        assert!(second.as_mut().now_or_never().is_none());
        drop(busy);
        assert!(second.await.is_ok());
        assert!(turns.turn(address(4), false).await.is_ok());
    }

    #[tokio::test]
    async fn a_turn_that_is_not_taken_goes_to_the_next() {
        let turns = turns(4);
        let busy = turns.turn(address(1), false).await.unwrap();
        let mut gone = Box::pin(turns.turn(address(2), false));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut next = pin!(turns.turn(address(3), false));
        assert!(next.as_mut().now_or_never().is_none());
        // It gets the turn, but is dropped before it notices.
        drop(busy);
        drop(gone);
        assert!(next.now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn one_address_cannot_fill_the_queue() {
        let turns = turns(3);
        let busy = turns.turn(address(1), false).await.unwrap();
        let mut many: Vec<_> = (0..3).map(|_| Box::pin(turns.turn(address(1), false))).collect();
        for each in &mut many {
            assert!(each.as_mut().now_or_never().is_none());
        }
        let mut other = pin!(turns.turn(address(2), false));
        assert!(other.as_mut().now_or_never().is_none());
        assert_eq!(many.pop().unwrap().await.unwrap_err(), Busy);
        assert_eq!(turns.turn(address(1), false).await.unwrap_err(), Busy);
        // Now it is the other address' turn.
        drop(busy);
        assert!(other.now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn known_pairs_displace_unknown_ones() {
        let turns = turns(2);
        let busy = turns.turn(address(1), false).await.unwrap();
        let mut strangers: Vec<_> = (2..4).map(|n| Box::pin(turns.turn(address(n), false))).collect();
        for each in &mut strangers {
            assert!(each.as_mut().now_or_never().is_none());
        }
        let mut known = pin!(turns.turn(address(9), true));
        assert!(known.as_mut().now_or_never().is_none());
        assert_eq!(turns.turn(address(5), false).await.unwrap_err(), Busy);
        drop(busy);
        let turn = known.now_or_never().unwrap().unwrap();
        // Every other turn is a stranger's.
        drop(turn);
        assert!(strangers.remove(0).now_or_never().unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends() {
        let turns = turns(2);
        let _busy = turns.turn(address(1), false).await.unwrap();
        assert_eq!(turns.turn(address(2), false).await.unwrap_err(), Busy);
        assert_eq!(waiting(&turns), 0);
    }
}
