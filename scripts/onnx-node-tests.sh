#!/bin/sh
# Fetches the wheel whose tests `cargo xtask onnx-node-tests` runs. The command checks its digest.
set -eu
folder=$(dirname "$0")/../target/onnx-node-tests
mkdir -p "$folder"
python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$folder" \
    --implementation cp --python-version 3.11 --abi cp311 --platform manylinux_2_28_x86_64 onnx==1.22.0
ls "$folder"
