"""Compare the speed of exported models with other ways to run the same network on all cores.

    python scripts/bench/model.py [--arch NAME ...] [--batch-size N] [--rounds N] [--passes | --profile]

netkit's models run as in `netkit infer`: each core runs its own batch in one thread. The peers are torch's plain export
in ONNX Runtime, with all cores per batch (the default) and with one core per batch; OpenVINO, if it is installed, on
that export, with one stream per core, in float32 and in the precision that it selects by default; and PyTorch, eager
and compiled, in channels_last. The peers alternate; the table has medians in images per second. "% of MatMul" and
"% of FMA peak" compare the multiply-adds of netkit float32 with the rates of scripts/bench/cores.py.

--passes measures netkit float32 after each graph pass instead. --profile lists the nodes of netkit float32 and int8
with their times from ONNX Runtime's profiler. Needs a C compiler, as torch.compile does. Prints Markdown tables.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from cores import fma_peak, matmul_rate
from numpy.typing import NDArray

from netkit.core.model_card import ModelCard
from netkit.core.system import usable_cores
from netkit.data import mnist
from netkit.export import quantize
from netkit.export.convert import convert, translate
from netkit.export.passes import FLOAT32, apply_passes, float32_passes
from netkit.infer.model.onnx_file import INPUT
from netkit.infer.runtime.providers import CPU
from netkit.nets.normalize import FromPixels
from netkit.nets.summary import multiply_adds
from netkit.nets.training import checkpoint

NETKIT = Path(sys.executable).with_name("netkit")
CORES = usable_cores()
IMAGES = 8192  # per turn
REST_S = 0.2  # before a turn: spinning threads of the previous turn slowed the next one down by a factor of 1.6
KERNEL_SUFFIX = "_kernel_time"  # ends the names of node timings in ONNX Runtime's profile
MIN_SHARE = 0.01  # share of the time; --profile omits nodes below it
FLOAT32_COLUMN = "**netkit float32**"
RATE_COLUMNS = ("% of MatMul", "% of FMA peak")
Batches = list[NDArray[np.uint8]]
Turn = Callable[[Batches], object]


def trained(arch: str) -> tuple[torch.nn.Module, ModelCard]:
    with tempfile.TemporaryDirectory() as folder:
        command: list[str | Path] = [NETKIT, "train", "--arch", arch, "--epochs", "0.5", "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        return checkpoint.load(Path(folder) / "model.safetensors")


def onnxruntime_turn(content: bytes, *, concurrent: int) -> Turn:
    """Run `concurrent` batches at a time, each in CORES / concurrent threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES // concurrent
    session = ort.InferenceSession(content, options, providers=[CPU])
    pool = ThreadPoolExecutor(concurrent)
    return lambda batches: list(pool.map(lambda batch: session.run(None, {INPUT: batch}), batches))


def openvino_turn(content: bytes, **options: str) -> Turn:
    openvino = import_module("openvino")
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": CORES, "NUM_STREAMS": CORES, **options}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        queue = openvino.AsyncInferQueue(core.compile_model(core.read_model(path), "CPU", settings), CORES)

    def turn(batches: Batches) -> None:
        for batch in batches:
            queue.start_async({INPUT: batch})
        queue.wait_all()

    return turn


