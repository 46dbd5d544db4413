//! The `gateway` binary: arguments and environment in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Only this function reads the environment. A variable that is not Unicode cannot be a setting.
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    gateway::run(args, &variables)
}
