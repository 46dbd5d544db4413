//! Walks through the entries around a position, the nearest first.
//!
//! The earth's surface around the position is divided into squares, which are read from the nearest on until they
//! contain what is wanted. One statement, the survey, determines their size: it counts the rows in the squares that the
//! radius reaches, no further than [`SURVEYED`] in each, and measures the density where the walk begins. The nearest
//! squares are divided down to the size that fits ([`Size::of`]), and one statement reads those that are expected to
//! contain what is wanted. Farther away, where the survey no longer applies, squares are counted, [`SQUARES`] of them
//! per statement, and those with more than [`LEAF`] divided. Many entries at one spot are read in the order of their
//! ids.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashSet};

use fanout::{EARTH_RADIUS, Place, metres_between};

use super::Looked;
use super::cursor::{Key, Rank};
use super::statements::{Found, NEIGHBOURS, SQUARES, Statements, Survey};
use crate::records::Table;
use crate::records::pool::Connection;
use crate::records::squares::{FINEST, Square, cell, middle};

/// A square with more rows than this is divided.
const LEAF: usize = 80;

/// The count of a square that is read separately, because it may contain many more.
const CROWDED: f64 = 1.0 + LEAF as f64;

/// The survey counts no further in a square; beyond that, the neighbours give the approximate density.
const SURVEYED: usize = 16;

/// Squares that one statement reads.
const READ_AT_ONCE: usize = 96;

/// How many squares are created from the survey; farther away the walk counts again.
const DIVIDED_MAX: usize = 192;

/// Metres from the south to the north of a smallest square.
const FINEST_METRES: f64 = std::f64::consts::PI * EARTH_RADIUS / (1_u64 << FINEST) as f64;

/// How many metres a position may be from the middle of its smallest square.
pub(super) const ROUNDING: f64 = 0.03;

/// A candidate.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) key: Key,
    /// See [`Found`].
    pub(super) row: i64,
    /// The user, if their other entries must be read to know its rank.
    user: Option<String>,
}

/// A square that is still to be counted, divided or read.
#[derive(Debug, Clone)]
struct Pending {
    /// Nothing in the square precedes this key.
    from: Key,
    /// Metres to its nearest and its farthest point.
    metres: (f64, f64),
    square: Square,
    /// The exact or approximate number of rows in it.
    count: f64,
}

/// The size of squares that the survey determined.
#[derive(Debug, Clone, Copy)]
struct Size {
    level: u32,
    /// The expected number of rows in each.
    count: f64,
    /// How many more may be created.
    left: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Candidate {}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> Ordering {
        self.from.cmp(&other.from)
    }
}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.from == other.from
    }
}

impl Eq for Pending {}

impl Size {
    /// The size for a page of `wanted` that begins `metres` away; the neighbours of the survey are in `spans` smallest
    /// squares before and after. `None` if that would need too many squares, or nothing is known.
    fn of(wanted: usize, metres: f64, spans: [Option<u64>; 2]) -> Option<Self> {
        let (rows, cells) = match spans {
            [Some(before), Some(behind)] if before.max(behind) / 4 <= before.min(behind) => {
                (2 * NEIGHBOURS, before + behind)
            }
            // The order of cells may lead far away beyond the other end.
            spans => (NEIGHBOURS, spans.into_iter().flatten().min()?),
        };
        // A part of the squares that a circle touches is outside of it. Smaller squares waste fewer rows, but cost more
        // themselves.
        let most = u64::try_from(wanted / 16).unwrap_or_default().max(4);
        let by_density = (most.saturating_mul(cells) / rows).max(1).ilog(4);
        // A page that begins farther away touches a whole ring of squares: some fifty, each an eighth of the distance
        // wide.
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let by_distance = (metres / 8.0 / FINEST_METRES).max(1.0).log2().ceil() as u32;
        if by_distance > by_density + 1 {
            return None;
        }
        let halvings = by_density.max(by_distance).min(FINEST);
        let count = (rows as f64) * 4_f64.powi(halvings.cast_signed()) / (cells as f64);
        Some(Self { level: FINEST - halvings, count, left: DIVIDED_MAX })
    }
}

/// How many rows must be expected so that there are rarely fewer than `wanted`.
fn enough(wanted: usize) -> f64 {
    let wanted = wanted as f64;
    wanted + 1.5 * wanted.sqrt()
}

