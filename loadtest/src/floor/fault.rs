//! Deliberate faults, which prove that the tester detects them.

use std::str::FromStr;

use crate::floor::lines::Lines;
use crate::floor::rooms::{Member, Rooms};
use crate::frame;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Drop,
    Duplicate,
    /// The message comes after the next one of its room.
    Reorder,
    /// The message also goes to the first member of the next room.
    Misroute,
    /// The last letter of the content is changed.
    Corrupt,
}

/// One kind of fault, applied to every n-th delivery of a room except the publisher's own.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    kind: Kind,
    every: u64,
    /// For each room separately: the next affected member does not depend on which room is published to
    /// next.
    deliveries: Vec<u64>,
    /// Deliveries held back until their room's next message, for a reordering.
    held: Vec<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    room: usize,
    to: Member,
    frame: Vec<u8>,
}

impl FromStr for Injection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: expected drop|duplicate|reorder|misroute|corrupt:N");
        let (kind, every) = text.split_once(':').ok_or_else(wrong)?;
        let kind = match kind {
            "drop" => Kind::Drop,
            "duplicate" => Kind::Duplicate,
            "reorder" => Kind::Reorder,
            "misroute" => Kind::Misroute,
            "corrupt" => Kind::Corrupt,
            _ => return Err(wrong()),
        };
        let every = every.parse().ok().filter(|&n| n > 0).ok_or_else(wrong)?;
        Ok(Self { kind, every, deliveries: Vec::new(), held: Vec::new() })
    }
}

impl Injection {
    /// Delivers to a room; its first member (the publisher) always gets a correct delivery.
    pub(super) fn broadcast(&mut self, rooms: &Rooms, room: usize, text: &[u8], lines: &mut Lines) {
        let mut right = Vec::new();
        frame::write_plain(&mut right, frame::TEXT, text);
        let overtaken: Vec<Held> = self.held.extract_if(.., |held| held.room == room).collect();
        if self.deliveries.len() <= room {
            self.deliveries.resize(room + 1, 0);
        }
        let deliveries = &mut self.deliveries[room];
        for (index, &member) in rooms.members(room).iter().enumerate() {
            let due = index > 0 && {
                *deliveries += 1;
                deliveries.is_multiple_of(self.every)
            };
            let mut send = |to, frame: &[u8]| lines.send_to(to, frame);
            match self.kind {
                _ if !due => send(member, &right),
                Kind::Drop => {}
                Kind::Duplicate => {
                    send(member, &right);
                    send(member, &right);
                }
                Kind::Reorder => self.held.push(Held { room, to: member, frame: right.clone() }),
                Kind::Misroute => {
                    send(member, &right);
                    if let Some(&other) = rooms.members((room + 1) % rooms.count()).first() {
                        send(other, &right);
                    }
                }
                Kind::Corrupt => send(member, &corrupted(&right)),
            }
        }
        for Held { to, frame, .. } in overtaken {
            lines.send_to(to, &frame);
        }
    }
}

/// The frame with the last character of the last string changed.
fn corrupted(frame: &[u8]) -> Vec<u8> {
    let mut copy = frame.to_vec();
    if let Some(quote) = copy.iter().rposition(|&byte| byte == b'"')
        && let Some(last) = quote.checked_sub(1)
    {
        copy[last] = b'#';
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_counts_are_parsed() {
        let injection: Injection = "drop:1000".parse().unwrap();
        assert_eq!((injection.kind, injection.every), (Kind::Drop, 1000));
        for wrong in ["drop", "drop:0", "drop:x", "lose:3"] {
            assert!(wrong.parse::<Injection>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn corruption_changes_one_letter() {
        assert_eq!(corrupted(br#"["e",{"c":"abc"}]"#), br#"["e",{"c":"ab#"}]"#);
    }
}
