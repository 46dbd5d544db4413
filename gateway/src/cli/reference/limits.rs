//! The page of fixed limits.

use std::fmt::Write as _;

use shared::limits::{ALL, Limit};

use super::text::{bytes, grouped, paragraph, time};
use crate::apps::APPS;

const INTRO: &str = "\
These maxima are part of the program. What an operator may change is a [setting](settings.md). Each limit has a test
that reaches it.

Failed logins count on all nodes of a cluster together. Every other limit on a user or an address holds on each node:
a user with sockets on three nodes has three times as much. Limits on what is stored, or on who is in a room, hold
everywhere.
";

/// The body of the page.
pub(super) fn body() -> String {
    let mut out = INTRO.to_owned();
    list(&mut out, "The node", ALL);
    for app in APPS.iter().filter(|app| !app.limits.is_empty()) {
        list(&mut out, &format!("The app `{}`", app.name()), app.limits);
    }
    out
}

fn list(out: &mut String, title: &str, limits: &[Limit]) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "\n## {title}");
    for limit in limits {
        let _ = write!(out, "\n### `{}`\n\n**{}.** {}", limit.name, value(limit), meaning(limit));
    }
}

fn meaning(limit: &Limit) -> String {
    // Items that rustdoc links to are on this page, too.
    let text = limit.meaning.replace("[`", "`").replace("`]", "`");
    let mut out = String::new();
    let (about, beyond) = text.split_once("Beyond it: ").unwrap_or((&text, ""));
    out.push_str(&paragraph(about));
    if !beyond.is_empty() {
        out.push('\n');
        out.push_str(&paragraph(&format!("*Beyond it:* {beyond}")));
    }
    out
}

/// The value with its unit, which the name ends with.
fn value(limit: &Limit) -> String {
    let text = format!("{:?}", limit.value);
    let whole = text.strip_suffix(".0").unwrap_or(&text);
    let Ok(number) = whole.parse::<u64>() else { return text };
    let name = limit.name;
    match name.rsplit('_').next().unwrap_or_default() {
        _ if name.contains("BYTES") || name == "CARE_JSON_MAX" || name == "CALL_SIGNAL_MAX" => bytes(number),
        "MS" => time(number),
        "S" => time(number.saturating_mul(1_000)),
        "DAYS" => format!("{number} days"),
        _ if name.contains("RADIUS") => format!("{} km", number / 1_000),
        _ => grouped(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_there_with_its_value() {
        let page = body();
        let limits: Vec<&Limit> = ALL.iter().chain(APPS.iter().flat_map(|app| app.limits)).collect();
        assert!(limits.len() > 200);
        for limit in limits {
            assert!(page.contains(&format!("\n### `{}`\n", limit.name)), "{}", limit.name);
        }
        assert!(page.contains("\n### `HEAD_MAX_BYTES`\n\n**16 KiB.** "));
        assert!(page.contains("\n### `PUSH_TIMEOUT_MS`\n\n**5 s.** "));
        assert!(page.contains("\n### `NEARBY_RADIUS_MAX`\n\n**100 km.** "));
    }
}
