//! Rate limits for a session's packets other than events, which have their own rate: one counter per kind of packet.
//!
//! The counters leak once a second. Together they take sixteen bytes, and only the packets that they count read them,
//! so events pay nothing.

use shared::limits::{
    CONNECTS_BURST, CONNECTS_PER_SECOND, CONTROL_FRAMES_BURST, CONTROL_FRAMES_PER_SECOND, FRAGMENTS_BURST,
    FRAGMENTS_PER_SECOND, IGNORED_PACKETS_BURST, IGNORED_PACKETS_PER_SECOND, PARTIAL_READS_BURST,
    PARTIAL_READS_PER_SECOND, UNASKED_ACKS_BURST, UNASKED_ACKS_PER_SECOND,
};

use crate::metrics::Limit;

/// A kind of packet that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// A WebSocket ping or pong, or an unsolicited Engine.IO pong.
    Control,
    /// An Engine.IO packet without a meaning for a server.
    Ignored,
    /// A CONNECT, accepted or refused.
    Connect,
    /// An ack that the server did not ask for.
    UnaskedAck,
    /// An incomplete piece of a WebSocket message.
    Fragment,
    /// A read of a few bytes that completed no frame.
    PartialRead,
}

const KINDS: usize = 6;

/// For each kind, in the order of [`Counted`]: how many per second in the long run, and how many at once.
const RATES: [(u32, u32); KINDS] = [
    (CONTROL_FRAMES_PER_SECOND, CONTROL_FRAMES_BURST),
    (IGNORED_PACKETS_PER_SECOND, IGNORED_PACKETS_BURST),
    (CONNECTS_PER_SECOND, CONNECTS_BURST),
    (UNASKED_ACKS_PER_SECOND, UNASKED_ACKS_BURST),
    (FRAGMENTS_PER_SECOND, FRAGMENTS_BURST),
    (PARTIAL_READS_PER_SECOND, PARTIAL_READS_BURST),
];

impl Counted {
    /// The limit that applies when there are too many.
    pub(super) fn limit(self) -> Limit {
        match self {
            Self::Control => Limit::ControlFrames,
            Self::Ignored => Limit::IgnoredPackets,
            Self::Connect => Limit::Connects,
            Self::UnaskedAck => Limit::UnaskedAcks,
            Self::Fragment => Limit::Fragments,
            Self::PartialRead => Limit::PartialReads,
        }
    }
}

/// How much of each rate a session has used.
#[derive(Debug, Default)]
pub(super) struct Allowances {
    /// The second of the last leak, counted from the start of the engine.
    second: u32,
    used: [u16; KINDS],
}

impl Allowances {
    /// Takes one of a kind in `second`; false if none is left.
    pub(super) fn take(&mut self, kind: Counted, second: u32) -> bool {
        self.leak(second);
        let at = kind as usize;
        let (Some(used), Some((_, burst))) = (self.used.get_mut(at), RATES.get(at)) else { return true };
        if u32::from(*used) >= *burst {
            return false;
        }
        *used += 1;
        true
    }

    fn leak(&mut self, second: u32) {
        let elapsed = second.saturating_sub(self.second);
        if elapsed == 0 {
            return;
        }
        self.second = second;
        for (used, (per_second, _)) in self.used.iter_mut().zip(RATES) {
            let leaked = u16::try_from(per_second.saturating_mul(elapsed)).unwrap_or(u16::MAX);
            *used = used.saturating_sub(leaked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Counted; KINDS] = [
        Counted::Control,
        Counted::Ignored,
        Counted::Connect,
        Counted::UnaskedAck,
        Counted::Fragment,
        Counted::PartialRead,
    ];

    fn taken(allowances: &mut Allowances, kind: Counted, second: u32) -> u32 {
        (0..100_000).map(|_| u32::from(allowances.take(kind, second))).sum()
    }

    #[test]
    fn each_kind_has_its_burst_and_then_its_rate() {
        for (kind, (per_second, burst)) in ALL.into_iter().zip(RATES) {
            let mut allowances = Allowances::default();
            assert_eq!(taken(&mut allowances, kind, 100), burst, "{kind:?}");
            assert_eq!(taken(&mut allowances, kind, 100), 0, "{kind:?}");
            assert_eq!(taken(&mut allowances, kind, 101), per_second, "{kind:?}");
            assert_eq!(taken(&mut allowances, kind, 104), burst.min(3 * per_second), "{kind:?}");
            assert_eq!(taken(&mut allowances, kind, u32::MAX), burst, "{kind:?}");
        }
    }

    #[test]
    fn kinds_do_not_share_a_rate() {
        let mut allowances = Allowances::default();
        for (kind, (_, burst)) in ALL.into_iter().zip(RATES) {
            assert_eq!(taken(&mut allowances, kind, 7), burst, "{kind:?}");
        }
    }

    #[test]
    fn the_counters_take_no_more_memory_than_one_meter() {
        assert_eq!(size_of::<Allowances>(), 16);
    }
}
