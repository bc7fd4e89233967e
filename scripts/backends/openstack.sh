#!/usr/bin/env bash
# A real OpenStack on loopback: Keystone, Placement, Glance, Nova, Neutron and Cyborg from PyPI, RabbitMQ from Debian.
# Nova's compute driver is its fake one with an addition of the test kit (openstack/driver.py): a server's user data runs as
# a process of this machine. Cyborg's fake driver has FPGAs; GPUs and NPUs are resource classes of two more hosts.
# Verbs as in common.sh, and `env`: what a client needs, as shell assignments.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
kit=$here/openstack
export venv=$STATE/venv state=$STATE/state
. "$kit/ports.sh"
do_install() {
  apt_get rabbitmq-server gcc python3-venv python3-dev curl
  local wanted; wanted=$(sha256sum <"$kit/constraints.txt")
  if [ "$(cat "$STATE/installed" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "$STATE"
    say "installing OpenStack into $venv (some minutes)"
    rm -rf "$venv" "$STATE/installed" "$STATE/schemas"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -U pip wheel 'setuptools<81' >&2
    "$venv/bin/pip" install -q --disable-pip-version-check -c "$kit/constraints.txt" \
      keystone openstack-placement nova glance neutron openstack-cyborg PyMySQL uWSGI >&2
    printf '%s\n' "$wanted" >"$STATE/installed"
  fi
  say "installed"
}

do_down() {
  [ -d "$state/pids" ] || return 0
  local file pid
  for file in "$state"/pids/*; do [ -e "$file" ] && kill -TERM -- "-$(cat "$file")" 2>/dev/null || true; done
  for _ in $(seq 100); do
    compgen -G "$state/pids/*" >/dev/null || break
    for file in "$state"/pids/*; do
      pid=$(cat "$file")
      kill -0 -- "-$pid" 2>/dev/null || rm -f "$file"
    done
    sleep 0.1
  done
  for file in "$state"/pids/*; do
    [ -e "$file" ] || continue
    say "$(basename "$file") did not stop by itself"
    kill -KILL -- "-$(cat "$file")" 2>/dev/null || true
    rm -f "$file"
  done
  ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=$EPMD_PORT epmd -kill >/dev/null 2>&1 || true
  say "stopped"
}

do_env() {
  [ -e "$state/credential.json" ] || die "it was never up"
  printf 'CAUSEWAY_OPENSTACK_URL=%s\nCAUSEWAY_OPENSTACK_CREDENTIAL=%s\nCAUSEWAY_OPENSTACK_PASSWORD=%s\n' \
    "http://127.0.0.1:$KEYSTONE_PORT/v3" "$state/credential.json" "$state/password.json"
}

do_up() {
  do_down
  "$kit/start.sh" || { do_down; die "see $state/log"; }
}

do_test() {
  mkdir -p "$RESULTS"
  (cd "$root" && env $(do_env) CAUSEWAY_RESULTS_DIR="$RESULTS" $CARGO test --release ${CARGO_SCOPE:---workspace} --test openstack_real -- --ignored --nocapture)
}

[ "${1:-}" = env ] && { do_env; exit; }
verb "$@"
