//! Identifies the server process behind a connection. The epochs of rooms are bound to it: a restarted server, or
//! another one after a failover, may lack the latest data.
//!
//! `INFO` has a `run_id`. For a user without the right to read it (the smallest rights, `gateway/docs/operate/redis.md`)
//! the process gets a mark: a random name under a key that all nodes read, and a script whose text is that name. Scripts
//! live in the memory of one process; Redis 7 neither stores nor replicates them. A process that knows the script is the
//! marked one, and any other is marked again.

use redis::{Cmd, ErrorKind, FromRedisValue, RedisError};
use shared::limits::REDIS_COMMAND_MS;
use tokio::time::{Duration, timeout};

use super::link::Connection;

const COMMAND: Duration = Duration::from_millis(REDIS_COMMAND_MS);

/// Attempts to mark a process when another node is faster each time.
const TRIES_MAX: usize = 8;

/// The name of the process behind a connection to one server.
///
/// # Errors
/// When the server takes no commands or no writes.
pub(super) async fn name(connection: &mut Connection, key: &str) -> Result<String, RedisError> {
    let hello: redis::Value = ask(connection, &redis::cmd("HELLO")).await?;
    if role(&hello).as_deref() != Some("master") {
        return Err(RedisError::from((ErrorKind::Client, "not a primary")));
    }
    // All sections: KeyDB, like Redis 6, does not take two.
    match ask::<String>(connection, &redis::cmd("INFO")).await {
        // Such a server accepts connections but refuses commands, so each attempt would fail.
        Ok(text) if text.contains("\nloading:1") => {
            Err(RedisError::from((ErrorKind::Client, "still loading")))
        }
        Ok(text) => {
            let run = text.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
            Ok(run.trim().to_owned())
        }
        Err(error) if error.code() == Some("NOPERM") => mark(connection, key).await,
        Err(error) => Err(error),
    }
}

/// The mark of the process; marks the process if it has none.
async fn mark(connection: &mut Connection, key: &str) -> Result<String, RedisError> {
    for _ in 0..TRIES_MAX {
        let known: Option<String> = ask(connection, redis::cmd("GET").arg(key)).await?;
        if let Some(known) = &known {
            let script = redis::Script::new(&body(known));
            let exists: Vec<bool> =
                ask(connection, redis::cmd("SCRIPT").arg("EXISTS").arg(script.get_hash())).await?;
            if exists.first() == Some(&true) {
                return Ok(known.clone());
            }
        }
        let new = format!("{:032x}", rand::random::<u128>());
        let _: String = ask(connection, redis::cmd("SCRIPT").arg("LOAD").arg(body(&new))).await?;
        let mut swap = redis::cmd("EVAL");
        swap.arg(include_str!("../lua/mark.lua")).arg(1).arg(key).arg(known.unwrap_or_default()).arg(&new);
        if ask::<bool>(connection, &swap).await? {
            return Ok(new);
        }
    }
    Err(RedisError::from((ErrorKind::Client, "other nodes were faster each time")))
}

/// The script that only the process with this name knows.
fn body(name: &str) -> String {
    format!("return '{name}'")
}

async fn ask<T: FromRedisValue>(connection: &mut Connection, cmd: &Cmd) -> Result<T, RedisError> {
    let late = |_| RedisError::from((ErrorKind::Io, "timed out"));
    timeout(COMMAND, cmd.query_async(connection)).await.map_err(late)?
}

/// The role in a server's answer to `HELLO`.
fn role(hello: &redis::Value) -> Option<String> {
    let redis::Value::Map(pairs) = hello else { return None };
    let text = |value: &redis::Value| String::from_redis_value_ref(value).ok();
    pairs.iter().find(|(key, _)| text(key).as_deref() == Some("role")).and_then(|(_, role)| text(role))
}
