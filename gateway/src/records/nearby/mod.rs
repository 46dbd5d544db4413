//! Open incidents and emergencies around a position, page by page.
//!
//! The order is exact and the same for every page: first the nearest one of each user, then all others ([`Rank`]);
//! within that by distance, measured to the smallest square that contains each; within a square by age, the oldest
//! first. A cursor names the entry after which a page begins, so newly raised or ended entries move no others.
//!
//! The cost of a page does not grow with the number of open entries: [`scan`] reads only the nearest squares. A page
//! examines at most [`NEARBY_SCANNED_MAX`] entries; it may be shorter than requested and still have a next page.

mod cursor;
mod scan;
mod statements;

use ahash::AHashMap;
use fanout::Place;
use shared::limits::NEARBY_SCANNED_MAX;

use super::Table;
use super::columns::{TextRow, read_text};
use super::pool::{Connection, Pool};
pub(crate) use cursor::Cursor;
use cursor::{Key, Rank};
use scan::{Candidate, Scan};
use statements::{By, open_rows};

/// The search parameters.
#[derive(Debug, Clone)]
pub(crate) struct Looked {
    pub(crate) around: Place,
    /// Metres.
    pub(crate) radius: f64,
    pub(crate) after: Option<Cursor>,
    /// Maximum number of entries.
    pub(crate) limit: usize,
}

/// A page.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Page<T> {
    /// Each with its distance in metres, rounded.
    pub(crate) near: Vec<(T, f64)>,
    /// Where the next page begins; `None` for the last page.
    pub(crate) next: Option<Cursor>,
}

/// A page of the open entries in a table. `columns` are read of each, its id first; `read` converts them.
///
/// # Errors
/// The database's error.
pub(crate) async fn nearby<T>(
    pool: &Pool,
    table: Table,
    looked: &Looked,
    (columns, read): (&[&str], impl Fn(&TextRow<'_>) -> Result<T, sqlx::Error>),
) -> Result<Page<T>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let (found, next) = candidates(&mut connection, table, looked).await?;
    let near = records_of(&mut connection, table, &found, (columns, read)).await?;
    connection.done().await?;
    Ok(Page { near, next })
}

/// The records of candidates that are still open, each with its distance.
async fn records_of<T>(
    connection: &mut Connection,
    table: Table,
    candidates: &[Candidate],
    (columns, read): (&[&str], impl Fn(&TextRow<'_>) -> Result<T, sqlx::Error>),
) -> Result<Vec<(T, f64)>, sqlx::Error> {
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let in_order = |text: &str| -> Result<Vec<(T, f64)>, sqlx::Error> {
        let rows: Vec<TextRow<'_>> = read_text(text)?;
        let rows: AHashMap<&str, &TextRow<'_>> =
            rows.iter().filter_map(|row| Some((row.text(0)?, row))).collect();
        let found = candidates.iter().filter_map(|candidate| {
            let Key { id, metres, .. } = &candidate.key;
            Some((*rows.get(id.as_str())?, metres.round()))
        });
        found.map(|(row, metres)| Ok((read(row)?, metres))).collect()
    };
    if !connection.is_postgres() {
        let rows: Vec<i64> = candidates.iter().map(|candidate| candidate.row).collect();
        let found = in_order(&open_rows(connection, table, columns, By::Row(&rows)).await?)?;
        if found.len() == candidates.len() {
            return Ok(found);
        }
        // One has ended since, or row numbers have changed.
    }
    let ids: Vec<&str> = candidates.iter().map(|candidate| candidate.key.id.as_str()).collect();
    in_order(&open_rows(connection, table, columns, By::Id(&ids)).await?)
}

/// The candidates of a page; the cursor finds the next ones.
async fn candidates(
    connection: &mut Connection,
    table: Table,
    looked: &Looked,
) -> Result<(Vec<Candidate>, Option<Cursor>), sqlx::Error> {
    let limit = looked.limit;
    let (mut near, mut seen) = (Vec::<Candidate>::with_capacity(limit), 0);
    let start = looked.after.as_ref().map_or(Rank::First, |cursor| cursor.rank);
    let mut cursor = looked.after.clone();
    for rank in [Rank::First, Rank::Further] {
        if rank == Rank::First && start == Rank::Further {
            continue;
        }
        let after = cursor.as_ref().filter(|cursor| cursor.rank == rank).map(|cursor| cursor.after.clone());
        let mut scan = Scan::begin(connection, table, rank, looked, after).await?;
        loop {
            let found = scan.next(connection, limit + 1 - near.len()).await?;
            if found.is_empty() {
                break;
            }
            let belong = scan.belong(connection, &found).await?;
            let room = limit - near.len();
            let further = belong.iter().enumerate().filter(|(_, belongs)| **belongs).nth(room);
            let end = further.map_or(found.len(), |(at, _)| at);
            if let Some(last) = found[..end].last() {
                cursor = Some(Cursor { rank, after: last.key.clone() });
            }
            seen += end;
            let page = found.into_iter().zip(&belong).take(end);
            near.extend(page.filter_map(|(candidate, belongs)| belongs.then_some(candidate)));
            if further.is_some() {
                return Ok((near, cursor));
            }
            if seen >= NEARBY_SCANNED_MAX {
                return Ok((near, cursor));
            }
        }
    }
    Ok((near, None))
}

#[cfg(test)]
mod tests;
