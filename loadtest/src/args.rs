//! Flags that scenarios share, and the forms of their values.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::url::Url;

/// The output of the results.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Report")]
pub(crate) struct OutputArgs {
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    /// Also write a self-contained page with plots.
    #[arg(long, value_name = "FILE", value_parser = parse_page)]
    pub(crate) html: Option<PathBuf>,
}

/// The server, and the names of its events. The defaults are those of the `relay` app.
#[derive(Args, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct TargetArgs {
    /// Server under test; the path defaults to /socket.io/. Repeat it for the nodes of a cluster: connections
    /// are dealt out to them in turn.
    #[arg(long, default_value = "ws://127.0.0.1:8080")]
    pub(crate) url: Vec<Url>,

    /// Namespace to connect.
    #[arg(long, default_value = "/relay")]
    pub(crate) namespace: String,

    /// Event that enters a room; empty if the server puts sockets into rooms by itself.
    #[arg(long, default_value = "join")]
    pub(crate) join_event: String,

    /// Arguments of the join event; {room} and {user} are filled in.
    #[arg(long, default_value = r#"{"room":"{room}"}"#)]
    pub(crate) join_payload: String,

    /// Event by which the server confirms a join, for servers that do not ack it.
    #[arg(long, value_name = "EVENT")]
    pub(crate) joined_on: Option<String>,

    /// Event that leaves a room (`churn`); the server must ack it. Empty: disconnect without leaving.
    #[arg(long, default_value = "leave")]
    pub(crate) leave_event: String,

    /// Arguments of the leave event; {room} and {user} are filled in.
    #[arg(long, default_value = r#"{"room":"{room}"}"#)]
    pub(crate) leave_payload: String,

    /// Event that publishes to a room.
    #[arg(long, default_value = "publish")]
    pub(crate) publish_event: String,

    /// Arguments of the publish event; {room} and {content} are filled in, the latter within a string.
    #[arg(
        long,
        default_value = r#"{"room":"{room}","event":"new_message","data":{"roomId":"{room}","content":"{content}"}}"#
    )]
    pub(crate) publish_payload: String,

    /// Rooms are called `PREFIX0`, `PREFIX1`, …
    #[arg(long, default_value = "r", value_name = "PREFIX")]
    pub(crate) room_prefix: String,

    /// Bytes of content in each published message (44 or more, for the stamp).
    #[arg(long, default_value_t = 128)]
    pub(crate) payload: usize,

    /// Mint a token for every connection with this HS256 secret.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub(crate) jwt_secret: Option<String>,

    /// Use this token for every connection.
    #[arg(long)]
    pub(crate) token: Option<String>,

    /// Process to measure; repeat it for a server of several processes.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Vec<u32>,

    /// New connections a second, such as 5000/s; 0 is as fast as the server takes them.
    #[arg(long, default_value = "0", value_parser = parse_rate)]
    pub(crate) ramp: u64,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The flags of `loadtest run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// `scenario = "fanout"`, and any of its flags without the dashes: `members = 500`, `json = true`,
    /// `url = ["ws://…", "ws://…"]`.
    pub(crate) file: PathBuf,

    /// Flags of the scenario; they override the file's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub(crate) flags: Vec<OsString>,
}

/// `250ms`, `10s`, `2m`, `1h` or 0. A bare number is refused: it could mean seconds or milliseconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 =
        digits.parse().map_err(|_| format!("{text:?}: expected a duration such as 250ms, 10s or 2m"))?;
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "" if number == 0 => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        unit => return Err(format!("unit {unit:?}: expected ms, s, m or h, such as 250ms, 10s or 2m")),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

/// A path; that it can be written is checked before the run.
fn parse_page(text: &str) -> Result<PathBuf, String> {
    match OpenOptions::new().create(true).append(true).open(text) {
        Ok(_) => Ok(PathBuf::from(text)),
        Err(error) => Err(error.to_string()),
    }
}

/// `5000/s` or `5000`.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    text.strip_suffix("/s")
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("{text:?}: expected a rate such as 5000/s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "s", "40", "1d", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615m"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_may_have_a_unit() {
        assert_eq!(parse_rate("5000/s"), Ok(5000));
        assert_eq!(parse_rate("0"), Ok(0));
        assert!(parse_rate("5000/m").is_err());
    }
}
