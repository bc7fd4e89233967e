# What the scripts of all backends share; sourced. Each backend is one script NAME.sh with four verbs:
#   install  gets the packages it needs (says which); exit code 3 where this machine cannot have them
#   up       starts the platform in $STATE, on loopback only, and returns once it works
#   test     runs the conformance suite against it and leaves $RESULTS/NAME.json
#   down     stops what `up` started; may be repeated
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
name=$(basename "$0" .sh)

# Programs built once and kept: outside the clone, so that `git clean` and fresh clones do not lose them.
CACHE=${CAUSEWAY_BACKENDS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/causeway/backends}
STATE=$CACHE/$name
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/causeway/target}
BIN=$CARGO_TARGET_DIR/release
# One file per backend, in the format of adapters/src/conformance/results.rs.
RESULTS=${CAUSEWAY_RESULTS_DIR:-$CARGO_TARGET_DIR/backends}
export CAUSEWAY_RESULTS_DIR=$RESULTS
# How cargo is called; ours has to be built with the workspace's features.
CARGO=${CARGO:-cargo}

say() { printf '%s\n' "$name: $*" >&2; }
die() { say "$@"; exit 1; }
# This machine cannot have the platform: loud, and told apart from a failure.
skip() { say "SKIPPED: $*"; exit 3; }

# apt_get PACKAGE...: installs what is missing, without recommended packages.
apt_get() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || skip "needs the Debian packages ${missing[*]}, and this is not Debian"
  [ "$(id -u)" -eq 0 ] || skip "needs root to install ${missing[*]}"
  say "installs the Debian packages ${missing[*]}"
  local log; log=$(mktemp)
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 \
    || { apt-get update -q >>"$log" 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; } \
    || { tail -n 5 "$log" >&2; rm -f "$log"; skip "apt cannot install ${missing[*]}"; }
  rm -f "$log"
}

# until_true SECONDS CMD...: waits for a condition, with a deadline.
until_true() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}

# stop_pid FILE: ends the process named in the file, politely and then by force.
stop_pid() {
  local pid
  [ -s "$1" ] || return 0
  pid=$(cat "$1")
  kill "$pid" 2>/dev/null || { rm -f "$1"; return 0; }
  until_true 5 sh -c "! kill -0 $pid" || kill -KILL "$pid" 2>/dev/null || true
  rm -f "$1"
}

verb() { # verb VERB: what NAME.sh ends with, `verb "$@"`
  case ${1:-} in
    install|up|test|down) "do_$1" ;;
    *) echo "usage: $0 install|up|test|down" >&2; exit 2 ;;
  esac
}
