#!/usr/bin/env bash
# Starts the OpenStack of the test kit with fresh state; called by ../openstack.sh. Needs $venv and $state.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/ports.sh"
umask 077
export PATH=$venv/bin:$PATH PYTHONWARNINGS=ignore
export OS_KEYSTONE_CONFIG_DIR=$state/keystone OS_PLACEMENT_CONFIG_DIR=$state/placement OS_NOVA_CONFIG_DIR=$state/nova
export OS_GLANCE_CONFIG_DIR=$state/glance OS_NEUTRON_CONFIG_DIR=$state/neutron OS_NEUTRON_CONFIG_FILES=neutron.conf
begun=$(date +%s)
say() { printf 'openstack: %3d s: %s\n' $(($(date +%s) - begun)) "$*" >&2; }
die() { say "$@"; exit 1; }

rm -rf "$state"
mkdir -p "$state"/{keystone,placement,nova,glance,neutron,cyborg,db,log,images,lock,pids,staging,tasks,rabbit,home}
secret() { head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
admin=$(secret) rabbit=$(secret)
cp "$here/driver.py" "$("$venv/bin/python" -c 'import os, nova.virt; print(os.path.dirname(nova.virt.__file__))')/causeway_kit.py"

# sqlite refuses at once to turn a reader that has begun into a writer while somebody else writes. Nova's processes share
# their databases, so theirs queue from the beginning; the others are one process, with one thread.
sed -i -E 's/text\("BEGIN( IMMEDIATE)?"\)/text(__import__("os").environ.get("CAUSEWAY_SQLITE_BEGIN", "BEGIN"))/' "$(python -c 'import oslo_db.sqlalchemy.engines as engines; print(engines.__file__)')"

# ---- configuration
database() { printf 'connection = sqlite:///%s/db/%s.sqlite?timeout=60\nsqlite_synchronous = false' "$state" "$1"; }
transport="rabbit://causeway:$rabbit@127.0.0.1:$RABBIT_PORT//"
auth="auth_type = password
auth_url = http://127.0.0.1:$KEYSTONE_PORT/v3
username = admin
password = $admin
project_name = admin
user_domain_id = default
project_domain_id = default
region_name = RegionOne"
service="[keystone_authtoken]
www_authenticate_uri = http://127.0.0.1:$KEYSTONE_PORT/v3
service_token_roles = admin
$auth
[oslo_concurrency]
lock_path = $state/lock"

cat >"$state/keystone/keystone.conf" <<C
[DEFAULT]
log_file = $state/log/keystone.log
[database]
$(database keystone)
[token]
provider = fernet
[fernet_tokens]
key_repository = $state/keystone/fernet-keys
[credential]
key_repository = $state/keystone/credential-keys
[cache]
enabled = false
[identity]
password_hash_rounds = 4
C
cat >"$state/placement/placement.conf" <<C
[DEFAULT]
log_file = $state/log/placement.log
[placement_database]
$(database placement)
[api]
auth_strategy = keystone
$service
C
cat >"$state/glance/glance-api.conf" <<C
[DEFAULT]
log_file = $state/log/glance.log
enabled_backends = fs:file
worker_self_reference_url = http://127.0.0.1:$GLANCE_PORT
enabled_import_methods = [glance-direct]
[database]
$(database glance)
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = $state/images
[os_glance_staging_store]
filesystem_store_datadir = $state/staging
[os_glance_tasks_store]
filesystem_store_datadir = $state/tasks
[paste_deploy]
flavor = keystone
config_file = $venv/etc/glance/glance-api-paste.ini
$service
C
cp "$venv/etc/nova/api-paste.ini" "$state/nova/"
cat >"$state/nova/nova.conf" <<C
[DEFAULT]
concurrency_backend = threading
log_dir = $state/log
state_path = $state/nova
my_ip = 127.0.0.1
host = fake-0
transport_url = $transport
compute_driver = causeway_kit.ProcessDriver
use_neutron = true
allow_resize_to_same_host = true
sync_power_state_interval = 10
update_resources_interval = 30
[api]
auth_strategy = keystone
[api_database]
$(database nova_api)
[database]
$(database nova_cell1)
[service_user]
send_service_user_token = true
$auth
[placement]
$auth
[glance]
api_servers = http://127.0.0.1:$GLANCE_PORT
[neutron]
$auth
[cyborg]
$auth
[scheduler]
workers = 1
discover_hosts_in_cells_interval = 2
[filter_scheduler]
build_failure_weight_multiplier = 0
[conductor]
workers = 1
[wsgi]
api_paste_config = $venv/etc/nova/api-paste.ini
[quota]
cores = 400
instances = 400
ram = 400000
[oslo_messaging_rabbit]
heartbeat_in_pthread = false
[vnc]
enabled = false
$service
C
cat >"$state/neutron/neutron.conf" <<C
[DEFAULT]
core_plugin = ml2
service_plugins =
log_file = $state/log/neutron.log
state_path = $state/neutron
transport_url = $transport
auth_strategy = keystone
api_paste_config = $venv/etc/neutron/api-paste.ini
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
[database]
$(database neutron)
[ml2]
type_drivers = local,flat,vlan
tenant_network_types = local
mechanism_drivers =
$service
C
cat >"$state/cyborg/cyborg.conf" <<C
[DEFAULT]
host = fake-0
log_dir = $state/log
state_path = $state/cyborg
transport_url = $transport
[api]
api_paste_config = $venv/etc/cyborg/api-paste.ini
[agent]
enabled_drivers = fake_driver
resource_provider_startup_retries = 20
[database]
$(database cyborg)
[placement]
$auth
[nova]
$auth
[service_user]
$auth
$service
C

# ---- processes
start() { local name=$1; shift; setsid nohup "$@" >"$state/log/$name.out" 2>&1 </dev/null & echo $! >"$state/pids/$name"; }
web() { # web NAME PORT MODULE THREADS [ARGUMENTS OF THE PROGRAM]
  start "$1" uwsgi --master --die-on-term --http-socket "127.0.0.1:$2" --module "$3" --callable application --processes 1 \
    --threads "$4" --enable-threads --lazy-apps --buffer-size 65535 --http-chunked-input --add-header "Connection: close" \
    --thunder-lock --need-app --socket-timeout 120 ${5:+--pyargv "$5"}
}
answers() { # answers NAME PORT
  for _ in $(seq 480); do
    curl -s -o /dev/null --noproxy '*' "http://127.0.0.1:$2/" && { say "$1 answers"; return; }
    kill -0 "$(cat "$state/pids/$1")" 2>/dev/null || die "$1 ended; see $state/log/$1.out"
    sleep 0.25
  done
  die "$1 does not answer on port $2"
}

cat >"$state/rabbit/rabbitmq.conf" <<C
listeners.tcp.1 = 127.0.0.1:$RABBIT_PORT
default_user = causeway
default_pass = $rabbit
C
: >"$state/rabbit/plugins"
start rabbitmq env HOME="$state/home" ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=$EPMD_PORT RABBITMQ_NODENAME=causeway@localhost \
  RABBITMQ_DIST_PORT=$RABBIT_DIST_PORT RABBITMQ_CONFIG_FILE="$state/rabbit/rabbitmq.conf" RABBITMQ_MNESIA_BASE="$state/rabbit/db" \
  RABBITMQ_LOG_BASE="$state/log" RABBITMQ_ENABLED_PLUGINS_FILE="$state/rabbit/plugins" RABBITMQ_CONF_ENV_FILE=/dev/null \
  RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" /usr/lib/rabbitmq/bin/rabbitmq-server

# Migrations take minutes and always end with the same tables: those are kept beside the programs.
schemas=${venv%/*}/schemas
kept=
if [ -e "$schemas/complete" ]; then
  say "databases, from $schemas"
  cp "$schemas"/*.sqlite "$state/db/"
  kept=1
else
  say "databases, by all their migrations"
  rm -rf "$schemas"
  mkdir -p "$schemas"
fi
migrate() { # migrate DATABASE COMMAND...
  [ -z "$kept" ] || return 0
  local name=$1; shift
  "$@" && cp "$state/db/$name.sqlite" "$schemas/"
}
jobs=()
in_back() { local name=$1; shift; ("$@") >"$state/log/$name-db.log" 2>&1 & jobs+=("$name:$!"); }
keystone_db() {
  migrate keystone keystone-manage --config-dir "$state/keystone" db_sync
  keystone-manage --config-dir "$state/keystone" fernet_setup --keystone-user "$(id -un)" --keystone-group "$(id -gn)"
  keystone-manage --config-dir "$state/keystone" credential_setup --keystone-user "$(id -un)" --keystone-group "$(id -gn)"
  local url=http://127.0.0.1:$KEYSTONE_PORT/v3
  OS_BOOTSTRAP_PASSWORD=$admin keystone-manage --config-dir "$state/keystone" bootstrap --bootstrap-region-id RegionOne \
    --bootstrap-public-url $url --bootstrap-internal-url $url --bootstrap-admin-url $url
}
nova_db() {
  local manage="nova-manage --config-file $state/nova/nova.conf" connection
  connection=$(database nova_cell0 | head -n 1)
  migrate nova_api $manage api_db sync
  $manage cell_v2 map_cell0 --database_connection "${connection#connection = }"
  $manage cell_v2 create_cell --name cell1
  migrate nova_cell1 $manage db sync
  migrate nova_cell0 true
}
# Neutron's and Cyborg's migrations do not run on sqlite: their tables are made from the models
models() { # models IMPORT BASE DATABASE
  local connection; connection=$(database "$3" | head -n 1)
  python -c "import sqlalchemy
$1
$2.metadata.create_all(sqlalchemy.create_engine('${connection#connection = }'))"
}
in_back keystone keystone_db
in_back placement migrate placement placement-manage --config-dir "$state/placement" db sync
in_back glance migrate glance glance-manage --config-file "$state/glance/glance-api.conf" db_sync
in_back nova nova_db
in_back neutron migrate neutron models $'from neutron_lib.db import model_base\nfrom neutron.db.migration.models import head' model_base.BASEV2 neutron
in_back cyborg migrate cyborg models 'from cyborg.db.sqlalchemy import models' models.Base cyborg
for job in "${jobs[@]}"; do wait "${job#*:}" || die "the database of ${job%%:*} was not made; see $state/log/${job%%:*}-db.log"; done
touch "$schemas/complete"

web keystone $KEYSTONE_PORT keystone.wsgi.api 1
answers keystone $KEYSTONE_PORT
seed() { CAUSEWAY_ADMIN_PASSWORD=$admin python "$here/seed.py" "$@" >>"$state/log/seed.log" 2>&1 || die "see $state/log/seed.log"; }
# Nova reads the catalogue at its start
seed catalogue "$state" $KEYSTONE_PORT placement=$PLACEMENT_PORT image=$GLANCE_PORT compute=$NOVA_PORT/v2.1 network=$NEUTRON_PORT accelerator=$CYBORG_PORT/v2
web placement $PLACEMENT_PORT placement.wsgi.api 1
web glance $GLANCE_PORT glance.wsgi.api 1
web neutron $NEUTRON_PORT neutron.wsgi.api 1
web cyborg $CYBORG_PORT cyborg.wsgi.api 4 "--config-file $state/cyborg/cyborg.conf"
start cyborg-conductor cyborg-conductor --config-file "$state/cyborg/cyborg.conf"
export CAUSEWAY_SQLITE_BEGIN='BEGIN IMMEDIATE'
web nova-api $NOVA_PORT nova.wsgi.osapi_compute 4
start nova-conductor nova-conductor --config-file "$state/nova/nova.conf"
start nova-scheduler nova-scheduler --config-file "$state/nova/nova.conf"
answers placement $PLACEMENT_PORT
start nova-compute nova-compute --config-file "$state/nova/nova.conf"
answers glance $GLANCE_PORT
answers neutron $NEUTRON_PORT
answers nova-api $NOVA_PORT
answers cyborg $CYBORG_PORT
unset CAUSEWAY_SQLITE_BEGIN
start cyborg-agent cyborg-agent --config-file "$state/cyborg/cyborg.conf"
seed resources "$state" $KEYSTONE_PORT
say "ready"
