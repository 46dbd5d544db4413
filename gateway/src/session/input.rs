//! Bounds the unfinished input that the node holds for its clients: incomplete frames and messages, awaited
//! attachments, request bodies.
//!
//! There are two budgets: one for clients who have not joined a namespace yet, one for the others. When a budget is
//! used up, the node refuses large holders of the address that holds most until the rest fits ([`FairShare`] chooses
//! them). Other clients are unaffected.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::ids::SessionId;
use shared::limits::{INPUT_COUNTED_BYTES, STRANGER_INPUT_MAX_BYTES};
use tokio::sync::oneshot;

use super::{Engine, Session};
use crate::close::CloseReason;
use crate::fair::{FairShare, Member};
use crate::limiter::source;
use crate::metrics::{self, Evicted};

/// Which budget the input counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Of a client who has not joined a namespace yet.
    Stranger,
    /// Of a client who has joined one or presented a valid token.
    Proven,
}

/// Input is counted in steps of this size, so that input arriving in small pieces is not counted at every read.
const STEP: usize = 4 * 1024;

/// Holders of less than this part of the budget count as equal. The oldest of them is refused first, because it has had
/// the most time to finish.
const GRAINS: usize = 64;

/// What to end when the budget is used up.
#[derive(Debug)]
enum Holder {
    Session(SessionId),
    /// A request's body: dropping this ends its reading.
    Body(oneshot::Sender<()>),
}

/// The budgets of a node.
#[derive(Debug)]
pub(crate) struct Inputs {
    strangers: Budget,
    proven: Budget,
}

#[derive(Debug)]
struct Budget {
    /// Bytes; 0 means no limit.
    max: usize,
    held: Mutex<FairShare<Holder>>,
}

/// Unfinished input that counts against a budget until it is dropped.
#[derive(Debug)]
pub(crate) struct Holding {
    inputs: Arc<Inputs>,
    standing: Standing,
    member: Member,
    bytes: usize,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let removed = self.inputs.budget(self.standing).held.lock().remove(self.member);
        drop(removed);
    }
}

/// A request's body that is being read. It counts against its budget while it is at least `INPUT_COUNTED_BYTES` long.
#[derive(Debug)]
pub(crate) struct HeldBody {
    from: (Standing, IpAddr, u64),
    /// Dropping this refuses the body. The budget has it once the body counts.
    refuse: Option<oneshot::Sender<()>>,
    holding: Option<Holding>,
}

impl HeldBody {
    /// A body of a connection, the `group` among those of an address. The receiver resolves if the body is refused.
    pub(crate) fn new(standing: Standing, from: IpAddr, group: u64) -> (Self, oneshot::Receiver<()>) {
        let (refuse, refused) = oneshot::channel();
        let body = Self { from: (standing, from, group), refuse: Some(refuse), holding: None };
        (body, refused)
    }
}

impl Inputs {
    /// Budgets in bytes; 0 means no limit.
    pub(crate) fn new(strangers: usize, proven: usize) -> Self {
        let budget = |max, grain| Budget { max, held: Mutex::new(FairShare::new(grain)) };
        let strangers = budget(strangers, STRANGER_INPUT_MAX_BYTES);
        Self { strangers, proven: budget(proven, proven / GRAINS) }
    }

    fn budget(&self, standing: Standing) -> &Budget {
        match standing {
            Standing::Stranger => &self.strangers,
            Standing::Proven => &self.proven,
        }
    }

    /// The bytes held now, and the maximum.
    pub(crate) fn held(&self, standing: Standing) -> (usize, usize) {
        let budget = self.budget(standing);
        (budget.held.lock().weight(), budget.max)
    }

    fn take(
        self: &Arc<Self>,
        (standing, from, group): (Standing, IpAddr, u64),
        bytes: usize,
        holder: Holder,
    ) -> Holding {
        let member = self.budget(standing).held.lock().insert(source(from), group, bytes, holder);
        Holding { inputs: Arc::clone(self), standing, member, bytes }
    }

    /// Removes the holders to refuse so that the rest fits.
    fn over(&self, standing: Standing) -> Vec<Holder> {
        let budget = self.budget(standing);
        let mut refused = Vec::new();
        if budget.max != 0 {
            let mut held = budget.held.lock();
            while held.weight() > budget.max {
                let Some(holder) = held.take_first() else { break };
                refused.push(holder);
            }
        }
        refused
    }
}

impl Holding {
    fn set(&mut self, bytes: usize) {
        if self.bytes != bytes {
            self.bytes = bytes;
            self.inputs.budget(self.standing).held.lock().set_weight(self.member, bytes);
        }
    }
}

