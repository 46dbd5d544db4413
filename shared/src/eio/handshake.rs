//! The query of a request to `/socket.io/`, the refusals 0–5, and the open packet (protocol, 1.2, 1.3).

use std::borrow::Cow;

use serde::Serialize;

use crate::ids::SessionId;

/// The transport of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportName {
    /// HTTP long-polling.
    Polling,
    /// WebSocket.
    WebSocket,
}

impl TransportName {
    /// The name on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::WebSocket => "websocket",
        }
    }
}

/// Why a request is refused: the body `{code,message}` and the status of Engine.IO servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeError {
    /// 0: missing, unknown or disabled transport.
    UnknownTransport,
    /// 1: no such session, or it is closed.
    UnknownSession,
    /// 2: a handshake that is not a GET.
    BadMethod,
    /// 3: any other invalid request.
    BadRequest,
    /// 4: the origin may not connect.
    Forbidden,
    /// 5: `EIO` is not 4.
    UnsupportedVersion,
    /// 4 with its own text: the node is at its limit of connections.
    AtCapacity,
    /// 4 with its own text: this address is at its limit of connections or handshakes.
    TooManyRequests,
}

impl HandshakeError {
    /// The number in the body.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::UnknownTransport => 0,
            Self::UnknownSession => 1,
            Self::BadMethod => 2,
            Self::BadRequest => 3,
            Self::Forbidden | Self::AtCapacity | Self::TooManyRequests => 4,
            Self::UnsupportedVersion => 5,
        }
    }

    /// The text in the body.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::UnknownTransport => "Transport unknown",
            Self::UnknownSession => "Session ID unknown",
            Self::BadMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::Forbidden => "Forbidden",
            Self::UnsupportedVersion => "Unsupported protocol version",
            Self::AtCapacity => "Too many connections",
            Self::TooManyRequests => "Too many requests",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::AtCapacity => 503,
            Self::TooManyRequests => 429,
            Self::UnknownTransport
            | Self::UnknownSession
            | Self::BadMethod
            | Self::BadRequest
            | Self::UnsupportedVersion => 400,
        }
    }

    /// A stable word for metrics.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::UnknownTransport => "unknown_transport",
            Self::UnknownSession => "unknown_session",
            Self::BadMethod => "bad_handshake_method",
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden_origin",
            Self::UnsupportedVersion => "unsupported_version",
            Self::AtCapacity => "at_capacity",
            Self::TooManyRequests => "too_many_requests",
        }
    }
}

/// The query of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    /// The transport of the request.
    pub transport: TransportName,
    /// The session that it belongs to, as sent; `None` for a handshake.
    pub sid: Option<Cow<'a, str>>,
    /// Whether `EIO` is 4.
    pub version_4: bool,
    /// The client accepts no binary frames on this WebSocket (`b64`): binary is sent as text.
    pub no_binary: bool,
    /// The client wants answers as scripts (`j`, JSONP).
    pub jsonp: bool,
    /// A token in the query (contract, Identity).
    pub token: Option<Cow<'a, str>>,
}

impl<'a> Query<'a> {
    /// Parses a query string like the reference: the last of repeated keys counts, an empty `sid`, `b64` or `token` counts
    /// as absent, and unknown keys are ignored.
    ///
    /// # Errors
    /// [`HandshakeError::UnknownTransport`], which the reference checks first.
    pub fn parse(query: &'a str) -> Result<Self, HandshakeError> {
        let (mut transport, mut sid, mut version, mut token) = (None, None, None, None);
        let (mut base64, mut jsonp) = (None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*key {
                "transport" => &mut transport,
                "sid" => &mut sid,
                "EIO" => &mut version,
                "b64" => &mut base64,
                "j" => &mut jsonp,
                "token" => &mut token,
                _ => continue,
            };
            *slot = Some(value);
        }
        let transport = match transport.as_deref() {
            Some("polling") => TransportName::Polling,
            Some("websocket") => TransportName::WebSocket,
            _ => return Err(HandshakeError::UnknownTransport),
        };
        let said = |value: Option<Cow<'a, str>>| value.filter(|value| !value.is_empty());
        Ok(Self {
            transport,
            sid: said(sid),
            version_4: version.as_deref() == Some("4"),
            no_binary: said(base64).is_some(),
            jsonp: jsonp.is_some(),
            token: said(token),
        })
    }
}

/// The first packet of a session; exactly these five keys.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Open<'a> {
    sid: &'a str,
    upgrades: &'static [&'static str],
    ping_interval: u64,
    ping_timeout: u64,
    max_payload: usize,
}

impl<'a> Open<'a> {
    /// The open packet of a session that starts on `transport`; times in milliseconds.
    #[must_use]
    pub fn new(
        sid: &'a SessionId,
        transport: TransportName,
        (ping_interval, ping_timeout): (u64, u64),
        max_payload: usize,
    ) -> Self {
        let upgrades: &[_] = if transport == TransportName::Polling { &["websocket"] } else { &[] };
        Self { sid: sid.secret(), upgrades, ping_interval, ping_timeout, max_payload }
    }

    /// The packet's text, with its type.
    #[must_use]
    pub fn encode(&self) -> String {
        // Numbers and fixed texts always serialise.
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("0{json}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn the_open_packet_has_exactly_the_five_keys() {
        let sid = SessionId::new(NodeId::from_random([0; 4]), [0; 16]);
        let open = Open::new(&sid, TransportName::Polling, (25_000, 20_000), 1_000_000).encode();
        assert_eq!(
            open,
            format!(
                r#"0{{"sid":"{}","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}}"#,
                sid.secret()
            )
        );
    }

    #[test]
    fn a_query_is_read_as_the_reference_reads_it() {
        for unknown in [
            "EIO=4",
            "EIO=4&transport=__proto__",
            "EIO=4&transport=polling&transport=",
            "EIO=4;transport=polling",
        ] {
            assert_eq!(Query::parse(unknown), Err(HandshakeError::UnknownTransport), "{unknown}");
        }
        let query = Query::parse("EIO=4&transport=websocket&sid=a%2Bb&t=x").unwrap();
        assert_eq!(query.sid.as_deref(), Some("a+b"));
        assert!(query.version_4 && !query.no_binary && !query.jsonp);
        let version_4 = |query| Query::parse(query).unwrap().version_4;
        for good in [
            "EIO=3&EIO=4&transport=polling",
            "transport=&transport=polling&EIO=%34",
            "&&EIO=4&transport=polling&",
        ] {
            assert!(version_4(good), "{good}");
        }
        for other in [
            "EIO=4&EIO=3&transport=polling",
            "EIO=&transport=polling",
            "EIO=04&transport=polling",
            "EIO=4+&transport=polling",
            "eio=4&transport=polling",
        ] {
            assert!(!version_4(other), "{other}");
        }
    }

    #[test]
    fn empty_parameters_count_as_absent() {
        for empty in ["sid=&token=&b64=", "sid&token&b64", "sid=a&sid=&token=a&token=&b64=1&b64="] {
            let text = format!("EIO=4&transport=polling&{empty}");
            let query = Query::parse(&text).unwrap();
            assert_eq!((query.sid, query.token, query.no_binary), (None, None, false), "{empty}");
        }
        let query = Query::parse("EIO=4&transport=polling&sid=&sid=b&token=a&token=c&b64=0&j").unwrap();
        assert_eq!((query.sid.as_deref(), query.token.as_deref()), (Some("b"), Some("c")));
        assert!(query.no_binary && query.jsonp);
    }
}
