//! Detects whether other nodes or clusters use the same records.
//!
//! If two nodes use one database without a common Redis, both acknowledge every client's requests, but messages from
//! one node never reach the members on the other. They can only meet in the database. Each *sharer*, which is a cluster
//! or a node without Redis, has a row there. A newcomer that finds the row of an elder sends a query by raising its
//! `asked`; an elder that is alive raises `answered` to it, and the newcomer reports why it is not ready. An elder that
//! does not answer is dead, and the newcomer deletes its row.
//!
//! This compares no clocks and holds no database lock (a pooler may switch the session with every transaction). Without
//! a newcomer it neither writes nor reads, because changes ring ([`super::bell`]). Only behind a pooler an elder has to
//! poll.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::Row as _;
use tokio::time::{Instant, timeout};

use super::Records;
use super::bell::Bell;

/// How often a sharer looks while a query is open, and behind a pooler.
const LOOK: Duration = Duration::from_millis(500);

/// How long an elder has to answer a query, from the moment the query is stored. The elder looks several times meanwhile.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// How many queries in a row an elder must leave unanswered before a newcomer takes it for dead. Each is a write: a disk
/// that delays the elder's answers delays the newcomer's queries, too.
const QUERIES: u32 = 2;

/// How many times a newcomer must have looked for each answer: a database that was slow for the newcomer was slow for the
/// elder, too.
const LOOKS_MIN: u32 = 3;

/// How long one look may take.
const LOOK_MAX: Duration = Duration::from_secs(3);

const NAME: &str = "SELECT name FROM records_identity";
const ALL: &str = "SELECT name, since, asked, answered FROM sharers";
const ENTER: &str = "INSERT INTO sharers (name, since, asked, answered) \
                     SELECT $1, COALESCE(MAX(since), 0) + 1, 0, 0 FROM sharers WHERE true \
                     ON CONFLICT (name) DO NOTHING";
const ANSWER: &str = "UPDATE sharers SET answered = $2 WHERE name = $1 AND answered < $2";
const ASK: &str = "UPDATE sharers SET asked = asked + 1 WHERE name = $1";
const REMOVE: &str = "DELETE FROM sharers WHERE name = $1 AND answered < $2";
const LEAVE: &str = "DELETE FROM sharers WHERE name = $1";

/// Who uses the records, as far as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Not known yet: no look has finished, or an elder still has time to answer.
    #[default]
    Unknown,
    /// Only this node, or its cluster.
    Alone,
    /// An elder uses them.
    Taken {
        /// The elder's name.
        by: String,
    },
}

/// What a node knows of its records' sharers.
#[derive(Debug, Default)]
pub(super) struct Known {
    sharing: Mutex<Sharing>,
    /// The name of this node's row, which it deletes when it stops.
    own: Mutex<Option<String>>,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sharer {
    name: String,
    since: i64,
    asked: i64,
    answered: i64,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Enter,
    Answer(i64),
    Ask(String),
    Remove(String, i64),
}

/// A query to an elder.
#[derive(Debug)]
struct Question {
    number: i64,
    /// When the query was stored; `None` until it is.
    asked_at: Option<Instant>,
    looks: u32,
    /// How many queries in a row the elder has not answered in time.
    unanswered: u32,
    /// The elder has answered this or an earlier query.
    lives: bool,
}

/// One sharer's view.
#[derive(Debug)]
struct Watch {
    name: String,
    questions: HashMap<String, Question>,
}

impl Watch {
    fn new(name: String) -> Self {
        Self { name, questions: HashMap::new() }
    }

