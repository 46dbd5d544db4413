//! Open incidents and emergencies around a place, page by page.
//!
//! The order is exact and the same for every page: of each user the nearest first, before anybody's second one
//! ([`Rank`]); within that the nearest, by the smallest square each is in; within a square the oldest. A cursor says after
//! which one a page begins, so what is raised or ends meanwhile moves nothing else.
//!
//! What a page costs does not grow with how many are open. Squares around the place are counted, no further than
//! [`LEAF`], and those with more are divided, the nearest first, until enough have been found; each statement asks for
//! [`SQUARES`] of them. Many in one spot are read in the order of their ids. A page looks at
//! [`NEARBY_SCANNED_MAX`] at most: it may be shorter than asked for, and says that there is more.

mod cursor;

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::pool::{Connection, Pool};
use fanout::{Place, metres_between};
use shared::limits::NEARBY_SCANNED_MAX;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::Table;
use super::squares::{Square, middle};
pub(crate) use cursor::Cursor;
use cursor::{Key, Rank};

/// A square with more than this is divided.
const LEAF: usize = 48;

/// Squares that one statement asks for.
const SQUARES: usize = 16;

/// Metres that a place may be from the middle of its smallest square.
const ROUNDING: f64 = 0.03;

/// What is looked for.
#[derive(Debug, Clone)]
pub(crate) struct Looked {
    pub(crate) around: Place,
    /// Metres.
    pub(crate) radius: f64,
    pub(crate) after: Option<Cursor>,
    /// How many at most.
    pub(crate) limit: usize,
}

/// A page.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Page<T> {
    /// Each with its metres, to the nearest whole one.
    pub(crate) near: Vec<(T, f64)>,
    /// Where the next page begins; `None` where there is none.
    pub(crate) next: Option<Cursor>,
}

/// A page of the open ones in a table; `select` reads its columns, beginning with the id and ending before its
/// conditions, and `read` makes something of a row.
///
/// # Errors
/// The database's.
pub(crate) async fn nearby<T>(
    pool: &Pool,
    table: Table,
    looked: &Looked,
    (select, read): (&str, impl Fn(&AnyRow) -> Result<T, sqlx::Error>),
) -> Result<Page<T>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let Page { near, next } = keys(&mut connection, table, looked).await?;
    if near.is_empty() {
        return Ok(Page { near: Vec::new(), next });
    }
    let ids: Vec<&str> = near.iter().map(|(id, _)| id.as_str()).collect();
    let sql = format!("{select} WHERE ended_at IS NULL AND id IN ({})", places(ids.len()));
    let rows = ids_bound(&sql, &ids).fetch_all(&mut connection).await?;
    connection.done().await?;
    let rows: Result<HashMap<String, &AnyRow>, sqlx::Error> =
        rows.iter().map(|row| Ok((row.try_get::<String, _>(0)?, row))).collect();
    let rows = rows?;
    // What has ended since is left out.
    let near = near.iter().filter_map(|(id, metres)| Some((rows.get(id)?, metres.round())));
    let near: Result<_, sqlx::Error> = near.map(|(row, metres)| Ok((read(row)?, metres))).collect();
    Ok(Page { near: near?, next })
}

/// Placeholders for so many texts, and some more: there shall be few statements to prepare.
fn places(texts: usize) -> String {
    let places: Vec<String> = (1..=texts.next_power_of_two()).map(|place| format!("${place}")).collect();
    places.join(", ")
}

/// A statement with texts in its [`places`].
fn ids_bound<'q>(
    sql: &str,
    texts: &'q [&'q str],
) -> sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments> {
    let query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()));
    let last = texts.last().copied().unwrap_or_default();
    let texts = texts.iter().copied().chain(std::iter::repeat(last));
    texts.take(texts_bound(sql)).fold(query, sqlx::query::Query::bind)
}

fn texts_bound(sql: &str) -> usize {
    sql.matches('$').count()
}

