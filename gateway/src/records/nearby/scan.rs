//! A walk through what is around a place, the nearest first.
//!
//! The earth's surface around the place is divided into squares, which are read the nearest first, as many as hold what
//! is wanted. One statement finds out how large they should be: it counts, no further than [`SURVEYED`], the squares that the
//! radius reaches, and finds out how far the [`NEIGHBOURS`] before and behind the beginning of the walk are in the order
//! of cells. The nearest squares are then divided down to the size that holds about as many, and read. Where the survey does not hold farther away, squares are counted and those with more than [`LEAF`]
//! divided, [`SQUARES`] of them in a statement. Many in one spot are read in the order of their ids.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, HashSet};

use fanout::{Place, metres_between};
use serde::Deserialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::Looked;
use super::cursor::{Key, Rank};
use crate::records::Table;
use crate::records::columns::{as_one_text, is_one_of, read_text, text_of, texts};
use crate::records::pool::Connection;
use crate::records::squares::{FINEST, Square, cell, middle};

/// A square with more than this is divided.
const LEAF: usize = 80;

/// Squares that one statement asks for.
const SQUARES: usize = 16;

/// By so many on either side the survey finds out how dense it is where the walk begins.
const NEIGHBOURS: i64 = 12;

/// The survey counts no further in a square: where there is more, it is known from the neighbours about how dense it is.
const SURVEYED: usize = 16;

/// Of the squares at the beginning of the walk, so many are divided to the size that the survey has found.
const BEGUN: usize = 2 * SQUARES;

/// A page of more than this is long: larger squares are read for it.
const LONG: usize = 50;

/// Metres that a place may be from the middle of its smallest square.
pub(super) const ROUNDING: f64 = 0.03;

/// One that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) key: Key,
    /// Whose it is, where it takes a look at the user's others to know its rank.
    user: Option<String>,
}

/// A row of a square.
#[derive(Deserialize)]
struct Found {
    /// The place of the square in the statement.
    slot: usize,
    cell: i64,
    id: String,
    /// See [`Candidate`].
    user: Option<String>,
}

/// A square that is still to be counted, divided or read.
#[derive(Debug, PartialEq, Eq)]
struct Pending {
    /// Nothing in it comes before this.
    from: Key,
    square: Square,
    /// How many there are in it, or about as many.
    count: usize,
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

/// A walk through the candidates of one rank.
pub(super) struct Scan {
    table: Table,
    rank: Rank,
    centre: Place,
    radius: f64,
    after: Option<Key>,
    uncounted: BinaryHeap<Reverse<Pending>>,
    counted: BinaryHeap<Reverse<Pending>>,
    found: BinaryHeap<Reverse<Candidate>>,
}

impl Scan {
    /// A walk after the place in the order that `after` names.
    pub(super) async fn begin(
        connection: &mut Connection,
        table: Table,
        rank: Rank,
        looked: &Looked,
        after: Option<Key>,
    ) -> Result<Self, sqlx::Error> {
        let (uncounted, counted, found) = Default::default();
        let (centre, radius) = (looked.around, looked.radius + ROUNDING);
        let mut scan = Self { table, rank, centre, radius, after, uncounted, counted, found };
        scan.survey(connection, looked.limit).await?;
        Ok(scan)
    }

    /// The squares that the radius reaches, [`SQUARES`] at most.
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