    /// Decides what follows from the rows at `now`.
    fn look(&mut self, rows: &[Sharer], now: Instant) -> (Sharing, Vec<Step>) {
        let Some(own) = rows.iter().find(|row| row.name == self.name) else {
            return (Sharing::Unknown, vec![Step::Enter]);
        };
        let mut steps = Vec::new();
        if own.asked > own.answered {
            steps.push(Step::Answer(own.asked));
        }
        let elders: Vec<_> =
            rows.iter().filter(|row| (row.since, &row.name) < (own.since, &own.name)).collect();
        self.questions.retain(|name, _| elders.iter().any(|elder| elder.name == *name));
        for elder in elders {
            self.judge(elder, now, &mut steps);
        }
        let sharing = match self.questions.iter().find(|(_, question)| question.lives) {
            Some((name, _)) => Sharing::Taken { by: name.clone() },
            None if self.questions.is_empty() => Sharing::Alone,
            None => Sharing::Unknown,
        };
        (sharing, steps)
    }

    /// A query to an elder is stored.
    fn note_asked(&mut self, elder: &str, now: Instant) {
        if let Some(question) = self.questions.get_mut(elder) {
            (question.asked_at, question.looks) = (Some(now), 0);
        }
    }

    fn judge(&mut self, elder: &Sharer, now: Instant, steps: &mut Vec<Step>) {
        let ask =
            |lives| Question { number: elder.asked + 1, asked_at: None, looks: 0, unanswered: 0, lives };
        let Some(question) = self.questions.get_mut(&elder.name) else {
            self.questions.insert(elder.name.clone(), ask(false));
            steps.push(Step::Ask(elder.name.clone()));
            return;
        };
        question.looks += 1;
        let has_answered = elder.answered >= question.number;
        question.lives |= has_answered;
        let Some(asked_at) = question.asked_at else {
            // It could not be stored.
            steps.push(Step::Ask(elder.name.clone()));
            return;
        };
        let is_late = now.duration_since(asked_at) >= PATIENCE && question.looks >= LOOKS_MIN;
        if has_answered {
            if is_late {
                // Asks again and again, to notice when the elder ends.
                *question = ask(true);
                steps.push(Step::Ask(elder.name.clone()));
            }
        } else if is_late && question.unanswered + 1 < QUERIES {
            question.unanswered += 1;
            question.asked_at = None;
            steps.push(Step::Ask(elder.name.clone()));
        } else if is_late {
            let number = question.number;
            self.questions.remove(&elder.name);
            steps.push(Step::Remove(elder.name.clone(), number));
        }
    }
}

impl Records {
    /// The id of these records: the same for all nodes that use them, and unique.
    pub(crate) async fn name(&self) -> Result<String, sqlx::Error> {
        sqlx::query(NAME).fetch_one(&self.pool).await?.try_get(0)
    }

    /// Whether another process can use the records: not if they are in memory.
    pub(crate) fn can_be_shared(&self) -> bool {
        self.pool.raw().options().get_max_connections() > 1
    }

    /// Nothing is stored that other nodes could miss.
    pub(crate) fn set_unshared(&self) {
        *self.sharing.sharing.lock() = Sharing::Alone;
    }

    /// Who uses the records.
    pub(crate) fn sharing(&self) -> Sharing {
        self.sharing.sharing.lock().clone()
    }

    /// Looks once, so that a single node knows from its start that it is alone. `name` is the sharer's name.
    pub(crate) async fn look_at_sharers(&self, name: &str) {
        let mut watch = Watch::new(name.to_owned());
        // The first look creates the row.
        for _ in 0..2 {
            let _ = self.look(&mut watch).await;
        }
    }

