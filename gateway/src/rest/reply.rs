//! The envelopes of answers (contract, "Errors over HTTP"; documents 000 to 002).

use std::time::Duration;

use axum::Json;
use fanout::Counted;
use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::{iso, now_ms};
use crate::describe::forms::{Millis, Time, True};
use crate::records::Cursor;

/// The requested data.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Response")]
pub(crate) struct Data<T> {
    #[schemars(with = "True")]
    success: bool,
    data: T,
    /// When the node answered.
    #[schemars(with = "Time")]
    timestamp: String,
}

/// A changed record.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Change")]
pub(crate) struct Change<T> {
    #[schemars(with = "True")]
    success: bool,
    data: T,
    /// `true` if the change is recorded but not every node has applied it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "True")]
    incomplete: Option<bool>,
    /// When the node answered.
    #[schemars(with = "Time")]
    timestamp: String,
}

/// A list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "{T}List")]
pub(crate) struct List<T> {
    #[schemars(with = "True")]
    success: bool,
    data: Vec<T>,
    /// The number of entries in `data`.
    count: usize,
    /// Whether more entries exist. Left out if there are none, or if the next page is requested with `before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    has_more: Option<bool>,
    /// The `cursor` of the next page, if more entries exist and can be requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next_cursor: Option<String>,
    /// When the node answered.
    #[schemars(with = "Time")]
    timestamp: String,
}

/// An answer to a backend.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Response")]
pub(crate) struct Answer<T> {
    #[schemars(with = "True")]
    success: bool,
    data: T,
}

/// A confirmation.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Acknowledgement")]
pub(crate) struct Confirmation {
    #[schemars(with = "True")]
    success: bool,
    message: &'static str,
    /// `true` if the change is recorded but not every node has applied it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "True")]
    incomplete: Option<bool>,
    /// When the node answered.
    #[schemars(with = "Time")]
    timestamp: String,
}

/// The time of a count, and whether it may be outdated.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Freshness {
    /// When the count was correct.
    #[schemars(with = "Time")]
    as_of: String,
    /// When the node answered.
    #[schemars(with = "Millis")]
    timestamp: u64,
    /// `true` while Redis is unavailable: this is the last known count.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
}

impl Freshness {
    pub(crate) fn of(counted: &Counted) -> Self {
        let now = now_ms();
        let age = u64::try_from(counted.age.max(Duration::ZERO).as_millis()).unwrap_or_default();
        Self { as_of: iso(now.saturating_sub(age)), timestamp: now, stale: counted.stale }
    }
}

pub(crate) fn data<T>(data: T) -> Json<Data<T>> {
    Json(Data { success: true, data, timestamp: iso(now_ms()) })
}

/// Answers with a changed record. `is_done` says whether every node has applied the change.
pub(crate) fn change<T>(data: T, is_done: bool) -> Json<Change<T>> {
    let incomplete = (!is_done).then_some(true);
    Json(Change { success: true, data, incomplete, timestamp: iso(now_ms()) })
}

pub(crate) fn list<T>(data: Vec<T>) -> Json<List<T>> {
    list_of(data, None, None)
}

/// A page, with the cursor of the next one.
pub(crate) fn page<T>(data: Vec<T>, next: Option<&Cursor>) -> Json<List<T>> {
    list_of(data, Some(next.is_some()), next.map(Cursor::text))
}

/// A list that is truncated if it has too many entries.
pub(crate) fn cut_list<T>(data: Vec<T>, has_more: bool) -> Json<List<T>> {
    list_of(data, has_more.then_some(true), None)
}

fn list_of<T>(data: Vec<T>, has_more: Option<bool>, next_cursor: Option<String>) -> Json<List<T>> {
    let (count, timestamp) = (data.len(), iso(now_ms()));
    Json(List { success: true, data, count, has_more, next_cursor, timestamp })
}

pub(crate) fn answer<T>(data: T) -> Json<Answer<T>> {
    Json(Answer { success: true, data })
}

/// Confirms a recorded change. `is_done` says whether every node has applied it.
pub(crate) fn confirmation(message: &'static str, at_ms: u64, is_done: bool) -> Json<Confirmation> {
    let incomplete = (!is_done).then_some(true);
    Json(Confirmation { success: true, message, incomplete, timestamp: iso(at_ms) })
}
