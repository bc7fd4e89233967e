#!/usr/bin/env bash
# Runs the measurements of BENCHMARKS.md: all of them, or those that are named. Results go to $OUT (target/bench) as JSON.
#
#   scripts/bench.sh                 # all, about half an hour
#   scripts/bench.sh resolve place   # some
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/causeway/target}"
export CARGO_TARGET_DIR
out=${OUT:-$CARGO_TARGET_DIR/bench}
mkdir -p "$out"

machine() {
  printf 'processor: %s, %s cores\n' "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n1)" "$(nproc)"
  printf 'memory: %s MiB\n' "$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)"
  printf 'kernel: %s\n' "$(uname -r)"
  # how long the disk takes to make 2 KiB durable, a hundred times
  local file; file=$(mktemp "$out/sync.XXXXXX")
  local begin end; begin=$(date +%s%N)
  dd if=/dev/zero of="$file" bs=2048 count=100 oflag=dsync 2>/dev/null
  end=$(date +%s%N); rm -f "$file"
  printf 'disk: %d us for each synced write of 2 KiB\n' $(((end - begin) / 100000))
}

shell_loop() { # the yardstick of `local`: the same program, started and waited for by a shell
  local n=500 begin end i
  begin=$(date +%s%N)
  for ((i = 0; i < n; i++)); do /bin/true & wait $!; done
  end=$(date +%s%N)
  printf '{"shell_loop_per_second": %d}\n' $((n * 1000000000 / (end - begin)))
}

run() {
  printf '\n== %s\n' "$1" >&2
  case $1 in
    cpi)      cargo bench -p cpi ;;
    local)    shell_loop | tee "$out/shell-loop.json"; "$CARGO_TARGET_DIR/release/bench" local | tee "$out/local.json" ;;
    ring)
      local data; data=$(mktemp -d)
      "$CARGO_TARGET_DIR/release/causeway" lab up --delay 0 --keep 0 --data "$data" | tee "$out/ring.txt"; rm -rf "$data" ;;
    resolve | place | spread | decide | flood | idle | swap | plugins) "$CARGO_TARGET_DIR/release/bench" "$1" | tee "$out/$1.json" ;;
    *) echo "bench.sh: no measurement is named $1" >&2; exit 2 ;;
  esac
}

machine | tee "$out/machine.txt"
[ $# -gt 0 ] || set -- cpi ring idle plugins resolve decide place spread local flood swap
for name in "$@"; do run "$name"; done
