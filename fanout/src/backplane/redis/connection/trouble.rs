//! Explains why Redis cannot be reached, and what to do.

use std::fmt;

use redis::RedisError;

/// An error in one short line, without the name of the user.
pub(super) struct Brief<'a, E>(pub(super) &'a E);

impl<E: fmt::Display> fmt::Display for Brief<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let line = text.lines().next().unwrap_or_default();
        // A server's error about missing rights contains the user's name.
        match line.split_once("User ").zip(line.split_once(" has no permissions")) {
            Some(((before, _), (_, after))) => write!(f, "{before}The user has no permissions{after}"),
            None => f.write_str(line),
        }
    }
}

/// An error of a failed connection, and the advice for it.
pub(super) struct Trouble<'a> {
    pub(super) error: &'a RedisError,
    /// The connection was meant to use TLS.
    pub(super) tls: bool,
}

impl fmt::Display for Trouble<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Brief(self.error).to_string();
        match advice(&text) {
            // Client and server each wait for the other to begin.
            Some(SILENT) if self.tls => write!(f, "{text}: {SILENT}; a port without TLS wants redis://"),
            Some(SILENT) => write!(f, "{text}: {SILENT}; a port with TLS wants rediss://"),
            Some(advice) => write!(f, "{text}: {advice}"),
            None => f.write_str(&text),
        }
    }
}

const SILENT: &str = "it does not answer; is the server healthy, and does a firewall block the connection?";

/// Advice by parts of error texts: libraries have no error kinds that distinguish these.
const ADVICE: &[(&[&str], &str)] = &[
    (
        &["CaUsedAsEndEntity"],
        "its certificate is an authority's own, as `openssl req -x509` makes it; make one with -addext \
         basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:the-host, and name its file in REDIS_CA_CERT",
    ),
    (
        &["UnknownIssuer", "BadSignature", "unknown CA"],
        "its certificate's authority is not trusted here; set REDIS_CA_CERT to the authority's PEM file",
    ),
    (
        &["NotValidForName"],
        "its certificate is for another name; connect by a name or address of the certificate's subjectAltName",
    ),
    (&["Expired", "NotValidYet"], "its certificate is not valid now; renew it, or set this machine's clock"),
    (
        &["InvalidContentType", "corrupt message"],
        "the port does not use TLS; use redis:// for this port, or rediss:// with its tls-port",
    ),
    (
        &["CertificateRequired", "HandshakeFailure", "received fatal alert"],
        "it refuses the TLS handshake; client certificates are not supported: set tls-auth-clients no",
    ),
    (&["Connection refused"], "nothing listens there; is Redis running, and are host and port correct?"),
    (&["lookup address"], "the host's name is unknown; is it correct, and does this machine's DNS know it?"),
    (&["timed out", "Timeout"], SILENT),
    (
        &[
            "unexpected end of file",
            "end of file",
            "Connection reset",
            "Broken pipe",
            "multiplexed connection",
        ],
        "it closes the connection; a TLS port wants rediss://, and what listens must be Redis",
    ),
    (
        &["WRONGPASS", "NOAUTH", "invalid username-password", "Password authentication failed"],
        "check user and password in REDIS_URL; a password alone is redis://:password@host",
    ),
    (&["not a primary", "READONLY"], "the address is a replica's; name the primary, or its Sentinels"),
    (
        &["Master with given name not found"],
        "the Sentinels know no primary of the name at the end of REDIS_URL",
    ),
    (&["DB index is out of range"], "it has fewer databases; use another number at the end of REDIS_URL"),
    (&["cluster support disabled"], "it is not a Redis Cluster; use redis:// instead of redis+cluster://"),
    (
        &[
            "unknown command 'HELLO'",
            "unknown command `HELLO`",
            "unknown command `SENTINEL`",
            "unknown command 'SENTINEL'",
        ],
        "the gateway needs Redis 6 or newer, and redis+sentinel:// needs the Sentinels' addresses",
    ),
    (
        &["Could not read", "Expected one of", "Invalid response", "parse"],
        "the server does not use Redis' protocol; are host and port correct?",
    ),
];

fn advice(text: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(words, _)| words.iter().any(|word| text.contains(word))).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_errors_have_advice_and_others_stay_as_they_are() {
        for (text, said) in [
            ("Connection refused (os error 111)", "is Redis running"),
            ("invalid peer certificate: UnknownIssuer", "REDIS_CA_CERT"),
            ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "CA:FALSE"),
            ("received corrupt message of type InvalidContentType", "redis:// for this port"),
            ("failed to lookup address information: Name or service not known", "DNS"),
        ] {
            let found = advice(text).unwrap_or_default();
            assert!(found.contains(said), "{text}: {found}");
        }
        assert_eq!(advice("LOADING Redis is loading the dataset in memory"), None);
    }
}
