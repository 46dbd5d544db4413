//! The query of a request to the engine, and ids and names in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::eio::Query;
use shared::ids::{SessionId, SocketId};
use shared::names::{Namespace, Room, UserId};

fuzz_target!(|text: &str| {
    if let Ok(query) = Query::parse(text) {
        let parsed = query.sid.as_deref().and_then(SessionId::parse);
        assert!(parsed.is_none_or(|id| Some(id.secret()) == query.sid.as_deref()));
    }
    let _ = (SocketId::parse(text), Namespace::parse(text), Room::parse(text), UserId::parse(text));
});
