//! The command line: `gateway` (= `gateway serve`), `ping`, `token`, `user add`, `check-config`, `print-config`,
//! `docs`, `version`.

mod first_token;
mod ping;
mod reference;
mod serve;

use std::fmt::Display;
use std::io::{BufRead, IsTerminal as _, Write as _};
use std::iter;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};
use shared::auth::sign_hs256;
use shared::blank::is_blank;
use shared::config::{
    Config, Effective, HIDDEN, Layer, Layers, Problem, Scrubber, Setting, TokenKeys, redact,
};
use shared::limits::CREDENTIAL_MAX_BYTES;
use shared::names::{BadId, UserId};

use crate::apps;
use crate::auth::{Tokens, password};
use crate::clock::{now_ms, now_s};
use crate::records::{Records, time_column, users};
use crate::telemetry;
pub use reference::{Page, reference_pages};
use serve::serve;

/// Exit code of a command that failed and has printed why.
const FAILED: u8 = 1;
/// Exit code for invalid settings or arguments.
const MISUSED: u8 = 2;

/// Runs the command line `args` with the environment `variables`; returns the exit code.
pub fn run(args: impl Iterator<Item = String>, variables: &[(String, String)]) -> ExitCode {
    let empty = Layers::new(apps::declarations());
    let matches = match command(empty.settings()).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // clap returns `--help` as an error, too, with exit code 0.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::from(MISUSED), ExitCode::from);
        }
    };
    let layers = match layers(empty, &matches, variables) {
        Ok(layers) => layers,
        Err(problem) => return complain(&[problem]),
    };
    match matches.subcommand() {
        Some(("version", _)) => say(&format!("gateway {} ({})", env!("CARGO_PKG_VERSION"), serve::COMMIT)),
        Some(("print-config", _)) => print_config(layers),
        Some(("docs", args)) => reference::run(args),
        Some(("check-config", _)) => configured(layers, check_config),
        Some(("ping", args)) => configured(layers, |config| ping::ping(&config, args)),
        Some(("token", token)) => configured(layers, |config| print_token(&config, token)),
        Some(("user", user)) => configured(layers, |config| add_user(&config, user)),
        _ => configured(layers, |config| match config.conflicts().as_slice() {
            [] => serve(config),
            conflicts => complain(conflicts),
        }),
    }
}

/// Checks what can be checked without the network, beyond the individual settings.
fn check_config(config: Config) -> ExitCode {
    let mut problems = config.conflicts();
    let mut problem = |place: &str, expected: String| {
        problems.push(Problem { place: place.to_owned(), value: None, expected });
    };
    if let Err(error) = Tokens::new(&config.auth, String::new) {
        problem("JWT_PUBLIC_KEY", format!("expected a file with a public key: {error}"));
    }
    if let Some(folder) = crate::records::folder(&config.database_url.0)
        && !folder.is_dir()
    {
        problem(
            "DATABASE_URL",
            format!("expected a file in a folder that exists; {} does not", folder.display()),
        );
    }
    for warning in config.warnings() {
        warn(&format!("warning: {warning}"));
    }
    if problems.is_empty() { say("The configuration is valid.") } else { complain(&problems) }
}

fn text(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help)
}

fn token_command() -> Command {
    Command::new("token")
        .about("Print a token with any claims, signed with JWT_SECRET")
        .arg(text("user", "User id").required(true))
        .arg(text("role", "Role"))
        .arg(text("name", "Display name"))
        .arg(text("email", "E-mail"))
        .arg(text("ttl", "How long the token is valid, with a unit: 90s, 15m, 12h").default_value("1h"))
        .arg(text("claims", "Additional claims, as a JSON object"))
}

