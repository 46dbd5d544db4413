//! The command line: `gateway` (= `gateway serve`), `ping`, `token`, `user add`, `check-config`, `print-config`,
//! `version`.

mod first_token;
mod ping;
mod serve;

use std::fmt::Display;
use std::io::{BufRead, IsTerminal as _, Write as _};
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
use serve::serve;

/// A command that failed has told why; this is what the shell sees.
const FAILED: u8 = 1;
/// Settings or arguments are wrong.
const MISUSED: u8 = 2;

/// Runs the command line `args` with the environment `variables`; answers the exit code.
pub fn run(args: impl Iterator<Item = String>, variables: &[(String, String)]) -> ExitCode {
    let empty = Layers::new(apps::declarations());
    let matches = match command(empty.settings()).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // `--help` comes this way too, with a zero exit code.
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

/// Checks what can be checked without the network, beyond each setting by itself.
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
    if problems.is_empty() { say("The configuration is good.") } else { complain(&problems) }
}

fn command(settings: &[Setting]) -> Command {
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    let token = Command::new("token")
        .about("Print a token for any claims, signed by JWT_SECRET")
        .arg(text("user", "User id").required(true))
        .arg(text("role", "Role"))
        .arg(text("name", "Name to show"))
        .arg(text("email", "E-mail"))
        .arg(text("ttl", "How long it is good for, with its unit: 90s, 15m, 12h").default_value("1h"))
        .arg(text("claims", "Further claims, as a JSON object"));
    let ping = Command::new("ping")
        .about("Connect to a server as a client does, print how long it took, and fail where it does not answer")
        .long_about(
            "Connect to a server as a client does: the WebSocket's handshake, CONNECT and, where relay is mounted, one \
             `echo`. Prints how long each took.\n\nWithout --token, JWT_SECRET signs one for the echo where relay is \
             alone in its namespace. Where there is no token, the ping ends before CONNECT, unless --namespace asks \
             for it: then being asked for a token is an answer.\n\nExit codes: 0 the server answers as it should, or \
             says that it takes no new client now (it is full, drains or was asked too often); 1 there is no answer \
             in time, or a wrong one; 2 wrong settings or arguments.",
        )
        .arg(Arg::new("url").value_name("URL").help(
            "Where the server is: ws, wss, http or https [default: the public listener of a node with these settings]",
        ))
        .arg(text("token", "Token to connect with"))
        .arg(text("namespace", "Namespace to connect to [default: relay's, else the first of MOUNTS]"))
        .arg(text("within", "How long all of it may take").default_value("5s"));
    let add = Command::new("add")
        .about("Add a user who logs in with e-mail and password")
        .long_about(
            "Add a user who logs in with e-mail and password. The password is one line of standard input; a \
             terminal shows it as it is typed, so better pipe it in: `gateway user add … < password-file`.",
        )
        .arg(text("email", "E-mail").required(true))
        .arg(text("name", "Name to show").required(true))
        .arg(text("role", "Role"))
        .arg(text("password", "Password; better left out, since others can see arguments"));
    let settings = settings.iter().map(|setting| {
        let name = if setting.key == "mounts" { "mount".to_owned() } else { setting.key.replace('_', "-") };
        let arg = Arg::new(setting.key).long(name).global(true).value_name("VALUE");
        let arg = if setting.key == "mounts" { arg.action(ArgAction::Append) } else { arg };
        let mut help = format!("{} [env: {}]", setting.help, setting.key.to_uppercase());
        if !setting.default.is_empty() {
            help.push_str(&format!(" [default: {}]", setting.default));
        }
        // In full with `--help`; `-h` is for the commands.
        arg.help(help).hide_short_help(true).help_heading("Settings")
    });
    Command::new("gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Muster: a realtime gateway for Socket.IO clients")
        .long_about(
            "Muster: a realtime gateway for Socket.IO clients.\n\nSettings come from flags, the environment \
             (upper case, underscores) and one TOML file (--config), in that order. Durations are written \
             250ms, 25s, 2m, 1h; only 0 needs no unit.",
        )
        .subcommand(Command::new("serve").about("Run the gateway (what happens without a command)"))
        .subcommand(ping)
        .subcommand(token)
        .subcommand(
            Command::new("user").about("Users of the records").subcommand_required(true).subcommand(add),
        )
        .subcommand(Command::new("check-config").about("Check the configuration and tell every problem"))
        .subcommand(
            Command::new("print-config").about("Print every setting in force, secrets hidden, as TOML"),
        )
        .subcommand(Command::new("version").about("Print the version"))
        .arg(Arg::new("config").long("config").global(true).help("TOML file with settings [env: CONFIG]"))
        .args(settings)
}

fn layers(
    mut layers: Layers,
    matches: &ArgMatches,
    variables: &[(String, String)],
) -> Result<Layers, Problem> {
    // Global flags are found on the innermost command.
    let mut innermost = matches;
    while let Some((_, inner)) = innermost.subcommand() {
        innermost = inner;
    }
    layers.check_names(variables.iter().map(|(key, _)| key.as_str()));
    let variable = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let settings: Vec<_> = layers.settings().iter().map(|setting| setting.key).collect();
    for key in settings {
        if let Some(values) = innermost.get_many::<String>(key) {
            let values: Vec<_> = values.map(String::as_str).collect();
            layers.set(Layer::Flag, key, &values.join(","));
        }
        if let Some(value) = variable(&key.to_uppercase()) {
            layers.set(Layer::Environment, key, value);
        }
    }
    let file = innermost.get_one::<String>("config").or_else(|| variable("CONFIG"));
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

/// What no output may hold, once the settings are known.
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
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{}", scrubbed.unwrap_or(line));
}

fn say(what: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{what}") {
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
        // What is left out must not be taken for the value when the output is used as a file.
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

/// A token of `user` for so long, with further claims, that nodes with these settings accept.
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
                    format!("there is a user with the e-mail {email} already")
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
        // With standard error closed there is nobody to ask; the line is read all the same.
        let _ = write!(std::io::stderr(), "Password (shown as you type): ");
    }
    read_line(input.lock())
}

/// One line without its end, and no more of it than is needed to tell that it is too long.
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
