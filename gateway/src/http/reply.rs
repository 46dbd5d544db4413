//! The envelopes of answers (contract, "Errors over HTTP"; documents 000 to 002).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::{iso, now_ms};
use crate::describe::forms::{Time, True};

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
#[schemars(rename = "{T}List")]
pub(super) struct List<T> {
    #[schemars(with = "True")]
    success: bool,
    data: Vec<T>,
    /// How many there are in `data`.
    count: usize,
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
    let count = data.len();
    Json(List { success: true, data, count, timestamp: iso(now_ms()) })
}

pub(super) fn answer<T>(data: T) -> Json<Answer<T>> {
    Json(Answer { success: true, data })
}

pub(super) fn told(message: &'static str, at_ms: u64) -> Json<Told> {
    Json(Told { success: true, message, timestamp: iso(at_ms) })
}
