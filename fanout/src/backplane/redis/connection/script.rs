//! Lua scripts, sent by their digest, or whole where the server does not know them yet.

use std::borrow::Cow;

use redis::Cmd;

use super::Commands;
use crate::error::FanoutError;

/// A script of `lua/`. The head of each file lists its keys, arguments and reply.
#[derive(Debug)]
pub(crate) struct Script {
    body: Cow<'static, str>,
    digest: String,
}

impl Script {
    pub(crate) fn new(body: impl Into<Cow<'static, str>>) -> Self {
        let body = body.into();
        Self { digest: redis::Script::new(&body).get_hash().to_owned(), body }
    }

    /// Runs the script. After `Unavailable` it may have run: only its reply is missing.
    pub(crate) async fn run<T: redis::FromRedisValue>(
        &self,
        commands: &Commands,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<T, FanoutError> {
        let by_digest = self.posted(keys, args);
        match commands.ask(&by_digest).await? {
            Ok(value) => commands.read(value),
            Err(error) if error.code() == Some("NOSCRIPT") => {
                let whole = self.call("EVAL", &self.body, keys, args);
                commands.query(&whole).await
            }
            Err(error) => Err(commands.refused(&error)),
        }
    }

    /// The command that runs the script on a server that knows it.
    pub(crate) fn posted(&self, keys: &[&str], args: &[&[u8]]) -> Cmd {
        self.call("EVALSHA", &self.digest, keys, args)
    }

    /// The command of [`Self::posted`] with the whole script, for a server that does not know it. `SCRIPT
    /// LOAD` would need a reply of every server of a cluster, even one that is away.
    pub(super) fn whole(&self, posted: &Cmd) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(&*self.body);
        for arg in posted.args_iter().skip(2) {
            if let redis::Arg::Simple(bytes) = arg {
                cmd.arg(bytes);
            }
        }
        cmd
    }

    fn call(&self, name: &str, script: &str, keys: &[&str], args: &[&[u8]]) -> Cmd {
        let mut cmd = redis::cmd(name);
        cmd.arg(script).arg(keys.len());
        for key in keys {
            cmd.arg(*key);
        }
        for arg in args {
            cmd.arg(*arg);
        }
        cmd
    }
}
