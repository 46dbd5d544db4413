//! `gateway ping`: one client's way in, timed. It is the image's health check and a part of the chart's test.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::{Value, json};
use shared::config::{Config, TokenKeys};
use shared::names::Namespace;
use tokio::time::{Instant, timeout_at};

use super::{fail, runtime, say, signed};
use crate::apps;
use crate::client::{Address, Client, ClientError, Said};

/// The user of the token that is made here. With relay alone in its namespace, nothing else knows of this user.
const USER: &str = "gateway-ping";

/// The code of a refusal for want of a token.
const TOKEN_WANTED: &str = "auth_required";

/// What to ask, and how.
struct Ping {
    address: Address,
    namespace: String,
    token: Option<String>,
    /// Relay is in the namespace, so there is an `echo`.
    echoes: bool,
    deadline: Instant,
}

/// What came of it, and how long each step took.
struct Times {
    opened: Duration,
    answered: Duration,
    answer: String,
    echoed: Option<Duration>,
}

/// Why a ping failed.
#[derive(Debug, thiserror::Error)]
enum PingError {
    #[error("no {0} in time")]
    Late(&'static str),
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("the server does not let the client into {namespace}: {message}")]
    Refused { namespace: String, message: String },
    #[error("the server put the client out of the namespace")]
    Disconnected,
    #[error("the answer to echo is {0}")]
    Echo(String),
}

/// Pings a server and prints the times; the exit code says whether it answered.
pub(super) fn ping(config: &Config, args: &ArgMatches) -> ExitCode {
    let url = args.get_one::<String>("url").cloned().unwrap_or_else(|| own_url(config.listen));
    let address = match Address::parse(&url) {
        Ok(address) => address,
        Err(expected) => return fail(&format!("URL: {expected}")),
    };
    let limit = match shared::config::duration(args.get_one::<String>("within").map_or("5s", String::as_str))
    {
        Ok(limit) => limit,
        Err(expected) => return fail(&format!("--within: expected {expected}")),
    };
    let echoes = |app: &str, mount: &Namespace| {
        apps::find(app).is_some_and(|kind| kind.section(mount).taken().any(|(event, _)| event == "echo"))
    };
    let relay = config.mounts.iter().find(|(app, mount)| echoes(app.name, mount));
    let relay = relay.map(|(_, mount)| mount.as_str());
    let first = config.mounts.first().map(|(_, mount)| mount.as_str());
    let given = args.get_one::<String>("namespace").map(String::as_str);
    let namespace = given.or(relay).or(first).unwrap_or("/");
    let echoes = relay == Some(namespace);
    let token = match args.get_one::<String>("token").cloned() {
        None if echoes => own_token(config),
        token => token,
    };
    let answer = runtime(Some(1)).map(|runtime| {
        runtime.block_on(async {
            let deadline = Instant::now() + limit;
            let ping = Ping { address, namespace: namespace.to_owned(), token, echoes, deadline };
            let times = ping.run().await;
            (ping.address, times)
        })
    });
    match answer {
        Ok((address, Ok(times))) => say(&format!("{address}: {times}")),
        Ok((address, Err(error))) => fail(&format!("{address}: {error}")),
        Err(error) => fail(&error),
    }
}

/// The public listener of a node with these settings on this machine.
fn own_url(listen: SocketAddr) -> String {
    let mut address = listen;
    match address {
        SocketAddr::V4(_) if address.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(_) if address.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => {}
    }
    format!("ws://{address}")
}

/// A token for the echo, where the settings have the secret that tokens are signed with.
fn own_token(config: &Config) -> Option<String> {
    let TokenKeys::Secret(secret) = &config.auth.keys else { return None };
    let claims = json!({ "publish": [USER] });
    let Value::Object(claims) = claims else { return None };
    signed(config, secret, (USER, Duration::from_secs(60)), claims).ok()
}

impl Ping {
    async fn run(&self) -> Result<Times, PingError> {
        let begun = Instant::now();
        let stream = self.within("connection", Client::reach(&self.address)).await?;
        let mut client = self.within("answer to the handshake", Client::open(&self.address, stream)).await?;
        let opened = begun.elapsed();
        let begun = Instant::now();
        let token = self.token.as_deref();
        self.within("connection", client.connect(&self.namespace, token)).await?;
        let namespace = &self.namespace;
        let answer = loop {
            match self.within("answer to CONNECT", client.next()).await? {
                Said::Connected => break format!("in {namespace}"),
                // Without a token this is the answer of a server that works.
                Said::Refused { code: Some(code), .. } if token.is_none() && code == TOKEN_WANTED => {
                    break format!("token asked for by {namespace}");
                }
                Said::Refused { message, .. } => {
                    return Err(PingError::Refused { namespace: namespace.clone(), message });
                }
                Said::Disconnected => return Err(PingError::Disconnected),
                Said::Event { .. } | Said::Ack { .. } => {}
            }
        };
        let answered = begun.elapsed();
        let echoed = if self.echoes && token.is_some() { Some(self.echo(&mut client).await?) } else { None };
        Ok(Times { opened, answered, answer, echoed })
    }

    async fn echo(&self, client: &mut Client) -> Result<Duration, PingError> {
        let sent = Value::from("gateway ping");
        let begun = Instant::now();
        let asked = self.within("connection", client.ask("echo", &sent)).await?;
        loop {
            match self.within("answer to echo", client.next()).await? {
                Said::Ack { number, args } if number == asked => {
                    return if args.first() == Some(&sent) {
                        Ok(begun.elapsed())
                    } else {
                        Err(PingError::Echo(Value::from(args).to_string()))
                    };
                }
                Said::Disconnected => return Err(PingError::Disconnected),
                _ => {}
            }
        }
    }

    /// What comes of `step` before the deadline; `what` is missing where nothing does.
    async fn within<T>(
        &self,
        what: &'static str,
        step: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, PingError> {
        Ok(timeout_at(self.deadline, step).await.map_err(|_| PingError::Late(what))??)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "open after {:.1} ms, {} after {:.1} ms", ms(self.opened), self.answer, ms(self.answered))?;
        match self.echoed {
            Some(echoed) => write!(f, ", echo after {:.1} ms", ms(echoed)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_asked_where_it_listens() {
        let url = |listen: &str| own_url(listen.parse().unwrap());
        assert_eq!(url("0.0.0.0:8080"), "ws://127.0.0.1:8080");
        assert_eq!(url("[::]:8080"), "ws://[::1]:8080");
        assert_eq!(url("192.0.2.7:80"), "ws://192.0.2.7:80");
    }
}
