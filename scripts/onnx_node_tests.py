"""Writes the backend tests of the installed onnx package, which from 1.23 on has them as programs only, as an archive
laid out like its older wheels: what `cargo xtask onnx-node-tests --wheel FILE` reads.

usage: $(sh scripts/onnxruntime.sh) scripts/onnx_node_tests.py FILE.zip
"""

import argparse
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test import cmd_tools
from onnx.backend.test.case import model, node

FOLDERS = ("node", "simple", "pytorch-converted", "pytorch-operator")
SHIPPED = Path(cmd_tools.DATA_DIR)


def main(archive):
    np.random.seed(0)
    cases = {case.name: case for case in [*node.collect_testcases(), *model.collect_testcases()] if case.kind != "real"}
    cmd_tools.model_test = types.SimpleNamespace(collect_testcases=lambda: list(cases.values()))
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        cmd_tools.generate_data(argparse.Namespace(output=folder))
        for root in (Path(folder), SHIPPED):
            for path in sorted(p for name in FOLDERS for p in (root / name).rglob("*") if p.is_file()):
                member = f"onnx/backend/test/data/{path.relative_to(root)}"
                if member not in out.NameToInfo:
                    out.write(path, member)
        tests = {name.split("/")[5] for name in out.namelist()}
    print(f"{archive}: {len(tests)} tests of onnx {onnx.__version__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
