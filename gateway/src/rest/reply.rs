//! The envelopes of answers (contract, "Errors over HTTP"; documents 000 to 002).

use std::time::Duration;

use axum::Json;
use fanout::Counted;
use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::{iso, now_ms};
use crate::describe::forms::{Millis, Time, True};
use crate::records::Cursor;

/// What was asked for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Data")]
pub(crate) struct Data<T> {
    #[schemars(with = "True")]
    success: bool,
    data: T,
    /// When it was answered.
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
    /// How many there are in `data`.
    count: usize,
    /// Whether there are more than these. Where it is left out there are not, or a page's `before` asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    has_more: Option<bool>,
    /// The `cursor` that asks for the next ones, where there are more and they can be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next_cursor: Option<String>,
    /// When it was answered.
    #[schemars(with = "Time")]
    timestamp: String,
}

/// What a backend asked for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Answer")]
pub(crate) struct Answer<T> {
    #[schemars(with = "True")]
    success: bool,
    data: T,
}

/// A sentence.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Told {
    #[schemars(with = "True")]
    success: bool,
    message: &'static str,
    /// When it was answered.
    #[schemars(with = "Time")]
    timestamp: String,
}

/// Of what moment a count is, and where it may not be so any more.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Freshness {
    /// When the count was right.
    #[schemars(with = "Time")]
    as_of: String,
    /// When it was asked for.
    #[schemars(with = "Millis")]
    timestamp: u64,
    /// `true` while Redis is away: the last count that is known.
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

pub(crate) fn list<T>(data: Vec<T>) -> Json<List<T>> {
    list_of(data, None, None)
}

/// A page, and where the next one begins.
pub(crate) fn page<T>(data: Vec<T>, next: Option<&Cursor>) -> Json<List<T>> {
    list_of(data, Some(next.is_some()), next.map(Cursor::text))
}

/// A list that is cut where there are too many.
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

pub(crate) fn told(message: &'static str, at_ms: u64) -> Json<Told> {
    Json(Told { success: true, message, timestamp: iso(at_ms) })
}
