//! A PostgreSQL server: how to connect to it, whether a pooler is in between, and the errors if it cannot be used.
//!
//! **A marker detects a pooler.** Each connection sends a custom setting (`muster.mark`) at its start. A server that
//! later returns the marker is the one that the node connected to. A pooler rejects the setting or omits it, and its
//! own connection to the server has another marker or none.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::limits::{RECORDS_CONNECT_MS, RECORDS_CONNECTIONS, RECORDS_TIMEOUT_MS};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;
use sqlx::{AnyConnection, AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _};
use tokio::time::timeout;

use super::OpenError;
use super::pool::Pool;
use super::pooler;

const CONNECT: Duration = Duration::from_millis(RECORDS_CONNECT_MS);

/// A migration may take long, but must not wait long for another process' lock.
const MIGRATION_LIMITS: &str = "SET statement_timeout = 0; SET lock_timeout = 5000;";

/// The server's address, and how to connect.
#[derive(Debug)]
pub(super) struct Server {
    /// The options of the URL.
    plain: AnyConnectOptions,
    /// The same with the marker.
    marked: AnyConnectOptions,
    mark: String,
    place: Place,
    /// Whether a pooler is in between. Never reset.
    is_pooled: Arc<AtomicBool>,
    /// Whether the pooler rejects the marker.
    refuses_mark: AtomicBool,
}

/// Host and port, for people.
#[derive(Debug, Clone)]
pub(crate) struct Place(String);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Server {
    pub(super) fn new(url: &str) -> Result<Self, sqlx::Error> {
        let plain: AnyConnectOptions = url.parse()?;
        let mark = format!("{:032x}", rand::random::<u128>());
        let mut marked = plain.clone();
        marked.database_url.query_pairs_mut().append_pair("options[muster.mark]", &mark);
        let place = place(&plain);
        let (is_pooled, refuses_mark) = (Arc::default(), AtomicBool::new(false));
        Ok(Self { plain, marked, mark, place, is_pooled, refuses_mark })
    }

