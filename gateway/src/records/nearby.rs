//! Rows with a place, looked for around another.

use sqlx::AnyPool;
use sqlx::any::AnyRow;

use crate::geo::Area;

/// Columns are called `latitude` and `longitude`. The order is about that of the distances; between two longitudes are 180
/// degrees at most, the other way round if need be.
const NEAREST: &str = "latitude BETWEEN $1 AND $2 AND (longitude BETWEEN $3 AND $4 OR longitude BETWEEN $5 AND $6) \
    ORDER BY (latitude - $7) * (latitude - $7) \
    + (180 - ABS(ABS(longitude - $8) - 180)) * (180 - ABS(ABS(longitude - $8) - 180)) * $9 LIMIT $10";

/// Rows in an area, about the nearest first; `select` ends within its conditions.
///
/// # Errors
/// The database's.
pub(crate) async fn nearby(
    pool: &AnyPool,
    select: &str,
    area: &Area,
    limit: u32,
) -> Result<Vec<AnyRow>, sqlx::Error> {
    let Area { latitudes, longitudes: [first, second], centre, squeeze } = *area;
    let sql = format!("{select} AND {NEAREST}");
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(latitudes.0)
        .bind(latitudes.1)
        .bind(first.0)
        .bind(first.1)
        .bind(second.0)
        .bind(second.1)
        .bind(centre.latitude)
        .bind(centre.longitude)
        .bind(squeeze)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
}
