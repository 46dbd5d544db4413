//! WebSocket frames: the same messages wherever the stream is cut. The first byte says how large the
//! pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::ws::{Decoder, Fault, Received, Role};

const MAX: usize = 4_096;

fuzz_target!(|data: &[u8]| {
    let Some((piece, stream)) = data.split_first() else { return };
    let cut = read(stream, usize::from(*piece).max(1));
    assert_eq!(cut, read(stream, stream.len().max(1)));
});

/// The messages of a stream in short, up to its first fault.
fn read(stream: &[u8], piece: usize) -> (Vec<(u8, Vec<u8>)>, Option<Fault>) {
    let mut decoder = Decoder::new(Role::Server, MAX);
    let (mut seen, mut unread) = (Vec::new(), Vec::new());
    for piece in stream.chunks(piece) {
        unread.extend_from_slice(piece);
        loop {
            let used = match decoder.next(&mut unread) {
                Ok(None) => break,
                Err(fault) => return (seen, Some(fault)),
                Ok(Some((used, received))) => {
                    seen.push(match received {
                        Received::Text(text) => (1, text.as_bytes().to_vec()),
                        Received::Binary(data) => (2, data.to_vec()),
                        Received::Ping(data) => (9, data.to_vec()),
                        Received::Pong => (10, Vec::new()),
                        Received::Close(code) => (8, code.unwrap_or_default().to_be_bytes().to_vec()),
                        Received::Fragment => (0, Vec::new()),
                    });
                    assert!(seen.last().is_none_or(|(_, data)| data.len() <= MAX));
                    used
                }
            };
            unread.drain(..used);
        }
    }
    (seen, None)
}
