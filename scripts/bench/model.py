"""How fast exported models run, alone, against what else a user could run the same net with, on the same cores.

    python scripts/bench/model.py [--arch NAME ...] [--batch-size N] [--rounds N] [--passes | --profile]

netkit's models run as `netkit infer` runs them: a batch a core, each in one thread. The peers: torch's own export in
ONNX Runtime, in one session of all cores, which is its default, and as netkit runs its own; OpenVINO on that export, in
float32 and in the precision that it chooses itself, a stream a core; PyTorch, eager and compiled, channels_last. All
take turns, round by round; the table has medians in images a second. `peak` is the share that netkit's float32 has of
what a product of float32 matrices reaches here, by the multiply-adds of the net as it is defined; `limit` that of what
the cores do where they do nothing but multiply and add, in registers. OpenVINO is a peer if it is installed.

With --passes instead: netkit's float32 after each graph pass. With --profile: where a run of netkit's
float32 and int8 spends its time, by ONNX Runtime's own clock, and what each node reaches of peak and limit. Needs a C
compiler, as torch.compile does. Prints Markdown tables.
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
from cores import limit, peak
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
IMAGES = 8192  # a turn
REST_S = 0.2  # before a turn: threads of the one before spin on, which made the next take 1.6 times as long
KERNEL = "_kernel_time"  # by which ONNX Runtime's profile ends the names of nodes that it timed
LEAST_SHARE = 0.01  # of the time: nodes that take less are not shown
Batches = list[NDArray[np.uint8]]
Turn = Callable[[Batches], object]


def trained(arch: str) -> tuple[torch.nn.Module, ModelCard]:
    with tempfile.TemporaryDirectory() as folder:
        command: list[str | Path] = [NETKIT, "train", "--arch", arch, "--epochs", "0.5", "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        return checkpoint.load(Path(folder) / "model.safetensors")


def in_onnxruntime(content: bytes, *, sessions: int) -> Turn:
    """As many batches at a time, each in its share of the cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES // sessions
    session = ort.InferenceSession(content, options, providers=[CPU])
    pool = ThreadPoolExecutor(sessions)
    return lambda batches: list(pool.map(lambda batch: session.run(None, {INPUT: batch}), batches))


def in_openvino(content: bytes, **options: str) -> Turn:
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