fn ping_command() -> Command {
    Command::new("ping")
        .about("Connect to a server like a client, print how long it took, and fail if it does not answer")
        .long_about(
            "Connect to a server like a client: the WebSocket handshake, CONNECT and, if relay is mounted, one `echo`. \
             Prints how long each step took.\n\nWithout --token, the ping signs one with JWT_SECRET for the echo if \
             relay is alone in its namespace. If it has no token, the ping ends before CONNECT, unless --namespace \
             requests it: then a refusal that asks for a token is success.\n\nExit codes: 0 the server works, or \
             accepts no new client now (it is full, draining or rate limiting); 1 the server does not answer in time, \
             or answers incorrectly; 2 the settings or arguments are invalid.",
        )
        .arg(Arg::new("url").value_name("URL").help(
            "URL of the server: ws, wss, http or https [default: the public listener of a node with these settings]",
        ))
        .arg(text("token", "Token to connect with"))
        .arg(text("namespace", "Namespace to connect to [default: relay's, else the first of MOUNTS]"))
        .arg(text("within", "Maximum duration of the whole ping").default_value("5s"))
}

fn add_command() -> Command {
    Command::new("add")
        .about("Add a user who logs in with e-mail and password")
        .long_about(
            "Add a user who logs in with e-mail and password. The command reads the password as one line from \
             standard input. A terminal shows it as you type, so redirect a file: `gateway user add … < password-file`.",
        )
        .arg(text("email", "E-mail").required(true))
        .arg(text("name", "Display name").required(true))
        .arg(text("role", "Role"))
        .arg(text("password", "Password; other users can see arguments, so prefer standard input"))
}

fn command(settings: &[Setting]) -> Command {
    let settings: Vec<Arg> = iter::once(config_file()).chain(settings.iter().map(flag)).collect();
    // A command's help lists its own options; only `serve` lists the settings.
    let own = |command: Command| {
        command
            .args(settings.iter().map(|arg| arg.clone().hide(true)))
            .after_help("This command also accepts settings as flags: `gateway serve --help` lists them.")
    };
    let user = Command::new("user").about("Users of the records").subcommand_required(true);
    Command::new("gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Muster: a realtime gateway for Socket.IO clients")
        .long_about(
            "Muster: a realtime gateway for Socket.IO clients.\n\nSettings come from flags, the environment \
             (upper case, underscores) and one TOML file (--config), in that order. Durations are written \
             250ms, 25s, 2m, 1h; only 0 needs no unit.",
        )
        .subcommand(Command::new("serve").about("Run the gateway (the default command)").args(&settings))
        .subcommand(own(ping_command()))
        .subcommand(own(token_command()))
        .subcommand(own(user).subcommand(own(add_command())))
        .subcommand(own(
            Command::new("check-config").about("Check the configuration and report every problem")
        ))
        .subcommand(own(
            Command::new("print-config").about("Print every effective setting as TOML, without secrets")
        ))
        .subcommand(own(reference::command()))
        .subcommand(own(Command::new("version").about("Print the version")))
        .args(settings)
}

fn config_file() -> Arg {
    Arg::new("config").long("config").value_name("FILE").help("TOML file with settings [env: CONFIG]")
}

/// The flag of a setting.
fn flag(setting: &Setting) -> Arg {
    let name = if setting.key == "mounts" { "mount".to_owned() } else { setting.key.replace('_', "-") };
    let arg = Arg::new(setting.key).long(name).value_name("VALUE");
    let arg = if setting.key == "mounts" { arg.action(ArgAction::Append) } else { arg };
    let mut help = format!("{} [env: {}]", setting.help, setting.key.to_uppercase());
    if !setting.default.is_empty() {
        help.push_str(&format!(" [default: {}]", setting.default));
    }
    // `--help` lists the settings; `-h` is for the commands.
    arg.help(help).hide_short_help(true).help_heading("Settings")
}

