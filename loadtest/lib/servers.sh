# What the measuring scripts share: processes of theirs on ports of their own, and figures out of reports.
# To be sourced with `root` set. Reads the environment that the scripts document, and sets `work`, a directory that goes
# with the script, and `secret`, the tokens' key.
# shellcheck shell=bash

target=${CARGO_TARGET_DIR:-$root/target}
gateway=${GATEWAY:-$target/release/gateway}
loadtest=${LOADTEST:-$target/release/loadtest}
server_core=${SERVER_CORE:-0}
test_core=${TEST_CORE:-1}
duration=${DURATION:-3s}
only=${ONLY:-.}
out=${OUT:-}
work=$(mktemp -d)
secret=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
servers=()

finish() {
  stop
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Every connection needs a descriptor on each side.
ulimit -n "$(ulimit -Hn)"

for binary in "$gateway" "$loadtest"; do
  [[ -x $binary ]] || { echo "no $binary: cargo build --release -p gateway -p loadtest" >&2; exit 2; }
done

# Ends the servers that this script started, the last first.
stop() {
  local at
  for ((at = ${#servers[@]} - 1; at >= 0; at--)); do
    kill "${servers[at]}" 2>/dev/null || true
    wait "${servers[at]}" 2>/dev/null || true
  done
  servers=()
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

# serve PORT COMMAND…: starts a server on SERVER_CORE and waits until it takes connections.
serve() {
  local port=$1 tries=200 server log
  shift
  log=$work/log.${#servers[@]}
  taskset -c "$server_core" "$@" >"$log" 2>&1 &
  server=$!
  servers+=("$server")
  until listens "$port"; do
    if ! kill -0 "$server" 2>/dev/null || ((--tries == 0)); then
      echo "the server does not listen:" >&2
      cat "$log" >&2
      exit 2
    fi
    sleep 0.05
  done
}

# serve_gateway SETTING…: a gateway without limits on what one user may do; sets `port`.
serve_gateway() {
  local internal
  port=$(free_port)
  internal=$(free_port)
  rm -f "$work/gateway-$port.db"*
  # shellcheck disable=SC2086 # The settings are words.
  serve "$port" env JWT_SECRET="$secret" LISTEN="127.0.0.1:$port" INTERNAL_LISTEN="127.0.0.1:$internal" \
    DATABASE_URL="sqlite:$work/gateway-$port.db" SOCKETS_PER_USER=0 EVENTS_PER_SECOND=0 DRAIN=1s LOG=warn \
    ${GATEWAY_ENV:-} "$@" "$gateway"
}

# One number out of a report; the first of that name.
figure() {
  grep -o "\"$2\":[0-9.]*" <<<"$1" | head -n 1 | cut -d: -f2
}

status=0
# measure NAME KIND FLAGS…: runs the tester on TEST_CORE against the servers that run now, and keeps its figures.
measure() {
  local name=$1 kind=$2 report rc=0 pids=() pid
  shift 2
  for pid in "${servers[@]}"; do pids+=(--server-pid "$pid"); done
  report=$(JWT_SECRET=$secret taskset -c "$test_core" "$loadtest" "$@" --json "${pids[@]}" 2>"$work/warnings") || rc=$?
  sed "s|^|$name $kind: |" "$work/warnings" >&2
  if ((rc > 1)); then
    cat "$work"/log.* >&2
    exit "$rc"
  elif ((rc == 1)); then
    status=1
    echo "$name $kind: FAULTS $(grep -o '"faults":{[^}]*}' <<<"$report")" >&2
  fi
  echo "$report" >>"${out:-$work/reports}"
  local metric value
  for metric in $metrics; do
    [[ $metric == connects_per_s && $name != idle-* ]] && continue
    value=$(figure "$report" "$metric") || continue
    keep "$name" "$metric" "$kind" "$value"
  done
  # The percentiles of what crossed nodes have the same names as the others, in an object of their own.
  if [[ $report =~ \"crossing_ms\":(\{[^}]*\}) ]]; then
    local crossing=${BASH_REMATCH[1]}
    for metric in p50 p99; do keep "$name" "crossing_$metric" "$kind" "$(figure "$crossing" "$metric")"; done
  fi
}

# keep NAME METRIC KIND VALUE: one figure for the table.
keep() {
  echo "$1 $2 $3 $4" >>"$work/figures"
}

# table LEFT RIGHT: medians of both kinds and their ratio.
table() {
  awk -v left="$1" -v right="$2" -f "$root/loadtest/lib/medians.awk" "$work/figures"
}