/// The ranges of cells of squares; adjacent squares share one.
fn ranges(squares: &[Pending]) -> Vec<[i64; 2]> {
    let mut ranges: Vec<[i64; 2]> = squares.iter().map(|pending| pending.square.range().into()).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let continues = next[0] == range[1] + 1;
        if continues {
            range[1] = next[1];
        }
        continues
    });
    ranges
}

/// A walk through the candidates of one rank.
pub(super) struct Scan {
    statements: Statements,
    centre: Place,
    radius: f64,
    after: Option<Key>,
    size: Option<Size>,
    uncounted: BinaryHeap<Reverse<Pending>>,
    counted: BinaryHeap<Reverse<Pending>>,
    found: BinaryHeap<Reverse<Candidate>>,
}

impl Scan {
    /// A walk around the position that begins after `after`.
    pub(super) async fn begin(
        connection: &mut Connection,
        table: Table,
        rank: Rank,
        looked: &Looked,
        after: Option<Key>,
    ) -> Result<Self, sqlx::Error> {
        let (uncounted, counted, found) = Default::default();
        let statements = Statements { table, rank, is_postgres: connection.is_postgres() };
        let (centre, radius) = (looked.around, looked.radius + ROUNDING);
        let mut scan = Self { statements, centre, radius, after, size: None, uncounted, counted, found };
        scan.survey(connection, looked.limit + 1).await?;
        Ok(scan)
    }

    /// The squares that the radius reaches, at most [`SQUARES`].
    fn reached(&self) -> Vec<Square> {
        let mut squares = vec![Square::EARTH];
        loop {
            let parts: Vec<Square> = squares
                .iter()
                .flat_map(|square| square.parts(1))
                .filter(|part| self.pending(*part).is_some())
                .collect();
            if parts.len() > SQUARES || parts.first().is_none_or(|part| part.is_finest()) {
                return squares;
            }
            squares = parts;
        }
    }

    /// Measures the density where the walk begins.
    async fn survey(&mut self, connection: &mut Connection, wanted: usize) -> Result<(), sqlx::Error> {
        let reached = self.reached();
        let begin = self.after.as_ref().map_or_else(|| cell(self.centre), |after| after.cell);
        let survey = self.statements.survey(connection, &reached, SURVEYED, begin).await?;
        let Survey { counts, neighbours } = survey;
        for (square, count) in reached.into_iter().zip(counts) {
            self.push_counted(square, count, SURVEYED);
        }
        let spans = neighbours.map(|end| end.map(|cell| cell.abs_diff(begin) + 1));
        if spans.contains(&Some(1)) {
            self.isolate(begin);
        } else {
            let metres = self.after.as_ref().map_or(0.0, |after| after.metres);
            self.size = Size::of(wanted, metres, spans);
        }
        Ok(())
    }

    /// Divides the square around a spot with many rows down to the spot, which is read separately. The density around
    /// the spot is unknown.
    fn isolate(&mut self, spot: i64) {
        let holds = |square: Square| {
            let (first, last) = square.range();
            (first..=last).contains(&spot)
        };
        let (around, others): (Vec<_>, Vec<_>) =
            self.uncounted.drain().partition(|Reverse(pending)| holds(pending.square));
        self.uncounted.extend(others);
        for Reverse(Pending { mut square, .. }) in around {
            while !square.is_finest() {
                for part in square.parts(1) {
                    if holds(part) {
                        square = part;
                    } else {
                        self.push(part);
                    }
                }
            }
            if let Some(pending) = self.pending(square) {
                self.counted.push(Reverse(Pending { count: CROWDED, ..pending }));
            }
        }
    }

    /// Divides the nearest squares to the survey's size until they are expected to contain `wanted`. Returns whether
    /// there are any.
    fn divide(&mut self, wanted: f64) -> bool {
        let Some(Size { level, count, mut left }) = self.size else { return false };
        let mut begun: Vec<Pending> = Vec::new();
        while left > 0
            && let Some(Reverse(nearest)) = self.uncounted.pop()
        {
            if nearest.square.level() < level {
                for part in nearest.square.parts(1) {
                    let pending = self.pending(part);
                    self.uncounted.extend(pending.map(Reverse));
                }
                continue;
            }
            // Not after each square, because it reads all of them.
            if begun.len() % 4 == 3 && self.expected(&begun, nearest.from.metres) >= wanted {
                self.uncounted.push(Reverse(nearest));
                break;
            }
            left -= 1;
            // After an id within a spot, the number of rows is unknown.
            let count = if nearest.from.id.is_empty() { count } else { CROWDED };
            begun.push(Pending { count, ..nearest });
        }
        let is_any = !begun.is_empty();
        self.counted.extend(begun.into_iter().map(Reverse));
        self.size = Some(Size { level, count, left });
        is_any
    }

