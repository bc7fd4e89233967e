#!/usr/bin/env bash
# Stops the control planes that up.sh started with KEEP=1: all, or those named.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rc=0
for script in "$here"/*.sh; do
  name=$(basename "$script" .sh)
  case $name in up|down|common) continue ;; esac
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  "$script" down || rc=1
done
exit $rc
