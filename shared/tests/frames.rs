//! The WebSocket decoder: against tungstenite, in pieces of any size, and against what RFC 6455 forbids.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::io::{self, Read, Write};

use proptest::prelude::*;
use shared::limits::FRAGMENTS_MAX;
use shared::ws::{self, Decoder, Fault, Received, Role};
use tungstenite::protocol::{Role as TheirRole, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

const MAX: usize = 70_000;

/// The result of either decoder for a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
    Fault,
}

/// Reads a stream that arrives in pieces of `piece` bytes, as a transport does.
fn ours(stream: &[u8], piece: usize) -> Vec<Seen> {
    let mut decoder = Decoder::new(Role::Server, MAX);
    let (mut seen, mut unread) = (Vec::new(), Vec::new());
    for piece in stream.chunks(piece.max(1)) {
        unread.extend_from_slice(piece);
        loop {
            let (used, what) = match decoder.next(&mut unread) {
                Ok(None) => break,
                Err(_) => {
                    seen.push(Seen::Fault);
                    return seen;
                }
                Ok(Some((used, Received::Fragment))) => (used, None),
                Ok(Some((used, Received::Text(text)))) => (used, Some(Seen::Text(text.to_owned()))),
                Ok(Some((used, Received::Binary(data)))) => (used, Some(Seen::Binary(data.to_vec()))),
                Ok(Some((used, Received::Ping(data)))) => (used, Some(Seen::Ping(data.to_vec()))),
                Ok(Some((used, Received::Pong))) => (used, Some(Seen::Pong)),
                Ok(Some((used, Received::Close(code)))) => (used, Some(Seen::Close(code))),
            };
            unread.drain(..used);
            let closed = matches!(what, Some(Seen::Close(_)));
            seen.extend(what);
            if closed {
                return seen;
            }
        }
    }
    seen
}

struct Stream<'a>(&'a [u8]);

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buf)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(stream: &[u8]) -> Vec<Seen> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX)).max_frame_size(Some(MAX));
    let mut context = WebSocketContext::new(TheirRole::Server, Some(config));
    let (mut stream, mut seen) = (Stream(stream), Vec::new());
    loop {
        match context.read(&mut stream) {
            Ok(Message::Text(text)) => seen.push(Seen::Text(text.as_str().to_owned())),
            Ok(Message::Binary(data)) => seen.push(Seen::Binary(data.to_vec())),
            Ok(Message::Ping(data)) => seen.push(Seen::Ping(data.to_vec())),
            Ok(Message::Pong(_)) => seen.push(Seen::Pong),
            Ok(Message::Close(close)) => {
                seen.push(Seen::Close(close.map(|frame| u16::from(frame.code))));
                return seen;
            }
            Ok(Message::Frame(_)) => panic!("not given out when reading"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return seen,
            Err(_) => {
                seen.push(Seen::Fault);
                return seen;
            }
        }
    }
}

/// One frame with every bit free to choose.
#[derive(Debug, Clone)]
struct Frame {
    fin: bool,
    opcode: u8,
    masked: bool,
    rsv: u8,
    payload: Vec<u8>,
    mask: [u8; 4],
}

impl Frame {
    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        if self.masked {
            ws::push_masked_frame(out, self.opcode, &self.payload, self.mask);
        } else {
            ws::push_frame(out, self.opcode, &self.payload);
        }
        out[start] = u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode;
    }
}

prop_compose! {
    /// Mostly valid packets of clients, sometimes anything.
    fn frame()(
        fin in prop::bool::weighted(0.7),
        opcode in prop_oneof![8 => prop::sample::select(vec![0, 1, 1, 2, 9, 10]), 1 => (0_u8..16).prop_map(|opcode| if opcode == ws::OP_CLOSE { 3 } else { opcode })],
        masked in prop::bool::weighted(0.98),
        rsv in prop_oneof![40 => Just(0_u8), 1 => 0_u8..8],
        payload in prop_oneof![
            "[ -~é€😀]{0,20}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..40),
            (prop::sample::select(vec![125_usize, 126, 127, 65_535, 65_536, MAX, MAX + 1]), any::<u8>())
                .prop_map(|(len, byte)| vec![byte & 0x7f; len]),
        ],
        mask in any::<[u8; 4]>(),
    ) -> Frame {
        // Close frames with bad codes are given out as 1002 by theirs; ours have tests of their own below.
        // Tungstenite refuses a piece that is no UTF-8 when it comes, we the message when it is whole; both
        // may, so pieces are plain here and have tests of their own below.
        let is_piece = opcode == 0 || (opcode == ws::OP_TEXT && !fin);
        let payload = if is_piece { payload.iter().map(|byte| byte & 0x7f).collect() } else { payload };
        Frame { fin, opcode, masked, rsv, payload, mask }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decoder_agrees_with_tungstenite(frames in prop::collection::vec(frame(), 1..8)) {
        let mut stream = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut stream));
        prop_assert_eq!(ours(&stream, stream.len()), theirs(&stream));
    }

    #[test]
    fn where_a_stream_is_cut_does_not_matter(
        frames in prop::collection::vec(frame(), 1..6),
        piece in 1_usize..2_000,
    ) {
        let mut stream = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut stream));
        prop_assert_eq!(ours(&stream, piece), ours(&stream, stream.len()));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        ours(&bytes, 7);
    }

    #[test]
    fn a_mask_taken_off_twice_is_on_again(
        payload in prop::collection::vec(any::<u8>(), 0..100),
        mask in any::<[u8; 4]>(),
    ) {
        let mut masked = payload.clone();
        ws::unmask(&mut masked, mask);
        for (at, byte) in masked.iter().enumerate() {
            prop_assert_eq!(*byte, payload[at] ^ mask[at % 4]);
        }
    }
}

