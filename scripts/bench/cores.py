"""Measure the multiply-add rate of the cores: in a float32 matrix product, and as the FMA peak.

    python scripts/bench/cores.py

The FMA peak is the rate of fused multiply-adds in registers, without memory access. No float32 model can exceed it by
more than the difference between two measurements, about 2 %. Needs a C compiler.
"""

import ctypes
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from netkit.core.system import usable_cores
from netkit.infer.runtime.providers import CPU

CORES = usable_cores()
FMA = """
#ifdef __AVX512F__
typedef float V __attribute__((vector_size(64)));
#else
typedef float V __attribute__((vector_size(32)));
#endif
enum { SUMS = 12, LANES = sizeof(V) / sizeof(float) };  /* keeps two FMA units busy, and fits into the registers */
long run(long rounds, float *out) {
    V sums[SUMS], factor = {0}, term = {0};
    factor += out[0]; term += out[1];
    for (int i = 0; i < SUMS; i++) sums[i] = term * (float)i;  /* equal sums would be merged by the compiler */
    for (long round = 0; round < rounds; round++)
        for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * factor + term;
    for (int i = 0; i < SUMS; i++) for (int j = 0; j < LANES; j++) *out += sums[i][j];
    return rounds * SUMS * LANES;
}
"""


def matmul_rate(rounds: int = 10) -> float:
    """Return the multiply-adds per second of a matrix product in ONNX Runtime, which took half the time of numpy's."""
    side = 2048
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "g", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    matrix = np.random.default_rng(0).random((side, side), np.float32)

    def run_s() -> float:
        started = time.perf_counter()
        session.run(None, {"a": matrix, "b": matrix})
        return time.perf_counter() - started

    return side**3 / statistics.median(run_s() for _ in range(rounds))


def fma_peak(rounds: int = 10, *, iterations: int = 2_000_000) -> float:
    """Return the multiply-adds per second of all cores in a loop of FMA instructions on registers."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "fma.c", Path(folder) / "fma.so"
        source.write_text(FMA)
        subprocess.run(["cc", "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
        run = ctypes.CDLL(str(library)).run
    run.restype = ctypes.c_long

    def rate(pool: ThreadPoolExecutor) -> float:
        started = time.perf_counter()
        counts = pool.map(lambda _: run(ctypes.c_long(iterations), (ctypes.c_float * 2)(0.5, 0.5)), range(CORES))
        return sum(counts) / (time.perf_counter() - started)

    with ThreadPoolExecutor(CORES) as pool:
        return statistics.median(rate(pool) for _ in range(rounds))


def main() -> None:
    print(f"{CORES} cores, multiply-adds/s: matrix product {matmul_rate():.3g}, FMA peak {fma_peak():.3g}")


if __name__ == "__main__":
    main()
