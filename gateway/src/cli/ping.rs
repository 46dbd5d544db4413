//! `gateway ping`: connects like a client and measures the steps. It is the image's health check and a part of the
//! chart's test.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::{Value, json};
use shared::config::{Config, TokenKeys};
use shared::names::Namespace;
use tokio::time::{Instant, timeout_at};

use super::{MISUSED, fail, runtime, say, signed, warn};
use crate::apps;
use crate::client::{Address, Client, ClientError, ServerPacket};

/// The user of the token that this command signs. It is used only if relay is alone in its namespace: relay stores
/// nothing about users, while other apps would store and announce this user's arrival and departure with every health
/// check.
const USER: &str = "gateway-ping";

/// The code of a refusal because of a missing token.
const TOKEN_WANTED: &str = "auth_required";

/// The steps to do, and their deadline.
struct Ping {
    /// `None`: the ping ends with the open packet.
    entry: Option<Entry>,
    deadline: Instant,
}

/// The namespace to connect to, with the token.
struct Entry {
    namespace: Namespace,
    token: Option<String>,
    /// Relay is in the namespace, so it answers `echo`.
    echoes: bool,
}

/// The result, and how long each step took.
struct Times {
    opened: Duration,
    /// The answer to CONNECT, if one was sent.
    answered: Option<(String, Duration)>,
    echoed: Option<Duration>,
}

/// Why a ping failed.
#[derive(Debug, thiserror::Error)]
enum PingError {
    #[error("no {0} in time")]
    Late(&'static str),
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("the server refuses the client in {namespace}: {message}")]
    Refused { namespace: Namespace, message: String },
    #[error("the server disconnected the client from the namespace")]
    Disconnected,
    #[error("the answer to echo is {0}")]
    Echo(String),
}

/// Pings a server and prints the times; the exit code reports whether the server works.
pub(super) fn ping(config: &Config, args: &ArgMatches) -> ExitCode {
    let text = |name: &str| args.get_one::<String>(name).map(String::as_str);
    let addresses = match text("url") {
        Some(url) => Address::parse(url).map(|address| (address, None)),
        None => own_addresses(config.listen),
    };
    let (address, other) = match addresses {
        Ok(addresses) => addresses,
        Err(expected) => return misused(&format!("URL: {expected}")),
    };
    let limit = match shared::config::duration(text("within").unwrap_or("5s")) {
        Ok(limit) => limit,
        Err(expected) => return misused(&format!("--within: expected {expected}")),
    };
    let Ok(namespace) = text("namespace").map(Namespace::parse).transpose() else {
        return misused(&"--namespace: expected / or a path such as /relay, of A-Z a-z 0-9 . _ : -");
    };
    let entry = entry(config, namespace, text("token").map(str::to_owned));
    let answer = runtime(Some(1)).map(|runtime| {
        let answer = runtime.block_on(Ping { entry, deadline: Instant::now() + limit }.run(address, other));
        // Not dropped, because that would wait beyond the deadline for a name server that does not answer.
        runtime.shutdown_background();
        answer
    });
    match answer {
        Ok((address, Ok(times))) => say(&format!("{address}: {times}")),
        // An orchestrator must not kill a node, with all its clients, because it is full or draining.
        Ok((address, Err(PingError::Client(busy @ ClientError::Busy(..))))) => {
            say(&format!("{address}: {busy}"))
        }
        Ok((address, Err(error))) => fail(&format!("{address}: {error}")),
        Err(error) => fail(&error),
    }
}

fn misused(what: &dyn fmt::Display) -> ExitCode {
    warn(what);
    ExitCode::from(MISUSED)
}

/// The public listener of a node with these settings on this machine, and a second address if nothing listens there:
/// `[::]` accepts IPv4, too, and a container may have no `::1`.
fn own_addresses(listen: SocketAddr) -> Result<(Address, Option<Address>), String> {
    let at = |host: IpAddr| Address::of_socket(SocketAddr::new(host, listen.port()));
    let v4 = Ipv4Addr::LOCALHOST.into();
    match listen {
        _ if !listen.ip().is_unspecified() => Ok((Address::of_socket(listen)?, None)),
        SocketAddr::V4(_) => Ok((at(v4)?, None)),
        SocketAddr::V6(_) => Ok((at(Ipv6Addr::LOCALHOST.into())?, Some(at(v4)?))),
    }
}