    /// Looks as the sharer `name`: after every change, and repeatedly while a query is open.
    pub(crate) async fn watch_sharers(&self, name: String) {
        let (mut watch, mut bell) = (Watch::new(name), Bell::default());
        let (server, file) = (self.server.as_deref(), self.file.as_deref());
        loop {
            bell.set(server, file).await;
            // Without an answer the node knows nothing new.
            match timeout(LOOK_MAX, self.look(&mut watch)).await {
                Ok(Ok(true)) => bell.rings(file, LOOK).await,
                Ok(Ok(false) | Err(_)) | Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Deletes the row, so that the next newcomer need not wait for an answer.
    pub(crate) async fn leave_sharers(&self) {
        let own = self.sharing.own.lock().take();
        if let Some(name) = own {
            // If this fails, the next newcomer waits a little.
            let _ = sqlx::query(LEAVE).bind(name).execute(&self.pool).await;
        }
    }

    /// Returns whether the sharer is alone and has nothing to write.
    async fn look(&self, watch: &mut Watch) -> Result<bool, sqlx::Error> {
        let rows = sqlx::query(ALL).fetch_all(&self.pool).await?;
        let sharer = |row: &sqlx::any::AnyRow| {
            Ok::<_, sqlx::Error>(Sharer {
                name: row.try_get("name")?,
                since: row.try_get("since")?,
                asked: row.try_get("asked")?,
                answered: row.try_get("answered")?,
            })
        };
        let rows = rows.iter().map(sharer).collect::<Result<Vec<_>, _>>()?;
        let (sharing, steps) = watch.look(&rows, Instant::now());
        *self.sharing.own.lock() = Some(watch.name.clone());
        let is_quiet = sharing == Sharing::Alone && steps.is_empty();
        self.learn(sharing);
        for step in steps {
            let query = match &step {
                Step::Enter => sqlx::query(ENTER).bind(watch.name.clone()),
                Step::Answer(number) => sqlx::query(ANSWER).bind(watch.name.clone()).bind(*number),
                Step::Ask(name) => sqlx::query(ASK).bind(name.clone()),
                Step::Remove(name, number) => sqlx::query(REMOVE).bind(name.clone()).bind(*number),
            };
            query.execute(&self.pool).await?;
            if let Step::Ask(name) = &step {
                watch.note_asked(name, Instant::now());
            }
        }
        Ok(is_quiet)
    }

    fn learn(&self, now: Sharing) {
        let before = std::mem::replace(&mut *self.sharing.sharing.lock(), now.clone());
        match (&before, &now) {
            (old, Sharing::Taken { by }) if *old != now => {
                tracing::error!(by = %by, "another node uses this database, but not this node's Redis; this node is not ready");
            }
            (Sharing::Taken { .. }, Sharing::Alone) => {
                tracing::info!("this node is the only user of its database again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, since: i64, asked: i64, answered: i64) -> Sharer {
        Sharer { name: name.to_owned(), since, asked, answered }
    }

    /// Looks, and stores the queries.
    fn look(watch: &mut Watch, rows: &[Sharer], now: Instant) -> (Sharing, Vec<Step>) {
        let (sharing, steps) = watch.look(rows, now);
        for step in &steps {
            if let Step::Ask(name) = step {
                watch.note_asked(name, now);
            }
        }
        (sharing, steps)
    }

    fn taken(by: &str) -> Sharing {
        Sharing::Taken { by: by.to_owned() }
    }

    #[test]
    fn a_single_sharer_knows_it_at_once_and_writes_nothing_more() {
        let (mut watch, now) = (Watch::new("a".into()), Instant::now());
        assert_eq!(look(&mut watch, &[], now), (Sharing::Unknown, vec![Step::Enter]));
        for _ in 0..3 {
            assert_eq!(look(&mut watch, &[row("a", 1, 0, 0)], now), (Sharing::Alone, Vec::new()));
        }
    }

    #[test]
    fn a_newcomer_asks_and_yields_to_an_elder_that_answers() {
        let (mut watch, start) = (Watch::new("b".into()), Instant::now());
        let own = row("b", 2, 0, 0);
        let found = look(&mut watch, &[row("a", 1, 0, 0), own.clone()], start);
        assert_eq!(found, (Sharing::Unknown, vec![Step::Ask("a".into())]));
        let found = look(&mut watch, &[row("a", 1, 1, 0), own.clone()], start + LOOK);
        assert_eq!(found, (Sharing::Unknown, Vec::new()));
        let found = look(&mut watch, &[row("a", 1, 1, 1), own.clone()], start + LOOK * 2);
        assert_eq!(found, (taken("a"), Vec::new()));
        // It keeps asking; the records are its own once the elder stops answering.
        for _ in 0..LOOKS_MIN {
            look(&mut watch, &[row("a", 1, 1, 1), own.clone()], start + LOOK * 2);
        }
        let late = start + PATIENCE;
        let found = look(&mut watch, &[row("a", 1, 1, 1), own.clone()], late);
        assert_eq!(found, (taken("a"), vec![Step::Ask("a".into())]));
        for _ in 1..LOOKS_MIN {
            let found = look(&mut watch, &[row("a", 1, 2, 1), own.clone()], late + LOOK);
            assert_eq!(found, (taken("a"), Vec::new()));
        }
        let mut late = late + PATIENCE;
        let found = look(&mut watch, &[row("a", 1, 2, 1), own.clone()], late);
        assert_eq!(found, (taken("a"), vec![Step::Ask("a".into())]), "it may have been slow once");
        // Storing the query took a while, which is the elder's gain.
        watch.note_asked("a", late + LOOK);
        for _ in 0..LOOKS_MIN {
            let found = look(&mut watch, &[row("a", 1, 3, 1), own.clone()], late + PATIENCE);
            assert_eq!(found, (taken("a"), Vec::new()));
        }
        late += LOOK + PATIENCE;
        let found = look(&mut watch, &[row("a", 1, 3, 1), own.clone()], late);
        assert_eq!(found, (Sharing::Alone, vec![Step::Remove("a".into(), 2)]));
        assert_eq!(look(&mut watch, &[own], late), (Sharing::Alone, Vec::new()));
    }

    #[test]
    fn an_elder_answers_and_stays() {
        let (mut watch, now) = (Watch::new("a".into()), Instant::now());
        let found = look(&mut watch, &[row("a", 1, 3, 2), row("b", 2, 0, 0)], now);
        assert_eq!(found, (Sharing::Alone, vec![Step::Answer(3)]));
        // If two arrive at the same moment, their names decide.
        let found = look(&mut watch, &[row("a", 1, 0, 0), row("b", 1, 0, 0)], now);
        assert_eq!(found, (Sharing::Alone, Vec::new()));
    }

    #[test]
    fn a_slow_database_is_no_reason_to_take_an_elder_for_dead() {
        let (mut watch, start) = (Watch::new("b".into()), Instant::now());
        let rows = [row("a", 1, 0, 0), row("b", 2, 0, 0)];
        look(&mut watch, &rows, start);
        let found = look(&mut watch, &[row("a", 1, 1, 0), row("b", 2, 0, 0)], start + PATIENCE * 5);
        assert_eq!(found, (Sharing::Unknown, Vec::new()), "one look in all that time");
    }

    #[test]
    fn a_query_that_cannot_be_stored_counts_for_nothing() {
        let (mut watch, mut now) = (Watch::new("b".into()), Instant::now());
        let rows = [row("a", 1, 0, 0), row("b", 2, 0, 0)];
        for _ in 0..LOOKS_MIN * QUERIES * 2 {
            assert_eq!(watch.look(&rows, now), (Sharing::Unknown, vec![Step::Ask("a".into())]));
            now += PATIENCE;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_on_one_file_find_each_other() {
        let file = std::env::temp_dir().join(format!("muster-sharing-{:016x}.db", rand::random::<u64>()));
        let url = format!("sqlite:{}", file.display());
        let (one, two) = (Records::open(&url).await.unwrap(), Records::open(&url).await.unwrap());
        assert_eq!(one.name().await.unwrap(), two.name().await.unwrap());
        one.look_at_sharers("one").await;
        assert_eq!(one.sharing(), Sharing::Alone);
        let becomes = async |sharing: Sharing| {
            timeout(PATIENCE * 10, async {
                while two.sharing() != sharing {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await
        };
        tokio::select! {
            () = one.watch_sharers("one".into()) => {}
            () = two.watch_sharers("two".into()) => {}
            came = becomes(taken("one")) => assert!(came.is_ok(), "{:?}", two.sharing()),
        }
        assert_eq!(one.sharing(), Sharing::Alone);
        one.leave_sharers().await;
        tokio::select! {
            () = two.watch_sharers("two".into()) => {}
            came = becomes(Sharing::Alone) => assert!(came.is_ok(), "{:?}", two.sharing()),
        }
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", file.display()));
        }
    }
}
