//! Every setting of the node: its key, default and meaning, written once. Flags, `--help`, the environment's names,
//! `print-config` and the README's table are all made from this list and the apps' settings ([`super::apps`]).

use std::borrow::Cow;
use std::fmt::Write as _;

use super::apps::AppDeclaration;

/// One setting.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Key in the file; upper case in the environment; with dashes as a flag.
    pub key: &'static str,
    /// What holds when it is not set; empty for nothing.
    pub default: Cow<'static, str>,
    /// What it does, with unit and special values.
    pub help: &'static str,
    /// Never shown.
    pub secret: bool,
}

impl Setting {
    /// One that may be shown.
    pub(super) const fn new(key: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { key, default: Cow::Borrowed(default), help, secret: false }
    }
}

const fn setting(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting::new(key, default, help)
}

const fn secret(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, default: Cow::Borrowed(default), help, secret: true }
}

/// The node's own; `mounts` has its default from the apps.
const SETTINGS: &[Setting] = &[
    setting("listen", "127.0.0.1:8080", "Public listener: address and port; port 0 takes a free one."),
    setting("port", "", "Public port, as platforms set it; replaces the port of `listen`."),
    setting(
        "internal_listen",
        "127.0.0.1:9090",
        "Internal listener: metrics and `/internal/*`. Other addresses than loopback need `internal_token`.",
    ),
    setting(
        "mounts",
        "",
        "Apps and their namespaces, `app=/namespace` separated by commas. As a flag: `--mount`, repeatable. Where a key for tokens is set \
         and this is not, the start warns that all apps are mounted. All nodes of a Redis need the same.",
    ),
    secret("jwt_secret", "", "HS256 secret of tokens. Not set: a random one for this run."),
    setting(
        "first_token",
        "auto",
        "Where a node without a key for tokens puts a token for its run: `auto` prints it on a terminal and else writes it to a \
         file beside the SQLite file, which only its user can read; `stdout` prints it in any case.",
    ),
    setting("jwt_public_key", "", "PEM file of the public key of tokens: RS256, ES256 or EdDSA."),
    setting(
        "jwks_url",
        "",
        "URL of the JSON Web Key Set of tokens; keys are picked by `kid` and fetched anew when one is unknown.",
    ),
    setting("jwt_issuer", "", "`iss` that tokens must carry; several, separated by commas: any of them."),
    setting("jwt_audience", "", "`aud` that tokens must carry; several, separated by commas: any of them."),
    setting(
        "jwt_user_claim",
        "",
        "The claim of tokens that holds the user's id. Not set: the first that is there of `userId`, `id`, `sub` and `user_id`.",
    ),
    setting(
        "auth_errors",
        "plain",
        "Wording of `connect_error`: `plain` or `prefixed`; for one namespace `/ns=prefixed`, separated by commas.",
    ),
    secret("internal_token", "", "Bearer token that `/internal/*` asks for."),
    setting(
        "cors_origins",
        "",
        "Origins of other sites whose pages may connect, separated by commas: `https://app.example.org`, `https://*.example.org`, \
         `http://localhost:*`, `capacitor://localhost`, `null`; `*` for any, without credentials. Without a key for tokens, pages \
         of this machine may connect, too.",
    ),
    setting(
        "trusted_proxies",
        "",
        "Addresses and networks of the proxies whose `X-Forwarded-For`, `X-Forwarded-Host` or `Forwarded` counts, separated by commas.",
    ),
    secret(
        "database_url",
        "sqlite:muster.db",
        "Records: `sqlite:FILE` or `postgres://…`. All nodes of a Redis need the same.",
    ),
    setting(
        "sqlite_with_redis",
        "false",
        "`true` permits Redis with records in SQLite: for one node beside Node.js servers, or for nodes of one machine that share \
         the file.",
    ),
    secret(
        "redis_url",
        "",
        "Redis, which makes nodes a cluster: `redis://[user:password@]host:port[/database]`, \
         `redis+sentinel://host:port,…/primary`, `redis+cluster://host:port,…`; `rediss` for TLS. Not set: a node alone. Channels know no databases: nodes whose URLs differ \
         in the database alone hear each other's broadcasts, so give them different values of `redis_channel_prefix`.",
    ),
    setting("redis_host", "", "Redis' host: a name or an address, instead of `redis_url`."),
    setting("redis_port", "", "Redis' port, instead of `redis_url`; 6379 with a host alone."),
    setting("redis_username", "", "Redis' user, where `redis_url` names none."),
    secret("redis_password", "", "Redis' password, where `redis_url` has none."),
    setting(
        "redis_ca_cert",
        "",
        "PEM file with the authorities that are trusted to sign the certificate of a `rediss` server, instead of the system's.",
    ),
    setting("redis_prefix", "muster:", "How our own keys in Redis begin."),
    setting(
        "redis_channel_prefix",
        "socket.io",
        "How channels begin: the `key` of Node.js servers' `@socket.io/redis-adapter` and of `@socket.io/redis-emitter`.",
    ),
    setting(
        "lease",
        "6s",
        "How long a node that does not answer still counts; it renews three times as often.",
    ),
    setting(
        "advertise_url",
        "",
        "How other nodes reach this node's internal listener; `http://` and its address unless set.",
    ),
    setting("ping_interval", "25s", "From a pong to the next ping."),
    setting("ping_timeout", "20s", "From a ping to the end of a session that does not answer."),
    setting("connect_timeout", "45s", "From the handshake to the end of a session that joined no namespace."),
    setting("upgrade_timeout", "10s", "From an upgrade's probe to its end if it is not completed."),
    setting("drain", "30s", "Time over which connections are closed on SIGTERM."),
    setting(
        "leave_holdback",
        "3s",
        "How long `user_left` waits after a lost connection for the user to come back.",
    ),
    setting("push_webhook_url", "", "Where `emergencies` asks for push notifications, by POST."),
    secret("push_webhook_secret", "", "Key of the HMAC-SHA256 signatures of those requests."),
    setting("max_payload", "1000000", "Bytes of one message and of a polling body."),
    setting(
        "events_per_second",
        "100",
        "Events a second of one socket, four times as many at once; ten times as many of all sockets of a user on a node; 0: no limit.",
    ),
    setting(
        "rooms_per_socket",
        "100",
        "Rooms of one socket; ten times as many different ones of all sockets of a user on a node; 0: no limit.",
    ),
    setting("sockets_per_user", "100", "Sockets of one user in a namespace, on each node; 0: no limit."),
    setting("connections_per_address", "0", "Open sessions of one address, on each node; 0: no limit."),
    setting("handshakes_per_address", "0", "Handshakes a second of one address, on each node; 0: no limit."),
    setting(
        "max_connections",
        "auto",
        "Open sessions of the node; `auto`: the file limit less 1,000; 0: no limit.",
    ),
    setting(
        "max_pending",
        "auto",
        "Open sessions that have joined no namespace, and connections that carry none; over it the oldest goes. \
         `auto`: a quarter of `max_connections`, from 256 to 4,096; 0: no limit.",
    ),
    setting(
        "unfinished_bytes",
        "134217728",
        "Bytes of unfinished messages and bodies of all clients in namespaces together; over it the largest is \
         refused; 0: no limit.",
    ),
    setting(
        "outbox_bytes",
        "1048576",
        "Bytes queued for one session before it is closed as a slow consumer; eight times as many for all sessions of a user in a namespace; 0: no limit.",
    ),
    setting(
        "outbox_packets",
        "1024",
        "Packets queued for one session before it is closed as a slow consumer; 0: no limit.",
    ),
    setting(
        "log",
        "info",
        "Log filter: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or `target=level` separated by commas. What libraries \
         say below `info` needs their target, such as `sqlx=debug`.",
    ),
    setting("log_format", "auto", "`json`, `pretty`, or `auto`: pretty on a terminal."),
    setting("workers", "auto", "Worker threads; `auto`: one for each core the process may use."),
];

/// Every setting: the node's, and each app's.
pub(super) fn all(apps: &[&'static AppDeclaration]) -> Vec<Setting> {
    let of_apps = apps.iter().flat_map(|app| app.settings).map(|of_app| of_app.setting());
    let mut settings: Vec<Setting> = SETTINGS.iter().chain(of_apps).cloned().collect();
    let mounts: Vec<String> = apps.iter().map(|app| format!("{}={}", app.name, app.namespace)).collect();
    if let Some(setting) = settings.iter_mut().find(|setting| setting.key == "mounts") {
        setting.default = mounts.join(",").into();
    }
    settings
}

/// The README's table of settings, of a node with these apps.
#[must_use]
pub fn markdown_table(apps: &[&'static AppDeclaration]) -> String {
    let mut out = String::from("| setting | default | meaning |\n| --- | --- | --- |\n");
    for Setting { key, default, help, .. } in all(apps) {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        // Writing to a String does not fail.
        let _ = writeln!(out, "| `{}` | {default} | {help} |", key.to_uppercase());
    }
    out
}
