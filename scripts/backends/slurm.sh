#!/usr/bin/env bash
# Slurm from Debian's packages: munge, slurmctld, four slurmd (three with accelerators that are null devices) and slurmrestd, all
# on loopback. Jobs are executed for real. Nothing of it touches /etc/slurm.
source "$(dirname "$0")/common.sh"

port=${CAUSEWAY_SLURM_PORT:-26817}
export SLURM_CONF=$STATE/slurm.conf

do_install() {
  apt_get munge slurm-wlm slurmrestd slurm-wlm-jwt-plugin
  [ "$(id -u)" -eq 0 ] || skip "slurmd needs root"
}

configure() {
  local host; host=$(hostname -s)
  mkdir -p "$STATE"/{run,state,log,dev} "$STATE"/spool/{n1,n2,n3,n4}
  chmod 700 "$STATE"
  local n
  for n in 0 1 2 3 4 5 6 7; do [ -e "$STATE/dev/$n" ] || mknod "$STATE/dev/$n" c 1 3; done
  [ -f "$STATE/state/munge.key" ] || (umask 077; head -c 128 /dev/urandom >"$STATE/state/munge.key")
  [ -f "$STATE/state/jwt.key" ] || (umask 077; head -c 32 /dev/urandom >"$STATE/state/jwt.key")
  cat >"$STATE/slurm.conf" <<CONF
ClusterName=causeway
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$STATE/run/munge.sock
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key=$STATE/state/jwt.key
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=$port
SlurmctldPidFile=$STATE/run/slurmctld.pid
SlurmdPidFile=$STATE/run/slurmd.%n.pid
SlurmdSpoolDir=$STATE/spool/%n
StateSaveLocation=$STATE/state
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd.%n.log
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=1,defer_batch
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=30
MinJobAge=300
KillWait=2
InactiveLimit=0
MaxJobCount=20000
GresTypes=gpu,npu,fpga
DefMemPerCPU=1000
NodeName=DEFAULT CPUs=64 Sockets=2 CoresPerSocket=32 ThreadsPerCore=1 RealMemory=512000 State=UNKNOWN
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 4)) Gres=gpu:a100:8 Feature=nva100s80-8
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 5)) Gres=npu:ascend910b1:8 Feature=hwa910b1-8
NodeName=n3 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 6)) Gres=fpga:alveo_u280:8 Feature=xlu280-8
NodeName=n4 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 7)) Feature=cpu-64
PartitionName=main Nodes=n[1-4] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
  cat >"$STATE/gres.conf" <<CONF
AutoDetect=off
NodeName=n1 Name=gpu Type=a100 File=$STATE/dev/[0-7]
NodeName=n2 Name=npu Type=ascend910b1 File=$STATE/dev/[0-7]
NodeName=n3 Name=fpga Type=alveo_u280 File=$STATE/dev/[0-7]
CONF
}

idle() { [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 4 ]; }

do_up() {
  do_down
  rm -rf "$STATE/state" "$STATE/spool"
  configure
  munged --force --socket="$STATE/run/munge.sock" --key-file="$STATE/state/munge.key" --pid-file="$STATE/run/munged.pid" \
    --seed-file="$STATE/state/munge.seed" --log-file="$STATE/log/munged.log" || die "munged does not start"
  slurmctld -c -f "$SLURM_CONF" || die "slurmctld does not start"
  local node
  for node in n1 n2 n3 n4; do slurmd -N $node -f "$SLURM_CONF" || die "slurmd $node does not start"; done
  # one socket that needs no token, and one port that does
  SLURMRESTD_SECURITY=disable_user_check setsid slurmrestd -f "$SLURM_CONF" -a rest_auth/local -s openapi/v0.0.38 \
    "unix:$STATE/run/rest.sock" >"$STATE/log/restd-unix.log" 2>&1 </dev/null & echo $! >"$STATE/run/restd-unix.pid"
  SLURM_JWT=daemon SLURMRESTD_SECURITY=disable_user_check setsid slurmrestd -f "$SLURM_CONF" -a rest_auth/jwt -s openapi/v0.0.38 \
    "127.0.0.1:$((port + 1))" >"$STATE/log/restd-tcp.log" 2>&1 </dev/null & echo $! >"$STATE/run/restd-tcp.pid"
  until_true 30 idle || die "the nodes do not become idle; see $STATE/log"
  until_true 10 test -S "$STATE/run/rest.sock" || die "slurmrestd does not listen; see $STATE/log"
  (umask 077; scontrol token username=root lifespan=86400 | sed 's/^SLURM_JWT=//' >"$STATE/run/jwt")
  say "$(slurmctld -V) is up: $(sinfo -h -o '%D nodes, %C cores')"
}

do_test() {
  (cd "$root" && CAUSEWAY_SLURM="$STATE" CAUSEWAY_SLURM_PORT=$port $CARGO test --release ${CARGO_SCOPE:---workspace} --test slurm -- --nocapture --test-threads 1)
}

do_down() {
  local name
  for name in restd-tcp restd-unix slurmd.n1 slurmd.n2 slurmd.n3 slurmd.n4 slurmctld munged; do stop_pid "$STATE/run/$name.pid"; done
}

verb "$@"
