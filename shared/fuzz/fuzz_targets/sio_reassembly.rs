//! Texts and attachments in any order: never more kept than the limits allow. The input is cut at zero
//! bytes; a piece that begins with `b` is an attachment.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use shared::sio::Reassembly;

const MAX: usize = 256;

fuzz_target!(|data: &[u8]| {
    let mut reassembly = Reassembly::default();
    for piece in data.split(|byte| *byte == 0) {
        let ended = match piece {
            [b'b', rest @ ..] => match reassembly.binary(Bytes::copy_from_slice(rest), MAX) {
                Ok(Some(whole)) => {
                    let bytes: usize = whole.attachments.iter().map(Bytes::len).sum();
                    assert!(bytes <= MAX && whole.attachments.len() <= shared::limits::ATTACHMENTS_MAX);
                    false
                }
                Ok(None) => false,
                Err(_) => true,
            },
            text => std::str::from_utf8(text).is_ok_and(|text| reassembly.text(text).is_err()),
        };
        if ended {
            return;
        }
    }
});
