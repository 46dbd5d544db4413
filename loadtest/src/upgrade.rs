//! Both sides of the WebSocket handshake (RFC 6455 section 4), as far as they are needed here.

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tungstenite::handshake::derive_accept_key;

use crate::url::Url;

/// The upper bound of a handshake's head.
const LONGEST_HEAD: usize = 16 * 1024;

/// The client's side: one request for all connections, and the only valid response.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) request: Vec<u8>,
    accept: String,
}

impl Upgrade {
    /// The caller sets the key: the standard wants it random, and a test wants it fixed.
    pub(crate) fn new(url: &Url, key: [u8; 16]) -> Self {
        let key = STANDARD.encode(key);
        let request = format!(
            "GET {}?EIO=4&transport=websocket HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            url.path, url.host,
        );
        Self { request: request.into_bytes(), accept: derive_accept_key(key.as_bytes()) }
    }

    /// The length of the server's head once it is complete; `None` before. An `Err` is a refusal or
    /// a response to another client's key.
    pub(crate) fn check(&self, received: &[u8]) -> Result<Option<usize>> {
        let Some(head) = head_of(received)? else {
            return Ok(None);
        };
        if !head.starts_with("HTTP/1.1 101") {
            bail!("upgrade refused: {}", String::from_utf8_lossy(received).trim_end());
        }
        match header(head, "sec-websocket-accept") {
            Some(accept) if accept == self.accept => Ok(Some(head.len())),
            other => bail!("upgrade with a wrong Sec-WebSocket-Accept: {other:?}"),
        }
    }
}

/// The server's side: the length of the request's head and the answer to it, once it is complete.
pub(crate) fn answer(received: &[u8]) -> Result<Option<(usize, String)>> {
    let Some(head) = head_of(received)? else {
        return Ok(None);
    };
    let Some(key) = header(head, "sec-websocket-key") else {
        bail!("not a WebSocket handshake");
    };
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok(Some((head.len(), answer)))
}

/// The head with its empty line.
fn head_of(received: &[u8]) -> Result<Option<&str>> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        if received.len() > LONGEST_HEAD {
            bail!("HTTP head longer than {LONGEST_HEAD} bytes");
        }
        return Ok(None);
    };
    Ok(Some(std::str::from_utf8(&received[..end + 4])?))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade() -> Upgrade {
        let url = "ws://127.0.0.1:8080".parse().unwrap();
        Upgrade::new(&url, *b"the sample nonce")
    }

    #[test]
    fn the_two_sides_agree_and_leave_what_follows_the_head() {
        let client = upgrade();
        let mut request = client.request.clone();
        let len = request.len();
        request.extend(b"early");
        let (head, answer) = answer(&request).unwrap().unwrap();
        assert_eq!(head, len);
        let mut reply = answer.clone().into_bytes();
        reply.extend(b"frame");
        assert_eq!(client.check(&reply).unwrap(), Some(answer.len()));
    }

    #[test]
    fn a_torn_head_is_waited_for() {
        let client = upgrade();
        for cut in 0..client.request.len() {
            assert!(answer(&client.request[..cut]).unwrap().is_none());
        }
        assert!(client.check(b"HTTP/1.1 101 Switching").unwrap().is_none());
        assert!(client.check(&vec![b'x'; LONGEST_HEAD + 1]).is_err());
    }

    #[test]
    fn refusals_and_wrong_keys_are_errors_that_say_what_came() {
        let client = upgrade();
        let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
        let error = client.check(refused).unwrap_err().to_string();
        assert!(error.contains("403 Forbidden") && error.contains("no"));
        let wrong = b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: AAAA\r\n\r\n";
        assert!(client.check(wrong).is_err());
        let right = format!("HTTP/1.1 101 OK\r\nsec-websocket-ACCEPT:{}\r\n\r\n", client.accept);
        assert!(client.check(right.as_bytes()).unwrap().is_some());
        assert!(answer(b"GET / HTTP/1.1\r\n\r\n").is_err());
    }
}