    /// The URL for a dedicated connection that keeps its session; `None` behind a pooler.
    pub(super) fn session_url(&self) -> Option<&str> {
        (!self.is_pooled.load(Ordering::Acquire)).then(|| self.plain.database_url.as_str())
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Creates a pool; it connects to nothing yet.
    pub(super) fn pool(&self) -> Pool {
        let (set_up, is_pooled) = (self.set_up(), Arc::clone(&self.is_pooled));
        let connections = AnyPoolOptions::new()
            .max_connections(RECORDS_CONNECTIONS)
            .acquire_timeout(CONNECT)
            .after_connect(move |connection, _| {
                let (set_up, is_pooled) = (set_up.clone(), Arc::clone(&is_pooled));
                Box::pin(async move {
                    // Before any statement that would be named.
                    if connection.fetch_optional(AssertSqlSafe(set_up)).await?.is_none() {
                        is_pooled.store(true, Ordering::Release);
                    }
                    Ok(())
                })
            })
            .connect_lazy_with(self.marked.clone());
        Pool::new(connections, Arc::clone(&self.is_pooled))
    }

    /// Sets a connection up and returns a row if the marker shows that it leads directly to the server. Behind a pooler
    /// nothing is set, because another client would get the connection next.
    ///
    /// The server ends a statement at its caller's deadline. After the same time it releases the locks of a node that
    /// stalls within a transaction.
    fn set_up(&self) -> String {
        format!(
            "SELECT set_config('statement_timeout', '{RECORDS_TIMEOUT_MS}', false), \
             set_config('idle_in_transaction_session_timeout', '{RECORDS_TIMEOUT_MS}', false) \
             WHERE current_setting('muster.mark', true) = '{}'",
            self.mark
        )
    }

    /// Checks whether the server can be used, and migrates the tables.
    pub(super) async fn migrate(&self, pool: &Pool, migrator: &Migrator) -> Result<(), OpenError> {
        let mut connection = match self.connect().await {
            Err(error) if !self.refuses_mark.load(Ordering::Acquire) && refuses_options(&error) => {
                self.refuses_mark.store(true, Ordering::Release);
                self.is_pooled.store(true, Ordering::Release);
                pool.connect_by(self.plain.clone());
                self.connect().await
            }
            outcome => outcome,
        }
        .map_err(|error| self.cannot_open(error))?;
        self.look(&mut connection).await?;
        let migrated = if self.is_pooled.load(Ordering::Acquire) {
            pooler::migrate(&mut connection, migrator).await
        } else {
            // The lock of the migrations belongs to the connection and ends with it.
            connection.execute(MIGRATION_LIMITS).await.map_err(|error| self.cannot_open(error))?;
            migrator.run_direct(None, &mut connection, false).await
        };
        migrated.map_err(|error| OpenError::Migrate { place: Some(self.place.clone()), error })?;
        connection.close().await.map_err(|error| self.cannot_open(error))
    }

    /// Opens a dedicated connection. Reports a failure at once, unlike a pool, which retries.
    async fn connect(&self) -> Result<AnyConnection, sqlx::Error> {
        let options = if self.refuses_mark.load(Ordering::Acquire) { &self.plain } else { &self.marked };
        let late = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        timeout(CONNECT, options.connect()).await.map_err(late)?
    }

    async fn look(&self, connection: &mut AnyConnection) -> Result<(), OpenError> {
        let sql = "SELECT current_setting('server_encoding'), pg_is_in_recovery()::text, \
                   coalesce(current_setting('muster.mark', true), '')";
        let read = async {
            let row = connection.fetch_one(sql).await?;
            Ok((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?, row.try_get::<String, _>(2)?))
        };
        let (encoding, is_replica, mark) = read.await.map_err(|error| self.cannot_open(error))?;
        if encoding != "UTF8" {
            return Err(OpenError::Encoding { place: self.place.clone(), encoding });
        }
        if is_replica == "true" {
            return Err(OpenError::Replica { place: self.place.clone() });
        }
        if mark != self.mark && !self.is_pooled.swap(true, Ordering::AcqRel) {
            tracing::info!(server = %self.place, "a pooler is in front of the database: statements are not prepared");
        }
        Ok(())
    }

    fn cannot_open(&self, error: sqlx::Error) -> OpenError {
        OpenError::Connect { place: Some(self.place.clone()), error }
    }
}

/// Whether the error says that a pooler rejects startup settings.
fn refuses_options(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    // protocol_violation (PgBouncer), feature_not_supported (RDS Proxy).
    let is_refusal = error.code().is_some_and(|state| state == "08P01" || state == "0A000");
    is_refusal && error.message().contains("option")
}

/// Host and port of a URL, as the driver parses it, and nothing else.
fn place(options: &AnyConnectOptions) -> Place {
    let url = &options.database_url;
    let (mut host, mut port) = (url.host_str().unwrap_or_default().to_owned(), url.port());
    for (key, value) in url.query_pairs() {
        match &*key {
            "host" | "hostaddr" => host = value.into_owned(),
            "port" => port = value.parse().ok().or(port),
            _ => {}
        }
    }
    if host.is_empty() {
        return Place("PostgreSQL's socket, since DATABASE_URL names no host".to_owned());
    }
    Place(format!("{host}:{}", port.unwrap_or(5432)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_host_and_port_alone() {
        for (url, expected) in [
            ("postgres://u:hush@db.example:6432/x?sslmode=require&password=hush", "db.example:6432"),
            ("postgres://u:hush@db.example/x", "db.example:5432"),
            ("postgresql://[::1]:7000/x", "[::1]:7000"),
            ("postgres:///x?host=db.example&port=7000&user=hush", "db.example:7000"),
            ("postgres:///x", "PostgreSQL's socket, since DATABASE_URL names no host"),
        ] {
            assert_eq!(Server::new(url).unwrap().place().to_string(), expected, "{url}");
        }
    }
}
