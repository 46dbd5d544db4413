//! The ready-to-use token of a node without a key for tokens: printed for a person at a terminal, never logged. Without
//! a terminal it goes to a file.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use shared::auth::sign_hs256;
use shared::config::{Config, FirstTokenTo};

use crate::clock::now_s;

/// How many seconds the token is valid. It ends with the run anyway, because the secret is random.
const LIFE_S: u64 = 24 * 3_600;

/// The token, and the file that holds it, which is removed on drop.
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

    /// Whether to print the token: standard output is a terminal, or the operator requested it.
    pub(super) fn is_printed(&self) -> bool {
        self.to == FirstTokenTo::Stdout || io::stdout().is_terminal()
    }

    /// The token's lines of the banner, for a node whose public listener is at `address`.
    pub(super) fn printed(&mut self, address: &str) -> Vec<String> {
        let mut lines = vec!["  JWT_SECRET is not set: this run uses a random secret.".to_owned()];
        if let Some(token) = self.token.take() {
            lines.push("  A token for this run:".to_owned());
            lines.push(format!("  {token}"));
            lines.push("  Open the console with this token, in one browser tab or several:".to_owned());
            lines.push(format!("  http://{address}/#token={token}"));
        }
        lines
    }

    /// Without a terminal: writes the token to a file that only the node's user can read, and logs its
    /// path.
    pub(super) fn write_and_log(&mut self) {
        let how = "--first-token stdout prints a token; with a JWT_SECRET, `gateway token` creates tokens";
        let written = match (self.token.take(), self.beside.take()) {
            (Some(token), Some(path)) => write(&path, &token).map(|()| Some(path)),
            _ => Ok(None),
        };
        match written {
            Ok(Some(path)) => {
                tracing::warn!(
                    file = %path.display(),
                    "JWT_SECRET is not set: this run uses a random secret, and the file contains a token for it. {how}"
                );
                self.written = Some(path);
            }
            Ok(None) => {
                tracing::warn!("JWT_SECRET is not set: this run uses a random secret. {how}");
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "JWT_SECRET is not set: this run uses a random secret, and its token could not be written to a file. {how}"
                );
            }
        }
    }
}

impl Drop for FirstToken {
    fn drop(&mut self) {
        if let Some(path) = &self.written {
            // The token is invalid from now on.
            let _ = fs::remove_file(path);
        }
    }
}

/// The token file beside the records: `FILE.token`. `None` if the records are not in a file.
fn beside(database_url: &str) -> Option<PathBuf> {
    let file = database_url.strip_prefix("sqlite:")?;
    let file = file.strip_prefix("//").unwrap_or(file).split('?').next()?;
    if file.is_empty() || file == ":memory:" || database_url.contains("mode=memory") {
        return None;
    }
    let path = PathBuf::from(format!("{file}.token"));
    Some(std::path::absolute(&path).unwrap_or(path))
}

/// Creates the file exclusively, so that no other process has it open and no link redirects it.
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
