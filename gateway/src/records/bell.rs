//! Detects changes of the table of sharers without polling the database.
//!
//! PostgreSQL notifies of each change ([`CHANNEL`]; a trigger does so, so that it covers nodes of an older version,
//! too). Notifications need a dedicated connection and do not work behind a pooler that switches the session with each
//! transaction. For SQLite, the file is checked: its write-ahead log grows with each change.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::postgres::PgListener;
use tokio::time::{sleep, timeout};

use super::server::Server;

/// The channel that the trigger notifies.
const CHANNEL: &str = "muster_sharers";

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest pause between two looks.
const AT_LEAST: Duration = Duration::from_secs(60);

/// A file's size and modification time; `None` if there is no such file.
type Stamp = Option<(u64, SystemTime)>;

/// The sources of change notifications.
#[derive(Debug, Default)]
pub(super) struct Bell {
    listener: Option<PgListener>,
    stamps: [Stamp; 2],
}

impl Bell {
    /// Call this before a look: it discards earlier changes, and later ones ring.
    pub(super) async fn set(&mut self, server: Option<&Server>, file: Option<&Path>) {
        if let Some(file) = file {
            self.stamps = stamps(file);
        }
        if self.listener.is_none()
            && let Some(url) = server.and_then(Server::session_url)
        {
            self.listener = timeout(CONNECT, listen(url)).await.ok().and_then(Result::ok);
        }
    }

    /// Waits until a change rings, or for `pace` if there is no source.
    pub(super) async fn rings(&mut self, file: Option<&Path>, pace: Duration) {
        let at_least = AT_LEAST.mul_f64(rand::random_range(0.75..1.25));
        if let Some(listener) = &mut self.listener {
            match timeout(at_least, listener.try_recv()).await {
                Ok(Ok(Some(_))) => {}
                // The connection was lost, so a notification may be lost, too.
                Ok(Ok(None) | Err(_)) => {
                    self.listener = None;
                    sleep(pace).await;
                }
                // A server that vanished without closing the connection looks like this, too.
                Err(_) => self.listener = None,
            }
        } else if let Some(file) = file {
            let before = self.stamps;
            let changes = async {
                while stamps(file) == before {
                    sleep(pace).await;
                }
            };
            // On timeout a look is due anyway.
            drop(timeout(at_least, changes).await);
            sleep(pace).await;
        } else {
            sleep(pace).await;
        }
    }
}

async fn listen(url: &str) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// The stamps of a database file and its write-ahead log.
fn stamps(file: &Path) -> [Stamp; 2] {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    [file.to_owned(), PathBuf::from(log)].map(|file| {
        let found = std::fs::metadata(file).ok()?;
        Some((found.len(), found.modified().ok()?))
    })
}
