//! The ready-to-use token of a node without a key for tokens: shown to a person at a terminal, and written to no log.
//! Where there is no terminal it goes to a file.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use shared::auth::sign_hs256;
use shared::config::{Config, FirstTokenTo};

use crate::clock::now_s;

/// Seconds that the token is good for; it ends with the run, whose secret is random.
const LIFE_S: u64 = 24 * 3_600;

/// The token, and the file that it was written to, which is removed with this.
pub(super) struct FirstToken {
    token: Option<String>,
    to: FirstTokenTo,
    beside: Option<PathBuf>,
    written: Option<PathBuf>,
}

impl FirstToken {
    pub(super) fn new(secret: &str, config: &Config) -> Self {
        let mut claims = json!({
            "sub": "dev", "name": "Developer", "email": "dev@localhost", "role": "admin",
            "rooms": ["*"], "publish": ["*"], "exp": now_s() + LIFE_S,
        });
        if let Some(claim) = &config.auth.user_claim {
            claims[claim.as_str()] = "dev".into();
        }
        let token = sign_hs256(secret, &claims).ok();
        Self { token, to: config.first_token, beside: beside(&config.database_url.0), written: None }
    }

    /// Whether it is to be printed: on a terminal, or because that is asked for.
    pub(super) fn is_printed(&self) -> bool {
        self.to == FirstTokenTo::Stdout || io::stdout().is_terminal()
    }

    /// The lines of the banner about it, for a node whose public listener is at `address`.
    pub(super) fn printed(&mut self, address: &str) -> Vec<String> {
        let mut lines = vec!["  No JWT_SECRET is set: a random one holds for this run.".to_owned()];
        if let Some(token) = self.token.take() {
            lines.push("  A token for it:".to_owned());
            lines.push(format!("  {token}"));
            lines.push("  Signed in already:".to_owned());
            lines.push(format!("  http://{address}/#token={token}"));
        }
        lines
    }

    /// Where nobody sees standard output: writes it to a file that only the node's user can read, and logs where.
    pub(super) fn write_and_log(&mut self) {
        let how = "--first-token stdout prints one; with a JWT_SECRET, `gateway token` makes any";
        let written = match (self.token.take(), self.beside.take()) {
            (Some(token), Some(path)) => write(&path, &token).map(|()| Some(path)),
            _ => Ok(None),
        };
        match written {
            Ok(Some(path)) => {
                tracing::warn!(
                    file = %path.display(),
                    "no JWT_SECRET is set: a random one holds for this run, and the file has a token for it. {how}"
                );
                self.written = Some(path);
            }
            Ok(None) => {
                tracing::warn!("no JWT_SECRET is set: a random one holds for this run. {how}");
            }
            Err(error) => {
                tracing::warn!(%error, "no JWT_SECRET is set: a random one holds for this run, and no file for a token could be written. {how}");
            }
        }
    }
}

impl Drop for FirstToken {
    fn drop(&mut self) {
        if let Some(path) = &self.written {
            // The token is good for nothing any more.
            let _ = fs::remove_file(path);
        }
    }
}

/// The file beside the records: `FILE.token`. Where they are in no file, there is none.
fn beside(database_url: &str) -> Option<PathBuf> {
    let file = database_url.strip_prefix("sqlite:")?;
    let file = file.strip_prefix("//").unwrap_or(file).split('?').next()?;
    if file.is_empty() || file == ":memory:" || database_url.contains("mode=memory") {
        return None;
    }
    let path = PathBuf::from(format!("{file}.token"));
    Some(std::path::absolute(&path).unwrap_or(path))
}

/// Makes the file anew, so that nobody else has it open and no link leads elsewhere.
fn write(path: &Path, token: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{token}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_beside_the_records() {
        for url in ["sqlite:/var/x.db", "sqlite:///var/x.db", "sqlite:/var/x.db?mode=rwc"] {
            assert_eq!(beside(url), Some(PathBuf::from("/var/x.db.token")), "{url}");
        }
        for url in ["sqlite::memory:", "sqlite:x?mode=memory", "postgres://db/x", "sqlite:"] {
            assert_eq!(beside(url), None, "{url}");
        }
    }
}
