//! The page of the command line: what `--help` prints.

use std::fmt::Write as _;

use clap::Command;

use super::super::command;

const INTRO: &str = "\
Every command takes every [setting](settings.md) as a flag. `gateway --help` and `gateway serve --help` list them; the
help of the other commands shows their own options.

Exit codes: 0 done (also after a drain), 1 failed, 2 wrong settings or arguments.

**Signals.** SIGTERM, SIGINT and SIGQUIT drain the node; a second one ends it at once. SIGHUP, SIGUSR1 and SIGUSR2 do
nothing, and a log line says so.
";

/// The body of the page.
pub(super) fn body() -> String {
    let mut out = INTRO.to_owned();
    let mut root = command(&[]).term_width(100);
    root.build();
    // `help` is clap's own.
    for command in root.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let inner: Vec<Command> =
            command.get_subcommands().filter(|inner| inner.get_name() != "help").cloned().collect();
        if inner.is_empty() {
            section(&mut out, command.clone());
        }
        inner.into_iter().for_each(|command| section(&mut out, command));
    }
    out
}

fn section(out: &mut String, mut command: Command) {
    let name = command.get_bin_name().unwrap_or_default().to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    // Writing to a String does not fail.
    let _ = write!(out, "\n## `{name}`\n\n```text\n{}\n```\n", lines.join("\n").trim());
}
