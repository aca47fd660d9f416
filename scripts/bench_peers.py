#!/usr/bin/env python3
"""One measurement of a peer that Python drives, for `cargo xtask bench cpu`. Prints `rate`, a tab and the number.

usage: bench_peers.py onnxruntime THREADS FILE.onnx RUNS    tokens per second
       bench_peers.py numpy SIZE                            GFLOP/s of a product of square matrices

An ONNX file that takes ids alone is run RUNS times on all of them at once; one that takes states too is a step, run RUNS
times with the states fed back. The fastest run counts for products, the median for models.
"""
import statistics
import sys
import time


def onnxruntime(threads, path, runs):
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ids_in, *states_in = session.get_inputs()
    ids = numpy.random.default_rng(7).integers(2, 500, ids_in.shape, dtype=numpy.int64)
    outputs = [output.name for output in session.get_outputs()]
    states = [onnxruntime.OrtValue.ortvalue_from_numpy(numpy.zeros(i.shape, numpy.float32)) for i in states_in]
    seconds = []
    for _ in range(runs + 1):
        binding = session.io_binding()
        binding.bind_cpu_input(ids_in.name, ids)
        for state_in, state in zip(states_in, states):
            binding.bind_ortvalue_input(state_in.name, state)
        for output in outputs:
            binding.bind_output(output, "cpu")
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        seconds.append(time.perf_counter() - start)
        if states_in:
            states = binding.get_outputs()[1:]
    return ids.size / statistics.median(seconds[1:])


def numpy_product(size):
    import numpy

    a = numpy.random.default_rng(1).standard_normal((size, size), dtype=numpy.float32)
    fastest = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * size**3 / fastest * 1e-9


match sys.argv[1:]:
    case ["onnxruntime", threads, path, runs]:
        print("rate", onnxruntime(int(threads), path, int(runs)), sep="\t")
    case ["numpy", size]:
        print("rate", numpy_product(int(size)), sep="\t")
    case _:
        sys.exit(__doc__)
