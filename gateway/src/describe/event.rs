//! [`Event`]: one event in one direction.

use schemars::JsonSchema;

use super::{Shape, Text, shape};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    FromClient,
    ToClient,
}

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(super) name: &'static str,
    pub(super) direction: Direction,
    pub(super) summary: Text,
    pub(super) detail: Option<Text>,
    /// Who gets it.
    pub(super) to: Option<Text>,
    pub(super) payload: Option<Shape>,
    /// What a success may be answered with; none where there is no ack.
    pub(super) acks: Vec<Shape>,
    pub(super) refusals: Vec<Text>,
    /// What one costs the node, of a client.
    pub(super) weight: u32,
}

impl Event {
    fn new(name: &'static str, direction: Direction, summary: impl Into<Text>) -> Self {
        Self {
            name,
            direction,
            summary: summary.into(),
            detail: None,
            to: None,
            payload: None,
            acks: Vec::new(),
            refusals: Vec::new(),
            weight: 1,
        }
    }

    /// A client sends it.
    pub(crate) fn from_client(name: &'static str, summary: impl Into<Text>) -> Self {
        Self::new(name, Direction::FromClient, summary)
    }

    /// Clients receive it.
    pub(crate) fn to_client(name: &'static str, summary: impl Into<Text>) -> Self {
        Self::new(name, Direction::ToClient, summary)
    }

    /// What one costs the node, in units of its user's budget; 1 unless said. None is more than `USER_EVENTS_FACTOR`, so
    /// that a user with one socket meets no other limit than that socket's.
    pub(crate) fn weight(mut self, units: u32) -> Self {
        self.weight = units;
        self
    }

    /// What the summary leaves open.
    pub(crate) fn detail(mut self, text: impl Into<Text>) -> Self {
        self.detail = Some(text.into());
        self
    }

    /// Who gets it.
    pub(crate) fn to(mut self, whom: impl Into<Text>) -> Self {
        self.to = Some(whom.into());
        self
    }

    /// Its first argument. An event without one has no payload.
    pub(crate) fn payload<T: JsonSchema + ?Sized>(mut self) -> Self {
        self.payload = Some(shape::<T>());
        self
    }

    /// What a success is answered with, where the client asks for an ack. Once more for another form.
    pub(crate) fn ack<T: JsonSchema>(mut self) -> Self {
        self.acks.push(shape::<T>());
        self
    }

    /// A refusal of its own, beside those that every event may have.
    pub(crate) fn refuse(mut self, error: impl Into<Text>) -> Self {
        self.refusals.push(error.into());
        self
    }

    /// Several refusals.
    pub(crate) fn refuse_all(mut self, errors: &[&'static str]) -> Self {
        self.refusals.extend(errors.iter().map(|error| Text::Borrowed(error)));
        self
    }
}
