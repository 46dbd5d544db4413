//! Why the database cannot be used, in a sentence that tells the operator what to do.

use std::fmt;
use std::io;

use sqlx::migrate::MigrateError;

use super::server::Place;

/// SQLSTATE of a lock timeout.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The records cannot be opened. `place` is `None` for SQLite.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("cannot open the database{}: {}", at(.place), cause(.error, .place))]
    Connect { place: Option<Place>, error: sqlx::Error },
    #[error("cannot migrate the database{}: {}", at(.place), MigrateCause(.error))]
    Migrate { place: Option<Place>, error: MigrateError },
    #[error(
        "the database at {place} has the encoding {encoding}, which has not every letter: make one with UTF8 (CREATE DATABASE \
         muster ENCODING 'UTF8' TEMPLATE template0) and name it in DATABASE_URL"
    )]
    Encoding { place: Place, encoding: String },
    #[error(
        "the database at {place} is a replica, which takes no writes: name the primary in DATABASE_URL, or wait for the failover"
    )]
    Replica { place: Place },
    #[error(
        "cannot migrate the database: it does not answer, or another process holds the lock of the migrations"
    )]
    TooSlow,
}

/// ` at host:port`.
struct At<'a>(Option<&'a Place>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |place| write!(f, " at {place}"))
    }
}

fn at(place: &Option<Place>) -> At<'_> {
    At(place.as_ref())
}

fn cause<'a>(error: &'a sqlx::Error, place: &'a Option<Place>) -> Cause<'a> {
    Cause { error, place: place.as_ref() }
}

/// A database's error for the log. A refused login names the user, which is as secret as the rest of the URL's user
/// info.
#[derive(Debug)]
pub(super) struct Cause<'a> {
    pub(super) error: &'a sqlx::Error,
    pub(super) place: Option<&'a Place>,
}

struct MigrateCause<'a>(&'a MigrateError);

impl OpenError {
    /// Whether retrying can succeed without a change of this node's settings: the server is not running, still
    /// starting, full, or does not know the user or the database yet.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { error: sqlx::Error::Database(error), .. } => {
                let classes = ["08", "28", "3D", "53", "57"];
                let may_pass =
                    error.code().is_some_and(|state| classes.iter().any(|class| state.starts_with(class)));
                may_pass && !error.message().contains("startup parameter")
            }
            Self::Connect { error, .. } => !matches!(error, sqlx::Error::Configuration(_)),
            Self::Migrate { error: MigrateError::Execute(error), .. } => {
                // Another process is migrating, or the connection was lost.
                state(error).is_some_and(|state| state == LOCK_NOT_AVAILABLE)
                    || matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_))
            }
            Self::Migrate { .. } | Self::Encoding { .. } => false,
            Self::Replica { .. } | Self::TooSlow => true,
        }
    }
}

fn state(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(|state| state.into_owned())
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error {
            sqlx::Error::Io(error) if self.place.is_some() => io_cause(error, f),
            sqlx::Error::Tls(error) => write!(
                f,
                "TLS failed ({error}): does the server speak TLS, and does sslrootcert=FILE in DATABASE_URL name its authority? \
                 sslmode=disable is without TLS"
            ),
            sqlx::Error::Protocol(error) if self.place.is_some() => write!(
                f,
                "what answers does not speak PostgreSQL's protocol ({error}): are host and port in DATABASE_URL right?"
            ),
            sqlx::Error::PoolTimedOut => match self.place {
                Some(place) => {
                    write!(f, "no connection to {place} became free or could be established in time")
                }
                None => f.write_str("no connection to the file became free in time"),
            },
            error => match state(error) {
                Some(state) => database_cause(&state, error, f),
                None => error.fmt(f),
            },
        }
    }
}

impl fmt::Display for MigrateCause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => match state(error) {
                Some(state) => database_cause(&state, error, f),
                None => self.0.fmt(f),
            },
            MigrateError::VersionMissing(_) => write!(
                f,
                "{}: a newer version of the gateway was here; run that one, or restore the database of this one",
                self.0
            ),
            error => error.fmt(f),
        }
    }
}

fn io_cause(error: &io::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nothing listens there: is PostgreSQL running, and are host and port in DATABASE_URL right?"
        }
        io::ErrorKind::TimedOut => {
            "it does not answer in time: is the server well, and does a firewall stand between?"
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "what listens there closes the connection: is it PostgreSQL, and are host and port in DATABASE_URL right?"
        }
        _ if error.to_string().contains("lookup address") => {
            "the host's name is not known: is it right in DATABASE_URL, and does this machine's DNS know it?"
        }
        _ => return fmt::Display::fmt(error, f),
    };
    f.write_str(advice)
}

/// The database's error.
fn database_cause(state: &str, error: &sqlx::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let message = error.as_database_error().map_or("", sqlx::error::DatabaseError::message);
    match state {
        "28000" => write!(
            f,
            "the server refuses the user or the password (SQLSTATE {state}): is there such a user, and does pg_hba.conf let it in \
             from here?"
        ),
        _ if state.starts_with("28") => {
            write!(f, "the server refuses the user or the password (SQLSTATE {state})")
        }
        "3D000" => write!(f, "{message}: make it (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"),
        "42501" => write!(
            f,
            "{message}: the tables need it (GRANT CREATE ON SCHEMA public TO the user of DATABASE_URL, or make that user the \
             database's owner)"
        ),
        "53300" => write!(f, "{message}: raise its max_connections, or run fewer nodes"),
        "08P01" if message.contains("startup parameter") => write!(
            f,
            "{message}: put ignore_startup_parameters = extra_float_digits into pgbouncer.ini and reload PgBouncer"
        ),
        "08P01" if message.contains("no such user") || message.contains("no such database") => {
            f.write_str("the pooler does not know the user or the database of DATABASE_URL")
        }
        "14" if message.contains("unable to open") => {
            write!(
                f,
                "{message}: is the directory of DATABASE_URL's file there, and may this user write to it?"
            )
        }
        _ => fmt::Display::fmt(error, f),
    }
}
