#!/usr/bin/env bash
# Installs, starts and tests real control planes, then writes the matrix of cases into docs/adapters.md.
#   scripts/backends/up.sh NAME...        NAME is a script beside this one: slurm, kubernetes, openstack, vmware
# With KEEP=1 what was started goes on; otherwise it is stopped again.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/causeway/target}
results=${CAUSEWAY_RESULTS_DIR:-$CARGO_TARGET_DIR/backends}
mkdir -p "$results"
[ $# -gt 0 ] || { echo "backends: name at least one: $(cd "$here" && ls *.sh | grep -vE '^(up|down|common)\.sh$' | sed 's/\.sh//' | tr '\n' ' ')" >&2; exit 2; }
for name in "$@"; do
  [ -x "$here/$name.sh" ] || { echo "backends: $name: there is no scripts/backends/$name.sh" >&2; exit 2; }
done
failed=(); skipped=(); held=()
for name in "$@"; do
  rm -f "$results/$name.json"
  rc=0
  for verb in install up test; do
    "$here/$name.sh" $verb || { rc=$?; echo "backends: $name: $verb ended with $rc" >&2; break; }
  done
  [ "${KEEP:-0}" = 1 ] || "$here/$name.sh" down || rc=1
  case $rc in 0) held+=("$name") ;; 3) skipped+=("$name") ;; *) failed+=("$name") ;; esac
done
# also after a failure: the matrix then says what failed
if compgen -G "$results/*.json" >/dev/null; then
  "${MATRIX:-$CARGO_TARGET_DIR/release/conformance-matrix}" --results "$results" --page "$root/docs/adapters.md" \
    --exceptions "$root/adapters/conformance-exceptions.toml" || failed+=("matrix")
fi
[ ${#held[@]} -eq 0 ] || echo "backends: held: ${held[*]}"
[ ${#skipped[@]} -eq 0 ] || echo "backends: SKIPPED, nothing was shown of: ${skipped[*]}"
[ ${#failed[@]} -eq 0 ] || { echo "backends: FAILED: ${failed[*]}"; exit 1; }
