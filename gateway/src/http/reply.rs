//! The envelopes of answers (contract, "Errors over HTTP"; documents 000 to 002).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::{iso, now_ms};
use crate::describe::forms::{Time, True};
use crate::records::Cursor;

/// What was asked for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Data")]
pub(super) struct Data<T> {
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
pub(super) struct List<T> {
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
pub(super) struct Answer<T> {
    #[schemars(with = "True")]
    success: bool,
    data: T,
}

/// A sentence.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Told {
    #[schemars(with = "True")]
    success: bool,
    message: &'static str,
    /// When it was answered.
    #[schemars(with = "Time")]
    timestamp: String,
}

pub(super) fn data<T>(data: T) -> Json<Data<T>> {
    Json(Data { success: true, data, timestamp: iso(now_ms()) })
}

pub(super) fn list<T>(data: Vec<T>) -> Json<List<T>> {
    list_of(data, None, None)
}

/// A page, and where the next one begins.
pub(super) fn page<T>(data: Vec<T>, next: Option<&Cursor>) -> Json<List<T>> {
    list_of(data, Some(next.is_some()), next.map(Cursor::text))
}

/// A list that is cut where there are too many.
pub(super) fn cut_list<T>(data: Vec<T>, has_more: bool) -> Json<List<T>> {
    list_of(data, has_more.then_some(true), None)
}

fn list_of<T>(data: Vec<T>, has_more: Option<bool>, next_cursor: Option<String>) -> Json<List<T>> {
    let (count, timestamp) = (data.len(), iso(now_ms()));
    Json(List { success: true, data, count, has_more, next_cursor, timestamp })
}

pub(super) fn answer<T>(data: T) -> Json<Answer<T>> {
    Json(Answer { success: true, data })
}

pub(super) fn told(message: &'static str, at_ms: u64) -> Json<Told> {
    Json(Told { success: true, message, timestamp: iso(at_ms) })
}
