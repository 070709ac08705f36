"""Sections on exported models: certificates, predictions, execution providers, memory."""

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from netkit.api.load import load
from netkit.core.errors import OutOfMemoryError
from netkit.infer.model import onnx_file
from netkit.infer.model.verify import read_self_test
from netkit.infer.runtime.ort import ort
from netkit.infer.runtime.providers import CPU, PROVIDERS
from netkit.infer.runtime.session import open_session
from netkit.nets.build import ARCHITECTURES
from scripts.tools.check_gpu.report import Row, passed
from scripts.tools.check_gpu.workspace import Workspace

PROBABILITY_RESOLUTION = 1e-6  # a results file rounds probabilities to 6 decimals
CUDA_LIBRARIES = re.compile(rb"lib(?:cu\w+|nv\w+)\.so\.\d+")  # searched for in the binary of the CUDA provider
FREE_BYTES = 1 << 30  # GPU memory that the test leaves free: less than LARGE_BATCH needs
MAX_CHANGED_SHARE = 1e-3  # share of noise images whose label rounding may change
LARGE_BATCH = 1 << 16  # 28x28 images; the first feature maps of residual take over 2 GB


def export(work: Workspace) -> Iterator[Row]:
    """Check that each certificate covers the CPU and the device."""
    for arch in ARCHITECTURES:
        run = work.one_epoch(arch, work.device)
        (certificate,) = map(json.loads, work.netkit("export", "--run", run.folder, "--json").stdout.splitlines())
        comparisons = certificate["comparisons"]
        for comparison in comparisons:
            within = comparison["error"] <= comparison["bound"]
            optimizations = "" if comparison["optimised"] else ", without graph optimizations"
            detail = f"largest logit error {comparison['error']:.2g}; bound {comparison['bound']:.2g}"
            yield passed(f"{arch}, {comparison['provider']}{optimizations}", within, detail)
        providers = {comparison["provider"] for comparison in comparisons}
        yield passed(f"{arch}, providers", providers == {CPU, PROVIDERS[work.device]}, ", ".join(sorted(providers)))


def rows(work: Workspace) -> Iterator[Row]:
    """Check that verify, infer and evaluate give the same results on the device and on the CPU."""
    verified = work.command("verify", work.model, "--device", work.device)
    yield passed("verify", verified.returncode == 0, f"exit code {verified.returncode}")
    on_device, on_cpu = (_predictions(work, device) for device in (work.device, "cpu"))
    certificate = read_self_test(onnx_file.read(work.model)).certificate
    bounds = {comparison.provider: comparison.bound for comparison in certificate.comparisons}
    # an error of e in each logit changes a probability by at most e / 2
    allowed = (bounds[CPU] + bounds[PROVIDERS[work.device]]) / 2 + PROBABILITY_RESOLUTION
    difference = max(abs(on_device[path][1] - on_cpu[path][1]) for path in on_cpu)
    yield passed("infer, rows", list(on_device) == list(on_cpu), f"{len(on_device):,} rows in the same order")
    yield passed("infer, probabilities", difference <= allowed, f"differ by {difference:.2g}; allowed {allowed:.2g}")
    changed = sum(on_device[path][0] != on_cpu[path][0] for path in on_cpu)
    at_risk = max(len(comparison.at_risk) for comparison in certificate.comparisons)
    yield passed("infer, labels", changed <= at_risk, f"{changed} differ; at most {at_risk} allowed")
    scores = [
        json.loads(work.netkit("evaluate", work.model, "--device", device, "--json").stdout.splitlines()[0])
        for device in (work.device, "cpu")
    ]
    yield passed("evaluate", abs(scores[0]["accuracy"] - scores[1]["accuracy"]) * len(on_device) <= at_risk + 0.5,
                 f"{scores[0]['accuracy']:.2%}; on the CPU {scores[1]['accuracy']:.2%}")  # fmt: skip


