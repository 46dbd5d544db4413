#!/usr/bin/env bash
# The chart's tests. Helm's library and Kubernetes' schemas come from PyPI, in the versions of requirements.txt, into a
# separate directory that is kept for the next run.
#
# Environment: GATEWAY_BIN (target/debug/gateway), CHART_VENV (target/chart-venv). Arguments go to unittest.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${CHART_VENV:-$root/target/chart-venv}
pins=$here/requirements.txt

if ! cmp -s "$pins" "$venv/installed.txt"; then
  python3 -c 'import ensurepip' 2>/dev/null || { echo 'no venv for Python: apt-get install python3-venv' >&2; exit 1; }
  rm -rf "$venv"
  mkdir -p "$(dirname "$venv")"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$pins"
  cp "$pins" "$venv/installed.txt"
fi

export GATEWAY_BIN=${GATEWAY_BIN:-$root/target/debug/gateway}
cd "$here"
export PYTHONDONTWRITEBYTECODE=1
if (($#)); then exec "$venv/bin/python" -m unittest "$@"; fi
exec "$venv/bin/python" -m unittest discover --pattern 'test_*.py'
