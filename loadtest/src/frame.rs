//! WebSocket frames, parsed in place and written into a caller's buffer.
//!
//! Just what Engine.IO needs: whole messages without extensions. A fragmented or compressed message
//! is an error: neither was negotiated, and no server here has a reason to send one. Ignoring it
//! would hide a loss.

use std::fmt;

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// A greater length means a broken stream, not a message.
const LONGEST: u64 = 16 << 20;

/// The position of a frame in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) opcode: u8,
    /// Present on frames from clients only.
    pub(crate) mask: Option<[u8; 4]>,
    /// The payload is `start..end`; the next frame begins at `end`.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Why a stream of frames cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    Fragmented,
    ReservedBits,
    TooLong(u64),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fragmented => f.write_str("fragmented WebSocket message"),
            Self::ReservedBits => f.write_str("reserved bits set in a WebSocket frame"),
            Self::TooLong(len) => write!(f, "WebSocket frame of {len} bytes"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Finds the frame that begins at `buf[at]`. `None` while it is incomplete.
#[inline]
pub(crate) fn head(buf: &[u8], at: usize) -> Result<Option<Head>, FrameError> {
    let rest = buf.get(at..).unwrap_or_default();
    let &[first, second, ..] = rest else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(FrameError::ReservedBits);
    }
    let opcode = first & 0x0F;
    if first & 0x80 == 0 || opcode == 0 {
        return Err(FrameError::Fragmented);
    }
    let (len, mut start) = match second & 0x7F {
        126 => match rest.get(2..4) {
            Some(&[a, b]) => (usize::from(u16::from_be_bytes([a, b])), at + 4),
            _ => return Ok(None),
        },
        127 => match rest.get(2..10).and_then(<[u8]>::first_chunk) {
            Some(bytes) => (long(u64::from_be_bytes(*bytes))?, at + 10),
            None => return Ok(None),
        },
        short => (usize::from(short), at + 2),
    };
    let mask = if second & 0x80 == 0 {
        None
    } else {
        let Some(mask) = buf.get(start..).and_then(<[u8]>::first_chunk) else {
            return Ok(None);
        };
        start += 4;
        Some(*mask)
    };
    let end = start + len;
    if end > buf.len() {
        return Ok(None);
    }
    Ok(Some(Head { opcode, mask, start, end }))
}

fn long(len: u64) -> Result<usize, FrameError> {
    match usize::try_from(len) {
        Ok(short) if len <= LONGEST => Ok(short),
        _ => Err(FrameError::TooLong(len)),
    }
}

/// Appends a frame as a server sends it.
pub(crate) fn write_plain(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_head(out, opcode, 0, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a frame as a client must send it.
pub(crate) fn write_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: [u8; 4]) {
    write_head(out, opcode, 0x80, payload.len());
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

fn write_head(out: &mut Vec<u8>, opcode: u8, mask_bit: u8, len: usize) {
    out.push(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..=125), _) => out.push(mask_bit | short),
        (_, Ok(medium)) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Masks or, the same thing, unmasks in place.
pub(crate) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    // Eight bytes at a time is what the compiler turns into vector code.
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (chunks, tail) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    fn plain(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_plain(&mut out, TEXT, payload);
        out
    }

    /// Both writers against the parser, at the lengths where the header changes its form.
    #[test]
    fn every_header_form_is_read_back() {
        for len in [0, 1, 7, 8, 9, 125, 126, 127, 128, 1000, 65_535, 65_536, 200_000] {
            let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let bytes = plain(&payload);
            let found = head(&bytes, 0).unwrap().unwrap();
            assert_eq!(found.opcode, TEXT);
            assert_eq!(found.mask, None);
            assert_eq!(&bytes[found.start..found.end], payload);
            assert_eq!(found.end, bytes.len());

            let mut bytes = Vec::new();
            write_masked(&mut bytes, PONG, &payload, KEY);
            let found = head(&bytes, 0).unwrap().unwrap();
            assert_eq!(found.opcode, PONG);
            apply_mask(&mut bytes[found.start..found.end], found.mask.unwrap());
            assert_eq!(&bytes[found.start..found.end], payload);
            assert_eq!(found.end, bytes.len());
        }
    }

    #[test]
    fn the_masked_hello_of_rfc_6455_is_written_byte_for_byte() {
        let mut out = Vec::new();
        write_masked(&mut out, TEXT, b"Hello", KEY);
        assert_eq!(out, [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58]);
    }

    #[test]
    fn a_torn_frame_is_incomplete_at_every_cut() {
        for len in [3, 300, 70_000] {
            for bytes in [plain(&vec![b'x'; len]), {
                let mut out = Vec::new();
                write_masked(&mut out, TEXT, &vec![b'x'; len], KEY);
                out
            }] {
                for cut in (0..20).chain([bytes.len() - 1]) {
                    let cut = cut.min(bytes.len() - 1);
                    assert_eq!(head(&bytes[..cut], 0).unwrap(), None, "cut at {cut}");
                }
                assert!(head(&bytes, 0).unwrap().is_some());
            }
        }
    }

    #[test]
    fn frames_in_one_buffer_are_found_one_after_the_other() {
        let mut bytes = plain(b"one");
        bytes.extend(plain(b"three"));
        let first = head(&bytes, 0).unwrap().unwrap();
        let second = head(&bytes, first.end).unwrap().unwrap();
        assert_eq!(&bytes[first.start..first.end], b"one");
        assert_eq!(&bytes[second.start..second.end], b"three");
        assert_eq!(head(&bytes, second.end).unwrap(), None);
    }

    #[test]
    fn features_that_were_not_negotiated_are_errors() {
        assert_eq!(head(&[0x01, 0x00], 0), Err(FrameError::Fragmented));
        assert_eq!(head(&[0x80, 0x00], 0), Err(FrameError::Fragmented));
        assert_eq!(head(&[0xC1, 0x00], 0), Err(FrameError::ReservedBits));
        let mut huge = vec![0x81, 127];
        huge.extend(u64::MAX.to_be_bytes());
        assert_eq!(head(&huge, 0), Err(FrameError::TooLong(u64::MAX)));
    }
}
