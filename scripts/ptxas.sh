#!/bin/sh
# Fetches NVIDIA's PTX assembler and disassemblers, pinned, into .cache/ptxas; tests assemble generated PTX with them.
# No GPU and no CUDA toolkit is needed. Set PIP to use another installer.
set -eu
cd "$(dirname "$0")/.."
version=13.5.37
dir=.cache/ptxas
if [ -x "$dir/bin/ptxas" ] && [ "$(cat "$dir/version" 2>/dev/null)" = "$version" ]; then
    exit 0
fi
rm -rf "$dir" && mkdir -p "$dir"
${PIP:-python3 -m pip} download --quiet --no-deps --only-binary=:all: --dest "$dir/wheels" \
    "nvidia-cuda-nvcc==$version" "nvidia-cuda-cuobjdump==$version" "nvidia-cuda-nvdisasm==$version"
for wheel in "$dir"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$dir/unpacked"
done
mkdir "$dir/bin"
for tool in ptxas cuobjdump nvdisasm; do
    find "$dir/unpacked" -name "$tool" -type f -exec mv {} "$dir/bin/$tool" \;
    chmod +x "$dir/bin/$tool"
done
rm -rf "$dir/unpacked" "$dir/wheels"
echo "$version" > "$dir/version"
