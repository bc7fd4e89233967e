#!/usr/bin/env bash
# Gets a fresh Debian or Ubuntu machine ready to build Causeway. Quick and silent when all is there; otherwise says
# what is missing, why it is needed, and installs it with apt where that is allowed.
#
#   scripts/setup.sh          install what is missing
#   scripts/setup.sh --check  only say what is missing; exit code 1 if anything is
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*" >&2; }
die() { say "$@"; exit 1; }

[ "$(uname -s)" = Linux ] || die "Causeway's node runs on Linux (it uses namespaces, Landlock and cgroups). On another system use a Linux VM or container."

# ---- the Rust toolchain: the only thing we never install ourselves
min=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
command -v cargo >/dev/null || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
command -v cargo >/dev/null && command -v rustc >/dev/null \
  || die "no Rust toolchain found. Install one from https://rustup.rs (version $min or newer), open a new shell, run this again."
have=$(rustc --version | cut -d' ' -f2)
oldest=$(printf '%s\n%s\n' "$min" "${have%%-*}" | sort -V | head -n1)
[ "$oldest" = "$min" ] || die "Rust $have is too old: $min or newer is needed. Run: rustup update stable"
for part in fmt clippy; do
  cargo "$part" --version >/dev/null 2>&1 || say "note: cargo $part is missing; 'make check' needs it (rustup component add ${part/fmt/rustfmt})"
done

# ---- system packages: what is looked for, the package that has it, and why
libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && return 0
  compgen -G '/usr/lib/*/libclang*.so*' >/dev/null && return 0
  compgen -G '/usr/lib64/libclang*.so*' >/dev/null || compgen -G '/usr/lib/libclang*.so*' >/dev/null
}
missing=()
want() { # want PACKAGE "reason" test...
  local package=$1 reason=$2; shift 2
  "$@" >/dev/null 2>&1 || { missing+=("$package"); say "missing: $package ($reason)"; }
}
want make         "the targets of this Makefile"                       command -v make
want gcc          "cc links every Rust program"                        command -v cc
want clang        "compiles RocksDB, in half of g++'s time"            command -v clang++
want g++          "the C++ standard library's headers for RocksDB"     sh -c 'ls -d /usr/include/c++/* || ls -d /usr/lib/gcc/*/*/include/c++'
want libclang-dev "libclang reads RocksDB's headers for the bindings"  libclang
want lld          "links in seconds"                                   command -v ld.lld
[ ${#missing[@]} -eq 0 ] && exit 0

install="apt-get install -y --no-install-recommends ${missing[*]}"
[ "${1:-}" = --check ] && die "not ready. To install: sudo $install"
if ! command -v apt-get >/dev/null; then
  say "this is not Debian or Ubuntu, so nothing was installed. The same things elsewhere:"
  say "  Fedora: sudo dnf install make gcc gcc-c++ clang clang-devel lld"
  say "  Arch:   sudo pacman -S --needed base-devel clang lld"
  die "then run this again."
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=(sudo)
  else
    say "these packages need root, and neither root nor sudo is at hand. What to do instead:"
    say "  - ask whoever runs this machine for: $install"
    say "  - or build in a container: docker run --rm -it -v \"\$PWD:/src\" -w /src rust:$min bash -c 'make ring'"
    say "  - or, if a libclang is elsewhere (pip install libclang, conda), set LIBCLANG_PATH to its folder,"
    say "    and CXX_x86_64_unknown_linux_gnu=g++ to use the C++ compiler that is here."
    die "nothing was changed."
  fi
fi
say "installing with apt: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp); trap 'rm -f "$log"' EXIT
apt_install() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; }
apt_install || { "${as_root[@]}" apt-get update -q >>"$log" 2>&1 || true; apt_install; } \
  || { tail -n 20 "$log" >&2; die "apt could not install them (its last lines are above). Fix that, or install by hand: sudo $install"; }
say "done"