/// A page of ids.
async fn keys(
    connection: &mut Connection,
    table: Table,
    looked: &Looked,
) -> Result<Page<String>, sqlx::Error> {
    let (mut near, mut seen) = (Vec::with_capacity(looked.limit), 0);
    let start = looked.after.as_ref().map_or(Rank::First, |cursor| cursor.rank);
    let mut cursor = looked.after.clone();
    for rank in [Rank::First, Rank::Further] {
        if rank == Rank::First && start == Rank::Further {
            continue;
        }
        let after = cursor.as_ref().filter(|cursor| cursor.rank == rank).map(|cursor| cursor.after.clone());
        let mut scan = Scan::new(table, rank, looked, after);
        loop {
            let found = scan.next(connection, looked.limit + 1 - near.len()).await?;
            if found.is_empty() {
                break;
            }
            let firsts = scan.firsts(connection, &found).await?;
            for candidate in found {
                let belongs = firsts.contains(&candidate.key.id) == (rank == Rank::First);
                if belongs && near.len() == looked.limit {
                    return Ok(Page { near, next: cursor });
                }
                if belongs {
                    near.push((candidate.key.id.clone(), candidate.key.metres));
                }
                cursor = Some(Cursor { rank, after: candidate.key });
                seen += 1;
            }
            if seen >= NEARBY_SCANNED_MAX {
                return Ok(Page { near, next: cursor });
            }
        }
    }
    Ok(Page { near, next: None })
}

/// One that was found.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    key: Key,
    user: String,
    /// Whether it takes a look at the user's others to know its rank.
    is_open: bool,
}

