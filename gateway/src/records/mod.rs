//! The SQL database: one pool, migrations in the binary, the same statements for SQLite and PostgreSQL.
//!
//! Each app owns its tables and its statements; here are only the pool, what every statement shares, and
//! the users. Columns are integers, doubles and texts alone: flags are 0 or 1, times milliseconds since
//! the epoch, ids text (what the driver for both databases carries).

mod nearby;
pub(crate) mod raisers;
mod sharing;
mod squares;
pub(crate) mod users;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use shared::limits::{
    RECORDS_CONNECT_MS, RECORDS_CONNECTIONS, RECORDS_MIGRATE_MS, RECORDS_RETRY_MS, RECORDS_START_MS,
    RECORDS_TIMEOUT_MS,
};
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AnyPool, AssertSqlSafe, Executor as _};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

use crate::error::AppError;
use crate::metrics;
pub(crate) use nearby::{Cursor, Looked, Page, nearby};
pub(crate) use sharing::Sharing;
pub(crate) use squares::cell;

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// Greater than every id that was made here, in the order of any database and language: they are hexadecimal digits.
pub(crate) const LAST_ID: &str = "z";

/// A table of what users raise, at a place, and what ends: its app's own, with the columns that [`mod@nearby`] and [`raisers`]
/// read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table(pub(crate) &'static str);

/// A time, in milliseconds since the epoch, as a column holds it.
pub(crate) fn time_column(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// The time that a column holds, in milliseconds since the epoch.
pub(crate) fn column_time(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or_default()
}

/// The records. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    pool: AnyPool,
    /// The one connection of migrations, on a database server: they have other limits than statements.
    migrations: Option<AnyPool>,
    reach: Arc<Mutex<Reach>>,
    migrator: &'static Migrator,
    /// The tables are up to date; nothing is asked of them before.
    migrated: Arc<AtomicBool>,
    /// Who uses the records.
    sharing: Arc<sharing::Known>,
}

/// What is known of whether the database can be reached.
#[derive(Debug, Default)]
struct Reach {
    /// When it could not be reached: until then nobody tries.
    retry_at: Option<Instant>,
    /// When it last answered anybody.
    answered_at: Option<Instant>,
}

/// After the database could not be reached, one caller in this time finds out whether it can be again; the
/// others are refused at once instead of waiting one after the other.
const RETRY: Duration = Duration::from_millis(RECORDS_RETRY_MS);

/// SQLSTATE of a lock that was waited for too long.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// What PostgreSQL keeps of a statement or transaction that nobody waits for any more: a statement ends with the deadline of
/// whoever asked, and the locks of a node that stands still within a transaction are given up after the same time.
fn statement_limits() -> String {
    format!(
        "SET statement_timeout = {RECORDS_TIMEOUT_MS}; \
         SET idle_in_transaction_session_timeout = {RECORDS_TIMEOUT_MS};"
    )
}

/// A migration may take long, but not wait long for somebody else's lock.
const MIGRATION_LIMITS: &str = "SET statement_timeout = 0; SET lock_timeout = 5000;";

/// The records cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("cannot open the database: {}", Cause(.0))]
    Connect(#[from] sqlx::Error),
    #[error("cannot migrate the database: {0}")]
    Migrate(#[from] MigrateError),
    #[error("cannot migrate the database: it does not answer, or somebody holds the lock of the migrations")]
    TooSlow,
}

/// A database's error for the log. A refused login names the user, who is as secret as the rest of the URL's user info.
#[derive(Debug)]
struct Cause<'a>(&'a sqlx::Error);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.as_database_error().and_then(sqlx::error::DatabaseError::code);
        match state.filter(|state| state.starts_with("28")) {
            Some(state) => write!(f, "the server refuses the user or the password (SQLSTATE {state})"),
            None => self.0.fmt(f),
        }
    }
}

impl OpenError {
    /// Whether it may be otherwise in a while without anybody changing this node's settings: the server is not there,
    /// still starting, full, or does not know the user or the database yet.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connect(sqlx::Error::Database(error)) => error.code().is_some_and(|state| {
                ["08", "28", "3D", "53", "57"].iter().any(|class| state.starts_with(class))
            }),
            Self::Connect(error) => !matches!(error, sqlx::Error::Configuration(_)),
            Self::Migrate(MigrateError::Execute(error)) => {
                // Another process migrates, or the connection was lost.
                let is_locked = error
                    .as_database_error()
                    .and_then(sqlx::error::DatabaseError::code)
                    .is_some_and(|state| state == LOCK_NOT_AVAILABLE);
                is_locked || matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_))
            }
            Self::Migrate(_) => false,
            Self::TooSlow => true,
        }
    }
}

