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
target=${CARGO_TARGET_DIR:-$root/target}
gateway=${GATEWAY:-$target/release/gateway}
loadtest=${LOADTEST:-$target/release/loadtest}
rounds=${1:-3}
server_core=${SERVER_CORE:-0}
test_core=${TEST_CORE:-1}
idle=${IDLE:-15000}
duration=${DURATION:-3s}
coalesce=${COALESCE:-room}
only=${ONLY:-.}

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

for binary in "$gateway" "$loadtest"; do
  [[ -x $binary ]] || { echo "no $binary: cargo build --release -p gateway -p loadtest" >&2; exit 2; }
done
# Every connection needs a descriptor on each side.
ulimit -n "$(ulimit -Hn)"

work=$(mktemp -d)
out=${OUT:-$work/reports}
server=
finish() {
  stop
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Ends the server that this script started, if one is running.
stop() {
  [[ -n $server ]] || return 0
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}

listens() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# A port below the range from which the tester's connections take theirs.
free_port() {
  local port
  while port=$((RANDOM % 10000 + 15000)); listens "$port"; do :; done
  echo "$port"
}

# Waits until the server that was just started takes connections.
await() {
  local port=$1 tries=200
  until listens "$port"; do
    if ! kill -0 "$server" 2>/dev/null || ((--tries == 0)); then
      echo "the server does not listen:" >&2
      cat "$work/log" >&2
      exit 2
    fi
    sleep 0.05
  done
}

secret=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')

start_floor() {
  local port
  port=$(free_port)
  # shellcheck disable=SC2086 # The flags are words.
  taskset -c "$server_core" "$loadtest" floor --listen "127.0.0.1:$port" $1 >"$work/log" 2>&1 &
  server=$!
  await "$port"
  url=ws://127.0.0.1:$port
}

start_gateway() {
  local port internal
  port=$(free_port)
  internal=$(free_port)
  rm -f "$work"/gateway.db*
  # shellcheck disable=SC2086 # The settings are words.
  env JWT_SECRET="$secret" LISTEN="127.0.0.1:$port" INTERNAL_LISTEN="127.0.0.1:$internal" \
    DATABASE_URL="sqlite:$work/gateway.db" SOCKETS_PER_USER=0 EVENTS_PER_SECOND=0 DRAIN=1s LOG=warn \
    ${GATEWAY_ENV:-} taskset -c "$server_core" "$gateway" >"$work/log" 2>&1 &
  server=$!
  await "$port"
  url=ws://127.0.0.1:$port
}

# One number out of a report; the first of that name.
figure() {
  grep -o "\"$2\":[0-9.]*" <<<"$1" | head -n 1 | cut -d: -f2
}

status=0
# Runs one scenario against the running server and keeps its figures.
measure() {
  local name=$1 kind=$2 report rc=0
  shift 2
  report=$(JWT_SECRET=$secret taskset -c "$test_core" "$loadtest" "$@" \
    --json --url "$url" --server-pid "$server" 2>"$work/warnings") || rc=$?
  sed "s|^|$name $kind: |" "$work/warnings" >&2
  if ((rc > 1)); then
    cat "$work/log" >&2
    exit "$rc"
  elif ((rc == 1)); then
    status=1
    echo "$name $kind: FAULTS $(grep -o '"faults":{[^}]*}' <<<"$report")" >&2
  fi
  echo "$report" >>"$out"
  local metric value
  for metric in server_cpu_us_per_delivery deliveries_per_s p50 p99 p999 own_core_percent \
    server_cpu_us_per_connect connects_per_s bytes_per_connection_fresh bytes_per_connection_warmed; do
    [[ $metric == connects_per_s && $name != idle-* ]] && continue
    value=$(figure "$report" "$metric") || continue
    echo "$name $metric $kind $value" >>"$work/figures"
  done
}

for ((round = 1; round <= rounds; round++)); do
  while IFS='|' read -r name floor_flags flags; do
    [[ $name =~ $only ]] || continue
    [[ $flags == fanout* ]] && flags+=" --duration $duration"
    echo "round $round of $rounds: $name" >&2
    start_floor "$floor_flags"
    # shellcheck disable=SC2086 # The flags are words.
    measure "$name" floor $flags
    stop
    start_gateway
    # shellcheck disable=SC2086
    measure "$name" gateway $flags
    stop
  done <<<"$scenarios"
done

[[ -s $work/figures ]] || { echo "no scenario matches $only" >&2; exit 2; }
echo "medians of $rounds rounds (min–max)"
awk '
  function sort(values, n,   i, j, value) {
    for (i = 2; i <= n; i++) {
      value = values[i]
      for (j = i - 1; j > 0 && values[j] > value; j--) values[j + 1] = values[j]
      values[j + 1] = value
    }
  }
  function short(value) {
    if (value >= 1e6) return sprintf("%.2f M", value / 1e6)
    if (value >= 1e4) return sprintf("%.1f k", value / 1e3)
    if (value >= 100) return sprintf("%.0f", value)
    if (value >= 10) return sprintf("%.1f", value)
    return sprintf("%.3f", value)
  }
  function column(key,   n, i, sorted) {
    n = count[key]
    if (!n) { middle = ""; return "–" }
    for (i = 1; i <= n; i++) sorted[i] = figures[key, i]
    sort(sorted, n)
    middle = n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
    return sprintf("%s (%s–%s)", short(middle), short(sorted[1]), short(sorted[n]))
  }
  {
    row = $1 " " $2
    if (!(row in seen)) { seen[row] = 1; rows[++n_rows] = row }
    key = row " " $3
    figures[key, ++count[key]] = $4 + 0
  }
  END {
    printf "%-16s %-28s %-26s %-26s %s\n", "scenario", "figure", "floor", "gateway", "gateway/floor"
    for (i = 1; i <= n_rows; i++) {
      split(rows[i], part, " ")
      floor_column = column(rows[i] " floor"); floor_middle = middle
      gateway_column = column(rows[i] " gateway"); gateway_middle = middle
      ratio = floor_middle > 0 && gateway_middle != "" ? sprintf("%.2f", gateway_middle / floor_middle) : "–"
      printf "%-16s %-28s %-26s %-26s %s\n", part[1], part[2], floor_column, gateway_column, ratio
    }
  }
' "$work/figures"
exit "$status"