fn client(fin: bool, opcode: u8, payload: &[u8]) -> Frame {
    Frame { fin, opcode, masked: true, rsv: 0, payload: payload.to_vec(), mask: [1, 2, 3, 4] }
}

fn fault(frames: &[Frame]) -> Option<Fault> {
    let mut stream = Vec::new();
    frames.iter().for_each(|frame| frame.write(&mut stream));
    let mut decoder = Decoder::new(Role::Server, MAX);
    loop {
        match decoder.next(&mut stream) {
            Err(fault) => return Some(fault),
            Ok(None) => return None,
            Ok(Some((used, _))) => drop(stream.drain(..used)),
        }
    }
}

#[test]
fn what_the_protocol_forbids_has_its_close_code() {
    let unmasked = Frame { masked: false, ..client(true, ws::OP_TEXT, b"x") };
    let compressed = Frame { rsv: 4, ..client(true, ws::OP_TEXT, b"x") };
    for (frames, code) in [
        (vec![unmasked], 1002),
        (vec![compressed], 1002),
        (vec![client(true, 3, b"")], 1002),
        (vec![client(true, 11, b"")], 1002),
        (vec![client(true, ws::OP_PING, &[0; 126])], 1002),
        (vec![client(false, ws::OP_PING, b"")], 1002),
        (vec![client(true, 0, b"x")], 1002),
        (vec![client(false, ws::OP_TEXT, b"x"), client(true, ws::OP_TEXT, b"y")], 1002),
        (vec![client(true, ws::OP_TEXT, &[0xff])], 1007),
        (vec![client(false, ws::OP_TEXT, &[0xc3]), client(true, 0, b"(")], 1007),
        (vec![client(false, ws::OP_TEXT, &[b'x'; MAX]), client(true, 0, b"y")], 1009),
        (vec![client(true, ws::OP_CLOSE, &[3])], 1002),
        (vec![client(true, ws::OP_CLOSE, &1005_u16.to_be_bytes())], 1002),
        (vec![client(true, ws::OP_CLOSE, &1006_u16.to_be_bytes())], 1002),
        (vec![client(true, ws::OP_CLOSE, &999_u16.to_be_bytes())], 1002),
        (vec![client(true, ws::OP_CLOSE, &[3, 232, 0xff])], 1007),
    ] {
        assert_eq!(fault(&frames).map(|fault| u16::from(fault.code())), Some(code), "{frames:?}");
    }
}

#[test]
fn a_header_alone_tells_that_a_message_is_too_big() {
    let mut header = vec![0x82, 0xff];
    header.extend_from_slice(&(i64::MAX as u64).to_be_bytes());
    assert_eq!(Decoder::new(Role::Server, MAX).next(&mut header).unwrap_err(), Fault::TooBig);
    // Behind a first piece, where the sum of the two would pass what a length can say.
    let mut stream = Vec::new();
    client(false, ws::OP_TEXT, b"x").write(&mut stream);
    let first = stream.len();
    stream.extend_from_slice(&[0x80, 0xff]);
    stream.extend_from_slice(&u64::MAX.to_be_bytes());
    let mut decoder = Decoder::new(Role::Server, MAX);
    assert_eq!(decoder.next(&mut stream), Ok(Some((first, Received::Fragment))));
    assert_eq!(decoder.next(&mut stream[first..]).unwrap_err(), Fault::TooBig);
}

#[test]
fn a_message_in_pieces_is_one_message_with_control_frames_between() {
    let mut stream = Vec::new();
    client(false, ws::OP_TEXT, "a€".as_bytes()).write(&mut stream);
    client(true, ws::OP_PING, b"p").write(&mut stream);
    client(true, 0, b"b").write(&mut stream);
    client(true, ws::OP_TEXT, b"c").write(&mut stream);
    let expected = [Seen::Ping(b"p".to_vec()), Seen::Text("a€b".into()), Seen::Text("c".into())];
    assert_eq!(ours(&stream, 3), expected);
}

#[test]
fn a_message_has_a_bounded_number_of_pieces() {
    let mut frames = vec![client(false, ws::OP_TEXT, b"")];
    frames.extend((1..FRAGMENTS_MAX).map(|_| client(false, 0, b"")));
    assert_eq!(fault(&frames), None);
    frames.push(client(false, 0, b""));
    assert_eq!(fault(&frames), Some(Fault::TooManyFragments));
}

#[test]
fn a_close_code_is_one_that_may_be_sent() {
    let read = |code: u16| {
        let mut stream = Vec::new();
        client(true, ws::OP_CLOSE, &code.to_be_bytes()).write(&mut stream);
        Decoder::new(Role::Server, MAX).next(&mut stream).map(|_| ())
    };
    for code in 0..=u16::MAX {
        let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        assert_eq!(read(code), if may_be_sent { Ok(()) } else { Err(Fault::Protocol) }, "{code}");
    }
}
