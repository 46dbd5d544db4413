//! Whether these records are this node's, or those of its cluster, alone.
//!
//! Two nodes on one database without a Redis between them both answer every client with success, and what one of them
//! sends never reaches the members on the other. They can only meet in the database. Each *sharer*, which is a cluster or a
//! node without a Redis, has a row there. A newcomer that finds the row of an elder asks by raising its `asked`; an elder
//! that lives answers by raising `answered` to it, and the newcomer is not ready and says why. One that does not answer is
//! gone, and its row is deleted.
//!
//! No clocks are compared, no lock of the database is held (a pooler between may change the session with every transaction), and
//! while nobody comes nothing is written, nor read: a change rings ([`super::bell`]). Only behind a pooler an elder has to look
//! again and again.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::Row as _;
use tokio::time::{Instant, timeout};

use super::Records;
use super::bell::Bell;

/// How often a sharer looks while there is a question, and behind a pooler.
const LOOK: Duration = Duration::from_millis(500);

/// How long an elder has for its answer; it looks several times meanwhile.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many times a newcomer must have looked before it takes an elder for gone: a database that was slow for itself was
/// slow for the elder, too.
const LOOKS_MIN: u32 = 4;

const NAME: &str = "SELECT name FROM records_identity";
const ALL: &str = "SELECT name, since, asked, answered FROM sharers";
const ENTER: &str = "INSERT INTO sharers (name, since, asked, answered) \
                     SELECT $1, COALESCE(MAX(since), 0) + 1, 0, 0 FROM sharers WHERE true \
                     ON CONFLICT (name) DO NOTHING";
const ANSWER: &str = "UPDATE sharers SET answered = $2 WHERE name = $1 AND answered < $2";
const ASK: &str = "UPDATE sharers SET asked = asked + 1 WHERE name = $1";
const REMOVE: &str = "DELETE FROM sharers WHERE name = $1 AND answered < $2";
const LEAVE: &str = "DELETE FROM sharers WHERE name = $1";

/// Whose the records are, as far as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nobody has looked yet, or an elder has still time for its answer.
    #[default]
    Unknown,
    /// This node's, or its cluster's, alone.
    Alone,
    /// Somebody else's, who was there before.
    Taken {
        /// What it is called.
        by: String,
    },
}

/// What a node knows of its records' sharers.
#[derive(Debug, Default)]
pub(super) struct Known {
    sharing: Mutex<Sharing>,
    /// The row that goes with this node.
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

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Enter,
    Answer(i64),
    Ask(String),
    Remove(String, i64),
}

/// A question to an elder.
#[derive(Debug)]
struct Question {
    number: i64,
    asked_at: Instant,
    looks: u32,
    /// It has answered this one or an earlier one.
    lives: bool,
}

/// One sharer's part.
#[derive(Debug)]
struct Watch {
    name: String,
    questions: HashMap<String, Question>,
}

impl Watch {
    fn new(name: String) -> Self {
        Self { name, questions: HashMap::new() }
    }

    /// What follows from the rows at `now`.
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

    fn judge(&mut self, elder: &Sharer, now: Instant, steps: &mut Vec<Step>) {
        let ask = |lives| Question { number: elder.asked + 1, asked_at: now, looks: 0, lives };
        let Some(question) = self.questions.get_mut(&elder.name) else {
            self.questions.insert(elder.name.clone(), ask(false));
            steps.push(Step::Ask(elder.name.clone()));
            return;
        };
        question.looks += 1;
        let is_late = now.duration_since(question.asked_at) >= PATIENCE && question.looks >= LOOKS_MIN;
        if elder.answered >= question.number {
            question.lives = true;
            if is_late {
                // It is asked again and again, so that its end is noticed.
                *question = ask(true);
                steps.push(Step::Ask(elder.name.clone()));
            }
        } else if is_late {
            let number = question.number;
            self.questions.remove(&elder.name);
            steps.push(Step::Remove(elder.name.clone(), number));
        }
    }
}

impl Records {
    /// What these records are called: a name that is the same for all who use them, and no others have.
    pub(crate) async fn name(&self) -> Result<String, sqlx::Error> {
        sqlx::query(NAME).fetch_one(&self.pool).await?.try_get(0)
    }

    /// Whether anybody else can use the records: not where they are in memory.
    pub(crate) fn can_be_shared(&self) -> bool {
        self.pool.raw().options().get_max_connections() > 1
    }

    /// Nothing is kept that others could miss.
    pub(crate) fn set_unshared(&self) {
        *self.sharing.sharing.lock() = Sharing::Alone;
    }

    /// Whose the records are.
    pub(crate) fn sharing(&self) -> Sharing {
        self.sharing.sharing.lock().clone()
    }

    /// Looks once, so that a node that is alone knows it from its start. `name` is what the sharer is called.
    pub(crate) async fn look_at_sharers(&self, name: &str) {
        let mut watch = Watch::new(name.to_owned());
        // The first look makes the row.
        for _ in 0..2 {
            let _ = self.look(&mut watch).await;
        }
    }

