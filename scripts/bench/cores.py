"""What the cores do at best: multiply-adds a second in products of float32 matrices, and with nothing else to do.

    python scripts/bench/cores.py

Nothing that a model computes in float32 can be faster than the second, but for what two measurements differ by, 2 % or
so. It needs a C compiler.
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
enum { SUMS = 12, LANES = sizeof(V) / sizeof(float) };  /* enough for two a cycle, and fewer than registers */
long run(long rounds, float *out) {
    V sums[SUMS], factor = {0}, term = {0};
    factor += out[0]; term += out[1];
    for (int i = 0; i < SUMS; i++) sums[i] = term * (float)i;  /* else they are one to a compiler */
    for (long round = 0; round < rounds; round++)
        for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * factor + term;
    for (int i = 0; i < SUMS; i++) for (int j = 0; j < LANES; j++) *out += sums[i][j];
    return rounds * SUMS * LANES;
}
"""


def peak(rounds: int = 10) -> float:
    """Multiply-adds a second of a product of matrices, as ONNX Runtime does it; numpy took twice as long."""
    side = 2048
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "g", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    matrix = np.random.default_rng(0).random((side, side), np.float32)

    def once() -> float:
        started = time.perf_counter()
        session.run(None, {"a": matrix, "b": matrix})
        return time.perf_counter() - started

    return side**3 / statistics.median(once() for _ in range(rounds))


def limit(rounds: int = 10, *, times: int = 2_000_000) -> float:
    """Multiply-adds a second of all cores where they do nothing else, and need nothing from memory."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "fma.c", Path(folder) / "fma.so"
        source.write_text(FMA)
        subprocess.run(["cc", "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
        run = ctypes.CDLL(str(library)).run
    run.restype = ctypes.c_long

    def once(pool: ThreadPoolExecutor) -> float:
        started = time.perf_counter()
        done = pool.map(lambda _: run(ctypes.c_long(times), (ctypes.c_float * 2)(0.5, 0.5)), range(CORES))
        return sum(done) / (time.perf_counter() - started)

    with ThreadPoolExecutor(CORES) as pool:
        return statistics.median(once(pool) for _ in range(rounds))


def main() -> None:
    print(f"{CORES} cores, multiply-adds a second: {peak():.3g} in products of matrices, {limit():.3g} at most")


if __name__ == "__main__":
    main()
