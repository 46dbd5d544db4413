//! The part of HTTP/1.1 that a client of the internal API needs.

use anyhow::{Result, bail};

/// The head of a complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Length of head and body.
    pub(crate) bytes: usize,
}

/// A request with a JSON body to the internal API; `headers` are whole lines.
pub(crate) fn post(path: &str, host: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nX-Internal-Request: true\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .into()
}

/// Reads a response; `None` while it is incomplete.
///
/// # Errors
/// It is not a response, or has no length.
pub(crate) fn response(input: &[u8]) -> Result<Option<Response>> {
    let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&input[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
    });
    let (Some(status), Some(length)) = (status, length) else {
        bail!("the server answers {:?}", head.lines().next().unwrap_or_default());
    };
    let bytes = end + 4 + length;
    Ok((input.len() >= bytes).then_some(Response { status, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_when_it_is_complete() {
        let text =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n{\"a\"}more";
        let whole = text.len() - 4;
        for at in 0..whole {
            assert_eq!(response(&text.as_bytes()[..at]).unwrap(), None, "{at}");
        }
        assert_eq!(response(text.as_bytes()).unwrap(), Some(Response { status: 200, bytes: whole }));
        let empty = response(b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert_eq!(empty.map(|response| response.status), Some(503));
        for wrong in ["HTTP/1.1 200 OK\r\n\r\n", "SSH-2.0\r\ncontent-length: 1\r\n\r\n"] {
            assert!(response(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_request_has_its_length() {
        let request = post("/p", "h", "A: b\r\n", "{}");
        let text = String::from_utf8(request).unwrap();
        assert!(text.starts_with("POST /p HTTP/1.1\r\nHost: h\r\n"), "{text}");
        assert!(text.ends_with("A: b\r\nContent-Length: 2\r\n\r\n{}"), "{text}");
    }
}
