//! Runs migrations through a pooler.
//!
//! sqlx's own migrations take a session lock and prepare statements. Behind a pooler each transaction has another
//! session, so here everything runs in one transaction, with a transaction lock and without prepared statements.

use std::time::{Duration, Instant};

use flate2::Crc;
use futures_util::future::BoxFuture;
use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migration, Migrator};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Executor as _, Row as _};

/// A migration may take long, but must not wait long for another process' lock.
const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 5000; \
                     SET LOCAL idle_in_transaction_session_timeout = 0";

/// sqlx's lock number: this times the checksum of the database's name. Nodes with and without a pooler exclude each
/// other.
const LOCK: i64 = 0x3d32_ad9e;

/// Runs the pending migrations.
pub(super) async fn migrate(connection: &mut AnyConnection, migrator: &Migrator) -> Result<(), MigrateError> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    migrator.run_direct(None, &mut Session(&mut transaction), false).await?;
    Ok(transaction.commit().await?)
}

/// A transaction without prepared statements.
struct Session<'t>(&'t mut AnyConnection);

impl Session<'_> {
    async fn run(&mut self, sql: String) -> Result<(), MigrateError> {
        Ok(self.0.execute(AssertSqlSafe(sql)).await.map(drop)?)
    }

    async fn rows(&mut self, sql: String) -> Result<Vec<sqlx::any::AnyRow>, MigrateError> {
        Ok(self.0.fetch_all(AssertSqlSafe(sql)).await?)
    }

    async fn apply(&mut self, table: &str, migration: &Migration) -> Result<(), MigrateError> {
        let applied = self.0.execute(migration.sql.clone()).await;
        applied.map_err(|error| MigrateError::ExecuteMigration(error, migration.version))?;
        self.note(table, migration).await
    }

    async fn note(&mut self, table: &str, migration: &Migration) -> Result<(), MigrateError> {
        let checksum: String = migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        let description = migration.description.replace('\'', "''");
        self.run(format!(
            "INSERT INTO {table} (version, description, success, checksum, execution_time) \
             VALUES ({}, '{description}', TRUE, decode('{checksum}', 'hex'), -1)",
            migration.version
        ))
        .await
    }
}

impl Migrate for Session<'_> {
    fn create_schema_if_not_exists<'e>(
        &'e mut self,
        schema: &'e str,
    ) -> BoxFuture<'e, Result<(), MigrateError>> {
        Box::pin(self.run(format!("CREATE SCHEMA IF NOT EXISTS {schema}")))
    }

    fn ensure_migrations_table<'e>(&'e mut self, table: &'e str) -> BoxFuture<'e, Result<(), MigrateError>> {
        Box::pin(self.run(format!(
            "CREATE TABLE IF NOT EXISTS {table} (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
             installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, \
             execution_time BIGINT NOT NULL)"
        )))
    }

    fn dirty_version<'e>(&'e mut self, table: &'e str) -> BoxFuture<'e, Result<Option<i64>, MigrateError>> {
        Box::pin(async move {
            let sql = format!("SELECT version::text FROM {table} WHERE NOT success ORDER BY version LIMIT 1");
            self.rows(sql).await?.first().map(|row| number(row, 0)).transpose()
        })
    }

    fn list_applied_migrations<'e>(
        &'e mut self,
        table: &'e str,
    ) -> BoxFuture<'e, Result<Vec<AppliedMigration>, MigrateError>> {
        Box::pin(async move {
            let sql = format!("SELECT version::text, encode(checksum, 'hex') FROM {table} ORDER BY version");
            let rows = self.rows(sql).await?;
            rows.iter()
                .map(|row| {
                    let checksum = bytes_of(row.try_get(1)?);
                    Ok(AppliedMigration { version: number(row, 0)?, checksum: checksum.into() })
                })
                .collect()
        })
    }

    fn lock(&mut self) -> BoxFuture<'_, Result<(), MigrateError>> {
        Box::pin(async move {
            let rows = self.rows("SELECT current_database()::text".to_owned()).await?;
            let name: String = rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
            let mut crc = Crc::new();
            crc.update(name.as_bytes());
            let lock = LOCK * i64::from(crc.sum());
            self.run(format!("DO $$ BEGIN PERFORM pg_advisory_xact_lock({lock}); END $$")).await
        })
    }

    fn unlock(&mut self) -> BoxFuture<'_, Result<(), MigrateError>> {
        // The lock ends with the transaction.
        Box::pin(async { Ok(()) })
    }

    fn apply<'e>(
        &'e mut self,
        table: &'e str,
        migration: &'e Migration,
    ) -> BoxFuture<'e, Result<Duration, MigrateError>> {
        Box::pin(async move {
            let start = Instant::now();
            Self::apply(self, table, migration).await?;
            Ok(start.elapsed())
        })
    }

    fn revert<'e>(
        &'e mut self,
        _table: &'e str,
        migration: &'e Migration,
    ) -> BoxFuture<'e, Result<Duration, MigrateError>> {
        // Muster's migrations are never reverted.
        Box::pin(async { Err(MigrateError::VersionNotPresent(migration.version)) })
    }
}

fn number(row: &sqlx::any::AnyRow, column: usize) -> Result<i64, MigrateError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| MigrateError::Execute(sqlx::Error::Protocol(format!("no number: {text}"))))
}

fn bytes_of(hex: String) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2).filter_map(|pair| str::from_utf8(pair).ok());
    digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}
