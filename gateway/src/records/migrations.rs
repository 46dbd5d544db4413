//! The migrations of both databases, embedded in the binary. The build collects them (`build.rs`): the platform's from
//! `records/migrations`, an app's from the folder `migrations` beside its code. Every node runs all of them, whatever
//! is mounted on it, so that nodes with different mounts can use one database one after the other.

use std::sync::LazyLock;

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// The migrations for SQLite.
pub(super) static SQLITE: LazyLock<Migrator> = LazyLock::new(|| migrator(SQLITE_FILES));

/// The migrations for PostgreSQL.
pub(super) static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| migrator(POSTGRES_FILES));

fn migrator(files: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |(version, what, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*what).into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum prefixes that existing databases have recorded for the migrations they ran.
    const RELEASED: [(i64, &str, &str); 8] = [
        (1, "a16ca313", "a16ca313"),
        (2, "cd16959c", "cd16959c"),
        (3, "326d72f6", "326d72f6"),
        (4, "87002f96", "87002f96"),
        (5, "3f833d7f", "3f833d7f"),
        (6, "d3ee400d", "d3ee400d"),
        (7, "5821aef4", "5821aef4"),
        (10, "e52ad243", "0e4a802f"),
    ];

    #[test]
    fn released_migrations_are_as_existing_databases_know_them() {
        for (migrator, is_sqlite) in [(&*SQLITE, true), (&*POSTGRES, false)] {
            for (version, sqlite, postgres) in RELEASED {
                let known = migrator.iter().find(|migration| migration.version == version).unwrap();
                let checksum: String =
                    known.checksum.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(checksum, if is_sqlite { sqlite } else { postgres }, "{version}");
            }
        }
    }

    #[test]
    fn both_databases_have_the_same_migrations() {
        let names = |migrator: &Migrator| {
            migrator.iter().map(|known| (known.version, known.description.clone())).collect::<Vec<_>>()
        };
        assert_eq!(names(&SQLITE), names(&POSTGRES));
    }
}
