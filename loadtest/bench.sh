#!/usr/bin/env bash
# The gateway against the bare-kernel floor, on one core each, in turns.
#
#   loadtest/bench.sh [ROUNDS]        default 3
#
# Needs release builds of both: cargo build --release -p gateway -p loadtest
# Every measurement starts a fresh server on SERVER_CORE and the tester on TEST_CORE, first the floor
# and then the gateway, scenario by scenario and round by round, so that slow drift of the machine hits
# both alike. Prints the medians, and the gateway's as a multiple of the floor's. Exit status 1 if a
# server lost, repeated, reordered, misrouted or altered anything.
#
# Environment: GATEWAY and LOADTEST (binaries), SERVER_CORE (0), TEST_CORE (1), IDLE (15000
# connections), DURATION (3s), ONLY (a pattern of scenario names), GATEWAY_ENV (more settings for the
# gateway, such as "WORKERS=1 OUTBOX_PACKETS=256"), COALESCE (how the coalescing floor does it: room or
# connection), OUT (a file for all reports, one line of JSON each).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib/servers.sh
source "$root/loadtest/lib/servers.sh"
rounds=${1:-3}
idle=${IDLE:-15000}
coalesce=${COALESCE:-room}

# name | floor's flags | the tester's scenario and flags
scenarios=$(
  cat <<LIST
1x1000-window1||fanout --members 1000 --in-flight 1
1x1000-window32|--coalesce=$coalesce|fanout --members 1000 --in-flight 32
1x10000-window1||fanout --members 10000 --in-flight 1
100x50-window1||fanout --rooms 100 --members 50 --in-flight 1
1x1000-20/s||fanout --members 1000 --rate 20
idle-$idle||idle --connections $idle
LIST
)

metrics="server_cpu_us_per_delivery deliveries_per_s p50 p99 p999 own_core_percent
  server_cpu_us_per_connect connects_per_s bytes_per_connection_fresh bytes_per_connection_warmed"

for ((round = 1; round <= rounds; round++)); do
  while IFS='|' read -r name floor_flags flags; do
    [[ $name =~ $only ]] || continue
    [[ $flags == fanout* ]] && flags+=" --duration $duration"
    echo "round $round of $rounds: $name" >&2
    port=$(free_port)
    # shellcheck disable=SC2086 # The flags are words.
    serve "$port" "$loadtest" floor --listen "127.0.0.1:$port" $floor_flags
    # shellcheck disable=SC2086
    measure "$name" floor $flags --url "ws://127.0.0.1:$port"
    stop
    serve_gateway
    # shellcheck disable=SC2086
    measure "$name" gateway $flags --url "ws://127.0.0.1:$port"
    stop
  done <<<"$scenarios"
done

[[ -s $work/figures ]] || { echo "no scenario matches $only" >&2; exit 2; }
echo "medians of $rounds rounds (min–max)"
table floor gateway
exit "$status"