impl Engine {
    /// Refuses the holders that exceed the budget.
    fn make_room(&self, standing: Standing) {
        for holder in self.inputs.over(standing) {
            metrics::get().evicted(Evicted::Input);
            match (holder, standing) {
                (Holder::Body(refused), _) => drop(refused),
                (Holder::Session(id), Standing::Stranger) => self.close(id, CloseReason::Evicted),
                (Holder::Session(id), Standing::Proven) => self.close(id, CloseReason::Overloaded),
            }
        }
    }

    /// Updates the size of a body that has grown.
    pub(crate) fn grow(&self, body: &mut HeldBody, bytes: usize) {
        if bytes < INPUT_COUNTED_BYTES {
            return;
        }
        let bytes = bytes.next_multiple_of(STEP);
        match (body.refuse.take(), &mut body.holding) {
            (Some(refuse), _) => {
                body.holding = Some(self.inputs.take(body.from, bytes, Holder::Body(refuse)))
            }
            (None, Some(holding)) if holding.bytes < bytes => holding.set(bytes),
            (None, _) => return,
        }
        self.make_room(body.from.0);
    }
}

impl Session {
    /// Counts `bytes` of the session's unfinished input against the budget, replacing what `holding` recorded. This may
    /// close the session. The caller must not hold a session's lock.
    pub(crate) fn hold(&self, holding: &mut Option<Box<Holding>>, bytes: usize) {
        if bytes < INPUT_COUNTED_BYTES {
            *holding = None;
            return;
        }
        let bytes = bytes.next_multiple_of(STEP);
        let standing = self.standing();
        match holding {
            Some(holding) if holding.standing == standing => {
                if holding.bytes == bytes {
                    return;
                }
                holding.set(bytes);
            }
            _ => {
                let from = (standing, self.handshake.origin.address, self.number);
                *holding = Some(Box::new(self.engine.inputs.take(from, bytes, Holder::Session(self.id))));
            }
        }
        self.engine.make_room(standing);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A body on its own connection.
    fn body(inputs: &Arc<Inputs>, last: u8, bytes: usize) -> (Holding, oneshot::Receiver<()>) {
        let (sender, refused) = oneshot::channel();
        let connection = inputs.proven.held.lock().len() as u64;
        let from = (Standing::Proven, Ipv4Addr::new(10, 0, 0, last).into(), connection);
        (inputs.take(from, bytes, Holder::Body(sender)), refused)
    }

    fn is_refused(refused: &mut oneshot::Receiver<()>) -> bool {
        refused.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_address_that_holds_most_is_refused_its_oldest() {
        let inputs = Arc::new(Inputs::new(0, 64_000));
        let (_small, mut small) = body(&inputs, 1, 900);
        let (_older, mut older) = body(&inputs, 2, 600);
        let (mut growing, mut grown) = body(&inputs, 2, 500);
        let rest: Vec<_> = (0..62).map(|_| body(&inputs, 2, 998)).collect();
        assert!(inputs.over(Standing::Proven).is_empty());
        growing.set(1_000);
        drop(inputs.over(Standing::Proven));
        assert!(is_refused(&mut older) && !is_refused(&mut small) && !is_refused(&mut grown));
        assert_eq!(inputs.held(Standing::Proven), (900 + 1_000 + 62 * 998, 64_000));
        drop(rest);
    }

    #[test]
    fn a_large_holder_is_refused_first() {
        let inputs = Arc::new(Inputs::new(0, 300));
        let (_older, mut older) = body(&inputs, 1, 100);
        let (_large, mut large) = body(&inputs, 1, 201);
        drop(inputs.over(Standing::Proven));
        assert!(is_refused(&mut large) && !is_refused(&mut older));
    }

    #[test]
    fn a_finished_holding_is_given_back_once() {
        let inputs = Arc::new(Inputs::new(0, 100));
        let (first, _) = body(&inputs, 1, 90);
        let (second, _) = body(&inputs, 2, 20);
        assert_eq!(inputs.over(Standing::Proven).len(), 1);
        drop(first);
        assert_eq!(inputs.held(Standing::Proven).0, 20);
        drop(second);
        assert_eq!(inputs.held(Standing::Proven).0, 0);
    }

    #[test]
    fn strangers_and_proven_clients_have_separate_budgets() {
        let inputs = Arc::new(Inputs::new(10, 0));
        let (_one, _) = body(&inputs, 1, 1_000_000);
        assert!(inputs.over(Standing::Stranger).is_empty() && inputs.over(Standing::Proven).is_empty());
        assert_eq!(inputs.held(Standing::Stranger), (0, 10));
    }
}
