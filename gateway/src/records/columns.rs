//! Columns of a row, read in one way however the row came.
//!
//! SQLite's driver hands over each row by itself, from its thread to ours: two changes of thread and a copy of every
//! column, about 15 µs for a record. A statement that answers many rows therefore brings them as one text
//! ([`as_one_text`]), which the database writes in JSON and [`read_text`] takes apart.

use serde::Deserialize;
use sqlx::any::{Any, AnyRow};
use sqlx::{Decode, Row as _, Type};

/// A row whose columns are read by their places.
pub(crate) trait Columns {
    /// The value of a column.
    ///
    /// # Errors
    /// There is no such column, or it holds something else.
    fn get<T: Column>(&self, at: usize) -> Result<T, sqlx::Error>;
}

/// What a column may hold.
pub(crate) trait Column: Type<Any> + for<'r> Decode<'r, Any> {
    /// The value that the database has written as a text; `None` where there is none.
    fn from_text(text: Option<&str>) -> Option<Self>;
}

impl Column for String {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text.map(str::to_owned)
    }
}

impl Column for i64 {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }
}

impl Column for f64 {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }
}

impl<T: Column> Column for Option<T>
where
    Self: Type<Any> + for<'r> Decode<'r, Any>,
{
    fn from_text(text: Option<&str>) -> Option<Self> {
        if text.is_none() { Some(None) } else { T::from_text(text).map(Some) }
    }
}

impl Columns for AnyRow {
    fn get<T: Column>(&self, at: usize) -> Result<T, sqlx::Error> {
        self.try_get(at)
    }
}

/// A row that came in a text with others.
#[derive(Debug, Deserialize)]
pub(crate) struct TextRow(Vec<Option<String>>);

impl Columns for TextRow {
    fn get<T: Column>(&self, at: usize) -> Result<T, sqlx::Error> {
        let Self(columns) = self;
        let outside = sqlx::Error::ColumnIndexOutOfBounds { index: at, len: columns.len() };
        let text = columns.get(at).ok_or(outside)?;
        T::from_text(text.as_deref()).ok_or_else(|| sqlx::Error::ColumnDecode {
            index: at.to_string(),
            source: "not what was expected".into(),
        })
    }
}

/// The one column of a statement that brings `columns` of all its rows in one text, for [`read_text`].
pub(crate) fn as_one_text(is_postgres: bool, columns: &[&str]) -> String {
    let text = |column: &&str| {
        if is_postgres {
            format!("CAST({column} AS TEXT)")
        } else {
            // A cast would round to 15 digits.
            format!(
                "CASE typeof({column}) WHEN 'real' THEN format('%!.17g', {column}) ELSE CAST({column} AS TEXT) END"
            )
        }
    };
    let texts = columns.iter().map(text).collect::<Vec<_>>().join(", ");
    if is_postgres {
        format!("CAST(json_agg(json_build_array({texts})) AS TEXT)")
    } else {
        format!("json_group_array(json_array({texts}))")
    }
}

/// The rows that a statement with [`as_one_text`] has answered.
///
/// # Errors
/// It has answered something else.
pub(crate) fn read_text(answer: &AnyRow) -> Result<Vec<TextRow>, sqlx::Error> {
    let text: Option<String> = answer.try_get(0)?;
    // PostgreSQL has no text of no rows.
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
    use sqlx::Executor as _;

    use super::*;
    use crate::records::Records;

    #[tokio::test]
    async fn rows_in_one_text_are_what_they_are_by_themselves() {
        let records = Records::open("sqlite::memory:").await.unwrap();
        let pool = records.pool();
        pool.execute("CREATE TABLE kinds (t TEXT, i BIGINT, d DOUBLE PRECISION)").await.unwrap();
        let mut random = StdRng::seed_from_u64(3);
        let texts = ["", "\"a\\b\"\n\t\u{1}\u{1f}", "josé 🚑 \u{2028}", "null", "[1]"];
        for at in 0..2_000 {
            let double = match at % 3 {
                0 => random.random_range(-180.0..180.0),
                1 => random.random_range(-1e-6..1e-6),
                _ => f64::from(random.random_range(-90..=90)),
            };
            sqlx::query("INSERT INTO kinds VALUES ($1, $2, $3)")
                .bind((at % 7 != 0).then(|| texts[at % texts.len()]))
                .bind((at % 11 != 0).then(|| random.random::<i64>()))
                .bind((at % 13 != 0).then_some(double))
                .execute(pool)
                .await
                .unwrap();
        }
        type Kinds = (Option<String>, Option<i64>, Option<f64>);
        fn kinds(row: &impl Columns) -> Kinds {
            (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap())
        }
        let rows = sqlx::query("SELECT t, i, d FROM kinds ORDER BY rowid").fetch_all(pool).await.unwrap();
        let sql = format!(
            "SELECT {} FROM (SELECT t, i, d FROM kinds ORDER BY rowid) AS kinds",
            as_one_text(false, &["t", "i", "d"])
        );
        let answer = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(pool).await.unwrap();
        let expected: Vec<Kinds> = rows.iter().map(kinds).collect();
        assert_eq!(read_text(&answer).unwrap().iter().map(kinds).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_column_that_holds_something_else_is_an_error() {
        let row = TextRow(vec![Some("x".to_owned()), None]);
        assert!(row.get::<i64>(0).is_err() && row.get::<String>(1).is_err() && row.get::<String>(2).is_err());
        assert_eq!(row.get::<Option<f64>>(1).unwrap(), None);
    }
}