    /// Looks as the sharer `name`: whenever something has changed, and again and again while there is a question.
    pub(crate) async fn watch_sharers(&self, name: String) {
        let (mut watch, mut bell) = (Watch::new(name), Bell::default());
        let (server, file) = (self.server.as_deref(), self.file.as_deref());
        loop {
            bell.set(server, file).await;
            // Without an answer nothing is known that was not known before.
            match timeout(PATIENCE, self.look(&mut watch)).await {
                Ok(Ok(true)) => bell.rings(file, LOOK).await,
                Ok(Ok(false) | Err(_)) | Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Takes the row away, so that the next who comes need not wait for an answer.
    pub(crate) async fn leave_sharers(&self) {
        let own = self.sharing.own.lock().take();
        if let Some(name) = own {
            // Whoever comes next waits a little where this fails.
            let _ = sqlx::query(LEAVE).bind(name).execute(&self.pool).await;
        }
    }

    /// Returns whether the sharer is alone and had nothing to say.
    async fn look(&self, watch: &mut Watch) -> Result<bool, sqlx::Error> {
        let rows = sqlx::query(ALL).fetch_all(&self.pool).await?;
        let sharer = |row: &sqlx::any::AnyRow| {
            Ok::<_, sqlx::Error>(Sharer {
                name: row.try_get(0)?,
                since: row.try_get(1)?,
                asked: row.try_get(2)?,
                answered: row.try_get(3)?,
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
        }
        Ok(is_quiet)
    }

    fn learn(&self, now: Sharing) {
        let before = std::mem::replace(&mut *self.sharing.sharing.lock(), now.clone());
        match (&before, &now) {
            (old, Sharing::Taken { by }) if *old != now => {
                tracing::error!(by = %by, "another node uses this database without this one's Redis; this node is not ready");
            }
            (Sharing::Taken { .. }, Sharing::Alone) => {
                tracing::info!("this node has its database for itself again");
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

    fn taken(by: &str) -> Sharing {
        Sharing::Taken { by: by.to_owned() }
    }

    #[test]
    fn who_is_alone_knows_it_at_once_and_writes_nothing_more() {
        let (mut watch, now) = (Watch::new("a".into()), Instant::now());
        assert_eq!(watch.look(&[], now), (Sharing::Unknown, vec![Step::Enter]));
        for _ in 0..3 {
            assert_eq!(watch.look(&[row("a", 1, 0, 0)], now), (Sharing::Alone, Vec::new()));
        }
    }

    #[test]
    fn a_newcomer_asks_and_yields_to_an_elder_that_answers() {
        let (mut watch, start) = (Watch::new("b".into()), Instant::now());
        let own = row("b", 2, 0, 0);
        let look = watch.look(&[row("a", 1, 0, 0), own.clone()], start);
        assert_eq!(look, (Sharing::Unknown, vec![Step::Ask("a".into())]));
        let look = watch.look(&[row("a", 1, 1, 0), own.clone()], start + LOOK);
        assert_eq!(look, (Sharing::Unknown, Vec::new()));
        let look = watch.look(&[row("a", 1, 1, 1), own.clone()], start + LOOK * 2);
        assert_eq!(look, (taken("a"), Vec::new()));
        // It is asked again, and the records are its own until it does not answer any more.
        for at in 3..6 {
            watch.look(&[row("a", 1, 1, 1), own.clone()], start + LOOK * at);
        }
        let late = start + PATIENCE;
        let look = watch.look(&[row("a", 1, 1, 1), own.clone()], late);
        assert_eq!(look, (taken("a"), vec![Step::Ask("a".into())]));
        for _ in 1..LOOKS_MIN {
            let look = watch.look(&[row("a", 1, 2, 1), own.clone()], late + LOOK);
            assert_eq!(look, (taken("a"), Vec::new()));
        }
        let look = watch.look(&[row("a", 1, 2, 1), own.clone()], late + PATIENCE);
        assert_eq!(look, (Sharing::Alone, vec![Step::Remove("a".into(), 2)]));
        assert_eq!(watch.look(&[own], late + PATIENCE), (Sharing::Alone, Vec::new()));
    }

    #[test]
    fn an_elder_answers_and_stays() {
        let (mut watch, now) = (Watch::new("a".into()), Instant::now());
        let look = watch.look(&[row("a", 1, 3, 2), row("b", 2, 0, 0)], now);
        assert_eq!(look, (Sharing::Alone, vec![Step::Answer(3)]));
        // Where two came at one moment, the names decide.
        let look = watch.look(&[row("a", 1, 0, 0), row("b", 1, 0, 0)], now);
        assert_eq!(look, (Sharing::Alone, Vec::new()));
    }

    #[test]
    fn a_slow_database_is_no_reason_to_take_an_elder_for_gone() {
        let (mut watch, start) = (Watch::new("b".into()), Instant::now());
        let rows = [row("a", 1, 0, 0), row("b", 2, 0, 0)];
        watch.look(&rows, start);
        let look = watch.look(&[row("a", 1, 1, 0), row("b", 2, 0, 0)], start + PATIENCE * 5);
        assert_eq!(look, (Sharing::Unknown, Vec::new()), "one look in all that time");
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
            timeout(PATIENCE * 5, async {
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
