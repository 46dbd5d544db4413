//! Headers of proxies: lines of `X-Forwarded-For`, an empty line, lines of `Forwarded`.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use shared::forwarded::client_address;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let x: Vec<&[u8]> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let forwarded: Vec<&[u8]> = lines.collect();
    let peer = IpAddr::from([10, 0, 0, 1]);
    assert_eq!(client_address(peer, &x, &forwarded, |_| false), peer);
    let is_trusted = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10);
    let client = client_address(peer, &x, &forwarded, is_trusted);
    assert_eq!(client, client.to_canonical());
    // What a client puts in front of what the proxy adds changes nothing.
    let mut behind = x.clone();
    behind.push(b"198.51.100.7:80");
    assert_eq!(client_address(peer, &behind, &[], is_trusted), IpAddr::from([198, 51, 100, 7]));
    let mut behind = forwarded.clone();
    behind.push(b"for=\"[2001:db8::7]\"");
    let last = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7]);
    assert_eq!(client_address(peer, &[], &behind, is_trusted), last);
});
