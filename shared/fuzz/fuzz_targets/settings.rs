//! A settings file: every problem is reported, none is a panic, and no secret is shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::config::{AppDeclaration, Layers};

static APP: AppDeclaration =
    AppDeclaration { name: "app", namespace: "/", keeps_records: true, settings: &[] };

fuzz_target!(|text: &str| {
    let mut layers = Layers::new(vec![&APP]);
    layers.set_file("fuzz.toml", text);
    if let Err(problems) = layers.resolve() {
        assert!(!problems.is_empty());
        problems.iter().for_each(|problem| assert!(!problem.to_string().is_empty()));
    }
});
