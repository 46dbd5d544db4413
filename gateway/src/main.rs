//! The `gateway` binary: arguments and environment in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The one place that reads the environment. A variable that is not Unicode can be no setting of ours.
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    gateway::run(args, &variables)
}