    /// How many rows are expected in squares up to a distance and after the beginning of the page.
    fn expected(&self, squares: &[Pending], metres: f64) -> f64 {
        let begin = self.after.as_ref().map_or(0.0, |after| after.metres);
        let within = |pending: &Pending| {
            let (least, most) = pending.metres;
            let part =
                if most > least { (most.min(metres) - least.max(begin)) / (most - least) } else { 1.0 };
            pending.count * part.clamp(0.0, 1.0)
        };
        squares.iter().map(within).sum()
    }

    /// The square, if it may have candidates between the beginning of the page and the radius.
    fn pending(&self, square: Square) -> Option<Pending> {
        let metres = square.metres_from(self.centre);
        let (first, _) = square.range();
        if metres.0 > self.radius {
            return None;
        }
        let cell = if square.is_finest() { first } else { i64::MIN };
        let mut from = Key { metres: metres.0, cell, id: String::new() };
        if let Some(after) = &self.after {
            if metres.1 < after.metres {
                return None;
            }
            if square.is_finest() && from < *after {
                if (from.metres, from.cell) != (after.metres, after.cell) {
                    return None;
                }
                from.id.clone_from(&after.id);
            }
        }
        let count = if from.id.is_empty() { LEAF as f64 } else { CROWDED };
        Some(Pending { from, metres, square, count })
    }

    fn push(&mut self, square: Square) {
        if let Some(pending) = self.pending(square) {
            // A smallest square cannot be divided, so it need not be counted.
            let heap = if square.is_finest() { &mut self.counted } else { &mut self.uncounted };
            heap.push(Reverse(pending));
        }
    }

    /// Adds a square whose rows were counted, no further than one more than `most`.
    fn push_counted(&mut self, square: Square, count: usize, most: usize) {
        if count > most {
            self.push(square);
        } else if count > 0
            && let Some(pending) = self.pending(square)
        {
            self.counted.push(Reverse(Pending { count: count as f64, ..pending }));
        }
    }

    /// The next candidates: `wanted` or more, or fewer at the end.
    pub(super) async fn next(
        &mut self,
        connection: &mut Connection,
        wanted: usize,
    ) -> Result<Vec<Candidate>, sqlx::Error> {
        let mut next = Vec::new();
        loop {
            let (uncounted, counted) = (self.uncounted.peek(), self.counted.peek());
            let bound = uncounted.into_iter().chain(counted).map(|Reverse(pending)| &pending.from).min();
            while let Some(Reverse(candidate)) = self.found.peek()
                && bound.is_none_or(|bound| candidate.key <= *bound)
            {
                next.extend(self.found.pop().map(|Reverse(candidate)| candidate));
            }
            if next.len() >= wanted || bound.is_none() {
                return Ok(next);
            }
            let expected = (enough(wanted - next.len()) - self.found.len() as f64).max(1.0);
            let frontier = uncounted.map(|Reverse(pending)| &pending.from);
            let is_near = |pending: &&Reverse<Pending>| frontier.is_none_or(|at| pending.0.from <= *at);
            let readable: f64 = self.counted.iter().filter(is_near).map(|pending| pending.0.count).sum();
            if frontier.is_none() || readable >= expected {
                self.read(connection, expected).await?;
            } else if !self.divide(expected - readable) {
                self.count(connection).await?;
            }
        }
    }

    /// Counts the nearest squares, and divides those with many rows.
    async fn count(&mut self, connection: &mut Connection) -> Result<(), sqlx::Error> {
        let nearest = std::iter::from_fn(|| self.uncounted.pop()).take(SQUARES);
        let squares: Vec<Square> = nearest.map(|Reverse(pending)| pending.square).collect();
        if squares.is_empty() {
            return Ok(());
        }
        let counts = self.statements.count(connection, &squares, LEAF).await?;
        for (square, count) in squares.into_iter().zip(counts) {
            if count > LEAF {
                for part in square.parts(2) {
                    self.push(part);
                }
            } else {
                self.push_counted(square, count, LEAF);
            }
        }
        Ok(())
    }

