//! Where a page of a nearby search begins, and its serialized form.

use std::cmp::Ordering;

use shared::names::is_name;

/// The position of an entry within its rank.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) metres: f64,
    pub(super) cell: i64,
    pub(super) id: String,
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_place = self.metres.total_cmp(&other.metres).then(self.cell.cmp(&other.cell));
        by_place.then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key {}

/// The order of the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// The nearest entry of each user.
    First,
    /// All others.
    Further,
}

/// The entry after which a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(super) rank: Rank,
    pub(super) after: Key,
}

impl Cursor {
    /// Serializes the cursor for clients.
    pub(crate) fn text(&self) -> String {
        let Self { rank, after: Key { metres, cell, id } } = self;
        let rank = u8::from(*rank == Rank::Further);
        format!("{rank}{:016x}{cell:016x}{id}", metres.to_bits())
    }

    /// Parses a client's cursor; `None` if it is invalid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rank = match text.get(..1)? {
            "0" => Rank::First,
            "1" => Rank::Further,
            _ => return None,
        };
        let number = |at| u64::from_str_radix(text.get(at..at + 16)?, 16).ok();
        let metres =
            Some(f64::from_bits(number(1)?)).filter(|metres| metres.is_finite() && *metres >= 0.0)?;
        let cell = i64::try_from(number(17)?).ok()?;
        let id = text.get(33..).filter(|id| is_name(id))?.to_owned();
        Some(Self { rank, after: Key { metres, cell, id } })
    }
}
