//! The SQL database: one pool, migrations in the binary, the same statements for SQLite and PostgreSQL.
//!
//! Each app owns its tables and its statements; this module contains only the pool, what every statement shares, and
//! the users. Columns are integers, doubles and texts only, the types that the driver for both databases supports:
//! flags are 0 or 1, times milliseconds since the epoch, ids text.

mod bell;
pub(crate) mod columns;
mod migrations;
mod nearby;
mod open_error;
mod pool;
mod pooler;
pub(crate) mod raisers;
mod server;
mod sharing;
mod squares;
pub(crate) mod users;

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
use sqlx::Executor as _;
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::Migrator;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

use crate::error::AppError;
use crate::metrics;
pub(crate) use columns::Columns;
pub(crate) use nearby::{Cursor, Looked, Page, nearby};
use open_error::Cause;
pub(crate) use open_error::OpenError;
pub(crate) use pool::{Connection, Pool};
use server::{Place, Server};
pub(crate) use sharing::Sharing;
pub(crate) use squares::cell;

/// Greater than every generated id in the collation of any database and language: ids are hexadecimal digits.
pub(crate) const LAST_ID: &str = "z";

/// An app's table of things that users raise at a position and that end, with the columns that [`mod@nearby`] and
/// [`raisers`] read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table(pub(crate) &'static str);

/// Converts a time in milliseconds since the epoch to a column's value.
pub(crate) fn time_column(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Converts a column's value to a time in milliseconds since the epoch.
pub(crate) fn column_time(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or_default()
}

/// The database and what the node knows about it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    pool: Pool,
    /// `None` for SQLite.
    server: Option<Arc<Server>>,
    /// The SQLite file, if other processes can use it.
    file: Option<Arc<Path>>,
    reach: Arc<Mutex<Reach>>,
    migrator: &'static Migrator,
    /// Why the database could not be used, as last logged.
    last_error: Arc<Mutex<String>>,
    /// Whether the tables are migrated; no statement runs before.
    migrated: Arc<AtomicBool>,
    /// Which nodes and clusters use the records.
    sharing: Arc<sharing::Known>,
}

/// What the node knows about the reachability of the database.
#[derive(Debug, Default)]
struct Reach {
    /// Set when it could not be reached: no caller tries again before.
    retry_at: Option<Instant>,
    /// When it last answered a caller.
    answered_at: Option<Instant>,
}

/// After the database could not be reached, one caller per this time finds out whether it is reachable again; the
/// others are refused at once instead of waiting in turn.
const RETRY: Duration = Duration::from_millis(RECORDS_RETRY_MS);

/// The file of an SQLite URL; `None` for other databases.
fn file(url: &str) -> Option<&Path> {
    let file = url.strip_prefix("sqlite:")?;
    let file = file.strip_prefix("//").unwrap_or(file).split('?').next()?;
    let is_memory = file.is_empty() || file == ":memory:" || url.contains("mode=memory");
    (!is_memory).then(|| Path::new(file))
}