/// The folder of an SQLite file; `None` for other records.
pub(crate) fn folder(url: &str) -> Option<PathBuf> {
    let file = url.strip_prefix("sqlite:")?;
    let file = file.strip_prefix("//").unwrap_or(file).split('?').next()?;
    if file.is_empty() || file == ":memory:" || url.contains("mode=memory") {
        return None;
    }
    let folder = Path::new(file).parent()?;
    Some(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
}

impl Records {
    /// Opens the database and brings its tables up to date.
    ///
    /// # Errors
    /// [`OpenError`], for the operator.
    pub(crate) async fn open(url: &str) -> Result<Self, OpenError> {
        let records = Self::prepare(url)?;
        records.migrate(Duration::from_millis(RECORDS_MIGRATE_MS)).await?;
        Ok(records)
    }

    /// As [`Self::open`], but a database server that is not there yet, or lets nobody in yet, is no error:
    /// [`Self::come_up`] must be run then.
    ///
    /// # Errors
    /// [`OpenError`]: the URL, a file that cannot be opened, tables that are of another version.
    pub(crate) async fn start(url: &str) -> Result<Self, OpenError> {
        let records = Self::prepare(url)?;
        match records.migrate(Duration::from_millis(RECORDS_START_MS)).await {
            Err(error) if !url.starts_with("sqlite:") && error.may_pass() => {
                tracing::error!(%error, "the database is not there; trying on");
            }
            outcome => outcome?,
        }
        Ok(records)
    }

    /// Tries until the tables are up to date. Ends at once when they are.
    pub(crate) async fn come_up(&self) {
        while !self.migrated.load(Ordering::Acquire) {
            tokio::time::sleep(RETRY).await;
            match self.migrate(Duration::from_millis(RECORDS_MIGRATE_MS)).await {
                Ok(()) => tracing::info!("the database is there"),
                Err(error) => tracing::debug!(%error, "the database is not there yet"),
            }
        }
    }

    async fn migrate(&self, at_most: Duration) -> Result<(), OpenError> {
        timeout(at_most, self.migrate_now()).await.unwrap_or(Err(OpenError::TooSlow))?;
        self.migrated.store(true, Ordering::Release);
        Ok(())
    }

    async fn migrate_now(&self) -> Result<(), OpenError> {
        // A connection first, so that what fails there is no failure of a migration.
        drop(self.pool.acquire().await?);
        let Some(migrations) = &self.migrations else { return Ok(self.migrator.run(&self.pool).await?) };
        self.migrator.run(migrations).await?;
        // The lock of the migrations ends with its connection, whatever became of an earlier try.
        migrations.close().await;
        Ok(())
    }

    fn prepare(url: &str) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        // The file is made when it is not there.
        let url = if sqlite && !url.contains('?') { format!("{url}?mode=rwc") } else { url.to_owned() };
        let options = if url.contains(":memory:") || url.contains("mode=memory") {
            // The records are gone with their connection: there is one, for ever.
            AnyPoolOptions::new().max_connections(1).min_connections(1).idle_timeout(None).max_lifetime(None)
        } else {
            AnyPoolOptions::new().max_connections(RECORDS_CONNECTIONS)
        };
        let pool = options
            .acquire_timeout(Duration::from_millis(RECORDS_CONNECT_MS))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if sqlite {
                        // FULL: what is acknowledged survives a power cut, not only a crash.
                        let pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; \
                                       PRAGMA busy_timeout=5000; PRAGMA foreign_keys=ON;";
                        connection.execute(pragmas).await?;
                    } else {
                        connection.execute(AssertSqlSafe(statement_limits())).await?;
                    }
                    Ok(())
                })
            })
            .connect_lazy(&url)?;
        let migrator = if sqlite { &SQLITE } else { &POSTGRES };
        let migrations = (!sqlite).then(|| {
            AnyPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(Duration::from_millis(RECORDS_CONNECT_MS))
                .after_connect(|connection, _| {
                    Box::pin(async move { connection.execute(MIGRATION_LIMITS).await.map(drop) })
                })
                .connect_lazy(&url)
        });
        let migrations = migrations.transpose()?;
        Ok(Self {
            pool,
            migrations,
            reach: Arc::default(),
            migrator,
            migrated: Arc::default(),
            sharing: Arc::default(),
        })
    }

    /// The pool, for statements of an app.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Runs one transaction or statement within the records' deadline, and measures it. While the database
    /// cannot be reached most callers are refused at once.
    ///
    /// # Errors
    /// [`AppError::Unavailable`], the cause logged.
    pub(crate) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, AppError> {
        if !self.migrated.load(Ordering::Acquire) {
            return Err(AppError::Unavailable);
        }
        let start = Instant::now();
        {
            let mut reach = self.reach.lock();
            if reach.retry_at.is_some_and(|at| start < at) {
                return Err(AppError::Unavailable);
            }
            if reach.retry_at.is_some() {
                reach.retry_at = Some(start + RETRY);
            }
        }
        let outcome = timeout(Duration::from_millis(RECORDS_TIMEOUT_MS), work).await;
        metrics::get().records_seconds.record(start.elapsed());
        self.reach.lock().learn(&outcome, start);
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(AppError::records(&Cause(&error))),
            Err(elapsed) => Err(AppError::records(&elapsed)),
        }
    }

    /// Whether the tables are there.
    pub(crate) fn has_come_up(&self) -> bool {
        self.migrated.load(Ordering::Acquire)
    }

    /// Whether the last that was asked of it was answered, be it by a refusal.
    pub(crate) fn is_reachable(&self) -> bool {
        self.reach.lock().retry_at.is_none()
    }

    /// Whether the database answers.
    pub(crate) async fn is_ready(&self) -> bool {
        let ping = sqlx::query("SELECT 1").execute(&self.pool);
        let migrated = self.migrated.load(Ordering::Acquire);
        migrated && timeout(Duration::from_secs(1), ping).await.is_ok_and(|done| done.is_ok())
    }

    /// Closes the pool; what is under way ends first.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

