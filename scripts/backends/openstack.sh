#!/usr/bin/env bash
# A real OpenStack on loopback: Keystone, Placement, Glance, Nova, Neutron and Cyborg from PyPI, RabbitMQ from Debian.
# Nova's compute driver is its fake one, so servers live and die but execute nothing; Cyborg's fake driver has FPGAs,
# and GPUs and NPUs are custom resource classes of the compute hosts in Placement.
#
#   scripts/backends/openstack.sh install   packages and a virtual environment (cached outside the clone)
#   scripts/backends/openstack.sh up        fresh state, all services, flavours, an image, a network, device profiles
#   scripts/backends/openstack.sh env       what a client needs, as shell assignments
#   scripts/backends/openstack.sh status    exit code 0 while all services run
#   scripts/backends/openstack.sh down      stops everything that `up` started
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/openstack
cache=${CAUSEWAY_CACHE:-$HOME/.cache/causeway}/backends/openstack
export venv=$cache/venv state=${CAUSEWAY_OPENSTACK_STATE:-$cache/state}
. "$here/ports.sh"

say() { printf '%s\n' "openstack: $*" >&2; }
die() { say "$@"; exit 1; }

install() {
  local missing=()
  command -v rabbitmq-server >/dev/null || missing+=(rabbitmq-server)
  command -v gcc >/dev/null || missing+=(gcc)
  python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
  python3 -c 'import sysconfig, os; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || missing+=(python3-dev)
  if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || die "run as root: apt-get install -y --no-install-recommends ${missing[*]}"
    say "installing ${missing[*]}"
    # a package must not start a daemon that listens on every address
    local guard=/usr/sbin/policy-rc.d made=
    [ -e $guard ] || { printf '#!/bin/sh\nexit 101\n' >$guard; chmod 755 $guard; made=1; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2 || { [ -z "$made" ] || rm -f $guard; die "apt-get failed"; }
    [ -z "$made" ] || rm -f $guard
  fi
  local wanted; wanted=$(sha256sum <"$here/constraints.txt")
  if [ "$(cat "$cache/installed" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "$cache"
    say "installing OpenStack into $venv (some minutes)"
    rm -rf "$venv" "$cache/installed"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -U pip wheel 'setuptools<81' >&2
    "$venv/bin/pip" install -q --disable-pip-version-check -c "$here/constraints.txt" \
      keystone openstack-placement nova glance neutron openstack-cyborg PyMySQL uWSGI >&2
    printf '%s\n' "$wanted" >"$cache/installed"
  fi
  say "installed"
}

running() { # of services whose pid file is there: all alive?
  compgen -G "$state/pids/*" >/dev/null || return 1
  local file
  for file in "$state"/pids/*; do kill -0 "$(cat "$file")" 2>/dev/null || { say "$(basename "$file") is not running"; return 1; }; done
}

down() {
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

environment() {
  [ -e "$state/credential.json" ] || die "it was never up"
  printf 'CAUSEWAY_OPENSTACK_URL=%s\nCAUSEWAY_OPENSTACK_CREDENTIAL=%s\nCAUSEWAY_OPENSTACK_PASSWORD=%s\n' \
    "http://127.0.0.1:$KEYSTONE_PORT/v3" "$state/credential.json" "$state/password.json"
}

case ${1:-} in
  install) install ;;
  up) install; down; "$here/start.sh" || { down; die "see $state/log"; }; environment ;;
  env) environment ;;
  status) running ;;
  down) down ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
