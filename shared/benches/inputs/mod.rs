//! The inputs: the messages of the load tester, as it publishes them and as members receive them.

use shared::adapter::Outgoing;
use shared::sio::Event;
use shared::ws;

/// Where it all happens.
pub(crate) const NAMESPACE: &str = "/relay";

/// The room.
pub(crate) const ROOM: &str = "r0";

/// Contents that are measured: that of the figures in the book, a long text, and a small picture.
pub(crate) const CONTENTS: [(&str, usize); 3] = [("128 B", 128), ("1 KiB", 1024), ("16 KiB", 16 * 1024)];

/// The argument of a message with so many bytes of content.
pub(crate) fn data(content: usize) -> String {
    let content = "0123456789abcdef".repeat(content.div_ceil(16));
    format!(r#"{{"roomId":"{ROOM}","content":"{content}"}}"#)
}

/// The event that members get.
pub(crate) fn event<'a>(args: &'a [&'a str]) -> Event<'a> {
    Event { namespace: NAMESPACE, name: "new_message", args, ack: None, attachments: &[] }
}

/// The same on its way through Redis, from a node with a good id.
pub(crate) fn outgoing<'a>(event: &'a Event<'a>, rooms: &'a [&'a str]) -> Outgoing<'a> {
    Outgoing { uid: "AbC1", event, rooms, except: &[], volatile: false, sequence: None }
}

/// The packet that a publisher's browser sends.
pub(crate) fn published(data: &str) -> Vec<u8> {
    let text =
        format!(r#"42{NAMESPACE},17["publish",{{"room":"{ROOM}","event":"new_message","data":{data}}}]"#);
    let mut frame = Vec::new();
    ws::push_masked_frame(&mut frame, ws::OP_TEXT, text.as_bytes(), [0x12, 0x34, 0x56, 0x78]);
    frame
}
