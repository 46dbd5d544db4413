//! Load and correctness tester for Socket.IO servers, and the bare-kernel floor to set them against.
//!
//! `client` holds thousands of connections on one thread with a WebSocket and Socket.IO client of its
//! own: a library in between would cost more per frame than the servers under test do. `traffic` is
//! what flows over them and is checked, `load` keeps it flowing, `measure` reads clocks and counters,
//! `scenario` has one file per subcommand, `report` and `page` show what was found, `output` prints it, `floor` is the
//! cheapest server that these scenarios run on. Nothing here is part of the gateway.
//!
//! Exit status: 0 all was delivered, 1 the server lost, repeated, reordered, misrouted or altered
//! something, or closed or refused connections, 2 the test could not be run.

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

mod args;
mod check;
mod cli;
mod client;
mod content;
mod figures;
mod file;
mod floor;
mod frame;
mod latency;
mod load;
mod measure;
mod output;
mod page;
mod procfs;
mod report;
mod scenario;
mod stamp;
mod sys;
mod text;
mod token;
mod traffic;
mod upgrade;
mod url;
mod xorshift;

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            output::complain(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Whether the server did all that it must.
fn run(command: &Command) -> anyhow::Result<bool> {
    match command {
        Command::Idle(args) => scenario::idle::run(args),
        Command::Fanout(args) => scenario::fanout::run(args),
        Command::Rooms(args) => scenario::fanout::run_rooms(args),
        Command::Cross(args) => scenario::fanout::run_across(args),
        Command::Echo(args) => scenario::echo::run(args),
        Command::Churn(args) => scenario::churn::run(args),
        Command::Storm(args) => scenario::storm::run(args),
        Command::Soak(args) => scenario::soak::run(args),
        Command::Run(args) => run(&file::read(args)?),
        Command::Floor(args) => floor::run(args),
    }
}
