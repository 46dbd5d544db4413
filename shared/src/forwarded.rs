//! The address of a client behind proxies, from `X-Forwarded-For` and `Forwarded` (RFC 7239).
//!
//! Each proxy appends the address that sent it the request to one of these headers, so the peer vouches only for the
//! rightmost entry. The walk goes from right to left while the previous address is a trusted proxy's; entries that a client
//! wrote itself are further left and are never reached. An entry without an address (`unknown`, `_hidden`, rubbish) ends the
//! walk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The client of a request: the peer, or, where `is_trusted` accepts the peer as a trusted proxy, the rightmost address that
/// is not a trusted proxy's.
///
/// Each header is given as its lines in their order. A proxy usually writes one of the two headers and passes on the other as
/// the client sent it. Where both are present they must name the same client, otherwise the client is the peer: so a client
/// can share the proxy's address, but never choose one.
pub fn client_address(
    peer: IpAddr,
    x_forwarded_for: &[&[u8]],
    forwarded: &[&[u8]],
    is_trusted: impl Fn(&IpAddr) -> bool,
) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(&peer) {
        return peer;
    }
    let listed = || walk(peer, x_forwarded_for.iter().rev().flat_map(|line| list(line)), &is_trusted);
    let elements = || walk(peer, forwarded.iter().rev().flat_map(|line| elements(line)), &is_trusted);
    match (x_forwarded_for.is_empty(), forwarded.is_empty()) {
        (true, true) => peer,
        (false, true) => listed(),
        (true, false) => elements(),
        (false, false) => Some(listed()).filter(|client| *client == elements()).unwrap_or(peer),
    }
}

/// The hosts that clients requested, according to proxies: every entry of `X-Forwarded-Host`, and every `host` of
/// `Forwarded`. Only headers of a trusted proxy are worth reading.
pub fn hosts<'a>(
    x_forwarded_host: &'a [&'a [u8]],
    forwarded: &'a [&'a [u8]],
) -> impl Iterator<Item = String> + 'a {
    let listed = x_forwarded_host.iter().filter_map(|line| str::from_utf8(line).ok());
    let listed =
        listed.flat_map(|line| line.split(',')).map(|host| host.trim_matches([' ', '\t']).to_owned());
    let named = forwarded.iter().filter_map(|line| str::from_utf8(line).ok()).flat_map(named_hosts);
    listed.chain(named).filter(|host| !host.is_empty())
}

/// The `host` of each element of a line of `Forwarded`.
fn named_hosts(line: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), line);
    while let Some((name, value, end)) = pair(rest) {
        if name.eq_ignore_ascii_case("host") {
            found.extend(value);
        }
        match end {
            Some((_, next)) => rest = next,
            None => break,
        }
    }
    found
}

/// Goes from hop to hop, the nearest first, until one is not trusted or not readable.
fn walk(
    peer: IpAddr,
    hops: impl Iterator<Item = Option<IpAddr>>,
    is_trusted: impl Fn(&IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer;
    for hop in hops {
        match hop {
            Some(address) if is_trusted(&client) => client = address,
            Some(_) | None => break,
        }
    }
    client
}

/// The hops of one line of `X-Forwarded-For`, the last first.
fn list(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    line.rsplit(|byte| *byte == b',').map(|hop| {
        let hop = str::from_utf8(hop).ok()?.trim_matches([' ', '\t']);
        let bare = hop.strip_prefix('"').and_then(|hop| hop.strip_suffix('"'));
        node(bare.unwrap_or(hop))
    })
}

/// The hops of one line of `Forwarded`, the last first.
fn elements(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    let mut hops = Vec::new();
    let mut rest = str::from_utf8(line).unwrap_or("\"");
    loop {
        let (hop, next) = element(rest);
        hops.push(hop);
        match next {
            Some(next) => rest = next,
            None => break,
        }
    }
    hops.into_iter().rev()
}

/// The first element of a line of `Forwarded`, and what follows its comma.
fn element(text: &str) -> (Option<IpAddr>, Option<&str>) {
    let (mut hop, mut is_named, mut is_whole) = (None, false, true);
    let mut rest = text;
    loop {
        let Some((name, value, end)) = pair(rest) else { return (None, None) };
        if name.eq_ignore_ascii_case("for") {
            is_whole &= !is_named;
            is_named = true;
            hop = value.and_then(|value| node(&value));
        }
        match end {
            Some((';', next)) => rest = next,
            end => return (hop.filter(|_| is_whole), end.map(|(_, next)| next)),
        }
    }
}

/// A `name=value` at the start of a text, with the separator behind it and what follows that. `None` where a
/// quoted string does not end.
type Pair<'a> = (&'a str, Option<String>, Option<(char, &'a str)>);

fn pair(text: &str) -> Option<Pair<'_>> {
    let (mut in_quotes, mut is_escaped) = (false, false);
    let end = text.char_indices().find(|(_, c)| {
        if std::mem::take(&mut is_escaped) {
            return false;
        }
        match c {
            '\\' if in_quotes => is_escaped = true,
            '"' => in_quotes = !in_quotes,
            ';' | ',' => return !in_quotes,
            _ => {}
        }
        false
    });
    if in_quotes {
        return None;
    }
    let (whole, end) = match end {
        Some((at, separator)) => (&text[..at], Some((separator, &text[at + 1..]))),
        None => (text, None),
    };
    let (name, value) = whole.split_once('=').unwrap_or((whole, ""));
    Some((name.trim_matches([' ', '\t']), unquoted(value.trim_matches([' ', '\t'])), end))
}

/// A token as is, or the content of a quoted string.
fn unquoted(value: &str) -> Option<String> {
    let Some(quoted) = value.strip_prefix('"') else { return Some(value.to_owned()) };
    let mut text = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(text),
            '\\' => text.push(characters.next()?),
            other => text.push(other),
        }
    }
}

