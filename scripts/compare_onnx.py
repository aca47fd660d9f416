"""Compares a model with what `ssmc optimize` made of it, in onnxruntime.

usage: compare_onnx.py ORIGINAL OPTIMIZED TOLERANCE [--time] INPUTS.npz OUTPUTS.npz ...

Checks the optimized model with onnx.checker, runs it on every input file, and compares with the recorded outputs and
with what the original computes. With --time both are run in turns on the first inputs, on one thread, and the time of the
processor is measured. ORIGINAL may
be -, if there is none. With --latest=FILE the same is checked of a model in an operator set that onnxruntime does not
know, by the reference evaluator of onnx, if it has an operator that is new there. Prints one JSON object.
"""

import json
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

ROUNDS = 15
SECONDS_PER_ROUND = 0.02
# A model that seems slower is measured again, as often as this.
REPEATS = 6
SLOWER = 1.03


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(run, arrays):
    return {i.name: arrays[i.name] for i in run.get_inputs()}


def error(found, reference):
    worst = 0.0
    for name, expected in reference.items():
        y = found[name].astype(np.float64)
        expected = expected.astype(np.float64)
        if y.shape != expected.shape:
            raise ValueError(f"output {name}: expected {expected.shape}, found {y.shape}")
        peak = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
        equal = (y == expected) | (np.isnan(y) & np.isnan(expected))
        difference = np.where(equal, 0.0, np.abs(y - expected))
        difference = np.where(np.isnan(difference), np.inf, difference).max(initial=0.0)
        worst = max(worst, 0.0 if difference == 0.0 else difference / peak if peak else np.inf)
    return float(worst)


def outputs(run, arrays):
    names = [o.name for o in run.get_outputs()]
    return dict(zip(names, run.run(names, feeds(run, arrays))))


def port(info):
    return [info.name, info.type, info.shape]


def measure(runs, arrays):
    """Best time of each model. They take turns, so that both see the same machine, and what counts is the time of the
    processor in this one thread, so that other programs on it do not."""
    ready = [(run, feeds(run, arrays)) for run in runs]
    counts = []
    for run, feed in ready:
        for _ in range(3):
            run.run(None, feed)
        start = time.thread_time()
        run.run(None, feed)
        counts.append(max(1, int(SECONDS_PER_ROUND / max(time.thread_time() - start, 1e-6))))
    best = [float("inf")] * len(ready)
    for _ in range(REPEATS):
        for turn in range(ROUNDS):
            order = list(enumerate(ready))
            for i, (run, feed) in order if turn % 2 else reversed(order):
                start = time.thread_time()
                for _ in range(counts[i]):
                    run.run(None, feed)
                best[i] = min(best[i], (time.thread_time() - start) / counts[i])
        if best[1] <= SLOWER * best[0]:
            break
    return [seconds * 1e6 for seconds in best]


NEW = {"LinearAttention", "CausalConvWithState"}


def evaluated(path, arrays):
    """Outputs by the reference evaluator, unless the model has none of the new operators or it lacks others."""
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    graphs = [model.graph, *model.functions]
    if NEW.isdisjoint(node.op_type for graph in graphs for node in graph.node):
        return None
    try:
        run = ReferenceEvaluator(model)
    except RuntimeError as fault:
        if "not implemented" not in str(fault):
            raise
        return None
    return dict(zip(run.output_names, run.run(None, {name: arrays[name] for name in run.input_names})))


def main(original, optimized, tolerance, *rest):
    result = {"faults": []}
    timed = "--time" in rest
    latest = [f.removeprefix("--latest=") for f in rest if f.startswith("--latest=")]
    files = [f for f in rest if not f.startswith("--")]
    onnx.checker.check_model(optimized, full_check=True)
    after = session(optimized)
    try:
        before = None if original == "-" else session(original)
    except Exception as fault:
        result["original_fault"] = str(fault).splitlines()[0]
        before = None
    worst = 0.0
    for given, expected in zip(files[::2], files[1::2]):
        arrays = dict(np.load(given))
        found = outputs(after, arrays)
        worst = max(worst, error(found, dict(np.load(expected))))
        if before is not None:
            result["against_original"] = max(
                result.get("against_original", 0.0), error(found, outputs(before, arrays))
            )
    for path in latest:
        found = evaluated(path, dict(np.load(files[0])))
        if found is not None:
            result["latest"] = error(found, dict(np.load(files[1])))
            worst = max(worst, result["latest"])
    result["error"] = worst
    if not worst <= float(tolerance):
        result["faults"].append(f"error {worst:.2e} exceeds the tolerance {tolerance}")
    if before is not None:
        for kind in ("inputs", "outputs"):
            a = [port(i) for i in getattr(before, f"get_{kind}")()]
            b = [port(i) for i in getattr(after, f"get_{kind}")()]
            if [p[:2] for p in a] != [p[:2] for p in b]:
                result["faults"].append(f"{kind}: expected {a}, found {b}")
        if timed:
            arrays = dict(np.load(files[0]))
            result["microseconds"] = measure([before, after], arrays)
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
