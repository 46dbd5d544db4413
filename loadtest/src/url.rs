//! The server's address as given on the command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A resolved `ws://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// The first address the host resolves to.
    pub(crate) address: SocketAddr,
    /// As the `Host` header must name it.
    pub(crate) host: String,
    /// With slashes at both ends.
    pub(crate) path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("ws://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or_else(|| format!("{text:?}: expected ws://host:port (TLS is not spoken here)"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = match path.trim_matches('/') {
            "" => "/socket.io/".to_owned(),
            given => format!("/{given}/"),
        };
        // A colon after the last bracket is a port; those within are part of an IPv6 address.
        let has_port =
            host.rfind(':').is_some_and(|colon| host.rfind(']').is_none_or(|bracket| bracket < colon));
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let address = with_port
            .to_socket_addrs()
            .map_err(|error| format!("{host:?}: {error}"))?
            .next()
            .ok_or_else(|| format!("{host:?} has no address"))?;
        Ok(Self { address, host: host.to_owned(), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> (String, String, String) {
        let url: Url = text.parse().unwrap();
        (url.address.to_string(), url.host, url.path)
    }

    #[test]
    fn port_and_path_have_defaults() {
        let expected =
            |address: &str, host: &str, path: &str| (address.to_owned(), host.to_owned(), path.to_owned());
        assert_eq!(url("ws://127.0.0.1:8080"), expected("127.0.0.1:8080", "127.0.0.1:8080", "/socket.io/"));
        assert_eq!(url("ws://127.0.0.1/"), expected("127.0.0.1:80", "127.0.0.1", "/socket.io/"));
        assert_eq!(url("http://[::1]:99/my/io"), expected("[::1]:99", "[::1]:99", "/my/io/"));
        assert_eq!(url("ws://[::1]"), expected("[::1]:80", "[::1]", "/socket.io/"));
    }

    #[test]
    fn other_schemes_are_refused() {
        for wrong in ["wss://127.0.0.1", "127.0.0.1:8080", "ws://", "ws://127.0.0.1:x"] {
            assert!(wrong.parse::<Url>().is_err(), "{wrong}");
        }
    }
}
