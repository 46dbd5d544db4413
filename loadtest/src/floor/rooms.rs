//! The floor's rooms.

use std::collections::HashMap;
use std::os::fd::RawFd;

use crate::floor::lines::Lines;
use crate::frame;

/// A connection's place in a room. Numbers instead of references, because connections and rooms
/// refer to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    room: u32,
    place: u32,
}

impl Seat {
    /// In no room.
    pub(super) const NONE: Self = Self { room: u32::MAX, place: 0 };
}

/// The part of a member that a broadcast needs: eight bytes, side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) fd: RawFd,
    pub(super) line: u32,
}

#[derive(Debug, Default)]
struct Room {
    members: Vec<Member>,
    /// Frames published in this round and not sent yet; the same bytes for every member.
    pending: Vec<u8>,
}

/// All rooms by number; a room stays when its last member has left.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    rooms: Vec<Room>,
    names: HashMap<String, usize>,
    /// Rooms with something pending.
    dirty: Vec<usize>,
    /// The frame of the broadcast under way.
    frame: Vec<u8>,
}

impl Rooms {
    /// A room by its name, if any connection was ever in it.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// Seats a connection that is in no room.
    pub(super) fn enter(&mut self, name: &str, line: usize, fd: RawFd) -> Seat {
        let index = self.find(name).unwrap_or_else(|| {
            self.rooms.push(Room::default());
            self.names.insert(name.to_owned(), self.rooms.len() - 1);
            self.rooms.len() - 1
        });
        // There are far fewer connections than descriptor numbers.
        let (Ok(line), Ok(room)) = (u32::try_from(line), u32::try_from(index)) else {
            return Seat::NONE;
        };
        let members = &mut self.rooms[index].members;
        let Ok(place) = u32::try_from(members.len()) else {
            return Seat::NONE;
        };
        members.push(Member { fd, line });
        Seat { room, place }
    }

    /// Frees a seat; the last member of the room moves into it.
    pub(super) fn leave(&mut self, seat: Seat, lines: &mut Lines) {
        if seat == Seat::NONE {
            return;
        }
        let members = &mut self.rooms[seat.room as usize].members;
        members.swap_remove(seat.place as usize);
        if let Some(moved) = members.get(seat.place as usize)
            && let Some(line) = lines.get(moved.line as usize)
        {
            line.seat = seat;
        }
    }

    /// The members of a room.
    pub(super) fn members(&self, room: usize) -> &[Member] {
        &self.rooms[room].members
    }

    /// How many rooms there are.
    pub(super) fn count(&self) -> usize {
        self.rooms.len()
    }

    /// Encodes a text once and passes it to `send` for every member.
    pub(super) fn broadcast(&mut self, room: usize, text: &[u8], mut send: impl FnMut(Member, &[u8])) {
        self.frame.clear();
        frame::write_plain(&mut self.frame, frame::TEXT, text);
        for &member in &self.rooms[room].members {
            send(member, &self.frame);
        }
    }

    /// Adds a text for [`Self::flush`].
    pub(super) fn push(&mut self, room: usize, text: &[u8]) {
        let pending = &mut self.rooms[room].pending;
        if pending.is_empty() {
            self.dirty.push(room);
        }
        frame::write_plain(pending, frame::TEXT, text);
    }

    /// Sends everything pending, one `send` per member.
    pub(super) fn flush(&mut self, lines: &mut Lines) {
        for room in self.dirty.drain(..) {
            let room = &mut self.rooms[room];
            for &member in &room.members {
                lines.send_to(member, &room.pending);
            }
            room.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(rooms: &Rooms, room: usize) -> Vec<u32> {
        rooms.members(room).iter().map(|member| member.line).collect()
    }

    #[test]
    fn leaving_moves_the_last_member_into_the_seat() {
        let (mut rooms, mut lines) = (Rooms::default(), Lines::default());
        let seats: Vec<Seat> = (0..4).map(|line| rooms.enter("/,r", line, 9)).collect();
        assert_eq!(lines_of(&rooms, 0), [0, 1, 2, 3]);
        rooms.leave(seats[1], &mut lines);
        assert_eq!(lines_of(&rooms, 0), [0, 3, 2]);
        rooms.leave(seats[2], &mut lines);
        assert_eq!(lines_of(&rooms, 0), [0, 3]);
        rooms.leave(Seat::NONE, &mut lines);
        assert_eq!(lines_of(&rooms, 0), [0, 3]);
    }

    #[test]
    fn rooms_are_distinguished_by_name() {
        let mut rooms = Rooms::default();
        rooms.enter("/a,r", 1, 9);
        rooms.enter("/b,r", 2, 9);
        rooms.enter("/a,r", 3, 9);
        assert_eq!(lines_of(&rooms, rooms.find("/a,r").unwrap()), [1, 3]);
        assert_eq!(rooms.find("r"), None);
        assert_eq!(rooms.count(), 2);
    }
}