/// The namespace to connect to: the given one, else relay's, else the first. `None` without a token and a given
/// namespace: the node would count a refusal of a client without a token, and alerts use that count.
fn entry(config: &Config, given: Option<Namespace>, token: Option<String>) -> Option<Entry> {
    let echoes = |app: &str, mount: &Namespace| {
        apps::find(app).is_some_and(|kind| kind.section(mount).taken().any(|(event, _)| event == "echo"))
    };
    let relay = config.mounts.iter().find(|(app, mount)| echoes(app.name, mount)).map(|(_, mount)| mount);
    let is_given = given.is_some();
    let namespace = given.or_else(|| relay.or(config.mounts.first().map(|(_, mount)| mount)).cloned())?;
    let echoes = relay == Some(&namespace);
    let is_alone = config.mounts.iter().filter(|(_, mount)| *mount == namespace).count() == 1;
    let token = token.or_else(|| if echoes && is_alone { own_token(config) } else { None });
    (is_given || token.is_some()).then_some(Entry { namespace, token, echoes })
}

/// A token for the echo, if the settings contain the secret that signs tokens.
fn own_token(config: &Config) -> Option<String> {
    let TokenKeys::Secret(secret) = &config.auth.keys else { return None };
    let claims = json!({ "publish": [USER] });
    let Value::Object(claims) = claims else { return None };
    signed(config, secret, (USER, Duration::from_secs(60)), claims).ok()
}

impl Ping {
    /// Pings `address`, or `other` if nothing listens there. Returns the address that was used.
    async fn run(&self, address: Address, other: Option<Address>) -> (Address, Result<Times, PingError>) {
        let asked = self.ask(&address).await;
        match (&asked, other) {
            (Err(PingError::Client(ClientError::Connect(_))), Some(other)) => {
                let asked = self.ask(&other).await;
                (other, asked)
            }
            _ => (address, asked),
        }
    }

    async fn ask(&self, address: &Address) -> Result<Times, PingError> {
        let begun = Instant::now();
        let stream = self.within("connection", Client::reach(address)).await?;
        let mut client = self.within("answer to the handshake", Client::open(address, stream)).await?;
        let opened = begun.elapsed();
        let Some(entry) = &self.entry else { return Ok(Times { opened, answered: None, echoed: None }) };
        let answered = Some(self.connect(&mut client, entry).await?);
        let echoed =
            if entry.echoes && entry.token.is_some() { Some(self.echo(&mut client).await?) } else { None };
        Ok(Times { opened, answered, echoed })
    }

    async fn connect(&self, client: &mut Client, entry: &Entry) -> Result<(String, Duration), PingError> {
        let Entry { namespace, token, .. } = entry;
        let begun = Instant::now();
        self.within("connection", client.connect(namespace.as_str(), token.as_deref())).await?;
        let answer = loop {
            match self.within("answer to CONNECT", client.next()).await? {
                ServerPacket::Connected => break format!("in {namespace}"),
                // To a client without a token, this is the answer of a server that works.
                ServerPacket::Refused { code: Some(code), .. } if token.is_none() && code == TOKEN_WANTED => {
                    break format!("token required in {namespace}");
                }
                ServerPacket::Refused { message, .. } => {
                    return Err(PingError::Refused { namespace: namespace.clone(), message });
                }
                ServerPacket::Disconnected => return Err(PingError::Disconnected),
                ServerPacket::Event { .. } | ServerPacket::Ack { .. } => {}
            }
        };
        Ok((answer, begun.elapsed()))
    }

    async fn echo(&self, client: &mut Client) -> Result<Duration, PingError> {
        let sent = Value::from("gateway ping");
        let begun = Instant::now();
        let asked = self.within("connection", client.ask("echo", &sent)).await?;
        loop {
            match self.within("answer to echo", client.next()).await? {
                ServerPacket::Ack { number, args } if number == asked => {
                    return if args.first() == Some(&sent) {
                        Ok(begun.elapsed())
                    } else {
                        Err(PingError::Echo(Value::from(args).to_string()))
                    };
                }
                ServerPacket::Disconnected => return Err(PingError::Disconnected),
                _ => {}
            }
        }
    }

    /// Runs `step` before the deadline; `what` names what is missing if it is late.
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
        write!(f, "open after {:.1} ms, ", ms(self.opened))?;
        match &self.answered {
            Some((answer, answered)) => write!(f, "{answer} after {:.1} ms", ms(*answered))?,
            None => f.write_str("no CONNECT without a token")?,
        }
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
        let v4 = "ws://127.0.0.1:8080/socket.io/";
        for (listen, expected) in [
            ("0.0.0.0:8080", (v4, None)),
            ("[::]:8080", ("ws://[::1]:8080/socket.io/", Some(v4))),
            ("192.0.2.7:80", ("ws://192.0.2.7:80/socket.io/", None)),
            ("[fe80::1%3]:80", ("ws://[fe80::1]:80/socket.io/", None)),
        ] {
            let (address, other) = own_addresses(listen.parse().unwrap()).unwrap();
            let other = other.map(|other| other.to_string());
            assert_eq!((address.to_string().as_str(), other.as_deref()), expected);
        }
    }
}
