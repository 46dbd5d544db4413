//! Responses to requests of Muster nodes (protocol, 3.1).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::broadcast::{entries, read_text, skip};
use super::javascript::json_rooms;
use super::msgpack::msgpack_to_json;
use super::request::RequestError;
use crate::json::nests_at_most;
use crate::limits::JSON_DEPTH_MAX;
use crate::sio;

/// A response to a request of a Muster node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// How many sockets of one node received an [`Request::AckBroadcast`](super::Request::AckBroadcast).
    ClientCount {
        /// The request.
        id: String,
        /// Sockets.
        count: usize,
    },
    /// A socket's answer.
    Acked {
        /// The request.
        id: String,
        /// The first argument of its ack.
        answer: sio::Answer,
    },
    /// A node's sockets.
    Fetched {
        /// The request.
        id: String,
        /// Raw JSON of each.
        sockets: Vec<FetchedSocket>,
    },
    /// A node has carried out the request, and has no other answer.
    Done {
        /// The request.
        id: String,
    },
    /// Any other response.
    Other,
}

/// A socket in [`Response::Fetched`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FetchedSocket {
    /// Its id.
    pub id: String,
    /// Its rooms.
    #[serde(default, deserialize_with = "names")]
    pub rooms: Vec<String>,
}

/// Reads names of a socket's rooms, which may be numbers.
fn names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Option::<&RawValue>::deserialize(deserializer)?;
    json_rooms(names).map_err(|_| serde::de::Error::custom("no names of rooms"))
}

/// Reads a response.
///
/// # Errors
/// [`RequestError`]: drop it.
pub fn decode_response(message: &[u8]) -> Result<Response, RequestError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        request_id: Option<String>,
        #[serde(rename = "type")]
        kind: Option<u8>,
        client_count: Option<usize>,
        sockets: Option<Vec<FetchedSocket>>,
    }
    if message.first() != Some(&b'{') {
        return decode_acked(message);
    }
    let text = str::from_utf8(message).map_err(|_| RequestError)?;
    if !nests_at_most(text, JSON_DEPTH_MAX) {
        return Err(RequestError);
    }
    // Lists of ids (an answer to the oldest request) are not descriptions; they are ignored.
    let Ok(wire) = serde_json::from_str::<Wire>(text) else {
        return if serde_json::from_str::<&RawValue>(text).is_ok() {
            Ok(Response::Other)
        } else {
            Err(RequestError)
        };
    };
    Ok(match (wire.kind, wire.request_id, wire.client_count, wire.sockets) {
        (Some(8), Some(id), Some(count), _) => Response::ClientCount { id, count },
        (None, Some(id), _, Some(sockets)) => Response::Fetched { id, sockets },
        (None, Some(id), None, None) => Response::Done { id },
        _ => Response::Other,
    })
}

fn decode_acked(message: &[u8]) -> Result<Response, RequestError> {
    let input = &mut &message[..];
    let (mut id, mut kind, mut answer) = (None, None, sio::Answer::default());
    let mut read = || {
        for _ in 0..entries(input)? {
            match &*read_text(input)? {
                "requestId" => id = Some(read_text(input)?.into_owned()),
                "type" => kind = Some(read_text(input)?.into_owned()),
                "packet" => msgpack_to_json(input, &mut answer.json, &mut answer.attachments, 0)?,
                _ => skip(input)?,
            }
        }
        Ok::<_, super::BroadcastError>(())
    };
    read().map_err(|_| RequestError)?;
    match (kind.as_deref(), id) {
        (Some("9"), Some(id)) => {
            Ok(Response::Acked { id, answer: if answer.is_empty() { sio::Answer::null() } else { answer } })
        }
        (Some(_), Some(_)) => Ok(Response::Other),
        _ => Err(RequestError),
    }
}
