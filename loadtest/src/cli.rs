//! The command line: one subcommand for each scenario, which defines its flags.

use clap::{Parser, Subcommand};

use crate::args::RunArgs;
use crate::floor;
use crate::scenario;

/// Examples for a first run.
const EXAMPLES: &str = r#"Against another Socket.IO server: name its events. For one that has

    socket.on("enter", (room, done) => { socket.join(room); done(); });
    socket.on("say", (room, text) => io.to(room).emit("said", text));

put this into a file, in which any flag of a subcommand is a key,

    scenario = "fanout"
    url = ["ws://127.0.0.1:3000"]
    namespace = "/"
    join-event = "enter"
    join-payload = '"{room}"'
    publish-event = "say"
    publish-payload = '"{room}","{content}"'

and run it; flags on the command line win:

    loadtest run said.toml --members 500 --rate 50/s --duration 30s

What it needs of a server: WebSocket; an ack of the join (or an event that
confirms it, --joined-on, or no join at all, --join-event ''); and that all
members of a room, the publisher too, get an event with the {content} that
was published, in whatever place. {room} and {user} (the connection's
number) are filled in wherever they stand in a payload.

TLS is not spoken: ws:// only. A token goes into the CONNECT packet as
{"token":"…"}. Times have a unit: 250ms, 10s, 2m, 1h. Towards a loopback
address of IPv4 connections come from 249 addresses. To measure the
server's CPU and memory, give its process: --server-pid.

Exit status: 0 all was delivered; 1 the server lost, repeated, reordered,
misrouted or altered something, or closed connections; 2 the test could not
be run."#;

/// Load and correctness tester for Socket.IO v4/v5 servers over WebSocket.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, after_long_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Memory per connection, and what connecting costs.
    Idle(scenario::idle::IdleArgs),
    /// One big room: rate, cost and latency of deliveries, and their completeness.
    Fanout(scenario::fanout::FanoutArgs),
    /// As `fanout`, with many small rooms.
    Rooms(scenario::fanout::RoomsArgs),
    /// As `fanout`, with the rooms' members spread over several nodes (repeat --url); reports the latency on the
    /// publisher's node and on the others separately.
    Cross(scenario::fanout::FanoutArgs),
    /// Requests that the server answers with an ack: rate, cost and latency.
    Echo(scenario::echo::EchoArgs),
    /// Connect, join, leave and disconnect repeatedly: cost and time of a cycle.
    Churn(scenario::churn::ChurnArgs),
    /// All clients lose their connection and return at once: how long it takes, and how it affects others.
    Storm(scenario::storm::StormArgs),
    /// Rooms at a steady rate for hours while members leave and return: losses, latency and memory over time.
    Soak(scenario::soak::SoakArgs),
    /// A backend's events by POST /internal/emit of the gateway: rate, cost and latency, and the load on Redis.
    PublishHttp(scenario::publish_http::PublishHttpArgs),
    /// A scenario from a TOML file; flags override it.
    Run(RunArgs),
    /// The bare epoll server to compare with.
    Floor(floor::FloorArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
