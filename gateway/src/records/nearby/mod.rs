//! Open incidents and emergencies around a place, page by page.
//!
//! The order is exact and the same for every page: of each user the nearest first, before anybody's second one
//! ([`Rank`]); within that the nearest, by the smallest square each is in; within a square the oldest. A cursor says after
//! which one a page begins, so what is raised or ends meanwhile moves nothing else.
//!
//! What a page costs does not grow with how many are open: [`scan`] reads the nearest squares alone. A page looks at
//! [`NEARBY_SCANNED_MAX`] at most: it may be shorter than asked for, and says that there is more.

mod cursor;
mod scan;

use std::collections::HashMap;

use fanout::Place;
use shared::limits::NEARBY_SCANNED_MAX;

use super::Table;
use super::columns::{TextRow, as_one_text, is_one_of, read_text, text_of, texts};
use super::pool::{Connection, Pool};
pub(crate) use cursor::Cursor;
use cursor::Rank;
use scan::Scan;

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

/// A page of the open ones in a table. `columns` are read of each, the first of them its id, and `read` makes
/// something of them.
///
/// # Errors
/// The database's.
pub(crate) async fn nearby<T>(
    pool: &Pool,
    table: Table,
    looked: &Looked,
    (columns, read): (&[&str], impl Fn(&TextRow<'_>) -> Result<T, sqlx::Error>),
) -> Result<Page<T>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let Page { near, next } = keys(&mut connection, table, looked).await?;
    if near.is_empty() {
        return Ok(Page { near: Vec::new(), next });
    }
    let ids: Vec<&str> = near.iter().map(|(id, _)| id.as_str()).collect();
    let is_postgres = connection.is_postgres();
    let sql = format!(
        "SELECT {} FROM {} WHERE ended_at IS NULL AND {}",
        as_one_text(is_postgres, columns, &["latitude", "longitude"]),
        table.0,
        is_one_of(is_postgres, "id")
    );
    let found = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(texts(&ids));
    let text = text_of(&found.fetch_one(&mut connection).await?)?;
    connection.done().await?;
    let rows: Vec<TextRow<'_>> = read_text(&text)?;
    let rows: HashMap<&str, &TextRow<'_>> = rows.iter().filter_map(|row| Some((row.text(0)?, row))).collect();
    // What has ended since is left out.
    let near = near.iter().filter_map(|(id, metres)| Some((*rows.get(id.as_str())?, metres.round())));
    let near: Result<_, sqlx::Error> = near.map(|(row, metres)| Ok((read(row)?, metres))).collect();
    Ok(Page { near: near?, next })
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
        let mut scan = Scan::begin(connection, table, rank, looked, after).await?;
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

#[cfg(test)]
mod tests;
