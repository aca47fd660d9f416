#!/bin/sh
# Builds `ssmc-runner` for aarch64 and prints the path of a program that runs it under qemu as a processor with dot
# products and I8MM, for `cargo xtask corpus DIR --target LEVEL --runner PATH`. Other processors: set QEMU_CPU.
#
# Rust's standard library for aarch64 comes from rustup where that has the target, else from Debian's packages of Rust
# (bookworm-security), unpacked into .cache/aarch64: nothing is installed.
set -eu
cd "$(dirname "$0")/.."
dir=$PWD/.cache/aarch64
target=aarch64-unknown-linux-gnu
mkdir -p "$dir"

if ! rustup target list --installed 2>/dev/null | grep -qx "$target"; then
    if [ ! -f "$dir/complete" ]; then
        rm -rf "$dir/apt" "$dir/root"
        mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/root"
        # Lists of packages of both architectures, apart from those of the machine.
        apt() {
            apt-get --quiet --quiet -o Dir::State::Lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache" \
                -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o Debug::NoLocking=1 "$@" >&2
        }
        apt update
        (cd "$dir/apt" && apt download rustc-web:amd64 libstd-rust-web-dev:amd64 libstd-rust-web-dev:arm64 \
            "$(apt-cache depends rustc-web libstd-rust-web-dev | grep -o 'libstd-rust-web-[0-9.]*' | sort -V | tail -n 1):amd64")
        for package in "$dir"/apt/*.deb; do
            dpkg-deb --extract "$package" "$dir/root"
        done
        rm -rf "$dir/apt"
        {
            echo '#!/bin/sh'
            echo "LD_LIBRARY_PATH=$dir/root/usr/lib/x86_64-linux-gnu exec $dir/root/usr/bin/rustc --sysroot $dir/root/usr \"\$@\""
        } > "$dir/rustc"
        chmod +x "$dir/rustc"
        touch "$dir/complete"
    fi
    export RUSTC="$dir/rustc"
fi

CARGO_TARGET_DIR="$dir/target" CARGO_INCREMENTAL=0 \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --quiet --package ssmc-runner --target "$target" >&2
{
    echo '#!/bin/sh'
    echo "QEMU_CPU=\${QEMU_CPU:-max} exec qemu-aarch64 $dir/target/$target/debug/ssmc-runner \"\$@\""
} > "$dir/runner"
chmod +x "$dir/runner"
echo "$dir/runner"
