#!/bin/sh
# Makes a Python environment with the ONNX checker and onnxruntime, the tools that judge what `ssmc optimize` writes,
# and prints the path of its interpreter. Ends with 3 where that is not possible, such as without a network.
set -eu
dir=$(cd "$(dirname "$0")/.." && pwd)/.cache/onnxruntime-1.31.1
python="$dir/bin/python"
if [ ! -f "$dir/complete" ]; then
    rm -rf "$dir"
    python3 -m venv "$dir" >&2 || exit 3
    "$python" -m pip install --quiet --disable-pip-version-check \
        numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1 >&2 || exit 3
    touch "$dir/complete"
fi
echo "$python"