def _predictions(work: Workspace, device: str) -> dict[str, tuple[str, float]]:
    """Return label and probability by path."""
    out = work.folder / f"{device}.csv"
    work.netkit("infer", work.images, "--model", work.model, "--device", device, "--out", out)
    with open(out) as file:
        return {row["path"]: (row["label"], float(row["probability"])) for row in csv.DictReader(file)}


def providers(work: Workspace) -> Iterator[Row]:
    """Check that the requested provider is in use; without CUDA, "cuda" fails and "auto" uses the CPU."""
    session = open_session(onnx_file.read(work.model), device=work.device)
    in_use = session.runtime.get_providers()[0]
    yield passed(f"--device {work.device}", in_use == PROVIDERS[work.device], in_use)
    infer = ("infer", next(work.images.rglob("*.png")), "--model", work.model, "--device")
    broken = {"no GPU visible": {"CUDA_VISIBLE_DEVICES": "-1"}, "broken libraries": broken_libraries(work.folder)}
    for name, environment in broken.items():
        failed = work.command(*infer, "cuda", environment=environment)
        message = failed.stderr.strip().splitlines()[-1]
        yield passed(f"{name}, --device cuda", failed.returncode == 1 and "Traceback" not in failed.stderr, message)
        fallback = work.command(*infer, "auto", environment=environment)
        cause = next((line for line in fallback.stderr.splitlines() if line.startswith("running on the CPU (")), "")
        yield passed(f"{name}, --device auto", fallback.returncode == 0 and bool(cause), cause)


DISABLE_PRELOAD = """
import onnxruntime
onnxruntime.preload_dlls = lambda *arguments, **options: None
"""


def broken_libraries(folder: Path) -> dict[str, str]:
    """Return environment variables with which the dynamic loader finds empty files instead of the CUDA libraries."""
    libraries = folder / "broken"
    libraries.mkdir(exist_ok=True)
    provider = Path(ort.__file__).parent / "capi/libonnxruntime_providers_cuda.so"
    names = set(CUDA_LIBRARIES.findall(provider.read_bytes())) if provider.exists() else set()
    for name in names:
        (libraries / name.decode()).touch()
    # otherwise ONNX Runtime loads the libraries of the pip packages by absolute path
    (libraries / "sitecustomize.py").write_text(DISABLE_PRELOAD)
    python_path = os.pathsep.join([str(libraries), os.environ.get("PYTHONPATH", "")])
    return {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": python_path, "ORT_DISABLE_TELEMETRY": "1"}


def memory(work: Workspace) -> Iterator[Row]:
    """Check that a batch that is too large for the GPU is halved until it fits."""
    import torch

    classify = load(work.model, device="cuda", batch_size=LARGE_BATCH)
    card = classify.session.card
    noise = np.random.default_rng(0).integers(0, 256, (LARGE_BATCH, card.height, card.width), np.uint8)
    free_bytes, _ = torch.cuda.mem_get_info()
    filler = torch.empty(max(0, free_bytes - FREE_BYTES), dtype=torch.uint8, device="cuda")
    try:
        try:
            classify.session.run(noise[:, None], size=LARGE_BATCH)
            cause = ""
        except OutOfMemoryError as exc:
            cause = str(exc)
        yield passed(
            f"{LARGE_BATCH:,} images at once",
            bool(cause),
            cause or f"the batch fits into {FREE_BYTES >> 20} MiB; increase LARGE_BATCH",
        )
        labels = [row.label for row in classify(noise)]
    finally:
        del filler
        torch.cuda.empty_cache()  # otherwise torch keeps the memory for this process
    expected = [row.label for row in load(work.model, device="cpu")(noise)]
    changed = sum(label != on_cpu for label, on_cpu in zip(labels, expected, strict=True))
    yield passed(
        "halved",
        changed <= MAX_CHANGED_SHARE * len(labels),
        f"{len(labels):,} rows; {changed} labels differ from the CPU",
    )