/// The address of a hop: IPv4 or IPv6, with or without a port; IPv6 with a port in brackets. Obfuscated and unknown hops have
/// none.
fn node(text: &str) -> Option<IpAddr> {
    let v6 = |text: &str| {
        let address = text.split('%').next().unwrap_or_default();
        address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::from(address).to_canonical())
    };
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        return if port.is_empty() || port.strip_prefix(':').is_some_and(is_port) {
            v6(address)
        } else {
            None
        };
    }
    match text.split_once(':') {
        // More than one colon: IPv6 without brackets, which has no port.
        Some((_, port)) if port.contains(':') => v6(text),
        Some((address, port)) if is_port(port) => address.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        Some(_) => None,
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    }
}

/// A port, or an obfuscated one.
fn is_port(text: &str) -> bool {
    let is_hidden = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    is_number || text.strip_prefix('_').is_some_and(is_hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn client(peer: &str, x_forwarded_for: &[&str], forwarded: &[&str]) -> String {
        let x: Vec<&[u8]> = x_forwarded_for.iter().map(|line| line.as_bytes()).collect();
        let f: Vec<&[u8]> = forwarded.iter().map(|line| line.as_bytes()).collect();
        let trusted = |address: &IpAddr| address.to_string().starts_with("10.");
        client_address(peer.parse().unwrap(), &x, &f, trusted).to_string()
    }

    #[test]
    fn every_spelling_of_an_entry_of_x_forwarded_for() {
        for (entry, address) in [
            ("198.51.100.7", "198.51.100.7"),
            (" 198.51.100.7\t", "198.51.100.7"),
            ("198.51.100.7:1234", "198.51.100.7"),
            ("\"198.51.100.7:1234\"", "198.51.100.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("2001:DB8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:1234", "2001:db8::7"),
            ("\"[2001:db8::7]:1234\"", "2001:db8::7"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:80", "fe80::1"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
            ("[::ffff:198.51.100.7]:1234", "198.51.100.7"),
        ] {
            assert_eq!(client(PROXY, &[entry], &[]), address, "{entry}");
        }
    }

    #[test]
    fn an_entry_that_names_no_address_ends_the_walk_at_the_last_proxy() {
        for entry in [
            "",
            ",",
            "unknown",
            "_hidden",
            "-",
            "rubbish",
            "198.51.100",
            "198.51.100.7:",
            "198.51.100.7:port",
            "198.51.100.7:65536",
            "198.51.100.7 192.0.2.1",
            "0198.51.100.7",
            "[2001:db8::7",
            "[2001:db8::7]1234",
            "[198.51.100.7]:80",
            "2001:db8::g",
            "\"198.51.100.7",
            "for=198.51.100.7",
        ] {
            assert_eq!(client(PROXY, &[entry], &[]), PROXY, "{entry}");
            assert_eq!(client(PROXY, &[&format!("192.0.2.1, {entry}")], &[]), PROXY, "{entry}");
        }
        assert_eq!(client(PROXY, &["192.0.2.1, unknown, 10.0.0.9"], &[]), "10.0.0.9");
    }

    #[test]
    fn every_spelling_of_an_element_of_forwarded() {
        for (element, address) in [
            ("for=198.51.100.7", "198.51.100.7"),
            ("For=198.51.100.7", "198.51.100.7"),
            ("FOR=\"198.51.100.7\"", "198.51.100.7"),
            ("for=\"198.51.100.7:1234\"", "198.51.100.7"),
            ("for=198.51.100.7:1234", "198.51.100.7"),
            ("for=\"198.51.100.7:_port\"", "198.51.100.7"),
            ("for=\"[2001:db8::7]\"", "2001:db8::7"),
            ("for=\"[2001:DB8::7]:1234\"", "2001:db8::7"),
            ("for=\"\\[2001:db8::7\\]\"", "2001:db8::7"),
            ("for=2001:db8::7", "2001:db8::7"),
            ("proto=https;for=198.51.100.7;by=203.0.113.43", "198.51.100.7"),
            ("by=203.0.113.43; host=\"a,b;c\" ;for = 198.51.100.7", "198.51.100.7"),
            ("for=192.0.2.43, for=198.51.100.7", "198.51.100.7"),
            ("for=_hidden, for=198.51.100.7", "198.51.100.7"),
            ("for=198.51.100.7, for=10.0.0.2;proto=http", "198.51.100.7"),
        ] {
            assert_eq!(client(PROXY, &[], &[element]), address, "{element}");
        }
    }

    #[test]
    fn an_element_without_an_address_ends_the_walk_at_the_last_proxy() {
        for element in [
            "",
            ";",
            "for",
            "for=",
            "for=unknown",
            "for=_hidden",
            "for=\"_SEVKISEK\"",
            "proto=https",
            "198.51.100.7",
            "xfor=198.51.100.7",
            "for=192.0.2.1;for=198.51.100.7",
            "for=\"198.51.100.7",
            "for=\"198.51.100.7\"x",
            "for=198.51.100.7\"",
            "for=\"192.0.2.1, for=198.51.100.7",
        ] {
            assert_eq!(client(PROXY, &[], &[element]), PROXY, "{element}");
        }
        assert_eq!(client(PROXY, &[], &["for=192.0.2.1, for=unknown, for=10.0.0.9"]), "10.0.0.9");
    }

    #[test]
    fn lines_follow_each_other_and_the_last_comes_first() {
        assert_eq!(client(PROXY, &["203.0.113.9", "198.51.100.7"], &[]), "198.51.100.7");
        assert_eq!(client(PROXY, &["198.51.100.7", "10.0.0.2, 10.0.0.3"], &[]), "198.51.100.7");
        assert_eq!(client(PROXY, &[], &["for=198.51.100.7", "for=10.0.0.2"]), "198.51.100.7");
        assert_eq!(client(PROXY, &["10.0.0.3, 10.0.0.2"], &[]), "10.0.0.3");
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_the_client() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"], &["for=198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.7"], &[]), "198.51.100.7");
    }

    #[test]
    fn two_headers_count_only_where_they_agree() {
        assert_eq!(client(PROXY, &["198.51.100.7"], &["for=198.51.100.7:80"]), "198.51.100.7");
        // The proxy wrote one header and passed on the client's value of the other.
        assert_eq!(client(PROXY, &["198.51.100.7"], &["for=192.0.2.1"]), PROXY);
        assert_eq!(client(PROXY, &["192.0.2.1"], &["for=198.51.100.7"]), PROXY);
        assert_eq!(client(PROXY, &["198.51.100.7"], &[""]), PROXY);
    }

    #[test]
    fn bytes_that_are_no_text_are_no_address() {
        let trusted = |address: &IpAddr| address.to_string().starts_with("10.");
        let peer = PROXY.parse().unwrap();
        assert_eq!(client_address(peer, &[b"198.51.100.7, \xff"], &[], trusted), peer);
        assert_eq!(client_address(peer, &[], &[b"for=198.51.100.7;host=\xff"], trusted), peer);
    }

    #[test]
    fn hosts_that_clients_requested() {
        let read = |listed: &[&str], named: &[&str]| {
            let (listed, named): (Vec<_>, Vec<_>) = (
                listed.iter().map(|line| line.as_bytes()).collect(),
                named.iter().map(|line| line.as_bytes()).collect(),
            );
            hosts(&listed, &named).collect::<Vec<_>>()
        };
        assert_eq!(read(&["a.example"], &[]), ["a.example"]);
        assert_eq!(
            read(&["a.example:8080, b.example", "c.example"], &[]),
            ["a.example:8080", "b.example", "c.example"]
        );
        assert_eq!(
            read(&[], &["for=192.0.2.1;host=a.example;proto=https, for=x;Host=\"b.example:8443\""]),
            ["a.example", "b.example:8443"]
        );
        assert_eq!(read(&["", " , "], &["host=", "for=\"unended"]), Vec::<String>::new());
    }
}
