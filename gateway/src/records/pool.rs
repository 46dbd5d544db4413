//! The connections to the database, and statements on them.
//!
//! A statement with arguments is prepared on its connection under a name and found there again, which saves PostgreSQL
//! the parsing and planning. A pooler that assigns connections per transaction (PgBouncer in transaction mode) breaks
//! this: the next statement may go to another connection, where the name is unknown or belongs to another client.
//! Behind such a pooler statements are unnamed and run in a transaction, which also carries the limits that are set on
//! a direct connection.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use shared::limits::RECORDS_TIMEOUT_MS;
use sqlx::any::{AnyArguments, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, AssertSqlSafe, Describe, Either, Execute, Executor, SqlStr};

/// Connections for the apps' statements. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    connections: AnyPool,
    /// Whether a pooler is in between: see the module's documentation.
    is_pooled: Arc<AtomicBool>,
}

/// A connection for a few statements. [`Self::done`] commits them if they had to run in a transaction.
pub(crate) struct Connection {
    on: On,
    is_pooled: bool,
}

enum On {
    Connection(PoolConnection<Any>),
    Transaction(sqlx::Transaction<'static, Any>),
}

impl On {
    fn connection(&mut self) -> &mut AnyConnection {
        match self {
            Self::Connection(connection) => connection,
            Self::Transaction(transaction) => transaction,
        }
    }
}

/// A transaction. Rolled back unless it is committed.
#[derive(Debug)]
pub(crate) struct Transaction(Connection);

/// A statement that stays unnamed if `is_nameless`.
struct Statement<E> {
    query: E,
    is_nameless: bool,
}

impl Pool {
    /// `is_pooled` is read before each statement.
    pub(super) fn new(connections: AnyPool, is_pooled: Arc<AtomicBool>) -> Self {
        Self { connections, is_pooled }
    }

    fn is_pooled(&self) -> bool {
        self.is_pooled.load(Ordering::Acquire)
    }

    /// A connection for statements that need no transaction.
    ///
    /// # Errors
    /// The pool's or the database's error.
    pub(crate) async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let connection = self.connections.acquire().await?;
        // Connecting detects a pooler, so acquire the connection first.
        if self.is_pooled() {
            drop(connection);
            return self.begin().await.map(|transaction| transaction.0);
        }
        Ok(Connection { on: On::Connection(connection), is_pooled: false })
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The pool's or the database's error.
    pub(crate) async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        if !self.is_pooled() {
            let transaction = self.connections.begin().await?;
            if !self.is_pooled() {
                return Ok(Transaction(Connection { on: On::Transaction(transaction), is_pooled: false }));
            }
            transaction.rollback().await?;
        }
        // One request: the settings end with the transaction, whichever client gets the connection next.
        let begin = format!(
            "BEGIN; SET LOCAL statement_timeout = {RECORDS_TIMEOUT_MS}; \
             SET LOCAL idle_in_transaction_session_timeout = {RECORDS_TIMEOUT_MS}"
        );
        let transaction = self.connections.begin_with(AssertSqlSafe(begin)).await?;
        Ok(Transaction(Connection { on: On::Transaction(transaction), is_pooled: true }))
    }

    /// Whether the database answers.
    pub(super) async fn ping(&self) -> Result<(), sqlx::Error> {
        // Without arguments it is not prepared.
        self.connections.execute("SELECT 1").await.map(drop)
    }

    /// Closes the pool after the statements in progress.
    pub(super) async fn close(&self) {
        self.connections.close().await;
    }

    /// Sets the options of future connections.
    pub(super) fn connect_by(&self, options: sqlx::any::AnyConnectOptions) {
        self.connections.set_connect_options(options);
    }

    /// The driver's pool; its statements are named.
    pub(super) fn raw(&self) -> &AnyPool {
        &self.connections
    }

    #[cfg(test)]
    pub(super) fn options(&self) -> &sqlx::any::AnyPoolOptions {
        self.connections.options()
    }
}

impl Connection {
    /// Whether the database is PostgreSQL; otherwise it is SQLite.
    pub(crate) fn is_postgres(&mut self) -> bool {
        self.on.connection().backend_name() == "PostgreSQL"
    }

    /// Ends the use of the connection and keeps the changes of its statements.
    ///
    /// # Errors
    /// The database's error.
    pub(crate) async fn done(self) -> Result<(), sqlx::Error> {
        match self.on {
            On::Connection(_) => Ok(()),
            On::Transaction(transaction) => transaction.commit().await,
        }
    }
}

impl Transaction {
    /// Commits the transaction.
    ///
    /// # Errors
    /// The database's error.
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        self.0.done().await
    }
}

impl std::ops::Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl std::ops::DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("is_pooled", &self.is_pooled).finish_non_exhaustive()
    }
}

impl<'q, E: Execute<'q, Any>> Execute<'q, Any> for Statement<E> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&AnyStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<AnyArguments>, BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        !self.is_nameless && self.query.persistent()
    }
}

type Answer = Either<AnyQueryResult, AnyRow>;

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Answer, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let statement = Statement { query, is_nameless: self.is_pooled };
        self.on.connection().fetch_many(statement)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let statement = Statement { query, is_nameless: self.is_pooled };
        self.on.connection().fetch_optional(statement)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.on.connection().prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Any>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.on.connection().describe(sql)
    }
}

impl<'p> Executor<'p> for &'p Pool {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Answer, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let answers = async move {
            let mut connection = self.acquire().await?;
            let answers: Vec<Answer> = (&mut connection).fetch_many(query).try_collect().await?;
            connection.done().await?;
            Ok::<_, sqlx::Error>(stream::iter(answers).map(Ok::<_, sqlx::Error>))
        };
        answers.try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let answer = async move {
            let mut connection = self.acquire().await?;
            let row = (&mut connection).fetch_optional(query).await?;
            connection.done().await?;
            Ok(row)
        };
        answer.boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        (&self.connections).prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Any>, sqlx::Error>>
    where
        'p: 'e,
    {
        (&self.connections).describe(sql)
    }
}