fn layers(
    mut layers: Layers,
    matches: &ArgMatches,
    variables: &[(String, String)],
) -> Result<Layers, Problem> {
    // A flag may precede or follow a command; the last one applies.
    let mut commands = vec![matches];
    while let Some((_, inner)) = commands.last().and_then(|last| last.subcommand()) {
        commands.push(inner);
    }
    let given = |key: &str| -> Option<Vec<&String>> {
        let found = commands.iter().rev().find_map(|command| command.get_many::<String>(key));
        found.map(Iterator::collect)
    };
    layers.check_names(variables.iter().map(|(key, _)| key.as_str()));
    let variable = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let settings: Vec<_> = layers.settings().iter().map(|setting| setting.key).collect();
    for key in settings {
        if let Some(values) = given(key) {
            let values: Vec<_> = values.into_iter().map(String::as_str).collect();
            layers.set(Layer::Flag, key, &values.join(","));
        }
        if let Some(value) = variable(&key.to_uppercase()) {
            layers.set(Layer::Environment, key, value);
        }
    }
    let file = given("config").and_then(|files| files.last().copied()).or_else(|| variable("CONFIG"));
    if let Some(file) = file.filter(|file| !file.is_empty()) {
        let text = std::fs::read_to_string(Path::new(file)).map_err(|error| Problem {
            place: "--config".to_owned(),
            value: Some(file.clone()),
            expected: format!("a file that can be read ({error})"),
        })?;
        layers.set_file(file, &text);
    }
    Ok(layers)
}

fn configured(layers: Layers, go: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    let config = layers.resolve().and_then(|config| {
        if telemetry::check_filter(&config.log) {
            return Ok(config);
        }
        let expected = "a level such as info, or target=level separated by commas".to_owned();
        Err(vec![Problem { place: "LOG".to_owned(), value: Some(redact(&config.log)), expected }])
    });
    match config {
        Ok(config) => {
            let _ = SCRUBBER.set(config.scrubber());
            go(config)
        }
        Err(problems) => complain(&problems),
    }
}

/// The secrets that no output may contain, once the settings are known.
static SCRUBBER: OnceLock<Scrubber> = OnceLock::new();

fn complain(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        warn(problem);
    }
    ExitCode::from(MISUSED)
}

fn warn(what: &dyn Display) {
    let line = format!("gateway: {what}");
    let scrubbed = SCRUBBER.get().and_then(|scrubber| scrubber.scrub(&line));
    // If standard error is closed, the message is lost.
    let _ = writeln!(std::io::stderr(), "{}", scrubbed.unwrap_or(line));
}

