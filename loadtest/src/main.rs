//! Load and correctness tester for Socket.IO servers, and a bare epoll server to compare them with.
//!
//! `client` holds thousands of connections on one thread with its own WebSocket and Socket.IO client: a library would
//! cost more per frame than the servers under test do. `traffic` is the checked message flow, `load` keeps it flowing,
//! `measure` reads clocks and counters, `scenario` has one file per subcommand, `report` and `page` present the
//! results, `output` prints them, and `floor` is the cheapest server that these scenarios run on. The gateway uses
//! none of this.
//!
//! Exit status: 0 everything was delivered; 1 the server lost, repeated, reordered, misrouted or altered messages, or
//! closed or refused connections; 2 the test could not be run.

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
mod http;
mod latency;
mod load;
mod measure;
mod output;
mod page;
mod procfs;
mod redis_info;
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

/// Whether the server had no faults.
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
        Command::PublishHttp(args) => scenario::publish_http::run(args),
        Command::Run(args) => run(&file::read(args)?),
        Command::Floor(args) => floor::run(args),
    }
}
