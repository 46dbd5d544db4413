//! Participants whose sockets could not be brought to where they belong: Redis was away, a node did not answer, the
//! records could not be asked. They are tried again until they are.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::limits::{AUTO_JOIN_RETRY_MS, SOS_OWED_MAX};
use shared::names::UserId;
use tokio::sync::Notify;

use super::Sos;

/// Who is owed what the record says: a participant of an incident, or all sockets in the room of one that has ended.
type Debt = (String, Option<UserId>);

/// Who is owed what the record says.
#[derive(Debug, Default)]
pub(super) struct Owed {
    debts: Mutex<HashSet<Debt>>,
    added: Notify,
}

impl Owed {
    /// Past `SOS_OWED_MAX` none is added: a node that is in such trouble is helped by clients who connect anew, which puts
    /// them where they belong.
    pub(super) fn add(&self, sos_id: &str, user: &UserId) {
        self.add_debt((sos_id.to_owned(), Some(user.clone())));
    }

    /// The room of an incident that has ended is to be empty.
    pub(super) fn add_room(&self, sos_id: &str) {
        self.add_debt((sos_id.to_owned(), None));
    }

    fn add_debt(&self, debt: Debt) {
        let mut debts = self.debts.lock();
        if debts.len() < SOS_OWED_MAX {
            debts.insert(debt);
            self.added.notify_one();
        }
    }

    fn take(&self) -> HashSet<Debt> {
        std::mem::take(&mut *self.debts.lock())
    }
}

/// Pays what is owed until the node stops.
pub(super) async fn settle(sos: Arc<Sos>) {
    loop {
        sos.owed.added.notified().await;
        tokio::time::sleep(Duration::from_millis(AUTO_JOIN_RETRY_MS)).await;
        for (sos_id, user) in sos.owed.take() {
            let Some(user) = user else {
                match sos.must_be_told(&sos_id).await {
                    Ok(()) => sos.empty(&sos_id).await,
                    Err(_) => sos.owed.add_room(&sos_id),
                }
                continue;
            };
            if let Err(error) = sos.try_bring(&sos_id, &user).await {
                tracing::debug!(error = error.say(), sos = sos_id, "a participant is still owed");
                sos.owed.add(&sos_id, &user);
            }
        }
    }
}

/// Requests of other nodes may have been missed: looks at every user with a socket here.
pub(super) async fn look_at_all(sos: &Sos) {
    let sockets = sos.context.fanout.sockets(&sos.namespace);
    let mut rooms = std::collections::HashMap::<UserId, HashSet<String>>::new();
    for socket in &sockets {
        let ids = socket.rooms().into_iter().filter_map(|room| super::id_of(&room));
        rooms.entry(socket.user().clone()).or_default().extend(ids);
    }
    for (user, inside) in rooms {
        let records = &sos.context.records;
        let active = records.run(super::store::active_of(records.pool(), user.as_str())).await;
        // Where the records cannot be asked, what the user is in is asked for later.
        let known: HashSet<String> = active.unwrap_or_default().into_iter().collect();
        for sos_id in inside.symmetric_difference(&known) {
            sos.owed.add(sos_id, &user);
        }
    }
}
