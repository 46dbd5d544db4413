//! Settings that are valid alone but cannot work together. They keep a node from serving, but not commands that
//! only read some settings, such as `token`.

use super::{AnyAppSetting, AppDeclaration, Config, Problem, Sensitivity, TokenKeys};

impl Config {
    /// Whether an app keeps records, which all nodes must share.
    #[must_use]
    pub fn keeps_records(&self) -> bool {
        self.mounts.iter().any(|(app, _)| app.keeps_records)
    }

    /// The apps and their namespaces, in the order of the apps, as `MOUNTS` writes them.
    #[must_use]
    pub fn mounts_text(&self) -> String {
        let place = |app: &AppDeclaration| self.known_apps.iter().position(|known| *known == app);
        let mut mounts: Vec<_> = self.mounts.iter().collect();
        mounts.sort_by_key(|(app, _)| place(app));
        let text = |(app, namespace): &(&AppDeclaration, _)| format!("{}={namespace}", app.name);
        mounts.into_iter().map(text).collect::<Vec<_>>().join(",")
    }

    /// Whether the records are in an SQLite file.
    #[must_use]
    pub fn uses_sqlite(&self) -> bool {
        self.database_url.0.starts_with("sqlite:")
    }

    /// Settings that cannot work together, each with a working alternative.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut problem = |place: &str, expected: String| {
            found.push(Problem { place: place.to_owned(), value: None, expected });
        };
        if self.cluster.is_some() && self.uses_sqlite() && self.keeps_records() && !self.sqlite_with_redis {
            let apps: Vec<_> =
                self.mounts.iter().filter(|(app, _)| app.keeps_records).map(|(app, _)| app.name).collect();
            problem(
                "DATABASE_URL",
                format!(
                    "expected postgres://…, since Redis joins nodes into a cluster, and each node with its own SQLite file \
                     would hide the records of {} from the others. One node beside Node.js servers, or nodes of one machine that \
                     share the file, may use SQLite: set SQLITE_WITH_REDIS=true",
                    apps.join(", ")
                ),
            );
        }
        if self.listen.port() != 0 && self.listen == self.internal_listen {
            problem("INTERNAL_LISTEN", "expected another address or port than LISTEN".to_owned());
        }
        found
    }

    /// The settings of apps that are not empty, each with its text.
    pub(super) fn app_settings(&self) -> Vec<(&'static dyn AnyAppSetting, &str)> {
        let mut found: Vec<(&'static dyn AnyAppSetting, &str)> = Vec::new();
        for setting in self.known_apps.iter().flat_map(|app| app.settings) {
            let key = setting.setting().key;
            if let Some(text) = self.apps.text(key)
                && found.iter().all(|(known, _)| known.setting().key != key)
            {
                found.push((*setting, text));
            }
        }
        found
    }

    /// Settings that have no effect because of others, and settings that should be added.
    pub(super) fn idle_settings(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.auth.keys != TokenKeys::Random && !self.mounts_are_set {
            found.push(
                "MOUNTS is not set: all apps are mounted; name the apps for clients, such as chat=/"
                    .to_owned(),
            );
        }
        for (setting, _) in self.app_settings() {
            let key = setting.setting().key;
            let uses = |app: &&&AppDeclaration| app.settings.iter().any(|used| used.setting().key == key);
            let is_address = matches!(setting.sensitivity(), Sensitivity::WebAddress { .. });
            if is_address && !self.mounts.iter().any(|(app, _)| uses(&app)) {
                let apps = self.known_apps.iter().filter(uses).map(|app| app.name);
                let apps = apps.collect::<Vec<_>>().join(" or ");
                found.push(format!("{} does nothing: the app {apps} is not mounted", key.to_uppercase()));
            }
        }
        for (namespace, _) in &self.auth.errors_by_namespace {
            if !self.mounts.iter().any(|(_, mounted)| mounted == namespace) {
                found.push(format!("AUTH_ERRORS names {namespace}, where no app is mounted"));
            }
        }
        if let Some(cluster) = &self.cluster
            && self.internal_listen.ip().is_unspecified()
            && cluster.advertise_url.is_none()
        {
            found.push(format!(
                "ADVERTISE_URL is not set: other nodes get http://{}, which leads each of them to itself, so requests of \
                 long-polling clients that a balancer brings to another node fail",
                self.internal_listen
            ));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Layer, Layers};
    use super::*;

    fn config(values: &[(&str, &str)]) -> Config {
        let mut layers = Layers::default();
        for (key, value) in values {
            layers.set(Layer::Environment, key, value);
        }
        layers.resolve().unwrap()
    }

    fn conflicts(values: &[(&str, &str)]) -> Vec<String> {
        config(values).conflicts().iter().map(ToString::to_string).collect()
    }

    const CLUSTER: [(&str, &str); 3] =
        [("redis_url", "redis://r.example"), ("jwt_secret", "s"), ("mounts", "chat=/,relay=/relay")];

    #[test]
    fn redis_with_records_in_sqlite_is_refused_unless_permitted() {
        let said = conflicts(&CLUSTER);
        assert!(said.len() == 1 && said[0].starts_with("DATABASE_URL: expected postgres://"), "{said:?}");
        assert!(said[0].contains("chat") && said[0].contains("SQLITE_WITH_REDIS=true"), "{said:?}");
        let with = |key: &str, value: &str| conflicts(&[CLUSTER.as_slice(), &[(key, value)]].concat());
        assert_eq!(with("sqlite_with_redis", "true"), Vec::<String>::new());
        assert_eq!(with("database_url", "postgres://db.example/x"), Vec::<String>::new());
        assert_eq!(with("mounts", "relay=/relay"), Vec::<String>::new(), "relay stores nothing");
        for app in super::super::apps::testing::APPS.iter().filter(|app| app.keeps_records) {
            assert_eq!(with("mounts", &format!("{}=/", app.name)).len(), 1, "{app:?}");
        }
        assert_eq!(conflicts(&[("mounts", "chat=/")]), Vec::<String>::new(), "a node alone");
    }

    #[test]
    fn with_a_token_key_a_warning_reports_that_all_apps_are_mounted() {
        let said = |values: &[(&str, &str)]| {
            config(values).idle_settings().iter().filter(|said| said.starts_with("MOUNTS is not set")).count()
        };
        assert_eq!(said(&[]), 0);
        for key in [("jwt_secret", "s"), ("jwt_public_key", "/a.pem"), ("jwks_url", "https://k.example")] {
            assert_eq!(said(&[key]), 1);
            assert_eq!(said(&[key, ("mounts", "chat=/")]), 0);
        }
    }

    #[test]
    fn the_listeners_need_different_ports() {
        assert_eq!(conflicts(&[("listen", "127.0.0.1:1"), ("internal_listen", "127.0.0.1:1")]).len(), 1);
        assert!(conflicts(&[("listen", "127.0.0.1:0"), ("internal_listen", "127.0.0.1:0")]).is_empty());
    }

    #[test]
    fn settings_that_do_nothing_are_reported() {
        for (values, expected) in [
            (
                &[("push_webhook_url", "https://p.example"), ("mounts", "chat=/")],
                "PUSH_WEBHOOK_URL does nothing",
            ),
            (&[("auth_errors", "/x=prefixed"), ("mounts", "chat=/")], "AUTH_ERRORS names /x"),
        ] {
            let said = config(values).warnings();
            assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
        }
        let open = [("internal_listen", "0.0.0.0:9090"), ("internal_token", "0f6c2a9be1d84c7aa35b")];
        let said = config(&[CLUSTER.as_slice(), &open].concat()).warnings();
        assert!(said.iter().any(|warning| warning.starts_with("ADVERTISE_URL is not set")), "{said:?}");
    }
}
