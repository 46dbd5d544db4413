//! Every setting of the node with its key, default and meaning. Flags, `--help`, environment variables,
//! `print-config` and the reference page are generated from this list and the apps' settings ([`super::apps`]).

use std::borrow::Cow;

use super::apps::AppDeclaration;

/// One setting.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Key in the file; upper case in the environment; with dashes as a flag.
    pub key: &'static str,
    /// Its default; empty for none.
    pub default: Cow<'static, str>,
    /// What it does, with unit and special values.
    pub help: &'static str,
    /// Never shown.
    pub secret: bool,
}

impl Setting {
    /// A setting that may be shown.
    pub(super) const fn new(key: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { key, default: Cow::Borrowed(default), help, secret: false }
    }

    /// A setting that is never shown and has no default.
    pub(super) const fn secret(key: &'static str, help: &'static str) -> Self {
        Self { key, default: Cow::Borrowed(""), help, secret: true }
    }
}

const fn setting(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting::new(key, default, help)
}

const fn secret(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, default: Cow::Borrowed(default), help, secret: true }
}

/// The node's own settings; the apps set the default of `mounts`.
const SETTINGS: &[Setting] = &[
    setting("listen", "127.0.0.1:8080", "Address and port of the public listener. Port 0 takes a free port."),
    setting(
        "port",
        "",
        "Port of the public listener, as hosting platforms set it. It replaces the port of `LISTEN`.",
    ),
    setting(
        "internal_listen",
        "127.0.0.1:9090",
        "Address and port of the internal listener: metrics and `/internal/*`. An address other than \
         loopback needs `INTERNAL_TOKEN`.",
    ),
    setting(
        "mounts",
        "",
        "Apps and their namespaces, `app=/namespace`, separated by commas. As a flag: `--mount`, \
         repeatable. All nodes of a cluster need the same value. If a token key is set and this is \
         not, the node warns at the start that all apps are mounted.",
    ),
    secret(
        "jwt_secret",
        "",
        "Secret that signs tokens (HS256). Not set: the node generates a random one for this run.",
    ),
    setting(
        "first_token",
        "auto",
        "Where a node without a token key writes a token for its run. `auto` prints it on a terminal; \
         without a terminal it writes a file beside the SQLite file that only its own user can read. \
         `stdout` always prints it.",
    ),
    setting("jwt_public_key", "", "PEM file with the public key of tokens: RS256, ES256 or EdDSA."),
    setting(
        "jwks_url",
        "",
        "URL of the JSON Web Key Set (JWKS) of tokens. The node picks keys by `kid`, and fetches the \
         set again when a key is unknown.",
    ),
    setting(
        "jwt_issuer",
        "",
        "Value that the claim `iss` must have. Separate several by commas; one of them must match.",
    ),
    setting(
        "jwt_audience",
        "",
        "Value that the claim `aud` must have. Separate several by commas; one of them must match.",
    ),
    setting(
        "jwt_user_claim",
        "",
        "Claim that holds the user's id. Not set: the first present claim of `userId`, `id`, `sub` \
         and `user_id`.",
    ),
    setting(
        "auth_errors",
        "plain",
        "Wording of `connect_error`: `plain` or `prefixed`. For a single namespace: `/ns=prefixed`, \
         separated by commas.",
    ),
    secret("internal_token", "", "Bearer token that `/internal/*` requires."),
    setting(
        "cors_origins",
        "",
        "Origins of other sites whose pages may connect, separated by commas: \
         `https://app.example.org`, `https://*.example.org`, `http://localhost:*`, \
         `capacitor://localhost`, `null`; `*` allows any, without credentials. On a node without a \
         token key, pages of this machine may connect too.",
    ),
    setting(
        "trusted_proxies",
        "",
        "Addresses and networks of the proxies whose `X-Forwarded-For`, `X-Forwarded-Host` or \
         `Forwarded` header the node believes, separated by commas.",
    ),
    secret(
        "database_url",
        "sqlite:muster.db",
        "Database for the records: `sqlite:FILE` or `postgres://…`. All nodes of a cluster need the \
         same one.",
    ),
    setting(
        "sqlite_with_redis",
        "false",
        "`true` permits Redis together with SQLite: for one node beside Node.js servers, or for nodes \
         on one machine that share the file.",
    ),
    secret(
        "redis_url",
        "",
        "Redis, which joins nodes into a cluster: `redis://[user:password@]host:port[/database]`, \
         `redis+sentinel://host:port,…/primary`, `redis+cluster://host:port,…`; `rediss` for TLS. Not \
         set: the node runs alone. Pub/Sub ignores database numbers: nodes whose URLs differ only in \
         the database receive each other's broadcasts, so give them different values of \
         `REDIS_CHANNEL_PREFIX`.",
    ),
    setting("redis_host", "", "Redis host, a name or an address, instead of `REDIS_URL`."),
    setting("redis_port", "", "Redis port, instead of `REDIS_URL`. With only a host it is 6379."),
    setting("redis_username", "", "Redis user, if `REDIS_URL` names none."),
    secret("redis_password", "", "Redis password, if `REDIS_URL` has none."),
    setting(
        "redis_ca_cert",
        "",
        "PEM file with the certificate authorities to trust for a `rediss` server, instead of the \
         system's.",
    ),
    setting("redis_prefix", "muster:", "Prefix of Muster's keys in Redis."),
    setting(
        "redis_channel_prefix",
        "socket.io",
        "Prefix of the Pub/Sub channels: the `key` option of `@socket.io/redis-adapter` and \
         `@socket.io/redis-emitter`.",
    ),
    setting(
        "lease",
        "6s",
        "How long a node that has stopped answering still counts as alive. A node renews its lease \
         three times as often.",
    ),
    setting(
        "advertise_url",
        "",
        "URL at which other nodes reach this node's internal listener. Not set: `http://` and the \
         listener's own address.",
    ),
    setting("ping_interval", "25s", "Time between a pong and the next ping."),
    setting("ping_timeout", "20s", "How long the node waits for a pong before it closes the session."),
    setting(
        "connect_timeout",
        "45s",
        "How long a new session may take to join a namespace before the node closes it.",
    ),
    setting("upgrade_timeout", "10s", "How long an upgrade to WebSocket may take."),
    setting("drain", "30s", "Time over which the node spreads the closing of its connections after SIGTERM."),
    setting(
        "leave_holdback",
        "3s",
        "How long `user_left` waits after a lost connection, in case the user reconnects.",
    ),
    setting("max_payload", "1000000", "Largest message and largest polling body, in bytes."),
    setting(
        "events_per_second",
        "100",
        "Events a second that one socket may send, with bursts of four times as many. All sockets of \
         a user on a node together may send ten times as many. 0: no limit.",
    ),
    setting(
        "rooms_per_socket",
        "100",
        "Rooms that one socket may be in. All sockets of a user on a node together may be in ten \
         times as many different rooms. 0: no limit.",
    ),
    setting(
        "sockets_per_user",
        "100",
        "Sockets that one user may have in a namespace, on each node. 0: no limit.",
    ),
    setting("connections_per_address", "0", "Open sessions from one address, on each node. 0: no limit."),
    setting(
        "handshakes_per_address",
        "0",
        "Handshakes a second from one address, on each node. 0: no limit.",
    ),
    setting(
        "max_connections",
        "auto",
        "Open sessions of the node. `auto`: the limit of open files less 1,000. 0: no limit.",
    ),
    setting(
        "max_pending",
        "auto",
        "Open sessions that have not joined a namespace yet, and connections without a session. When \
         more come, the oldest is closed. `auto`: a quarter of `MAX_CONNECTIONS`, between 256 and \
         4,096. 0: no limit.",
    ),
    setting(
        "unfinished_bytes",
        "134217728",
        "Bytes of unfinished messages and bodies of all clients in namespaces together. When more \
         come, the largest is refused. 0: no limit.",
    ),
    setting(
        "outbox_bytes",
        "1048576",
        "Bytes in one session's send queue before the session is closed as a slow consumer. All \
         sessions of a user in a namespace together may hold eight times as many. 0: no limit.",
    ),
    setting(
        "outbox_packets",
        "1024",
        "Packets in one session's send queue before the session is closed as a slow consumer. 0: no \
         limit.",
    ),
    setting(
        "log",
        "info",
        "Log filter: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or `target=level`, \
         separated by commas. Libraries log below `info` only if their target is named, such as \
         `sqlx=debug`.",
    ),
    setting(
        "log_format",
        "auto",
        "Log format: `json`, `pretty`, or `auto`, which is pretty on a terminal and JSON elsewhere.",
    ),
    setting("workers", "auto", "Worker threads. `auto`: one for each core that the process may use."),
];

/// Every setting: the node's, and each app's.
pub(super) fn all(apps: &[&'static AppDeclaration]) -> Vec<Setting> {
    let mut settings: Vec<Setting> = SETTINGS.to_vec();
    for of_app in apps.iter().flat_map(|app| app.settings).map(|of_app| of_app.setting()) {
        if settings.iter().all(|known| known.key != of_app.key) {
            settings.push(of_app.clone());
        }
    }
    let mounts: Vec<String> = apps.iter().map(|app| format!("{}={}", app.name, app.namespace)).collect();
    if let Some(setting) = settings.iter_mut().find(|setting| setting.key == "mounts") {
        setting.default = mounts.join(",").into();
    }
    settings
}
