//! The page of settings.

use std::fmt::Write as _;

use shared::config::{Layers, Setting};

use super::text::paragraph;
use crate::apps;

const INTRO: &str = "\
A setting comes from a flag, from the environment or from one TOML file, in that order. The file is the one that
`--config` or the variable `CONFIG` names.

| where | how it is written |
| --- | --- |
| flag | `--ping-interval 25s` |
| environment | `PING_INTERVAL=25s` |
| TOML file | `ping_interval = \"25s\"` |

- Durations need a unit: `250ms`, `25s`, `2m`, `1h`. Only `0` stands alone.
- An unknown key or a bad value stops the start. So does a variable whose name is nearly a setting's (`PING_TIMEUOT`).
  The node reports all problems together.
- A line break at the end of a value, as files and Kubernetes secrets have it, is ignored.
- Settings that are valid by themselves and cannot work together are refused too: Redis with SQLite (unless
  `SQLITE_WITH_REDIS` permits it), `REDIS_HOST` beside `REDIS_URL`, two listeners on one address.
- `gateway check-config` checks everything without starting a node. `gateway print-config` prints what is in force.
- No output shows a secret. Secret settings are marked below; `print-config`, errors and logs also leave out the user
  and the query of every URL.
- Settings are read at the start. SIGHUP changes nothing.

## All settings
";

/// The body of the page.
pub(super) fn body() -> String {
    let layers = Layers::new(apps::declarations());
    let mut out = format!("{INTRO}\n| setting | default |\n| --- | --- |\n");
    for setting in layers.settings() {
        let name = setting.key.to_uppercase();
        // Writing to a String does not fail.
        let _ = writeln!(out, "| [`{name}`](#{}) | {} |", setting.key, default(setting));
    }
    for setting in layers.settings() {
        let flag = if setting.key == "mounts" { "mount".to_owned() } else { setting.key.replace('_', "-") };
        let default = match default(setting).as_str() {
            "" => "Not set by default.".to_owned(),
            text => format!("Default: {text}."),
        };
        let secret = if setting.secret { " Secret." } else { "" };
        let help = paragraph(setting.help);
        let _ = write!(
            out,
            "\n### `{}`\n\n{help}\n{default} Flag: `--{flag}`.{secret}\n",
            setting.key.to_uppercase()
        );
    }
    out
}

fn default(setting: &Setting) -> String {
    if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) }
}
