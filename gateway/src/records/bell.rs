//! Whether somebody may have written into the table of sharers, without asking the database.
//!
//! PostgreSQL notifies of each change ([`CHANNEL`]; a trigger does it, so that nodes of an older version ring, too). That takes a
//! connection of its own, and is not there behind a pooler that changes the session with each transaction. An SQLite file is
//! looked at: its write-ahead log grows with each change.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::postgres::PgListener;
use tokio::time::{sleep, timeout};

use super::server::Server;

/// What the trigger notifies.
const CHANNEL: &str = "muster_sharers";

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// After this time a look is due in any case.
const AT_LEAST: Duration = Duration::from_secs(60);

/// A file's size and time of change; nothing where there is no such file.
type Stamp = Option<(u64, SystemTime)>;

/// Where changes are noticed.
#[derive(Debug, Default)]
pub(super) struct Bell {
    listener: Option<PgListener>,
    stamps: [Stamp; 2],
}

impl Bell {
    /// To be called before a look, whose changes then need not ring: what changes from now on rings.
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

    /// Waits until it rings, `pace` where nothing can.
    pub(super) async fn rings(&mut self, file: Option<&Path>, pace: Duration) {
        let at_least = AT_LEAST.mul_f64(rand::random_range(0.75..1.25));
        if let Some(listener) = &mut self.listener {
            match timeout(at_least, listener.try_recv()).await {
                Ok(Ok(Some(_))) => {}
                // The connection is lost; something may have been missed.
                Ok(Ok(None) | Err(_)) => {
                    self.listener = None;
                    sleep(pace).await;
                }
                // A server that went away without a word looks like this, too.
                Err(_) => self.listener = None,
            }
        } else if let Some(file) = file {
            let before = self.stamps;
            let changes = async {
                while stamps(file) == before {
                    sleep(pace).await;
                }
            };
            // The time is enough.
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

/// Of a database and of its write-ahead log.
fn stamps(file: &Path) -> [Stamp; 2] {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    [file.to_owned(), PathBuf::from(log)].map(|file| {
        let found = std::fs::metadata(file).ok()?;
        Some((found.len(), found.modified().ok()?))
    })
}
