#!/usr/bin/env bash
# The vCenter simulator of govmomi (Debian), by SOAP over TLS with a certificate authority of its own. Nothing is
# virtualised: machines are objects, and their guests are played by vmware/main.go, which runs user data as processes of this
# machine. Verbs as in common.sh.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
kit=$here/vmware
PORT=${CAUSEWAY_VMWARE_PORT:-18989}
state=$STATE/state

do_install() {
  apt_get golang-go golang-github-vmware-govmomi-dev openssl
  local wanted; wanted=$(sha256sum <"$kit/main.go")
  if [ "$(cat "$STATE/installed" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "$STATE/build"
    say "builds the simulator (a minute)"
    cp "$kit/main.go" "$STATE/build/main.go"
    (cd "$STATE/build" && GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= go build -o "$STATE/vcsim" .) || die "it does not build"
    printf '%s\n' "$wanted" >"$STATE/installed"
  fi
  say "installed"
}

do_down() {
  stop_pid "$state/pid"
  say "stopped"
}

do_up() {
  do_down
  rm -rf "$state"; mkdir -p "$state"; chmod 700 "$state"
  ( cd "$state"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=vCenter simulator authority" \
      -keyout ca.key -out ca.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >extensions
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem
  ) >"$state/openssl.log" 2>&1 || { tail -n 5 "$state/openssl.log" >&2; die "no certificates"; }
  head -c 18 /dev/urandom | base64 | tr -d '\n' >"$state/password"
  "$STATE/vcsim" -l "127.0.0.1:$PORT" -cert "$state/server.pem" -key "$state/server.key" -username causeway \
    -password-file "$state/password" -guests "$state/guests" >"$state/log" 2>&1 &
  printf '%s\n' $! >"$state/pid"
  until_true 30 grep -q 'vCenter simulator at' "$state/log" || { tail -n 5 "$state/log" >&2; do_down; die "it does not start"; }
  say "up on 127.0.0.1:$PORT"
}

do_test() {
  mkdir -p "$RESULTS"
  export CAUSEWAY_VMWARE_URL=https://localhost:$PORT/sdk CAUSEWAY_VMWARE_STATE=$state
  (cd "$root" && $CARGO test --release --workspace --test vmware_real -- --ignored --nocapture)
}

verb "$@"
