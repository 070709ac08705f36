"""Sections on speed: measurements without a limit, compared with a peer on the same device."""

import statistics
import time
from collections.abc import Callable, Iterator
from importlib import import_module

import numpy as np
import torch
from numpy.typing import NDArray

from netkit.export.convert import translate
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import INPUT
from netkit.infer.runtime.ort import ort
from netkit.infer.runtime.providers import PROVIDERS
from netkit.infer.runtime.session import open_session
from netkit.nets import create
from netkit.nets.build import ARCHITECTURES
from netkit.nets.normalize import FromPixels
from netkit.nets.training import checkpoint
from scripts.tools.check_gpu.report import MEASURED, SKIPPED, Row
from scripts.tools.check_gpu.workspace import Workspace

BATCH_SIZES = (1, 64, 1024)
ROUNDS = 5
TURN_S = 0.2  # how long a peer runs in a round
Call = Callable[[NDArray[np.uint8]], object]


def training(work: Workspace) -> Iterator[Row]:
    """Measure an epoch of the default recipe and an epoch of the stock loop of scripts/bench/train.py."""
    if work.data != "mnist":
        yield Row("all", SKIPPED, "the stock loop trains on MNIST only")
        return
    bench = import_module("scripts.bench.train")
    bench.unpack_mnist(work.folder / "MNIST/raw")  # torchvision reads this folder
    for arch in ARCHITECTURES:
        torch.manual_seed(0)
        stock_s = next(bench.stock_epochs_s(create(arch).train(), work.folder, device=torch.device(work.device)))
        (epoch_s,) = work.one_epoch(arch, work.device).epochs_s
        yield Row(
            arch,
            MEASURED,
            f"{epoch_s:.2f} s per epoch; stock loop {stock_s:.2f} s, {stock_s / epoch_s:.1f} times as long",
        )


def inference(work: Workspace) -> Iterator[Row]:
    """Measure a batch in netkit, in ONNX Runtime (defaults, torch's plain export), in torch and in torch.compile."""
    peers = dict(_peers(work))
    for size in BATCH_SIZES:
        images_u8 = np.random.default_rng(0).integers(0, 256, (size, 1, 28, 28), np.uint8)
        medians = _medians_s(peers, images_u8)
        for name, median_s in medians.items():
            ratio = median_s / medians["netkit"]
            detail = f"{1000 * median_s:.3f} ms per batch, {size / median_s:,.0f} images/s, ratio to netkit {ratio:.2f}"
            yield Row(f"{name}, batch {size}", MEASURED, detail)


def _peers(work: Workspace) -> Iterator[tuple[str, Call]]:
    session = open_session(onnx_file.read(work.model), device=work.device)
    yield "netkit", lambda images_u8: session.run(images_u8, size=len(images_u8))
    net, card = checkpoint.load(work.one_epoch("residual", work.device).folder / "model.safetensors")
    plain = translate(net.eval(), card).SerializeToString()
    stock = ort.InferenceSession(plain, providers=[PROVIDERS[work.device]])
    yield f"{PROVIDERS[work.device]}, defaults", lambda images_u8: stock.run(None, {INPUT: images_u8})
    model = FromPixels(net, card).eval().to(work.device)
    for name, forward in (("torch", model), ("torch.compile", torch.compile(model, mode="reduce-overhead"))):
        yield name, _torch_call(forward, work.device)


def _torch_call(forward: Callable[[torch.Tensor], torch.Tensor], device: str) -> Call:
    @torch.no_grad()
    def call(images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        return forward(torch.from_numpy(images_u8).to(device)).cpu().numpy()

    return call


def _medians_s(peers: dict[str, Call], images_u8: NDArray[np.uint8]) -> dict[str, float]:
    """Return the median time of a call by peer, in seconds; the peers alternate."""
    times_s: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(ROUNDS + 1):
        for name, call in peers.items():
            ends = time.perf_counter() + TURN_S
            while (started := time.perf_counter()) < ends:
                call(images_u8)
                if turn:  # the first turn compiles and allocates
                    times_s[name].append(time.perf_counter() - started)
    return {name: statistics.median(durations) for name, durations in times_s.items()}
