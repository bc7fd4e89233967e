#!/usr/bin/env bash
# Registry writes against etcd: three nodes each, synced logs, 256-byte values, fresh clusters, the two in turn.
#
#   scripts/bench-etcd.sh                      # 64 and 256 clients, three rounds of 20 s each
#   ROUNDS=5 SECONDS_EACH=10 scripts/bench-etcd.sh 64
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/causeway/target}"
bench=$CARGO_TARGET_DIR/release/bench
out=${OUT:-$CARGO_TARGET_DIR/bench}
mkdir -p "$out"
[ -x "$bench" ] || { echo "bench-etcd.sh: $bench is not built: run 'make build' first" >&2; exit 1; }

if ! command -v etcd >/dev/null; then
  echo "bench-etcd.sh: etcd is not here; installing Debian's etcd-server" >&2
  if ! { apt-get update && apt-get install -y --no-install-recommends etcd-server; } >&2; then
    echo "bench-etcd.sh: ETCD COULD NOT BE INSTALLED. Nothing was compared." >&2
    exit 1
  fi
fi
etcd --version | head -n1 >&2

[ $# -gt 0 ] || set -- 64 256
for clients in "$@"; do
  "$bench" etcd "$clients" "${SECONDS_EACH:-20}" "${ROUNDS:-3}" | tee "$out/etcd-$clients.json"
done