impl Reach {
    /// Takes note of how work that began at `start` has ended. An answer that is an error is an answer; and
    /// who got no connection while others were answered has met a crowd, not a lost database.
    fn learn<T>(&mut self, outcome: &Result<Result<T, sqlx::Error>, Elapsed>, start: Instant) {
        let now = Instant::now();
        let unreachable = match outcome {
            Ok(Err(sqlx::Error::PoolTimedOut)) => self.answered_at.is_none_or(|at| at < start),
            Ok(Err(sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed)) | Err(_) => true,
            Ok(Ok(_) | Err(_)) => {
                self.answered_at = Some(now);
                false
            }
        };
        self.retry_at = unreachable.then(|| now + RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_have_the_same_migrations() {
        let names = |migrator: &Migrator| {
            migrator.iter().map(|m| (m.version, m.description.clone())).collect::<Vec<_>>()
        };
        assert_eq!(names(&SQLITE), names(&POSTGRES));
    }

    async fn ask(records: &Records) -> Result<(), AppError> {
        records.run(async { sqlx::query("SELECT 1").execute(records.pool()).await }).await.map(drop)
    }

    #[tokio::test]
    async fn records_in_memory_keep_their_connection() {
        for url in ["sqlite::memory:", "sqlite:any?mode=memory"] {
            let records = Records::open(url).await.unwrap();
            let options = records.pool().options();
            assert_eq!((options.get_idle_timeout(), options.get_max_lifetime()), (None, None), "{url}");
            assert_eq!((options.get_min_connections(), options.get_max_connections()), (1, 1), "{url}");
        }
    }

    #[tokio::test]
    async fn a_crowd_is_no_lost_database() {
        let records = Records::open("sqlite::memory:").await.unwrap();
        let mut only = records.pool().acquire().await.unwrap();
        let ((), refused) = tokio::join!(
            async {
                // The other waits for a connection by now; somebody is answered meanwhile.
                tokio::task::yield_now().await;
                records.run(async { sqlx::query("SELECT 1").execute(&mut *only).await }).await.unwrap();
            },
            ask(&records)
        );
        assert!(refused.is_err());
        drop(only);
        assert!(ask(&records).await.is_ok(), "the next is served");

        let only = records.pool().acquire().await.unwrap();
        assert!(ask(&records).await.is_err());
        drop(only);
        assert!(ask(&records).await.is_err(), "nobody was answered: refused at once");
    }
}