fn say(what: &str) -> ExitCode {
    // In one write, so that no log line comes between two lines of it.
    match std::io::stdout().write_all(format!("{what}\n").as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn fail(what: &dyn Display) -> ExitCode {
    warn(what);
    ExitCode::from(FAILED)
}

fn print_config(layers: Layers) -> ExitCode {
    let line = |Effective { key, text, is_whole }: Effective| {
        // If the output is used as a file, a redacted text must not be read as the value.
        match (is_whole, text.as_str()) {
            (true, _) => format!("{key} = {text:?}"),
            (false, HIDDEN) => format!("# {key} is set"),
            (false, _) => format!("# {key} is set: {text:?}"),
        }
    };
    let shown: Vec<String> = layers.effective().map(line).collect();
    let code = say(&shown.join("\n"));
    match layers.resolve() {
        Ok(_) => code,
        Err(problems) => complain(&problems),
    }
}

fn print_token(config: &Config, args: &ArgMatches) -> ExitCode {
    let TokenKeys::Secret(secret) = &config.auth.keys else {
        return fail(&"a token is signed by JWT_SECRET, which is not set");
    };
    let text = |name: &str| args.get_one::<String>(name);
    let Some(user) = text("user").filter(|user| UserId::parse(user).is_ok()) else {
        return fail(&format!("--user: {BadId}"));
    };
    let life = match shared::config::duration(text("ttl").map_or("1h", String::as_str)) {
        Ok(life) => life,
        Err(expected) => return fail(&format!("--ttl: expected {expected}")),
    };
    let further = text("claims").map_or(Ok(Map::new()), |claims| serde_json::from_str(claims));
    let Ok(mut claims) = further else { return fail(&"--claims: expected a JSON object") };
    for (key, value) in [("role", text("role")), ("name", text("name")), ("email", text("email"))] {
        if let Some(value) = value {
            claims.insert(key.to_owned(), value.as_str().into());
        }
    }
    match signed(config, secret, (user, life), claims) {
        Ok(token) => say(&token),
        Err(error) => fail(&error),
    }
}

/// A token of `user`, valid for `life`, with additional claims, that nodes with these settings accept.
fn signed(
    config: &Config,
    secret: &str,
    (user, life): (&str, Duration),
    mut claims: Map<String, Value>,
) -> Result<String, impl Display + use<>> {
    let now = now_s();
    let (issuer, audience) = (config.auth.issuers.first(), config.auth.audiences.first());
    for (key, value) in [("iss", issuer), ("aud", audience)] {
        if let Some(value) = value {
            claims.insert(key.to_owned(), value.as_str().into());
        }
    }
    for claim in ["sub"].into_iter().chain(config.auth.user_claim.as_deref()) {
        claims.insert(claim.to_owned(), user.into());
    }
    claims.insert("iat".to_owned(), now.into());
    claims.entry("exp").or_insert_with(|| (now + life.as_secs()).into());
    sign_hs256(secret, &Value::Object(claims))
}

fn add_user(config: &Config, args: &ArgMatches) -> ExitCode {
    let Some(("add", args)) = args.subcommand() else { return ExitCode::from(MISUSED) };
    let text = |name: &str| args.get_one::<String>(name).map(|value| value.trim());
    let (Some(email), Some(name)) = (text("email"), text("name")) else {
        return ExitCode::from(MISUSED);
    };
    if !email.contains('@') || is_blank(name) || email.len().max(name.len()) > CREDENTIAL_MAX_BYTES {
        return fail(&format!("expected an e-mail and a name of {CREDENTIAL_MAX_BYTES} bytes at most"));
    }
    let password = match args.get_one::<String>("password") {
        Some(password) => password.clone(),
        None => match ask_password() {
            Ok(password) => password,
            Err(error) => return fail(&error),
        },
    };
    if password.is_empty() || password.len() > CREDENTIAL_MAX_BYTES {
        return fail(&format!("expected a password of 1 to {CREDENTIAL_MAX_BYTES} bytes"));
    }
    let hash = match password::hash(&password) {
        Ok(hash) => hash,
        Err(error) => return fail(&error),
    };
    let url = config.database_url.0.clone();
    let user = (users::normal_email(email), name.to_owned(), text("role").map(str::to_owned));
    let added = runtime(Some(1)).map(|runtime| {
        runtime.block_on(async {
            let records = Records::open(&url).await.map_err(|error| error.to_string())?;
            let (email, name, role) = &user;
            let user = (email.as_str(), name.as_str(), role.as_deref());
            let now = time_column(now_ms());
            let added = users::add(&records, user, &hash, now).await;
            records.close().await;
            added.map_err(|error| match error.as_database_error() {
                Some(database) if database.is_unique_violation() => {
                    format!("a user with the e-mail {email} exists already")
                }
                _ => error.to_string(),
            })
        })
    });
    match added {
        Ok(Ok(id)) => say(&id),
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

fn ask_password() -> std::io::Result<String> {
    let input = std::io::stdin();
    if input.is_terminal() {
        // If standard error is closed, the prompt is lost, but the line is still read.
        let _ = write!(std::io::stderr(), "Password (shown as you type): ");
    }
    read_line(input.lock())
}

/// Reads one line without its line end, and only as much as shows that it is too long.
fn read_line(input: impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    input.take(CREDENTIAL_MAX_BYTES as u64 + 2).read_line(&mut line)?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn runtime(workers: Option<usize>) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = workers {
        builder.worker_threads(workers);
    }
    builder.enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line_and_bounded() {
        let read = |input: &str| read_line(input.as_bytes()).unwrap();
        assert_eq!(read("secret\nmore"), "secret");
        assert_eq!(read("a b \r\n"), "a b ");
        assert_eq!(read(""), "");
        let longest = "x".repeat(CREDENTIAL_MAX_BYTES);
        assert_eq!(read(&format!("{longest}\r\n")), longest);
        assert!(read(&"x".repeat(1 << 20)).len() > CREDENTIAL_MAX_BYTES);
        assert!(read(&"x".repeat(1 << 20)).len() <= CREDENTIAL_MAX_BYTES + 2);
    }
}