def torch_turn(net: torch.nn.Module, card: ModelCard, *, compiled: bool) -> Turn:
    model = FromPixels(net, card).eval().to(memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model

    @torch.no_grad()
    def turn(batches: Batches) -> None:
        for batch in batches:
            forward(torch.tensor(batch).to(memory_format=torch.channels_last))

    return turn


def peers(net: torch.nn.Module, card: ModelCard) -> Iterator[tuple[str, Turn]]:
    plain = translate(net, card).SerializeToString()
    yield "torch.onnx.export, all cores per batch", onnxruntime_turn(plain, concurrent=1)
    yield "torch.onnx.export, one core per batch", onnxruntime_turn(plain, concurrent=CORES)
    with suppress(ImportError):
        yield "OpenVINO float32", openvino_turn(plain, INFERENCE_PRECISION_HINT="f32")
        yield "OpenVINO default precision", openvino_turn(plain)
    yield "PyTorch eager", torch_turn(net, card, compiled=False)
    yield "torch.compile", torch_turn(net, card, compiled=True)
    yield FLOAT32_COLUMN, onnxruntime_turn(convert(net, card), concurrent=CORES)
    padded = convert(net, card, passes=float32_passes(multiple=16))
    yield "netkit --pad-channels 16", onnxruntime_turn(padded, concurrent=CORES)
    int8 = quantize.to_int8(net, card, mnist.load().train_images)
    yield "**netkit int8**", onnxruntime_turn(int8, concurrent=CORES)


def after_each_pass(net: torch.nn.Module, card: ModelCard) -> Iterator[tuple[str, Turn]]:
    exported = translate(net, card)
    for count, name in enumerate(("torch.onnx.export", *FLOAT32)):
        after = apply_passes(exported, dict(list(FLOAT32.items())[:count]))
        yield name, onnxruntime_turn(after.SerializeToString(), concurrent=CORES)
    after = apply_passes(exported, float32_passes(multiple=16))
    yield "pad_channels (16)", onnxruntime_turn(after.SerializeToString(), concurrent=CORES)


def images_per_s(turns: dict[str, Turn], batches: Batches, rounds: int) -> dict[str, float]:
    """Return the median speed of each peer; the peers alternate, after one turn each to warm up."""
    times_s: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        turn(batches)
    for _ in range(rounds):
        for name, turn in turns.items():
            time.sleep(REST_S)
            started = time.perf_counter()
            turn(batches)
            times_s[name].append(time.perf_counter() - started)
    return {name: sum(map(len, batches)) / statistics.median(values) for name, values in times_s.items()}


@dataclass(frozen=True)
class NodeTime:
    """The time of a node per image in the optimized graph, and its float32 multiply-adds per image."""

    name: str
    operator: str
    output: list[int]
    micro_s: float
    multiply_adds: float

    def row(self, total_micro_s: float, rates: Sequence[float]) -> str:
        """Format as a row; `rates` are multiply-adds per second of one core, in the order of RATE_COLUMNS."""
        cells = [self.name, self.operator, "x".join(map(str, self.output[1:]))]
        cells += [f"{self.micro_s:.1f} us", f"{self.micro_s / total_micro_s:.0%}"]
        if self.multiply_adds:
            cells += [f"{self.multiply_adds:,.0f}"]
            cells += [f"{self.multiply_adds / self.micro_s * 1e6 / rate:.0%}" for rate in rates]
        else:
            cells += ["", *("" for _ in rates)]
        return f"| {' | '.join(cells)} |"


def profile(content: bytes, batches: Batches) -> Iterator[NodeTime]:
    """Yield the median times of one thread, in the order in which the nodes run."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling = 1, True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(content, options, providers=[CPU])
        for batch in batches:
            session.run(None, {INPUT: batch})
        events = json.loads(Path(session.end_profiling()).read_text())
    runs_of: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(KERNEL_SUFFIX):
            runs_of.setdefault(event["name"].removesuffix(KERNEL_SUFFIX), []).append(event)
    for name, runs in runs_of.items():
        details, batch_size = runs[0]["args"], len(batches[0])
        (output,) = details["output_type_shape"][0].values()
        inputs = [shape for typed in details["input_type_shape"] for shape in typed.values()]
        micro_s = statistics.median(run["dur"] for run in runs) / batch_size
        operator = details["op_name"]
        yield NodeTime(name, operator, output, micro_s, _multiply_adds(operator, inputs, output) / batch_size)


def _multiply_adds(operator: str, inputs: list[list[int]], output: list[int]) -> int:
    if operator in ("Conv", "FusedConv"):
        return math.prod(output) * math.prod(inputs[1][1:])
    if operator in ("Gemm", "FusedGemm", "MatMul"):
        return math.prod(output) * inputs[0][-1]
    return 0


def print_profiles(net: torch.nn.Module, card: ModelCard, batches: Batches) -> None:
    float32 = convert(net, card)
    rates = matmul_rate() / CORES, fma_peak() / CORES
    for name, content in (("float32", float32), ("int8", quantize.to_int8(net, card, mnist.load().train_images))):
        nodes = list(profile(content, batches))
        total = sum(node.micro_s for node in nodes)
        print(f"\n{card.arch}, {name}: {total:.1f} us per image\n")
        print_header(
            "node", "operator", "output shape", "time per image", "share of time", "multiply-adds", *RATE_COLUMNS
        )
        rows = (node.row(total, rates) for node in nodes if node.micro_s >= MIN_SHARE * total)
        print(*rows, sep="\n", flush=True)


def print_header(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="*", default=["inception", "residual", "preact", "densenet"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--passes", action="store_true")
    mode.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(CORES)
    images_u8, size = mnist.load().test_images[:IMAGES], arguments.batch_size
    batches = [images_u8[start : start + size] for start in range(0, IMAGES, size)]
    for index, arch in enumerate(arguments.arch):
        net, card = trained(arch)
        if arguments.profile:
            print_profiles(net.eval(), card, batches)
            continue
        turns = after_each_pass if arguments.passes else peers
        speeds = images_per_s(dict(turns(net.eval(), card)), batches, arguments.rounds)
        if not index:
            print_header("network", *speeds, *RATE_COLUMNS)
        float32 = speeds["explicit_padding" if arguments.passes else FLOAT32_COLUMN]
        rate = float32 * multiply_adds(net, (card.channels, card.height, card.width))
        shares = f"{rate / matmul_rate():.0%} | {rate / fma_peak():.0%}"
        print(f"| {arch} | {' | '.join(f'{speed:,.0f}' for speed in speeds.values())} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