def in_torch(net: torch.nn.Module, card: ModelCard, *, compiled: bool) -> Turn:
    model = FromPixels(net, card).eval().to(memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model

    @torch.no_grad()
    def turn(batches: Batches) -> None:
        for batch in batches:
            forward(torch.tensor(batch).to(memory_format=torch.channels_last))

    return turn


def contestants(net: torch.nn.Module, card: ModelCard) -> Iterator[tuple[str, Turn]]:
    plain = translate(net, card).SerializeToString()
    yield "torch's export, one session", in_onnxruntime(plain, sessions=1)
    yield "a session a core", in_onnxruntime(plain, sessions=CORES)
    with suppress(ImportError):
        yield "OpenVINO float32", in_openvino(plain, INFERENCE_PRECISION_HINT="f32")
        yield "its own choice", in_openvino(plain)
    yield "PyTorch", in_torch(net, card, compiled=False)
    yield "compiled", in_torch(net, card, compiled=True)
    yield "**netkit float32**", in_onnxruntime(convert(net, card), sessions=CORES)
    padded = convert(net, card, passes=float32_passes(multiple=16))
    yield "--pad-channels 16", in_onnxruntime(padded, sessions=CORES)
    eight = quantize.to_int8(net, card, mnist.load().train_images)
    yield "**netkit int8**", in_onnxruntime(eight, sessions=CORES)


def after_each_pass(net: torch.nn.Module, card: ModelCard) -> Iterator[tuple[str, Turn]]:
    exported = translate(net, card)
    for count, name in enumerate(("torch's export", *(step.__name__ for step in FLOAT32))):
        after = apply_passes(exported, FLOAT32[:count])
        yield name, in_onnxruntime(after.SerializeToString(), sessions=CORES)
    after = apply_passes(exported, float32_passes(multiple=16))
    yield "channels in 16s", in_onnxruntime(after.SerializeToString(), sessions=CORES)


def medians(turns: dict[str, Turn], batches: Batches, rounds: int) -> dict[str, float]:
    """Images a second of each."""
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        turn(batches)
    for _ in range(rounds):
        for name, turn in turns.items():
            time.sleep(REST_S)
            started = time.perf_counter()
            turn(batches)
            taken[name].append(time.perf_counter() - started)
    return {name: sum(map(len, batches)) / statistics.median(each) for name, each in taken.items()}


@dataclass(frozen=True)
class NodeTime:
    """What a node of the optimised graph takes for an image, and its multiply-adds where they are in float32."""

    name: str
    operator: str
    output: list[int]
    micro_s: float
    multiply_adds: float

    def row(self, total_micro_s: float, rates: Sequence[float]) -> str:
        """With its shares of those rates, of multiply-adds a second of a core."""
        cells = [self.name, self.operator, "x".join(map(str, self.output[1:]))]
        cells += [f"{self.micro_s:.1f} us", f"{self.micro_s / total_micro_s:.0%}"]
        if self.multiply_adds:
            cells += [f"{self.multiply_adds:,.0f}"]
            cells += [f"{self.multiply_adds / self.micro_s * 1e6 / rate:.0%}" for rate in rates]
        else:
            cells += ["", *("" for _ in rates)]
        return f"| {' | '.join(cells)} |"


def profile(content: bytes, batches: Batches) -> Iterator[NodeTime]:
    """Medians over runs in one thread, in the order in which nodes run."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling = 1, True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(content, options, providers=[CPU])
        for batch in batches:
            session.run(None, {INPUT: batch})
        events = json.loads(Path(session.end_profiling()).read_text())
    taken: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(KERNEL):
            taken.setdefault(event["name"].removesuffix(KERNEL), []).append(event)
    for name, runs in taken.items():
        told, size = runs[0]["args"], len(batches[0])
        (output,) = told["output_type_shape"][0].values()
        inputs = [shape for typed in told["input_type_shape"] for shape in typed.values()]
        micro_s = statistics.median(run["dur"] for run in runs) / size
        yield NodeTime(name, told["op_name"], output, micro_s, _multiply_adds(told["op_name"], inputs, output) / size)


def _multiply_adds(operator: str, inputs: list[list[int]], output: list[int]) -> int:
    if operator in ("Conv", "FusedConv"):
        return math.prod(output) * math.prod(inputs[1][1:])
    if operator in ("Gemm", "FusedGemm", "MatMul"):
        return math.prod(output) * inputs[0][-1]
    return 0


def print_profiles(net: torch.nn.Module, card: ModelCard, batches: Batches) -> None:
    fast = convert(net, card)
    of_core = peak() / CORES, limit() / CORES
    for name, content in (("float32", fast), ("int8", quantize.to_int8(net, card, mnist.load().train_images))):
        nodes = list(profile(content, batches))
        total = sum(node.micro_s for node in nodes)
        print(f"\n{card.arch}, {name}: {total:.1f} us for an image\n")
        columns = ("node", "operator", "output", "time", "share", "multiply-adds", "of peak", "of limit")
        print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
        print(
            *(node.row(total, of_core) for node in nodes if node.micro_s >= LEAST_SHARE * total), sep="\n", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="*", default=["inception", "residual", "preact", "densenet"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--passes", action="store_true")
    instead.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(CORES)
    pixels = mnist.load().test_images[:IMAGES]
    batches = [pixels[start : start + asked.batch_size] for start in range(0, IMAGES, asked.batch_size)]
    for place, arch in enumerate(asked.arch):
        net, card = trained(arch)
        if asked.profile:
            print_profiles(net.eval(), card, batches)
            continue
        who = after_each_pass if asked.passes else contestants
        found = medians(dict(who(net.eval(), card)), batches, asked.rounds)
        if not place:
            print(
                f"| net | {' | '.join(found)} | peak | limit |", "|---" * (len(found) + 3) + "|", sep="\n", flush=True
            )
        float32 = found["explicit_padding" if asked.passes else "**netkit float32**"]
        done = float32 * multiply_adds(net, (card.channels, card.height, card.width))
        shares = f"{done / peak():.0%} | {done / limit():.0%}"
        print(f"| {arch} | {' | '.join(f'{speed:,.0f}' for speed in found.values())} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
