//! Tokens: any text is refused by a key it is not signed with, any JSON is claims or not; and key sets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::auth::{Claims, KeySet, Verifier};

fuzz_target!(|text: &str| {
    let verifier = Verifier::new(KeySet::secret(b"not in the corpus"), Vec::new(), Vec::new());
    assert!(verifier.verify(text, 1_800_000_000).is_err());
    if let Ok(serde_json::Value::Object(claims)) = serde_json::from_str(text) {
        if let Some(claims) = Claims::from_json(&claims) {
            assert!(shared::names::is_id(claims.user.as_str()));
        }
    }
    let _ = KeySet::jwks(text.as_bytes());
    let _ = KeySet::public_key(text.as_bytes());
});
