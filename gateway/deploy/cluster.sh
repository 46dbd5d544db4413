#!/usr/bin/env bash
# The cluster of docker-compose.yml without containers: Redis, PostgreSQL, two nodes, a balancer and Prometheus from
# Debian's packages, on loopback ports. Ctrl-C, SIGTERM or the end of any part ends all of it.
#
# Environment: GATEWAY (binary; target/release/gateway), FRONT_PORT (8080), and for the others any free port.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
gateway=${GATEWAY:-$root/target/release/gateway}
front=${FRONT_PORT:-8080}
for tool in redis-server haproxy prometheus; do
  command -v "$tool" >/dev/null || { echo "no $tool: apt-get install redis-server haproxy prometheus postgresql" >&2; exit 1; }
done
pg=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
[[ -n $pg ]] || { echo 'no PostgreSQL: apt-get install postgresql' >&2; exit 1; }
[[ -x $gateway ]] || { echo "no $gateway: cargo build --release" >&2; exit 1; }

work=$(mktemp -d)
chmod 755 "$work"
pids=()
postgres_pid=
finish() {
  trap - EXIT
  # A second signal must not leave half of it behind.
  trap '' INT TERM HUP
  # The nodes first: they close their clients in order while the rest still answers.
  for ((at = ${#pids[@]} - 1; at >= 0; at--)); do
    end "${pids[at]}"
  done
  rm -rf "$work"
}
# Ends a part, and does not wait for ever for one that does not go.
end() {
  local signal=TERM
  # By SIGTERM, PostgreSQL would wait for its clients.
  [[ $1 = "$postgres_pid" ]] && signal=INT
  kill -"$signal" "$1" 2>/dev/null || return 0
  for _ in $(seq 150); do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 129' HUP
trap 'exit 143' TERM

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
start() {
  local log=$work/$1.log
  shift
  "$@" >"$log" 2>&1 &
  pids+=($!)
}
wait_for() {
  for _ in $(seq 150); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.2
  done
  echo "not within 30 s: $*" >&2
  tail -n 20 "$work"/*.log >&2
  exit 1
}
# PostgreSQL refuses to run as root. `setpriv` becomes the command itself, so that a signal reaches the server and not a
# process in front of it.
as_postgres=()
[[ $(id -u) = 0 ]] && as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups)

redis=$(free_port) postgres=$(free_port) one=$(free_port) two=$(free_port)
one_internal=$(free_port) two_internal=$(free_port)
secret=$(head -c 32 /dev/urandom | base64)
(umask 077 && printf '%s' "$secret" >"$work/jwt_secret")

start redis redis-server --port "$redis" --bind 127.0.0.1 --save '' --appendonly no --dir "$work"
mkdir -m 700 "$work/records"
[[ $(id -u) = 0 ]] && chown postgres "$work/records"
(cd / && "${as_postgres[@]}" "$pg/initdb" -D "$work/records" -A trust -U postgres -E UTF8 --locale=C --no-sync >/dev/null)
cd /
start postgres "${as_postgres[@]}" "$pg/postgres" -D "$work/records" -p "$postgres" -c listen_addresses=127.0.0.1 -c unix_socket_directories=
postgres_pid=${pids[-1]}
wait_for "$pg/pg_isready" -h 127.0.0.1 -p "$postgres"
wait_for redis-cli -p "$redis" ping
for node in one two; do
  listen=${!node} internal_port=${node}_internal
  start "$node" env JWT_SECRET="$secret" MOUNTS=sos=/,emergencies=/emergencies,chat=/,care=/,relay=/relay REDIS_URL="redis://127.0.0.1:$redis" DRAIN=5s \
    DATABASE_URL="postgres://postgres@127.0.0.1:$postgres/postgres" \
    TRUSTED_PROXIES=127.0.0.1 LISTEN="127.0.0.1:$listen" INTERNAL_LISTEN="127.0.0.1:${!internal_port}" "$gateway"
  wait_for curl -fsS "http://127.0.0.1:$listen/ready"
done
FRONT="127.0.0.1:$front" NODE_ONE="127.0.0.1:$one" NODE_TWO="127.0.0.1:$two" \
  start balancer haproxy -f "$root/gateway/deploy/haproxy.cfg" -db
sed "s/one:9090/127.0.0.1:$one_internal/; s/two:9090/127.0.0.1:$two_internal/" "$root/gateway/deploy/prometheus.yml" >"$work/prometheus.yml"
prometheus=$(free_port)
start prometheus prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/metrics" --web.listen-address="127.0.0.1:$prometheus"
wait_for curl -fsS "http://127.0.0.1:$front/ready"

token=$(JWT_SECRET="$secret" "$gateway" token --user dev --role admin --ttl 24h --claims '{"rooms":["*"],"publish":["*"]}')
cat <<TEXT
console     http://127.0.0.1:$front/#token=$token
JWT_SECRET  $work/jwt_secret
another     JWT_SECRET=\$(cat $work/jwt_secret) $gateway token --user bob --claims '{"rooms":["*"],"publish":["*"]}'
nodes       http://127.0.0.1:$one  http://127.0.0.1:$two
internal    http://127.0.0.1:$one_internal  http://127.0.0.1:$two_internal
prometheus  http://127.0.0.1:$prometheus
redis       redis://127.0.0.1:$redis
logs        $work/*.log
Ctrl-C ends all of it.
TEXT
wait -n "${pids[@]}" || true
echo 'a part has ended' >&2
tail -n 5 "$work"/*.log >&2
exit 1