/// A square that is still to be counted, divided or read.
#[derive(Debug, PartialEq, Eq)]
struct Pending {
    /// Nothing in it comes before this.
    from: Key,
    square: Square,
    /// How many there are in it, once they are counted.
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

/// A walk through the candidates of one rank, the nearest first.
struct Scan {
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
    fn new(table: Table, rank: Rank, looked: &Looked, after: Option<Key>) -> Self {
        let (uncounted, counted, found) = Default::default();
        let (centre, radius) = (looked.around, looked.radius + ROUNDING);
        let mut scan = Self { table, rank, centre, radius, after, uncounted, counted, found };
        let mut squares = vec![Square::EARTH];
        loop {
            let parts: Vec<Square> = squares
                .iter()
                .flat_map(|square| square.parts(1))
                .filter(|part| scan.pending(*part).is_some())
                .collect();
            if parts.len() > SQUARES || parts.first().is_none_or(|part| part.is_finest()) {
                break;
            }
            squares = parts;
        }
        for square in squares {
            scan.push(square);
        }
        scan
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

    /// The next candidates: `wanted` or more, fewer where there are no more.
    async fn next(
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
        let squares = take(&mut self.uncounted, SQUARES);
        let slots = slots(squares.len());
        let (table, condition) = (self.table.0, self.condition());
        let counts: Vec<String> = (0..slots)
            .map(|slot| {
                let (first, last) = (2 * slot + 1, 2 * slot + 2);
                format!(
                    "(SELECT COUNT(*) FROM (SELECT 1 FROM {table} WHERE {condition} \
                     AND cell BETWEEN ${first} AND ${last} LIMIT {}) AS counted)",
                    LEAF + 1
                )
            })
            .collect();
        let sql = format!("SELECT {}", counts.join(", "));
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for slot in 0..slots {
            let (first, last) = squares.get(slot).map_or(NOWHERE, |pending| pending.square.range());
            query = query.bind(first).bind(last);
        }
        let row = query.fetch_one(connection).await?;
        for (slot, pending) in squares.into_iter().enumerate() {
            let count = usize::try_from(row.try_get::<i64, _>(slot)?).unwrap_or_default();
            if count > LEAF {
                for part in pending.square.parts(2) {
                    self.push(part);
                }
            } else if count > 0 {
                self.counted.push(Reverse(Pending { count, ..pending }));
            }
        }
        Ok(())
    }

    /// Reads the nearest squares, about as many as hold `wanted`.
    async fn read(&mut self, connection: &mut Connection, wanted: usize) -> Result<(), sqlx::Error> {
        let mut squares = Vec::with_capacity(SQUARES);
        let mut count = 0;
        while count < wanted
            && squares.len() < SQUARES
            && let Some(Reverse(pending)) = self.counted.pop()
        {
            count += pending.count;
            squares.push(pending);
        }
        let rows = self.rows_in(connection, &squares).await?;
        let mut by_square: Vec<Vec<Candidate>> = squares.iter().map(|_| Vec::new()).collect();
        for row in &rows {
            let slot = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default();
            let cell = row.try_get(1)?;
            let key = Key { metres: metres_between(self.centre, middle(cell)), cell, id: row.try_get(2)? };
            let is_open = row.try_get::<i64, _>(4)? == 1;
            if let Some(candidates) = by_square.get_mut(slot) {
                candidates.push(Candidate { key, user: row.try_get(3)?, is_open });
            }
        }
        for (pending, candidates) in squares.into_iter().zip(by_square) {
            if candidates.len() > LEAF {
                if !pending.square.is_finest() {
                    // More have come since they were counted.
                    self.uncounted.push(Reverse(pending));
                    continue;
                }
                if let Some(last) = candidates.last() {
                    let from = last.key.clone();
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

    async fn rows_in(
        &self,
        connection: &mut Connection,
        squares: &[Pending],
    ) -> Result<Vec<AnyRow>, sqlx::Error> {
        let slots = slots(squares.len());
        let (table, condition) = (self.table.0, self.condition());
        let flag = match self.rank {
            Rank::First => "has_siblings",
            Rank::Further => "1 - is_extra",
        };
        let parts: Vec<String> = (0..slots)
            .map(|slot| {
                let (first, after, last) = (3 * slot + 1, 3 * slot + 2, 3 * slot + 3);
                format!(
                    "SELECT * FROM (SELECT CAST({slot} AS BIGINT) AS slot, cell, id, user_id, {flag} AS is_open \
                     FROM {table} WHERE {condition} AND (cell, id) > (${first}, ${after}) AND cell <= ${last} \
                     ORDER BY cell, id LIMIT {}) AS part{slot}",
                    LEAF + 1
                )
            })
            .collect();
        let sql = parts.join(" UNION ALL ");
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for slot in 0..slots {
            let square = squares.get(slot);
            let (first, last) = square.map_or(NOWHERE, |pending| pending.square.range());
            let after =
                square.filter(|pending| pending.square.is_finest()).map_or("", |pending| &pending.from.id);
            query = query.bind(first).bind(after).bind(last);
        }
        query.fetch_all(connection).await
    }

    /// Which rows may be of the rank; each has an index.
    fn condition(&self) -> &'static str {
        match self.rank {
            Rank::First => "ended_at IS NULL AND is_extra = 0",
            Rank::Further => "ended_at IS NULL AND has_siblings = 1",
        }
    }

    /// The ids of those candidates that are their user's nearest.
    async fn firsts(
        &self,
        connection: &mut Connection,
        candidates: &[Candidate],
    ) -> Result<HashSet<String>, sqlx::Error> {
        let sure = candidates.iter().filter(|candidate| !candidate.is_open && self.rank == Rank::First);
        let mut firsts: HashSet<String> = sure.map(|candidate| candidate.key.id.clone()).collect();
        let open: HashSet<&str> = candidates
            .iter()
            .filter(|candidate| candidate.is_open)
            .map(|candidate| candidate.user.as_str())
            .collect();
        if open.is_empty() {
            return Ok(firsts);
        }
        let users: Vec<&str> = open.into_iter().collect();
        let mut nearest = HashMap::<String, Key>::new();
        for users in users.chunks(128) {
            let sql = format!(
                "SELECT user_id, cell, id FROM {} WHERE ended_at IS NULL AND is_extra = 0 \
                 AND cell IS NOT NULL AND user_id IN ({})",
                self.table.0,
                places(users.len())
            );
            for row in ids_bound(&sql, users).fetch_all(&mut *connection).await? {
                let cell = row.try_get(1)?;
                let key =
                    Key { metres: metres_between(self.centre, middle(cell)), cell, id: row.try_get(2)? };
                let entry = nearest.entry(row.try_get(0)?).or_insert_with(|| key.clone());
                if key < *entry {
                    *entry = key;
                }
            }
        }
        firsts.extend(nearest.into_values().map(|key| key.id));
        Ok(firsts)
    }
}

/// A range that nothing is in.
const NOWHERE: (i64, i64) = (i64::MAX, i64::MIN);

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

#[cfg(test)]
mod tests;
