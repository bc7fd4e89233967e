#!/usr/bin/env bash
# Kubernetes 1.20: a real etcd, apiserver, controller-manager and scheduler on loopback, compiled once from Debian's source.
#   scripts/backends/kubernetes.sh install|up|test|down
#   scripts/backends/kubernetes.sh build    the three programs alone: about 11 processor-minutes, kept in $STATE/bin
# There is no kubelet: pods are executed by causeway-pod-runner, the test kit's stand-in for one.
. "$(dirname "$0")/common.sh"

KUBE=$STATE/bin
RUN=$STATE/run # what one life of the control plane leaves: data, certificates, logs
API_PORT=${API_PORT:-36443} ETCD_PORT=${ETCD_PORT:-32379} ETCD_PEER_PORT=${ETCD_PEER_PORT:-32380}
MANAGER_PORT=${MANAGER_PORT:-36257} SCHEDULER_PORT=${SCHEDULER_PORT:-36259} KUBELET_PORT=${KUBELET_PORT:-36250}

built() { [ -x "$KUBE/kube-apiserver" ] && [ -x "$KUBE/kube-controller-manager" ] && [ -x "$KUBE/kube-scheduler" ]; }

source_tarball() { # Debian's source through apt, with lists of its own: the machine's sources stay as they are
  local apt=$STATE/apt codename keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  codename=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}")
  [ "$codename" = bookworm ] || skip "its source is in Debian bookworm, and this is ${codename:-another system}"
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$STATE/source"
  printf "deb-src [signed-by=$keyring] http://deb.debian.org/%s main\n" "debian $codename" "debian-security $codename-security" >"$apt/sources.list"
  local own=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
             -o "Dir::Cache=$apt" -o APT::Sandbox::User=root)
  apt-get "${own[@]}" -q update >"$STATE/apt.log" 2>&1 && (cd "$STATE/source" && apt-get "${own[@]}" -q source --download-only kubernetes) >>"$STATE/apt.log" 2>&1 \
    || { tail -n 5 "$STATE/apt.log" >&2; skip "apt cannot fetch its source"; }
  tarball=$(echo "$STATE"/source/kubernetes_*.orig.tar.*)
}

do_build() {
  mkdir -p "$STATE" "$KUBE"
  exec 9>"$STATE/lock"; flock 9
  built && return 0
  apt_get golang-go golang-github-modern-go-reflect2-dev rsync jq make gcc
  source_tarball
  say "compiles $(basename "$tarball") (about 11 processor-minutes; log in $STATE/build.log)"
  local tree=$STATE/tree part
  rm -rf "$tree"; mkdir -p "$tree"
  tar -xf "$tarball" -C "$tree" --strip-components=1
  # its own copy of reflect2 fails at run time with any Go from 1.18 on; Debian builds with this one as well
  local reflect2=vendor/github.com/modern-go/reflect2
  rm -rf "${tree:?}/$reflect2"; cp -r "/usr/share/gocode/src/${reflect2#vendor/}" "$tree/$reflect2"
  mkdir -p "$tree/.go/src/k8s.io"; ln -sfn ../../.. "$tree/.go/src/k8s.io/kubernetes"
  ( cd "$tree" && env GOPATH="$tree/.go" GOCACHE="$STATE/gocache" CGO_ENABLED=0 GOPROXY=off GOFLAGS= \
      make WHAT="cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-scheduler" ) >"$STATE/build.log" 2>&1 \
    || { tail -n 20 "$STATE/build.log" >&2; die "Kubernetes did not compile"; }
  for part in kube-apiserver kube-controller-manager kube-scheduler; do
    cp "$tree/_output/local/bin/linux/$(go env GOARCH)/$part" "$KUBE/$part.new"
    mv "$KUBE/$part.new" "$KUBE/$part"
  done
  rm -rf "$tree" "$STATE/gocache" "$STATE/source" "$STATE/apt"
}

do_install() {
  mkdir -p "$STATE"
  command -v etcd >/dev/null || apt_get etcd-server
  command -v openssl >/dev/null && command -v curl >/dev/null || apt_get openssl curl
  do_build
  say "$("$KUBE/kube-apiserver" --version)"
}

start() { # start NAME CMD...: in the background, with its log and its pid
  local part=$1; shift
  setsid nohup "$@" >"$RUN/log/$part.log" 2>&1 9>&- &
  echo $! >"$RUN/pids/$part"
}

