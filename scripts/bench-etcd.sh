#!/usr/bin/env bash
# Registry writes on three synced nodes against a three-node synced etcd on this machine: fresh clusters, the two
# alternating, 256-byte values, 64 and 256 clients. Needs Debian's etcd-server and Go with etcd's client:
#
#   apt-get install -y --no-install-recommends etcd-server golang-go golang-etcd-server-dev
#
#   ROUNDS=3 SECONDS_EACH=8 scripts/bench-etcd.sh
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/causeway/target}"
rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-8}
for tool in etcd go; do
  command -v $tool >/dev/null || { echo "bench-etcd: $tool is missing; see the first lines of this script" >&2; exit 1; }
done
work=$(mktemp -d)
pids=()
stop_etcd() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait "${pids[@]}" 2>/dev/null || true; pids=(); }
trap 'stop_etcd; rm -rf "$work"' EXIT

mkdir -p "$work/load"
cp scripts/etcd-load/main.go "$work/load/main.go"
(cd "$work/load" && GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= go build -o load .) \
  || { echo "bench-etcd: the load generator does not build; is golang-etcd-server-dev there?" >&2; exit 1; }

start_etcd() {
  local dir=$work/etcd-$1 i cluster=
  for i in 1 2 3; do cluster+="e$i=http://127.0.0.1:2481$i,"; done
  for i in 1 2 3; do
    ETCD_UNSUPPORTED_ARCH=$(uname -m | sed 's/x86_64//; s/aarch64/arm64/') etcd --name "e$i" --data-dir "$dir/e$i" \
      --listen-client-urls "http://127.0.0.1:2471$i" --advertise-client-urls "http://127.0.0.1:2471$i" \
      --listen-peer-urls "http://127.0.0.1:2481$i" --initial-advertise-peer-urls "http://127.0.0.1:2481$i" \
      --initial-cluster "${cluster%,}" --initial-cluster-state new --initial-cluster-token "bench-$1" --log-level error \
      > "$dir-$i.log" 2>&1 &
    pids+=($!)
  done
}
# processor seconds that the three servers used so far
cpu_of() { local total=0 t; for pid in "$@"; do t=$(awk '{print $14 + $15}' "/proc/$pid/stat"); total=$((total + t)); done; echo "$total"; }

echo "round,system,clients,writes_per_s,p50_ms,p99_ms,errors,cpu_us_per_write"
for round in $(seq "$rounds"); do
  for clients in 64 256; do
    start_etcd "$round-$clients"
    before=0
    line=$("$work/load/load" -ep http://127.0.0.1:24711,http://127.0.0.1:24712,http://127.0.0.1:24713 -clients "$clients" -secs "$seconds" -size 256)
    ticks=$(cpu_of "${pids[@]}"); stop_etcd
    awk -v r="$round" -v c="$clients" -v s="$seconds" -v t="$ticks" -v hz="$(getconf CLK_TCK)" \
      '{ printf "%s,etcd,%s,%s,%s,%s,%s,%.0f\n", r, c, $1, $2, $3, $4, t / hz * 1e6 / ($1 * s) }' <<< "$line"
    "$CARGO_TARGET_DIR/release/bench-registry" --clients "$clients" --seconds "$seconds" --csv "$round"
  done
done
