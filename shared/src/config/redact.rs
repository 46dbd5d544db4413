//! Redacts values that an operator has set: a secret completely, and in a URL the user info and the query, whichever
//! setting holds it.

use std::fmt;

/// Replaces a redacted part.
pub const HIDDEN: &str = "…";

/// Shorter passwords and tokens are not searched for in log lines: so short a text is part of many words.
const SCRUBBED_MIN_BYTES: usize = 6;

/// `text` without the user info, the query and the fragment of a URL in it.
///
/// It decides by content instead of the setting, so that a URL in the wrong place is safe, too. Where it cannot
/// distinguish user info from the query, it leaves out both, and the host with them.
#[must_use]
pub fn redact(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let query = text[start..].find(['?', '#']).map(|at| start + at);
    let (scheme, _) = text.split_at(start);
    let Some(at) = text.rfind('@') else {
        // Without a scheme a question mark is no query.
        return match query.filter(|_| start > 0) {
            Some(query) => format!("{}?{HIDDEN}", &text[..query]),
            None => text.to_owned(),
        };
    };
    // A password may hold an `@`, and so may a query.
    if at < start || query.is_some_and(|query| query < at) {
        return format!("{}{HIDDEN}", if at < start { "" } else { scheme });
    }
    let rest = &text[at..query.unwrap_or(text.len())];
    format!("{scheme}{HIDDEN}{rest}{}", if query.is_some() { "?…" } else { "" })
}

/// A URL that may carry credentials. [`fmt::Display`] and [`fmt::Debug`] show it without them.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// `url` as it was set.
    #[must_use]
    pub fn new(url: String) -> Self {
        Self(url)
    }

    /// All of it, for the client that connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Removes secrets from log lines, where libraries repeat them in their errors.
#[derive(Default, Clone)]
pub struct Scrubber {
    /// The longest first, so that a text that holds another is replaced whole.
    texts: Vec<String>,
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber").field("texts", &self.texts.len()).finish()
    }
}

impl Scrubber {
    /// Adds a secret, as is and JSON-escaped. One of fewer than six bytes is not searched for.
    pub fn secret(&mut self, secret: &str) {
        let json = serde_json::Value::from(secret).to_string();
        for text in [secret, json.trim_matches('"')] {
            if text.len() >= SCRUBBED_MIN_BYTES && !self.texts.iter().any(|known| known == text) {
                self.texts.push(text.to_owned());
            }
        }
        self.texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    }

    /// Adds the password and the query of a URL, as written and decoded. Not its user name: that is often a common
    /// word, and callers that log it remove it themselves.
    pub fn url(&mut self, url: &str) {
        let start = url.find("://").map_or(0, |at| at + 3);
        let rest = &url[start..];
        let (rest, query) = rest.split_once(['?', '#']).unwrap_or((rest, ""));
        if let Some((user_info, _)) = rest.rsplit_once('@')
            && let Some((_, password)) = user_info.split_once(':')
        {
            self.secret(password);
            for (_, decoded) in
                form_urlencoded::parse(format!("p={}", password.replace('+', "%2B")).as_bytes())
            {
                self.secret(&decoded);
            }
        }
        for pair in query.split('&') {
            let Some((name, value)) = pair.split_once('=') else {
                self.secret(pair);
                continue;
            };
            // Modes and paths of TLS are words that errors need.
            if !name.starts_with("ssl") || name.contains("password") {
                self.secret(value);
                for (_, decoded) in form_urlencoded::parse(pair.as_bytes()) {
                    self.secret(&decoded);
                }
            }
        }
    }

    /// `line` without the secrets; `None` where it contains none.
    #[must_use]
    pub fn scrub(&self, line: &str) -> Option<String> {
        let mut scrubbed: Option<String> = None;
        for text in &self.texts {
            let now = scrubbed.as_deref().unwrap_or(line);
            if now.contains(text.as_str()) {
                scrubbed = Some(now.replace(text.as_str(), HIDDEN));
            }
        }
        scrubbed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_info_and_query() {
        let cases = [
            ("https://keys.example/jwks", "https://keys.example/jwks"),
            ("https://u:hush@keys.example/jwks?token=hush#hush", "https://…@keys.example/jwks?…"),
            ("https://keys.example/jwks?token=hush", "https://keys.example/jwks?…"),
            ("https://keys.example/jwks#hush", "https://keys.example/jwks?…"),
            ("https://hush@keys.example", "https://…@keys.example"),
            // An `@` or a `/` in a password, an `@` in a query, credentials where a host belongs.
            ("https://u:hu@sh@h/x", "https://…@h/x"),
            ("https://u:hu/sh@h/x", "https://…@h/x"),
            ("https://u:hu?sh@h/x", "https://…"),
            ("https://h/x?mail=hush@hush", "https://…"),
            ("u:hush@h", "…@h"),
            ("u:hush@https://h", "…"),
            ("redis+sentinel://u:hush@a,b/main", "redis+sentinel://…@a,b/main"),
            ("https://a.example,https://u:hush@b.example", "https://…@b.example"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("what?", "what?"),
            ("", ""),
        ];
        for (text, shown) in cases {
            assert_eq!(redact(text), shown, "{text}");
            assert_eq!(SecretUrl::new(text.to_owned()).to_string(), shown);
            assert!(!format!("{:?}", SecretUrl::new(text.to_owned())).contains("hush"));
        }
    }

    #[test]
    fn secrets_that_libraries_repeat_are_removed() {
        let mut scrubber = Scrubber::default();
        scrubber.secret("a \"quoted\" secret");
        scrubber.secret("short");
        scrubber.url("https://user:p%40ss+word@h/x?token=query-token&mode=a%20secret%20mode");
        scrubber.url("postgres://user:pass-word@h/x?sslmode=verify-full&password=other-word");
        for hidden in [
            "a \"quoted\" secret",
            "a \\\"quoted\\\" secret",
            "p%40ss+word",
            "p@ss+word",
            "query-token",
            "a%20secret%20mode",
            "a secret mode",
            "pass-word",
            "other-word",
        ] {
            let scrubbed = scrubber.scrub(&format!("before {hidden} after"));
            assert_eq!(scrubbed.as_deref(), Some("before … after"), "{hidden}");
        }
        for kept in ["user", "short", "verify-full", "h/x"] {
            assert_eq!(scrubber.scrub(kept), None, "{kept}");
        }
    }
}