    /// Finds out how dense it is, and divides the squares where the walk begins accordingly.
    async fn survey(&mut self, connection: &mut Connection, wanted: usize) -> Result<(), sqlx::Error> {
        let reached = self.reached();
        let begin = self.after.as_ref().map_or_else(|| cell(self.centre), |after| after.cell);
        let (table, condition) = (self.table.0, self.condition());
        let neighbours = |extreme, comparison, order| {
            format!(
                "(SELECT {extreme}(cell) FROM (SELECT cell FROM {table} WHERE {condition} \
                 AND cell {comparison} ${} ORDER BY cell {order} LIMIT {NEIGHBOURS}) AS neighbours)",
                2 * SQUARES + 1
            )
        };
        let last = [neighbours("MIN", "<=", "DESC"), neighbours("MAX", ">=", "ASC")];
        let sql = self.counting(SQUARES, SURVEYED, &last);
        let query = bound(&sql, &reached, SQUARES).bind(begin);
        let row = query.fetch_one(connection).await?;
        for (slot, square) in reached.iter().enumerate() {
            self.push_counted(*square, count_at(&row, slot)?, SURVEYED);
        }
        let before: Option<i64> = row.try_get(SQUARES)?;
        let behind: Option<i64> = row.try_get(SQUARES + 1)?;
        // The nearer ones: beyond the other end the order of cells may lead far away.
        let spans = [before, behind].into_iter().flatten().map(|cell| cell.abs_diff(begin) + 1);
        if let Some(span) = spans.min() {
            // As many cells as hold the neighbours of one side, or up to four times as many; fewer for a short page.
            let halvings = (4 * span - 1).ilog(4);
            let halvings = if wanted > LONG { halvings } else { halvings.saturating_sub(1) }.min(FINEST);
            let count = NEIGHBOURS.unsigned_abs().saturating_mul(1 << (2 * halvings)) / span;
            self.divide(FINEST - halvings, usize::try_from(count).unwrap_or(LEAF).clamp(1, LEAF));
        }
        Ok(())
    }

    /// Divides the nearest of the squares with many down to a level, where each is taken to hold `count`.
    fn divide(&mut self, level: u32, count: usize) {
        let mut begun = 0;
        while begun < BEGUN
            && let Some(Reverse(nearest)) = self.uncounted.pop()
        {
            if nearest.square.level() < level {
                for part in nearest.square.parts(1) {
                    self.push(part);
                    // These are read without being counted anyway.
                    begun += usize::from(part.is_finest());
                }
            } else {
                begun += 1;
                self.counted.push(Reverse(Pending { count, ..nearest }));
            }
        }
    }

    /// A square that has candidates between where the page begins and the radius, or may have.
    fn pending(&self, square: Square) -> Option<Pending> {
        let (least, most) = square.metres_from(self.centre);
        let (first, _) = square.range();
        if least > self.radius {
            return None;
        }
        let cell = if square.is_finest() { first } else { i64::MIN };
        let mut from = Key { metres: least, cell, id: String::new() };
        if let Some(after) = &self.after {
            if most < after.metres {
                return None;
            }
            if square.is_finest() && from < *after {
                if (from.metres, from.cell) != (after.metres, after.cell) {
                    return None;
                }
                from.id.clone_from(&after.id);
            }
        }
        Some(Pending { from, square, count: LEAF })
    }

    fn push(&mut self, square: Square) {
        if let Some(pending) = self.pending(square) {
            // A smallest square cannot be divided, so it need not be counted.
            let heap = if square.is_finest() { &mut self.counted } else { &mut self.uncounted };
            heap.push(Reverse(pending));
        }
    }

    /// A square of which it is known how many there are in it, no further than one more than `most`.
    fn push_counted(&mut self, square: Square, count: usize, most: usize) {
        if count > most {
            self.push(square);
        } else if count > 0
            && let Some(pending) = self.pending(square)
        {
            self.counted.push(Reverse(Pending { count, ..pending }));
        }
    }