/// The folder of an SQLite file; `None` for other databases.
pub(crate) fn folder(url: &str) -> Option<PathBuf> {
    let folder = file(url)?.parent()?;
    Some(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
}

impl Records {
    /// Opens the database and migrates its tables.
    ///
    /// # Errors
    /// [`OpenError`], for the operator.
    pub(crate) async fn open(url: &str) -> Result<Self, OpenError> {
        let records = Self::prepare(url)?;
        records.migrate(Duration::from_millis(RECORDS_MIGRATE_MS)).await?;
        Ok(records)
    }

    /// Like [`Self::open`], but a database server that is not running yet, or accepts no clients yet, is no error: the
    /// caller must then run [`Self::come_up`].
    ///
    /// # Errors
    /// [`OpenError`]: the URL, a file that cannot be opened, or tables of another version.
    pub(crate) async fn start(url: &str) -> Result<Self, OpenError> {
        let records = Self::prepare(url)?;
        match records.migrate(Duration::from_millis(RECORDS_START_MS)).await {
            Err(error) if records.server.is_some() && error.may_pass() => {
                tracing::error!(%error, "the database is not available; retrying");
                *records.last_error.lock() = error.to_string();
            }
            outcome => outcome?,
        }
        Ok(records)
    }

    /// Retries until the tables are migrated. Returns at once if they are.
    pub(crate) async fn come_up(&self) {
        while !self.migrated.load(Ordering::Acquire) {
            tokio::time::sleep(RETRY).await;
            let outcome = self.migrate(Duration::from_millis(RECORDS_MIGRATE_MS)).await;
            if outcome.is_err() {
                // Requests that need the database are refused meanwhile without being counted as its errors.
                metrics::get().records_errors.increment(1);
            }
            match outcome {
                Ok(()) => tracing::info!("the database is available"),
                // Another reason than the last one is worth a log line.
                Err(error)
                    if std::mem::replace(&mut *self.last_error.lock(), error.to_string())
                        != error.to_string() =>
                {
                    tracing::error!(%error, "the database is not available; retrying");
                }
                Err(error) => tracing::debug!(%error, "the database is still not available"),
            }
        }
    }

    async fn migrate(&self, at_most: Duration) -> Result<(), OpenError> {
        timeout(at_most, self.migrate_now()).await.unwrap_or(Err(OpenError::TooSlow))?;
        self.migrated.store(true, Ordering::Release);
        Ok(())
    }

    async fn migrate_now(&self) -> Result<(), OpenError> {
        if let Some(server) = &self.server {
            return server.migrate(&self.pool, self.migrator).await;
        }
        let sqlite = |error| OpenError::Connect { place: None, error };
        let mut connection = self.pool.raw().acquire().await.map_err(sqlite)?;
        let migrated = self.migrator.run_direct(None, &mut *connection, false).await;
        migrated.map_err(|error| OpenError::Migrate { place: None, error })
    }

    fn prepare(url: &str) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let cannot = |error| OpenError::Connect { place: None, error };
        let (pool, server, migrator) = if url.starts_with("sqlite:") {
            (sqlite(url).map_err(cannot)?, None, &*migrations::SQLITE)
        } else {
            let server = Server::new(url).map_err(cannot)?;
            (server.pool(), Some(Arc::new(server)), &*migrations::POSTGRES)
        };
        let (reach, last_error, migrated, sharing) = Default::default();
        let file = file(url).map(Arc::from);
        Ok(Self { pool, server, file, reach, migrator, last_error, migrated, sharing })
    }

    /// The pool, for an app's statements.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Runs one transaction or statement within the deadline for the database, and measures it. While the database
    /// cannot be reached, most callers are refused at once.
    ///
    /// # Errors
    /// [`AppError::Unavailable`]; the cause is logged.
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
            Ok(Err(error)) => Err(AppError::records(&Cause { error: &error, place: self.place() })),
            Err(elapsed) => Err(AppError::records(&elapsed)),
        }
    }

    /// Whether the tables are migrated.
    pub(crate) fn has_come_up(&self) -> bool {
        self.migrated.load(Ordering::Acquire)
    }

    /// Whether the database answered the last request, even with an error.
    pub(crate) fn is_reachable(&self) -> bool {
        self.reach.lock().retry_at.is_none()
    }

    /// Whether the database answers.
    pub(crate) async fn is_ready(&self) -> bool {
        let migrated = self.migrated.load(Ordering::Acquire);
        migrated && timeout(Duration::from_secs(1), self.pool.ping()).await.is_ok_and(|done| done.is_ok())
    }

    fn place(&self) -> Option<&Place> {
        self.server.as_ref().map(|server| server.place())
    }

    /// Closes the pool after the statements in progress.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// A pool for an SQLite file, which is created if it does not exist.
fn sqlite(url: &str) -> Result<Pool, sqlx::Error> {
    let url = if url.contains('?') { url.to_owned() } else { format!("{url}?mode=rwc") };
    let options = if url.contains(":memory:") || url.contains("mode=memory") {
        // Records in memory end with their connection, so there is exactly one, for ever.
        AnyPoolOptions::new().max_connections(1).min_connections(1).idle_timeout(None).max_lifetime(None)
    } else {
        AnyPoolOptions::new().max_connections(RECORDS_CONNECTIONS)
    };
    let connections = options
        // A file does not disappear as a server does, and the test would cost two thread switches per statement.
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_millis(RECORDS_CONNECT_MS))
        .after_connect(|connection, _| {
            // FULL: acknowledged changes survive a power cut, not only a crash.
            let pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; \
                           PRAGMA busy_timeout=5000; PRAGMA foreign_keys=ON;";
            Box::pin(async move { connection.execute(pragmas).await.map(drop) })
        })
        .connect_lazy(&url)?;
    Ok(Pool::new(connections, Arc::default()))
}

impl Reach {
    /// Updates the reachability from the outcome of work that began at `start`. An error from the database is an
    /// answer. A caller that got no connection while others got answers met a full pool, not a lost database.
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
    async fn a_full_pool_is_no_lost_database() {
        let records = Records::open("sqlite::memory:").await.unwrap();
        let mut only = records.pool().acquire().await.unwrap();
        let ((), refused) = tokio::join!(
            async {
                // The other caller waits for a connection by now; meanwhile another one gets an answer.
                tokio::task::yield_now().await;
                records.run(async { sqlx::query("SELECT 1").execute(&mut only).await }).await.unwrap();
            },
            ask(&records)
        );
        assert!(refused.is_err());
        drop(only);
        assert!(ask(&records).await.is_ok(), "the next is served");

        let only = records.pool().acquire().await.unwrap();
        assert!(ask(&records).await.is_err());
        drop(only);
        assert!(ask(&records).await.is_err(), "no caller got an answer: refused at once");
    }
}
