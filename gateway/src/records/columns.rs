//! Reads the columns of a row the same way for every form of row.
//!
//! SQLite's driver passes each row individually between threads: two thread switches and a copy of every column, about
//! 15 µs per record. A statement that returns many rows therefore returns them as one text ([`as_one_text`]), which the
//! database writes in JSON and [`read_text`] parses.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use smallvec::SmallVec;
use sqlx::any::{Any, AnyRow};
use sqlx::{Decode, Row as _, Type};

/// A row whose columns are read by position.
pub(crate) trait Columns {
    /// The value of a column.
    ///
    /// # Errors
    /// The column does not exist or has another type.
    fn get<T: Column>(&self, at: usize) -> Result<T, sqlx::Error>;
}

/// A type that a column may hold.
pub(crate) trait Column: Type<Any> + for<'r> Decode<'r, Any> {
    /// Converts a value from [`as_one_text`]; `None` for a value of another type.
    fn of(value: &Value<'_>) -> Option<Self>;
}

/// A column's value from a text of several.
#[derive(Debug)]
pub(crate) enum Value<'t> {
    Null,
    Number(i64),
    /// A text, or a double written as text.
    Text(Cow<'t, str>),
}

impl Column for String {
    fn of(value: &Value<'_>) -> Option<Self> {
        if let Value::Text(text) = value { Some(text.clone().into_owned()) } else { None }
    }
}

impl Column for i64 {
    fn of(value: &Value<'_>) -> Option<Self> {
        if let Value::Number(number) = value { Some(*number) } else { None }
    }
}

impl Column for f64 {
    fn of(value: &Value<'_>) -> Option<Self> {
        if let Value::Text(text) = value { text.parse().ok() } else { None }
    }
}

impl<T: Column> Column for Option<T>
where
    Self: Type<Any> + for<'r> Decode<'r, Any>,
{
    fn of(value: &Value<'_>) -> Option<Self> {
        if matches!(value, Value::Null) { Some(None) } else { T::of(value).map(Some) }
    }
}

impl<'de: 't, 't> Deserialize<'de> for Value<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl<'de> Visitor<'de> for Scalar {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null, a whole number or a text")
            }

            fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
                Ok(Value::Null)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Value<'de>, E> {
                Ok(Value::Number(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Value<'de>, E> {
                let outside = |_| E::invalid_value(Unexpected::Unsigned(number), &self);
                i64::try_from(number).map(Value::Number).map_err(outside)
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
                Ok(Value::Text(text.into()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
                Ok(Value::Text(text.to_owned().into()))
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}

impl Columns for AnyRow {
    fn get<T: Column>(&self, at: usize) -> Result<T, sqlx::Error> {
        self.try_get(at)
    }
}

/// A row from a text of several.
#[derive(Debug, Deserialize)]
pub(crate) struct TextRow<'t>(#[serde(borrow)] SmallVec<[Value<'t>; 12]>);

impl TextRow<'_> {
    /// The text in a column, not copied; `None` if it holds none.
    pub(crate) fn text(&self, at: usize) -> Option<&str> {
        if let Some(Value::Text(text)) = self.0.get(at) { Some(text) } else { None }
    }
}

impl Columns for TextRow<'_> {
    fn get<T: Column>(&self, at: usize) -> Result<T, sqlx::Error> {
        let Self(columns) = self;
        let outside = sqlx::Error::ColumnIndexOutOfBounds { index: at, len: columns.len() };
        T::of(columns.get(at).ok_or(outside)?).ok_or_else(|| sqlx::Error::ColumnDecode {
            index: at.to_string(),
            source: "not what was expected".into(),
        })
    }
}

/// A column expression that returns `columns` of all rows as one text, for [`read_text`]. The `doubles` among them are
/// written as texts, because neither database writes every digit of a number in JSON.
pub(crate) fn as_one_text(is_postgres: bool, columns: &[&str], doubles: &[&str]) -> String {
    let value = |column: &&str| {
        if !doubles.contains(column) {
            (*column).to_owned()
        } else if is_postgres {
            format!("CAST({column} AS TEXT)")
        } else {
            format!("CASE WHEN {column} IS NOT NULL THEN format('%!.17g', {column}) END")
        }
    };
    let values = columns.iter().map(value).collect::<Vec<_>>().join(", ");
    if is_postgres {
        format!("CAST(json_agg(json_build_array({values})) AS TEXT)")
    } else {
        format!("json_group_array(json_array({values}))")
    }
}

/// The text from a statement with [`as_one_text`].
///
/// # Errors
/// The answer is something else.
pub(crate) fn text_of(answer: &AnyRow) -> Result<String, sqlx::Error> {
    // For no rows PostgreSQL returns NULL.
    let text: Option<String> = answer.try_get(0)?;
    Ok(text.unwrap_or_else(|| "[]".to_owned()))
}

/// Parses the rows in such a text.
///
/// # Errors
/// The text is something else.
pub(crate) fn read_text<'t, T: Deserialize<'t>>(text: &'t str) -> Result<Vec<T>, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A condition that `column` holds one of the texts in the argument `$1`, which [`texts`] creates. One argument costs
/// less than one per text, and the statement is the same for any number of texts.
pub(crate) fn is_one_of(is_postgres: bool, column: &str) -> String {
    if is_postgres {
        format!("{column} = ANY (ARRAY(SELECT json_array_elements_text(CAST($1 AS json))))")
    } else {
        format!("{column} IN (SELECT value FROM json_each($1))")
    }
}

/// The argument for [`is_one_of`].
pub(crate) fn texts(texts: &[&str]) -> String {
    serde_json::Value::from(texts).to_string()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
    use sqlx::Executor as _;

    use super::*;
    use crate::records::Records;

    #[tokio::test]
    async fn rows_in_one_text_equal_individual_rows() {
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
            as_one_text(false, &["t", "i", "d"], &["d"])
        );
        let answer = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(pool).await.unwrap();
        let expected: Vec<Kinds> = rows.iter().map(kinds).collect();
        let text = text_of(&answer).unwrap();
        assert_eq!(read_text::<TextRow<'_>>(&text).unwrap().iter().map(kinds).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_column_that_holds_something_else_is_an_error() {
        let row: TextRow<'_> = serde_json::from_str(r#"["x", null]"#).unwrap();
        assert!(row.get::<i64>(0).is_err() && row.get::<String>(1).is_err() && row.get::<String>(2).is_err());
        assert_eq!(row.get::<Option<f64>>(1).unwrap(), None);
        for other in ["[[]]", "[1.5]", "[18446744073709551615]", "[true]"] {
            assert!(serde_json::from_str::<TextRow<'_>>(other).is_err(), "{other}");
        }
    }
}