    /// Takes the nearest squares that are expected to contain `wanted` rows nearer than all others, or one with many.
    fn take(&mut self, wanted: f64) -> Vec<Pending> {
        let mut taken: Vec<Pending> = Vec::new();
        while taken.len() < READ_AT_ONCE
            && let Some(Reverse(nearest)) = self.counted.peek()
        {
            let is_crowded = nearest.count >= CROWDED;
            if !taken.is_empty() {
                let uncounted = self.uncounted.peek().map_or(f64::MAX, |Reverse(pending)| pending.metres.0);
                let metres = nearest.metres.0.min(uncounted);
                if is_crowded || self.expected(&taken, metres) >= wanted {
                    break;
                }
            }
            taken.extend(self.counted.pop().map(|Reverse(pending)| pending));
            if is_crowded {
                break;
            }
        }
        taken
    }

    /// Reads the nearest squares, about as many as contain `wanted`.
    async fn read(&mut self, connection: &mut Connection, wanted: f64) -> Result<(), sqlx::Error> {
        let mut squares = self.take(wanted);
        if squares.len() == 1
            && let Some(square) = squares.pop()
        {
            return self.read_one(connection, square, wanted).await;
        }
        let expected: f64 = squares.iter().map(|pending| pending.count).sum();
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let most = LEAF + 2 * expected as usize;
        let rows = self.statements.in_ranges(connection, &ranges(&squares), most + 1).await?;
        let read = rows.len() as f64;
        if read < expected / 4.0 || rows.len() > most {
            // The density here differs from the survey.
            self.size = None;
        }
        if rows.len() <= most {
            self.keep(rows);
            return Ok(());
        }
        for pending in squares {
            let (first, last) = pending.square.range();
            let count = rows.iter().filter(|row| (first..=last).contains(&row.cell)).count();
            if count <= LEAF {
                let count = (4.0 * pending.count).min(CROWDED);
                self.counted.push(Reverse(Pending { count, ..pending }));
            } else if pending.square.is_finest() {
                self.counted.push(Reverse(Pending { count: CROWDED, ..pending }));
            } else {
                self.uncounted.push(Reverse(pending));
            }
        }
        Ok(())
    }

    /// Reads a square that may be a spot with many rows.
    async fn read_one(
        &mut self,
        connection: &mut Connection,
        pending: Pending,
        wanted: f64,
    ) -> Result<(), sqlx::Error> {
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let most = LEAF.max(wanted as usize);
        let (square, after) = (pending.square, &pending.from.id);
        let rows = self.statements.in_square(connection, square, after, most + 1).await?;
        if rows.len() > most {
            if !square.is_finest() {
                // The square has more rows than the count or the survey predicted.
                self.size = None;
                self.uncounted.push(Reverse(pending));
                return Ok(());
            }
            if let Some(last) = rows.iter().map(|row| &row.id).max() {
                let from = Key { id: last.clone(), ..pending.from };
                self.counted.push(Reverse(Pending { from, count: CROWDED, ..pending }));
            }
        }
        self.keep(rows);
        Ok(())
    }

    /// Keeps the rows after the beginning of the page and within the radius.
    fn keep(&mut self, rows: Vec<Found>) {
        for Found { cell, id, row, user } in rows {
            let key = Key { metres: metres_between(self.centre, middle(cell)), cell, id };
            let is_after = self.after.as_ref().is_none_or(|after| key > *after);
            if key.metres <= self.radius && is_after {
                self.found.push(Reverse(Candidate { key, row, user }));
            }
        }
    }

    /// Whether each of the candidates has the rank of this walk.
    pub(super) async fn belong(
        &self,
        connection: &mut Connection,
        candidates: &[Candidate],
    ) -> Result<Vec<bool>, sqlx::Error> {
        let users: HashSet<&str> =
            candidates.iter().filter_map(|candidate| candidate.user.as_deref()).collect();
        if users.is_empty() {
            return Ok(vec![true; candidates.len()]);
        }
        let users: Vec<&str> = users.into_iter().collect();
        let nearest = self.statements.nearest_of(connection, &users, self.centre).await?;
        let nearest: HashSet<&str> = nearest.iter().map(|key| key.id.as_str()).collect();
        let is_first = self.statements.rank == Rank::First;
        let belongs = |candidate: &Candidate| {
            candidate.user.is_none() || nearest.contains(candidate.key.id.as_str()) == is_first
        };
        Ok(candidates.iter().map(belongs).collect())
    }
}
