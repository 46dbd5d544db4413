#!/usr/bin/env bash
# Two nodes through Redis: the gateway beside Node.js with its Redis adapter, in turns, both nodes and Redis on one
# core and the load on the other; beside the gateway alone, and beside what Redis itself can publish.
#
#   loadtest/cross.sh [ROUNDS]        default 3
#
# Needs release builds (cargo build --release -p gateway -p loadtest), redis-server with redis-benchmark, and the
# Node.js packages of the tests (make setup-npm). Prints the medians and the ratios. Exit status 1 if a server lost,
# repeated, reordered, misrouted or altered anything.
#
# Environment: GATEWAY and LOADTEST (binaries), SERVER_CORE (0), TEST_CORE (1), DURATION (3s), ONLY (a pattern of
# scenario names), GATEWAY_ENV (more settings for the gateway), OUT (a file for all reports, one line of JSON each).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib/servers.sh
source "$root/loadtest/lib/servers.sh"
rounds=${1:-3}
metrics="server_cpu_us_per_delivery broadcasts_per_s deliveries_per_s p50 p99 own_core_percent"
for tool in redis-server redis-benchmark node; do
  command -v "$tool" >/dev/null || { echo "no $tool: apt-get install redis-server nodejs" >&2; exit 2; }
done

# name | flags. `publish` has so few members that publishing is what it costs.
scenarios="1x1000-window1|--members 1000 --in-flight 1
1x1000-window32|--members 1000 --in-flight 32
1x1000-20/s|--members 1000 --rate 20
publish|--members 2 --in-flight 32"

serve_redis() {
  redis=$(free_port)
  serve "$redis" redis-server --port "$redis" --bind 127.0.0.1 --save '' --appendonly no --dir "$work"
}

# Two of a kind on one Redis; sets `urls`.
serve_pair() {
  serve_redis
  urls=()
  local at
  for at in 0 1; do
    case $1 in
      gateway) serve_gateway REDIS_URL="redis://127.0.0.1:$redis" ;;
      node)
        port=$(free_port)
        serve "$port" node "$root/loadtest/peers/node-cluster.mjs" "$port" "$redis"
        ;;
    esac
    urls+=(--url "ws://127.0.0.1:$port")
  done
}

# What Redis takes from a client that does nothing else, 32 in flight, with a message as long as ours.
benchmark_redis() {
  local message rate
  serve_redis
  message=$(printf 'x%.0s' {1..300})
  rate=$(taskset -c "$test_core" redis-benchmark -p "$redis" -c 1 -P 32 -n 300000 --csv PUBLISH channel "$message" \
    2>/dev/null | tail -n 1 | cut -d, -f2 | tr -d '"')
  keep publish broadcasts_per_s redis-benchmark "$rate"
  stop
}

for ((round = 1; round <= rounds; round++)); do
  while IFS='|' read -r name flags; do
    [[ $name =~ $only ]] || continue
    flags+=" --duration $duration"
    echo "round $round of $rounds: $name" >&2
    for kind in node gateway; do
      serve_pair "$kind"
      # shellcheck disable=SC2086 # The flags are words.
      measure "$name" "$kind" cross $flags "${urls[@]}"
      stop
    done
    serve_gateway
    # shellcheck disable=SC2086
    measure "$name" alone fanout $flags --url "ws://127.0.0.1:$port"
    stop
  done <<<"$scenarios"
  [[ publish =~ $only ]] && benchmark_redis
done

[[ -s $work/figures ]] || { echo "no scenario matches $only" >&2; exit 2; }
echo "two nodes through Redis, medians of $rounds rounds (min–max)"
table node gateway
echo
echo "the same beside one gateway without Redis"
table alone gateway
if grep -q redis-benchmark "$work/figures"; then
  echo
  echo "the same beside redis-benchmark's PUBLISH"
  table redis-benchmark gateway | grep -E 'scenario|broadcasts_per_s' | grep -E 'scenario|^publish'
fi
exit "$status"