sign() { # sign NAME COMMON_NAME USAGE: a certificate of our own authority
  openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$RUN/certs/$1.key" -out "$RUN/certs/$1.csr" 2>/dev/null
  printf 'subjectAltName=IP:127.0.0.1,IP:10.0.0.1,DNS:localhost,DNS:kubernetes.default.svc\nextendedKeyUsage=%s\nbasicConstraints=CA:FALSE\n' "$3" >"$RUN/certs/$1.ext"
  openssl x509 -req -in "$RUN/certs/$1.csr" -CA "$RUN/certs/ca.crt" -CAkey "$RUN/certs/ca.key" -CAcreateserial -days 3650 \
    -extfile "$RUN/certs/$1.ext" -out "$RUN/certs/$1.crt" 2>/dev/null
}

kubeconfig() { # kubeconfig NAME TOKEN
  cat >"$RUN/$1.kubeconfig" <<X
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:$API_PORT", certificate-authority: "$RUN/certs/ca.crt"}}]
users: [{name: u, user: {token: $2}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
X
  chmod 600 "$RUN/$1.kubeconfig"
}

api() { # api METHOD PATH [BODY]: as the administrator
  curl -sf --cacert "$RUN/certs/ca.crt" -K "$RUN/admin.curl" -X "$1" "https://127.0.0.1:$API_PORT$2" \
    ${3:+-H "Content-Type: application/json" --data-binary "$3"}
}

yaml() { # yaml FILE KIND: makes an object of the rules of access
  curl -sf --cacert "$RUN/certs/ca.crt" -K "$RUN/admin.curl" -H 'Content-Type: application/yaml' --data-binary "@$1" \
    "https://127.0.0.1:$API_PORT/apis/rbac.authorization.k8s.io/v1/$2" >/dev/null || die "$1 is refused"
}

node() { # node NAME RESOURCES LABELS, both JSON members beginning with a comma
  printf '{"name":"%s","labels":{"causeway.network/cpu-model":"INX8480P"%s},"capacity":{"cpu":"64","memory":"256Gi","ephemeral-storage":"1Ti","pods":"2000"%s}}' "$1" "$3" "$2"
}

do_up() {
  do_down
  mkdir -p "$RUN"/{etcd,certs,log,pids,pods}; chmod 700 "$RUN"
  openssl genrsa -out "$RUN/certs/sa.key" 2048 2>/dev/null
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=causeway-backends -keyout "$RUN/certs/ca.key" -out "$RUN/certs/ca.crt" 2>/dev/null
  sign api /CN=kube-apiserver serverAuth
  sign kubelet /CN=kubelet serverAuth
  sign kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
  local admin manager scheduler plugin
  admin=$(openssl rand -hex 24) manager=$(openssl rand -hex 24) scheduler=$(openssl rand -hex 24) plugin=$(openssl rand -hex 24)
  printf '%s,admin,admin,system:masters\n%s,system:kube-controller-manager,kcm\n%s,system:kube-scheduler,sched\n%s,causeway-plugin,causeway-plugin\n' \
    "$admin" "$manager" "$scheduler" "$plugin" >"$RUN/tokens.csv"
  printf '%s' "$plugin" >"$RUN/plugin.token"
  printf 'header = "Authorization: Bearer %s"\n' "$admin" >"$RUN/admin.curl"
  chmod 600 "$RUN/tokens.csv" "$RUN/plugin.token" "$RUN/admin.curl"
  kubeconfig admin "$admin"; kubeconfig manager "$manager"; kubeconfig scheduler "$scheduler"

  local peer=http://127.0.0.1:$ETCD_PEER_PORT client=http://127.0.0.1:$ETCD_PORT
  start etcd etcd --name n1 --data-dir "$RUN/etcd" --unsafe-no-fsync --listen-client-urls $client --advertise-client-urls $client \
    --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster n1=$peer
  until_true 30 curl -sf $client/health || die "etcd does not answer (see $RUN/log/etcd.log)"
  start apiserver "$KUBE/kube-apiserver" --etcd-servers=$client --bind-address=127.0.0.1 --advertise-address=127.0.0.1 \
    --secure-port=$API_PORT --service-cluster-ip-range=10.0.0.0/24 --endpoint-reconciler-type=none \
    --tls-cert-file="$RUN/certs/api.crt" --tls-private-key-file="$RUN/certs/api.key" --client-ca-file="$RUN/certs/ca.crt" \
    --cert-dir="$RUN/certs" --token-auth-file="$RUN/tokens.csv" --authorization-mode=Node,RBAC \
    --kubelet-certificate-authority="$RUN/certs/ca.crt" --kubelet-client-certificate="$RUN/certs/kubelet-client.crt" \
    --kubelet-client-key="$RUN/certs/kubelet-client.key" --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$RUN/certs/sa.key" \
    --service-account-signing-key-file="$RUN/certs/sa.key"
  until_true 120 api GET /readyz || die "the apiserver does not answer (see $RUN/log/apiserver.log)"
  start manager "$KUBE/kube-controller-manager" --kubeconfig="$RUN/manager.kubeconfig" \
    --authentication-kubeconfig="$RUN/manager.kubeconfig" --authorization-kubeconfig="$RUN/manager.kubeconfig" \
    --bind-address=127.0.0.1 --secure-port=$MANAGER_PORT --port=0 --leader-elect=false --use-service-account-credentials=true \
    --service-account-private-key-file="$RUN/certs/sa.key" --root-ca-file="$RUN/certs/ca.crt" --cert-dir="$RUN/certs" \
    --controllers='*,-nodelifecycle' --kube-api-qps=500 --kube-api-burst=1000
  start scheduler "$KUBE/kube-scheduler" --kubeconfig="$RUN/scheduler.kubeconfig" \
    --authentication-kubeconfig="$RUN/scheduler.kubeconfig" --authorization-kubeconfig="$RUN/scheduler.kubeconfig" \
    --bind-address=127.0.0.1 --secure-port=$SCHEDULER_PORT --port=0 --leader-elect=false --cert-dir="$RUN/certs" \
    --kube-api-qps=500 --kube-api-burst=1000
  until_true 120 api GET /api/v1/namespaces/default/serviceaccounts/default || die "the controller-manager does nothing (see $RUN/log/manager.log)"

  # the plugin's own rights, and nothing beyond them
  api POST /api/v1/namespaces '{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"tasks"}}' >/dev/null
  awk -v out="$RUN/rbac" 'BEGIN { n = 1 } /^---/ { n++; next } { print > (out "-" n ".yaml") }' "$root/configs/kubernetes/rbac.yaml"
  yaml "$RUN/rbac-1.yaml" clusterroles
  yaml "$RUN/rbac-2.yaml" namespaces/tasks/roles
  local subject='"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"causeway-plugin"}]'
  api POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings \
    '{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"causeway-plugin"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"causeway-plugin"},'"$subject}" >/dev/null
  api POST /apis/rbac.authorization.k8s.io/v1/namespaces/tasks/rolebindings \
    '{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"causeway-plugin","namespace":"tasks"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"causeway-plugin"},'"$subject}" >/dev/null
  until_true 60 api GET /api/v1/namespaces/tasks/serviceaccounts/default || die "the namespace has no service account"

  local gpu=',"nvidia.com/gpu.product":"NVIDIA-A100-SXM4-80GB"'
  cat >"$RUN/pod-runner.json" <<X
{"kubeconfig":"$RUN/admin.kubeconfig","dir":"$RUN/pods","port":$KUBELET_PORT,"certificate":"$RUN/certs/kubelet.crt",
 "key":"$RUN/certs/kubelet.key","clients":"$RUN/certs/ca.crt","nodes":[$(node cpu-0 "" ""),$(node cpu-1 "" ""),
 $(node gpu-0 ',"nvidia.com/gpu":"8"' "$gpu"),$(node mig-0 ',"nvidia.com/mig-1g.10gb":"14","nvidia.com/mig-2g.20gb":"7"' ',"causeway.network/class":"mig"'"$gpu"),
 $(node npu-0 ',"huawei.com/Ascend910B":"8"' ""),$(node fpga-0 ',"xilinx.com/fpga-xilinx_u250":"2"' "")]}
X
  start pod-runner "$BIN/causeway-pod-runner" "$RUN/pod-runner.json"
  until_true 30 sh -c "grep -q 'the pod runner is up' '$RUN/log/pod-runner.log'" || die "the pod runner does not start (see $RUN/log/pod-runner.log)"
  say "up: https://127.0.0.1:$API_PORT, KUBECONFIG=$RUN/admin.kubeconfig; pods run by causeway-pod-runner, the stand-in for kubelets"
}

do_test() {
  CAUSEWAY_KUBERNETES="$RUN" $CARGO test --release --workspace --test backend_kubernetes -- --ignored --nocapture --test-threads 1 --skip measure
}

do_down() {
  local part
  for part in pod-runner scheduler manager apiserver etcd; do stop_pid "$RUN/pids/$part"; done
  rm -rf "$RUN"
}

if [ "${1:-}" = build ]; then do_build; else verb "$@"; fi
