//! The SQL statements of a nearby search, for both databases.
//!
//! Each returns one row, because SQLite's driver passes every row individually ([`crate::records::columns`]).

use fanout::{Place, metres_between};
use serde::Deserialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::cursor::{Key, Rank};
use crate::records::Table;
use crate::records::columns::{as_one_text, is_one_of, read_text, text_of, texts};
use crate::records::pool::Connection;
use crate::records::squares::{Square, middle};

/// How many squares one statement counts.
pub(super) const SQUARES: usize = 16;

/// The survey finds out where this many rows end on either side of the walk's beginning.
pub(super) const NEIGHBOURS: u64 = 24;

/// A row of a square.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) cell: i64,
    pub(super) id: String,
    /// SQLite's row number; 0 on PostgreSQL.
    pub(super) row: i64,
    /// The user, if their other incidents must be read to know the rank of this one.
    pub(super) user: Option<String>,
}

/// The result of a survey.
#[derive(Debug)]
pub(super) struct Survey {
    /// Rows in each square, counted no further than one more than requested.
    pub(super) counts: Vec<usize>,
    /// The cells where the [`NEIGHBOURS`] before and after the beginning end; `None` if there are none.
    pub(super) neighbours: [Option<i64>; 2],
}

/// The statements of a walk through the candidates of one rank.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statements {
    pub(super) table: Table,
    pub(super) rank: Rank,
    pub(super) is_postgres: bool,
}

