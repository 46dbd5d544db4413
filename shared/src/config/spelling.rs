//! Detects names that are nearly those of settings.

use super::settings::Setting;

/// Shorter unknown variables are not compared: short names are close to too many words, as `PORT` is to `HOST`.
const SHORTEST: usize = 8;

/// From this length on, two mistakes count as a misspelling.
const LONG: usize = 12;

/// Names that people and platforms use for settings, too different to be found by their letters.
const ALIASES: &[(&str, &str)] = &[("MOUNT", "mounts"), ("JWT_PUBLIC_KEY_FILE", "jwt_public_key")];

/// The setting that a variable's name probably misspells.
pub(super) fn meant(variable: &str, settings: &[Setting]) -> Option<&'static str> {
    if let Some((_, meant)) = ALIASES.iter().find(|(alias, _)| *alias == variable) {
        return Some(meant);
    }
    // The environment's names of settings are upper case; other names belong to other programs.
    let is_upper = !variable.bytes().any(|byte| byte.is_ascii_lowercase());
    (is_upper && variable.len() >= SHORTEST)
        .then(|| nearest(&variable.to_ascii_lowercase(), settings))
        .flatten()
}

/// The setting whose key is nearly `key`, but not equal.
pub(super) fn nearest(key: &str, settings: &[Setting]) -> Option<&'static str> {
    let mistakes = if key.len() >= LONG { 2 } else { 1 };
    let distance = |setting: &'static str| (strsim::osa_distance(setting, key), setting);
    let (far, nearest) = settings.iter().map(|setting| distance(setting.key)).min()?;
    (1..=mistakes).contains(&far).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::super::Layers;
    use super::*;

    fn meant_now(name: &str) -> Option<&'static str> {
        meant(name, Layers::default().settings())
    }

    #[test]
    fn a_misspelt_variable_is_recognized() {
        for (name, setting) in [
            ("PING_TIMEUOT", "ping_timeout"),
            ("CORS_ORIGIN", "cors_origins"),
            ("JWT_SECRETS", "jwt_secret"),
            ("JWT_AUDIENCES", "jwt_audience"),
            ("INTERNALTOKEN", "internal_token"),
            ("DATABSE_URL", "database_url"),
            ("REDIS_PASSWROD", "redis_password"),
            ("REDIS_USER_NAME", "redis_username"),
            ("MOUNT", "mounts"),
        ] {
            assert_eq!(meant_now(name), Some(setting), "{name}");
        }
    }

    #[test]
    fn other_programs_variables_are_left_alone() {
        for name in [
            "PATH",
            "HOME",
            "HOST",
            "LANG",
            "LOGNAME",
            "POST",
            "RUST_LOG",
            "HOSTNAME",
            "REDIS_PORT_6379_TCP",
            "REDIS_SERVICE_HOST",
            "REDIS_SERVICE_PORT",
            "KUBERNETES_PORT",
            "MUSTER_SERVICE_PORT",
            "DATABASE_HOST",
            "DATABASE_NAME",
            "LISTEN_FDS",
            "LISTEN_PID",
            "ping_timeuot",
            "SSL_CERT_FILE",
            "CONFIG",
        ] {
            assert_eq!(meant_now(name), None, "{name}");
        }
        for setting in Layers::default().settings() {
            assert_eq!(meant_now(&setting.key.to_uppercase()), None, "{}", setting.key);
        }
    }
}
