//! Users who log in with e-mail and password.

use sqlx::Row as _;
use uuid::Uuid;

use super::Records;
use crate::error::AppError;
use crate::text::trim;

/// A user of the records.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) role: Option<String>,
    pub(crate) avatar: Option<String>,
    pub(crate) password_hash: String,
}

const FIND: &str = "SELECT id, email, name, role, avatar, password_hash FROM users WHERE email = $1";
const ADD: &str = "INSERT INTO users (id, email, name, role, password_hash, created_at) \
                   VALUES ($1, $2, $3, $4, $5, $6)";

/// Normalizes an e-mail address for comparisons: lower case, without surrounding spaces.
pub(crate) fn normal_email(email: &str) -> String {
    trim(email).to_lowercase()
}

/// Finds the user with an e-mail address (a [`normal_email`]).
pub(crate) async fn find(records: &Records, email: &str) -> Result<Option<User>, AppError> {
    let row = records.run(sqlx::query(FIND).bind(email).fetch_optional(records.pool())).await?;
    let Some(row) = row else { return Ok(None) };
    let user = || {
        Ok::<_, sqlx::Error>(User {
            id: row.try_get("id")?,
            email: row.try_get("email")?,
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            avatar: row.try_get("avatar")?,
            password_hash: row.try_get("password_hash")?,
        })
    };
    user().map(Some).map_err(|error| AppError::records(&error))
}

/// Adds a user and returns the new id. The e-mail must be a [`normal_email`].
///
/// # Errors
/// The database's error, for the operator; an e-mail that exists already is a unique violation.
pub(crate) async fn add(
    records: &Records,
    (email, name, role): (&str, &str, Option<&str>),
    password_hash: &str,
    now_ms: i64,
) -> Result<String, sqlx::Error> {
    let id = Uuid::now_v7().to_string();
    sqlx::query(ADD)
        .bind(&id)
        .bind(email)
        .bind(name)
        .bind(role)
        .bind(password_hash)
        .bind(now_ms)
        .execute(records.pool())
        .await?;
    Ok(id)
}
