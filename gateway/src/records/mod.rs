//! The SQL database: one pool, migrations in the binary, the same statements for SQLite and PostgreSQL.
//!
//! Each app owns its tables and its statements; here are only the pool, what every statement shares, and
//! the users. Columns are integers, doubles and texts alone: flags are 0 or 1, times milliseconds since
//! the epoch, ids text (what the driver for both databases carries).

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
    pool: Pool,
    /// `None` for SQLite.
    server: Option<Arc<Server>>,
    /// The file of SQLite's records that others can use.
    file: Option<Arc<Path>>,
    reach: Arc<Mutex<Reach>>,
    migrator: &'static Migrator,
    /// Why the database could not be used, as last logged.
    told: Arc<Mutex<String>>,
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

/// An SQLite file; `None` for other records.
fn file(url: &str) -> Option<&Path> {
    let file = url.strip_prefix("sqlite:")?;
    let file = file.strip_prefix("//").unwrap_or(file).split('?').next()?;
    let is_memory = file.is_empty() || file == ":memory:" || url.contains("mode=memory");
    (!is_memory).then(|| Path::new(file))
}

/// The folder of an SQLite file; `None` for other records.
pub(crate) fn folder(url: &str) -> Option<PathBuf> {
    let folder = file(url)?.parent()?;
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
            Err(error) if records.server.is_some() && error.may_pass() => {
                tracing::error!(%error, "the database is not there; trying on");
                *records.told.lock() = error.to_string();
            }
            outcome => outcome?,
        }
        Ok(records)
    }

    /// Tries until the tables are up to date. Ends at once when they are.
    pub(crate) async fn come_up(&self) {
        while !self.migrated.load(Ordering::Acquire) {
            tokio::time::sleep(RETRY).await;
            let outcome = self.migrate(Duration::from_millis(RECORDS_MIGRATE_MS)).await;
            if outcome.is_err() {
                // Whatever has to be stored is refused meanwhile, and nobody else counts it.
                metrics::get().records_errors.increment(1);
            }
            match outcome {
                Ok(()) => tracing::info!("the database is there"),
                // Another reason than the last one is news.
                Err(error)
                    if std::mem::replace(&mut *self.told.lock(), error.to_string()) != error.to_string() =>
                {
                    tracing::error!(%error, "the database is not there; trying on");
                }
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
        let (reach, told, migrated, sharing) = Default::default();
        let file = file(url).map(Arc::from);
        Ok(Self { pool, server, file, reach, migrator, told, migrated, sharing })
    }

    /// The pool, for statements of an app.
    pub(crate) fn pool(&self) -> &Pool {
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
            Ok(Err(error)) => Err(AppError::records(&Cause { error: &error, place: self.place() })),
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
        let migrated = self.migrated.load(Ordering::Acquire);
        migrated && timeout(Duration::from_secs(1), self.pool.ping()).await.is_ok_and(|done| done.is_ok())
    }

    fn place(&self) -> Option<&Place> {
        self.server.as_ref().map(|server| server.place())
    }

    /// Closes the pool; what is under way ends first.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// A pool for a SQLite file, which is made when it is not there.
fn sqlite(url: &str) -> Result<Pool, sqlx::Error> {
    let url = if url.contains('?') { url.to_owned() } else { format!("{url}?mode=rwc") };
    let options = if url.contains(":memory:") || url.contains("mode=memory") {
        // The records are gone with their connection: there is one, for ever.
        AnyPoolOptions::new().max_connections(1).min_connections(1).idle_timeout(None).max_lifetime(None)
    } else {
        AnyPoolOptions::new().max_connections(RECORDS_CONNECTIONS)
    };
    let connections = options
        // A file does not go away as a server does; the test would be two changes of thread for every statement.
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_millis(RECORDS_CONNECT_MS))
        .after_connect(|connection, _| {
            // FULL: what is acknowledged survives a power cut, not only a crash.
            let pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; \
                           PRAGMA busy_timeout=5000; PRAGMA foreign_keys=ON;";
            Box::pin(async move { connection.execute(pragmas).await.map(drop) })
        })
        .connect_lazy(&url)?;
    Ok(Pool::new(connections, Arc::default()))
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
        assert!(ask(&records).await.is_err(), "nobody was answered: refused at once");
    }
}
