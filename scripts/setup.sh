#!/bin/sh
# Prepares a Debian 12 machine for building ssmc.
#
# As root: installs the missing packages. Otherwise: lists them and exits 1.
# LLVM is linked statically; its archives need the -dev packages of the libraries they use.
# pip fetches the model of the demo and the tools of tests from PyPI.
# Code for aarch64 is tested under qemu; without it and its C compiler those tests are skipped.
# Without LLVM (`cargo build -p ssmc --no-default-features`) only build-essential is needed.
set -eu

packages="
build-essential
ca-certificates
gcc-aarch64-linux-gnu
git
libc6-dev-arm64-cross
llvm-22-dev
libffi-dev
libpolly-22-dev
libxml2-dev
libz3-dev
libzstd-dev
python3-pip
qemu-user
zlib1g-dev
"
rust_minimum="1.90"
llvm_prefix="${LLVM_SYS_221_PREFIX:-/usr/lib/llvm-22}"

installed() {
    [ "$(dpkg-query --show --showformat='${Status}' "$1" 2>/dev/null)" = "install ok installed" ]
}

if ! command -v dpkg-query >/dev/null; then
    echo "setup: this script knows Debian and its derivatives only; install the equivalents of:" $packages >&2
    exit 1
fi

missing=""
for package in $packages; do
    installed "$package" || missing="$missing $package"
done

if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: missing packages:$missing" >&2
        echo "setup: run this script as root, or: sudo apt-get install$missing" >&2
        exit 1
    fi
    echo "setup: installing$missing"
    apt-get update
    for package in $missing; do
        apt-cache show "$package" >/dev/null 2>&1 || {
            echo "setup: no source of packages has $package; LLVM 22 for Debian 12 is in bookworm-security" >&2
            exit 1
        }
    done
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing
fi

faults=0
fault() {
    echo "setup: $1" >&2
    faults=1
}

if [ -x "$llvm_prefix/bin/llvm-config" ]; then
    version="$("$llvm_prefix/bin/llvm-config" --version)"
    case "$version" in
        22.*) ;;
        *) fault "expected LLVM 22 at $llvm_prefix, found $version" ;;
    esac
else
    fault "no llvm-config at $llvm_prefix/bin; set LLVM_SYS_221_PREFIX to the prefix of LLVM 22"
fi

for tool in cargo rustc; do
    command -v "$tool" >/dev/null || fault "no $tool on the PATH; install Rust $rust_minimum or later from https://rustup.rs"
done
if command -v rustc >/dev/null; then
    version="$(rustc --version | cut -d ' ' -f 2)"
    oldest="$(printf '%s\n%s\n' "$rust_minimum" "$version" | sort --version-sort | head -n 1)"
    [ "$oldest" = "$rust_minimum" ] || fault "expected Rust $rust_minimum or later, found $version"
fi

[ "$faults" -eq 0 ] || exit 1
echo "setup: ready"