    /// The next candidates: `wanted` or more, fewer where there are no more.
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
            let frontier = uncounted.map(|Reverse(pending)| &pending.from);
            let is_near = |pending: &&Reverse<Pending>| frontier.is_none_or(|at| pending.0.from <= *at);
            let readable: usize =
                self.counted.iter().filter(is_near).map(|Reverse(pending)| pending.count).sum();
            let enough = next.len() + self.found.len() + readable >= wanted;
            if frontier.is_none() || (readable > 0 && enough) {
                self.read(connection, wanted).await?;
            } else {
                self.count(connection).await?;
            }
        }
    }

    /// Counts the nearest squares, and divides those with many.
    async fn count(&mut self, connection: &mut Connection) -> Result<(), sqlx::Error> {
        let pending = take(&mut self.uncounted, SQUARES);
        let squares: Vec<Square> = pending.iter().map(|pending| pending.square).collect();
        let slots = slots(squares.len());
        let sql = self.counting(slots, LEAF, &[]);
        let row = bound(&sql, &squares, slots).fetch_one(connection).await?;
        for (slot, square) in squares.into_iter().enumerate() {
            let count = count_at(&row, slot)?;
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

    /// A statement that counts what is in squares, no further than one more than `most`. It has room for `slots` of them,
    /// so that there are few statements to prepare, and answers `last` behind the counts.
    fn counting(&self, slots: usize, most: usize, last: &[String]) -> String {
        let (table, condition) = (self.table.0, self.condition());
        let counts = (0..slots).map(|slot| {
            let (first, last) = (2 * slot + 1, 2 * slot + 2);
            format!(
                "(SELECT COUNT(*) FROM (SELECT 1 FROM {table} WHERE {condition} \
                 AND cell BETWEEN ${first} AND ${last} LIMIT {}) AS counted)",
                most + 1
            )
        });
        let columns: Vec<String> = counts.chain(last.iter().cloned()).collect();
        format!("SELECT {}", columns.join(", "))
    }

    /// Reads the nearest squares, about as many as hold `wanted`.
    async fn read(&mut self, connection: &mut Connection, wanted: usize) -> Result<(), sqlx::Error> {
        let mut squares = Vec::with_capacity(SQUARES);
        let mut count = 0;
        // Twice as many: of those in the farthest squares, most are farther than the nearest square that is not read.
        while count < 2 * wanted
            && squares.len() < SQUARES
            && let Some(Reverse(pending)) = self.counted.pop()
        {
            count += pending.count;
            squares.push(pending);
        }
        // One that is read by itself may be a spot with many.
        let most = if squares.len() == 1 { LEAF.max(wanted) } else { LEAF };
        let rows = self.rows_in(connection, &squares, most).await?;
        let mut by_square: Vec<Vec<Candidate>> = squares.iter().map(|_| Vec::new()).collect();
        for Found { slot, cell, id, user } in rows {
            let key = Key { metres: metres_between(self.centre, middle(cell)), cell, id };
            if let Some(candidates) = by_square.get_mut(slot) {
                candidates.push(Candidate { key, user });
            }
        }
        for (pending, candidates) in squares.into_iter().zip(by_square) {
            if candidates.len() > most {
                if !pending.square.is_finest() {
                    // There are more than were counted.
                    self.uncounted.push(Reverse(pending));
                    continue;
                }
                if let Some(last) = candidates.iter().map(|candidate| &candidate.key).max() {
                    let from = last.clone();
                    self.counted.push(Reverse(Pending { from, ..pending }));
                }
            }
            let (after, radius) = (&self.after, self.radius);
            let wanted = |candidate: &Candidate| {
                candidate.key.metres <= radius && after.as_ref().is_none_or(|after| candidate.key > *after)
            };
            self.found.extend(candidates.into_iter().filter(wanted).map(Reverse));
        }
        Ok(())
    }

    /// What is in squares, one more than `most` of each at most.
    async fn rows_in(
        &self,
        connection: &mut Connection,
        squares: &[Pending],
        most: usize,
    ) -> Result<Vec<Found>, sqlx::Error> {
        let slots = slots(squares.len());
        let (table, condition) = (self.table.0, self.condition());
        let is_open = match self.rank {
            Rank::First => "has_siblings = 1",
            Rank::Further => "is_extra = 0",
        };
        let parts: Vec<String> = (0..slots)
            .map(|slot| {
                let (first, after, last) = (3 * slot + 1, 3 * slot + 2, 3 * slot + 3);
                format!(
                    "SELECT * FROM (SELECT {slot} AS slot, cell, id, \
                     CASE WHEN {is_open} THEN user_id END AS opener FROM {table} WHERE {condition} AND (cell, id) > (${first}, ${after}) AND cell <= ${last} \
                     ORDER BY cell, id LIMIT {}) AS part{slot}",
                    most + 1
                )
            })
            .collect();
        let sql = format!(
            "SELECT {} FROM ({}) AS parts",
            as_one_text(connection.is_postgres(), &["slot", "cell", "id", "opener"], &[]),
            parts.join(" UNION ALL ")
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for slot in 0..slots {
            let square = squares.get(slot);
            let (first, last) = square.map_or(NOWHERE, |pending| pending.square.range());
            let after =
                square.filter(|pending| pending.square.is_finest()).map_or("", |pending| &pending.from.id);
            query = query.bind(first).bind(after).bind(last);
        }
        read_text(&text_of(&query.fetch_one(connection).await?)?)
    }

    /// Which rows may be of the rank; each has an index.
    fn condition(&self) -> &'static str {
        match self.rank {
            Rank::First => "ended_at IS NULL AND is_extra = 0",
            Rank::Further => "ended_at IS NULL AND has_siblings = 1",
        }
    }

    /// The ids of those candidates that are their user's nearest.
    pub(super) async fn firsts(
        &self,
        connection: &mut Connection,
        candidates: &[Candidate],
    ) -> Result<HashSet<String>, sqlx::Error> {
        let sure = candidates.iter().filter(|candidate| candidate.user.is_none() && self.rank == Rank::First);
        let mut firsts: HashSet<String> = sure.map(|candidate| candidate.key.id.clone()).collect();
        let open: HashSet<&str> =
            candidates.iter().filter_map(|candidate| candidate.user.as_deref()).collect();
        if open.is_empty() {
            return Ok(firsts);
        }
        let users: Vec<&str> = open.into_iter().collect();
        let is_postgres = connection.is_postgres();
        let sql = format!(
            "SELECT {} FROM {} WHERE ended_at IS NULL AND is_extra = 0 AND cell IS NOT NULL AND {}",
            as_one_text(is_postgres, &["user_id", "cell", "id"], &[]),
            self.table.0,
            is_one_of(is_postgres, "user_id")
        );
        let found = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(texts(&users));
        let rows = text_of(&found.fetch_one(connection).await?)?;
        let rows: Vec<(String, i64, String)> = read_text(&rows)?;
        let mut nearest = HashMap::<String, Key>::new();
        for (user, cell, id) in rows {
            let key = Key { metres: metres_between(self.centre, middle(cell)), cell, id };
            let entry = nearest.entry(user).or_insert_with(|| key.clone());
            if key < *entry {
                *entry = key;
            }
        }
        firsts.extend(nearest.into_values().map(|key| key.id));
        Ok(firsts)
    }
}

/// A range that nothing is in.
const NOWHERE: (i64, i64) = (i64::MAX, i64::MIN);

/// What a statement of [`Scan::counting`] has counted in one of its squares.
fn count_at(row: &AnyRow, slot: usize) -> Result<usize, sqlx::Error> {
    Ok(usize::try_from(row.try_get::<i64, _>(slot)?).unwrap_or_default())
}

/// A statement of [`Scan::counting`] with its squares.
fn bound<'q>(
    sql: &str,
    squares: &[Square],
    slots: usize,
) -> sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments> {
    let ranges = (0..slots).map(|slot| squares.get(slot).map_or(NOWHERE, |square| square.range()));
    let query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()));
    ranges.fold(query, |query, (first, last)| query.bind(first).bind(last))
}

/// Squares that a statement has room for, so that there are few statements to prepare.
fn slots(squares: usize) -> usize {
    if squares <= 1 {
        1
    } else if squares <= 4 {
        4
    } else {
        SQUARES
    }
}

fn take(heap: &mut BinaryHeap<Reverse<Pending>>, most: usize) -> Vec<Pending> {
    std::iter::from_fn(|| heap.pop().map(|Reverse(pending)| pending)).take(most).collect()
}
