//! The stamp inside all published content: run, room, sequence number and time.
//!
//! It has a fixed width and lower-case hexadecimal digits, so that it is found by its position and read
//! with a few multiplications. At six million frames a second a JSON parser would be most of the measured
//! cost.

/// Begins every stamp; contains no character that JSON escapes.
const MARK: [u8; 4] = *b"~lt~";

/// Bytes of a stamp: the mark, run, room and sequence number of 8 digits each, time of 16 digits.
pub(crate) const LEN: usize = 4 + 8 + 8 + 8 + 16;

/// One published message's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Distinguishes this run's messages from those of another tester on the same server.
    pub(crate) run: u32,
    pub(crate) room: u32,
    /// Counts from 0 in every room.
    pub(crate) seq: u32,
    /// When it was written, or was due to be, on the monotonic clock.
    pub(crate) sent_ns: u64,
}

impl Stamp {
    /// Overwrites the first [`LEN`] bytes of `place`, which must have as many.
    pub(crate) fn write(self, place: &mut [u8]) {
        place[..4].copy_from_slice(&MARK);
        write_hex(&mut place[4..12], u64::from(self.run));
        write_hex(&mut place[12..20], u64::from(self.room));
        write_hex(&mut place[20..28], u64::from(self.seq));
        write_hex(&mut place[28..LEN], self.sent_ns);
    }

    /// Reads the stamp that begins at `at`; `None` if there is none.
    #[inline]
    pub(crate) fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let place: &[u8; LEN] = bytes.get(at..)?.first_chunk()?;
        if place[..4] != MARK {
            return None;
        }
        let (digits, _) = place[4..].as_chunks::<8>();
        let &[run, room, seq, high, low] = digits else {
            return None;
        };
        Some(Self {
            run: read_hex(run),
            room: read_hex(room),
            seq: read_hex(seq),
            sent_ns: u64::from(read_hex(high)) << 32 | u64::from(read_hex(low)),
        })
    }

    /// The position of a stamp in `bytes`, for the first message of a shape; later ones have it at the same
    /// position.
    pub(crate) fn find(bytes: &[u8]) -> Option<usize> {
        bytes.windows(LEN).position(|window| window.starts_with(&MARK))
    }
}

fn write_hex(place: &mut [u8], value: u64) {
    let mut left = value;
    for byte in place.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(left & 0xF) as usize];
        left >>= 4;
    }
}

/// Eight hexadecimal digits at once. Other characters yield some number: an altered stamp shows as a
/// message that was never sent.
#[inline]
fn read_hex(digits: [u8; 8]) -> u32 {
    let ascii = u64::from_be_bytes(digits);
    // '0'..'9' have their value in the low four bits; 'a'..'f' have it less nine, and bit 6 set.
    let nibbles = (ascii & 0x0F0F_0F0F_0F0F_0F0F) + 9 * ((ascii >> 6) & 0x0101_0101_0101_0101);
    let bytes = (nibbles | nibbles >> 4) & 0x00FF_00FF_00FF_00FF;
    let words = (bytes | bytes >> 8) & 0x0000_FFFF_0000_FFFF;
    (words & 0xFFFF) as u32 | (words >> 16 & 0xFFFF_0000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(stamp: Stamp) -> Vec<u8> {
        let mut place = vec![b'.'; LEN + 3];
        stamp.write(&mut place);
        place
    }

    #[test]
    fn a_stamp_is_read_back_at_the_ends_of_its_ranges() {
        for value in [0, 1, 9, 10, 15, 16, 0x1234_5678, 0x9abc_def0, u32::MAX] {
            let stamp = Stamp {
                run: value,
                room: !value,
                seq: value.rotate_left(7),
                sent_ns: u64::from(value) << 29 | 5,
            };
            assert_eq!(Stamp::read(&written(stamp), 0), Some(stamp));
        }
    }

    #[test]
    fn a_stamp_is_found_wherever_it_lies() {
        let stamp = Stamp { run: 1, room: 2, seq: 3, sent_ns: 4 };
        let mut text = br#"["new_message",{"content":""#.to_vec();
        let start = text.len();
        text.extend(written(stamp));
        assert_eq!(Stamp::find(&text), Some(start));
        assert_eq!(Stamp::read(&text, start), Some(stamp));
        assert_eq!(Stamp::read(&text, start + 1), None);
    }

    #[test]
    fn a_cut_stamp_is_none() {
        let stamp = Stamp { run: 1, room: 2, seq: 3, sent_ns: 4 };
        let bytes = written(stamp);
        assert_eq!(Stamp::read(&bytes[..LEN - 1], 0), None);
        assert_eq!(Stamp::find(&bytes[..LEN - 1]), None);
        assert_eq!(Stamp::read(&bytes, bytes.len() + 1), None);
    }
}