impl Statements {
    /// Which rows may have the rank; each condition has an index.
    fn condition(self) -> &'static str {
        match self.rank {
            Rank::First => "ended_at IS NULL AND is_extra = 0",
            Rank::Further => "ended_at IS NULL AND has_siblings = 1",
        }
    }

    /// The columns of [`Found`], all of them in the index.
    fn found(self) -> String {
        let row = if self.is_postgres { "0".to_owned() } else { format!("{}.rowid", self.table.0) };
        let is_open = match self.rank {
            Rank::First => "has_siblings = 1",
            Rank::Further => "is_extra = 0",
        };
        let id = format!("{}.id", self.table.0);
        format!("cell, {id} AS id, {row} AS place, CASE WHEN {is_open} THEN user_id END AS opener")
    }

    /// The rows of a subquery as one text.
    fn as_text(self) -> String {
        as_one_text(self.is_postgres, &["cell", "id", "place", "opener"], &[])
    }

    /// Counts the rows in at most [`SQUARES`] squares, no further than one more than `most` in each, and finds out how
    /// far away the neighbours of a cell are in the order of cells.
    pub(super) async fn survey(
        self,
        connection: &mut Connection,
        squares: &[Square],
        most: usize,
        begin: i64,
    ) -> Result<Survey, sqlx::Error> {
        let (table, condition) = (self.table.0, self.condition());
        let neighbours = |extreme, comparison, order| {
            format!(
                "(SELECT {extreme}(cell) FROM (SELECT cell FROM {table} WHERE {condition} \
                 AND cell {comparison} ${} ORDER BY cell {order} LIMIT {NEIGHBOURS}) AS neighbours)",
                2 * SQUARES + 1
            )
        };
        let last = [neighbours("MIN", "<=", "DESC"), neighbours("MAX", ">=", "ASC")];
        let sql = self.counting(SQUARES, most, &last);
        let row = bound(&sql, squares, SQUARES).bind(begin).fetch_one(connection).await?;
        let neighbours = [row.try_get(SQUARES)?, row.try_get(SQUARES + 1)?];
        Ok(Survey { counts: counts(&row, squares.len())?, neighbours })
    }

    /// Counts the rows in at most [`SQUARES`] squares, no further than one more than `most` in each.
    pub(super) async fn count(
        self,
        connection: &mut Connection,
        squares: &[Square],
        most: usize,
    ) -> Result<Vec<usize>, sqlx::Error> {
        let slots = slots(squares.len());
        let sql = self.counting(slots, most, &[]);
        counts(&bound(&sql, squares, slots).fetch_one(connection).await?, squares.len())
    }

    /// A counting statement with room for `slots` squares, so that there are few statements to prepare. It returns
    /// `last` after the counts.
    fn counting(self, slots: usize, most: usize, last: &[String]) -> String {
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

    /// The rows in ranges of cells, at most `limit`.
    pub(super) async fn in_ranges(
        self,
        connection: &mut Connection,
        ranges: &[[i64; 2]],
        limit: usize,
    ) -> Result<Vec<Found>, sqlx::Error> {
        let Self { table: Table(table), is_postgres, .. } = self;
        let (found, condition) = (self.found(), self.condition());
        let rows = if is_postgres {
            format!(
                "SELECT part.* FROM json_array_elements(CAST($1 AS json)) AS ranges (value) CROSS JOIN LATERAL \
                 (SELECT {found} FROM {table} WHERE {condition} \
                 AND cell BETWEEN CAST(value ->> 0 AS BIGINT) AND CAST(value ->> 1 AS BIGINT) \
                 ORDER BY cell, id LIMIT $2) AS part LIMIT $2"
            )
        } else {
            // SQLite reads the tables of a CROSS JOIN in this order.
            format!(
                "SELECT {found} FROM json_each($1) AS ranges CROSS JOIN {table} WHERE {condition} \
                 AND cell BETWEEN ranges.value ->> 0 AND ranges.value ->> 1 LIMIT $2"
            )
        };
        let sql = format!("SELECT {} FROM ({rows}) AS rows_found", self.as_text());
        let ranges = serde_json::to_string(ranges).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(ranges).bind(bigint(limit));
        read_text(&text_of(&query.fetch_one(connection).await?)?)
    }

    /// The rows in one square, in the order of cells and ids, at most `limit`. In a smallest square: after an id.
    pub(super) async fn in_square(
        self,
        connection: &mut Connection,
        square: Square,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Found>, sqlx::Error> {
        let (found, table, condition) = (self.found(), self.table.0, self.condition());
        let sql = format!(
            "SELECT {} FROM (SELECT {found} FROM {table} WHERE {condition} AND (cell, id) > ($1, $2) AND cell <= $3 \
             ORDER BY cell, id LIMIT $4) AS rows_found",
            self.as_text()
        );
        let (first, last) = square.range();
        let query = sqlx::query(sqlx::AssertSqlSafe(sql));
        let query = query.bind(first).bind(after).bind(last).bind(bigint(limit));
        read_text(&text_of(&query.fetch_one(connection).await?)?)
    }

    /// For each user the nearest to `centre` among the rows of the first rank.
    pub(super) async fn nearest_of(
        self,
        connection: &mut Connection,
        users: &[&str],
        centre: Place,
    ) -> Result<Vec<Key>, sqlx::Error> {
        let sql = format!(
            "SELECT {} FROM {} WHERE ended_at IS NULL AND is_extra = 0 AND cell IS NOT NULL AND {}",
            as_one_text(self.is_postgres, &["user_id", "cell", "id"], &[]),
            self.table.0,
            is_one_of(self.is_postgres, "user_id")
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(texts(users));
        let text = text_of(&query.fetch_one(connection).await?)?;
        let rows: Vec<(String, i64, String)> = read_text(&text)?;
        let mut nearest = ahash::AHashMap::<String, Key>::new();
        for (user, cell, id) in rows {
            let key = Key { metres: metres_between(centre, middle(cell)), cell, id };
            let entry = nearest.entry(user).or_insert_with(|| key.clone());
            if key < *entry {
                *entry = key;
            }
        }
        Ok(nearest.into_values().collect())
    }
}

/// How rows are found again.
#[derive(Debug, Clone, Copy)]
pub(super) enum By<'a> {
    /// By SQLite's row numbers, which takes two thirds of the time. `VACUUM` changes them.
    Row(&'a [i64]),
    Id(&'a [&'a str]),
}

/// Columns of the rows that are still open, as one text.
pub(super) async fn open_rows(
    connection: &mut Connection,
    Table(table): Table,
    columns: &[&str],
    by: By<'_>,
) -> Result<String, sqlx::Error> {
    let is_postgres = connection.is_postgres();
    let (column, list) = match by {
        By::Row(rows) => ("rowid", serde_json::Value::from(rows).to_string()),
        By::Id(ids) => ("id", texts(ids)),
    };
    let sql = format!(
        "SELECT {} FROM {table} WHERE ended_at IS NULL AND {}",
        as_one_text(is_postgres, columns, &["latitude", "longitude"]),
        is_one_of(is_postgres, column)
    );
    text_of(&sqlx::query(sqlx::AssertSqlSafe(sql)).bind(list).fetch_one(connection).await?)
}

/// An empty range.
const NOWHERE: (i64, i64) = (i64::MAX, i64::MIN);

fn bigint(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The counts of the first squares from a statement of [`Statements::counting`].
fn counts(row: &AnyRow, squares: usize) -> Result<Vec<usize>, sqlx::Error> {
    let count = |slot| Ok(usize::try_from(row.try_get::<i64, _>(slot)?).unwrap_or_default());
    (0..squares).map(count).collect()
}

/// A statement of [`Statements::counting`] with its squares.
fn bound<'q>(
    sql: &str,
    squares: &[Square],
    slots: usize,
) -> sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments> {
    let ranges = (0..slots).map(|slot| squares.get(slot).map_or(NOWHERE, |square| square.range()));
    let query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()));
    ranges.fold(query, |query, (first, last)| query.bind(first).bind(last))
}

/// The number of squares that a statement has room for; few different ones, so that there are few statements to
/// prepare.
fn slots(squares: usize) -> usize {
    if squares <= 1 {
        1
    } else if squares <= 4 {
        4
    } else {
        SQUARES
    }
}
