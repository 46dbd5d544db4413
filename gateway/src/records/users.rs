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

/// An e-mail address as the records compare it: in lower case, without spaces around it.
pub(crate) fn normal_email(email: &str) -> String {
    trim(email).to_lowercase()
}

/// The user with an e-mail address ([`normal_email`]).
pub(crate) async fn find(records: &Records, email: &str) -> Result<Option<User>, AppError> {
    let row = records.run(sqlx::query(FIND).bind(email).fetch_optional(records.pool())).await?;
    let Some(row) = row else { return Ok(None) };
    let user = || {
        Ok::<_, sqlx::Error>(User {
            id: row.try_get(0)?,
            email: row.try_get(1)?,
            name: row.try_get(2)?,
            role: row.try_get(3)?,
            avatar: row.try_get(4)?,
            password_hash: row.try_get(5)?,
        })
    };
    user().map(Some).map_err(|error| AppError::records(&error))
}

/// Adds a user and answers the new id. The e-mail must be a [`normal_email`].
///
/// # Errors
/// The database's, for the operator; a taken e-mail is a unique violation.
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
