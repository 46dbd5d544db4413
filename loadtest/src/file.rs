//! Reads a scenario from a file: the flags of a subcommand as keys of a TOML table.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result, bail};
use clap::Parser;
use toml::{Table, Value};

use crate::args::RunArgs;
use crate::cli::{Cli, Command};

/// Flags that cannot be given together.
const EXCLUSIVE: [&str; 2] = ["rate", "in-flight"];

/// The command in the file.
pub(crate) fn read(args: &RunArgs) -> Result<Command> {
    let path = args.file.display();
    let text = fs::read_to_string(&args.file).with_context(|| format!("reading {path}"))?;
    let table: Table = text.parse().with_context(|| format!("{path}"))?;
    let line = line(table, &args.flags).with_context(|| format!("{path}"))?;
    let command = match Cli::try_parse_from(line) {
        Ok(cli) => cli.command,
        Err(error) if error.use_stderr() => return Err(error).with_context(|| format!("{path}")),
        // Help was asked for.
        Err(error) => error.exit(),
    };
    if let Command::Run(_) = command {
        bail!("{path}: scenario = \"run\" would call itself");
    }
    Ok(command)
}

/// The equivalent command line.
fn line(mut table: Table, flags: &[OsString]) -> Result<Vec<OsString>> {
    let Some(Value::String(scenario)) = table.remove("scenario") else {
        bail!("expected scenario = \"fanout\" or another subcommand");
    };
    let mut line = vec![OsString::from("loadtest"), OsString::from(scenario)];
    for (key, value) in table {
        let excludes = EXCLUSIVE.contains(&key.as_str()).then_some(EXCLUSIVE);
        if gives(flags, &key) || excludes.is_some_and(|all| all.iter().any(|other| gives(flags, other))) {
            continue;
        }
        let flag = format!("--{key}");
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            match value {
                Value::Boolean(false) => {}
                Value::Boolean(true) => line.push(flag.clone().into()),
                Value::String(text) => line.push(format!("{flag}={text}").into()),
                Value::Integer(number) => line.push(format!("{flag}={number}").into()),
                other => bail!("{key}: expected a text, a number, true or false, not {other}"),
            }
        }
    }
    line.extend(flags.iter().cloned());
    Ok(line)
}

/// Whether `--name` or `--name=…` is among the flags.
fn gives(flags: &[OsString], name: &str) -> bool {
    let given = |flag: &OsString| {
        let rest = flag.to_str()?.strip_prefix("--")?.strip_prefix(name)?;
        (rest.is_empty() || rest.starts_with('=')).then_some(())
    };
    flags.iter().any(|flag| given(flag).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, flags: &[&str]) -> Result<Vec<String>> {
        let flags: Vec<OsString> = flags.iter().map(OsString::from).collect();
        let line = line(text.parse()?, &flags)?;
        Ok(line.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn keys_are_flags_and_the_command_line_wins() {
        let text = "scenario = 'fanout'\nmembers = 5\nurl = ['ws://a', 'ws://b']\njson = true\nrate = '20/s'";
        let line = words(text, &["--members", "7"]).unwrap();
        for word in ["fanout", "--url=ws://a", "--url=ws://b", "--json", "--rate=20/s", "--members", "7"] {
            assert!(line.iter().any(|found| found == word), "{word}: {line:?}");
        }
        assert!(!line.iter().any(|word| word == "--members=5"));
    }

    #[test]
    fn a_flag_also_replaces_what_excludes_it() {
        let line = words("scenario = 'fanout'\nrate = 20", &["--in-flight=32"]).unwrap();
        assert!(!line.iter().any(|word| word.starts_with("--rate")), "{line:?}");
    }

    #[test]
    fn an_unknown_flag_is_an_error() {
        assert!(words("members = 5", &[]).is_err());
        assert!(words("scenario = 'fanout'\nmembers = 1.5", &[]).is_err());
        assert!(words("scenario = 'fanout'\n[members]\nx = 1", &[]).is_err());
    }
}
