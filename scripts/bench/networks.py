"""Export one network of each family of torchvision and timm, and networks as users write them, in float32 and int8.

    python scripts/bench/networks.py --out ROWS [--precisions fp32 int8] [NAME ...]

Each export runs in a process of its own. It starts with the trial export of `netkit train`. Then the script computes
batch norm statistics, fits the last layer to synthetic images of 10 classes, and exports the network with all checks.
The labels of the test images are PyTorch's predictions, so accuracy is agreement with PyTorch. Speed is measured in
turns in one thread, as in passes.py. Networks whose rows are already in ROWS (JSON lines) are not measured again.
Prints the rows of the named networks, by default all, as Markdown tables.
"""

import argparse
import inspect
import json
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
import unusual_networks
import user_networks
from fitted import class_images, fit
from passes import MAX_PIXELS, ratio

from netkit.core.errors import NetkitError
from netkit.core.model_card import ModelCard, Origin
from netkit.core.version import VERSION
from netkit.data.dataset import ArrayDataSet
from netkit.export import exporter
from netkit.export.convert import convert, translate
from netkit.export.dry_run import dry_run
from netkit.export.parity.float64 import batched_logits
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels

# NAME, or NAME:SIDE if the size of the images is not the default SIDE
TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3:128 maxvit_t:224 "
    "mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 "
    "squeezenet1_1 swin_t swin_v2_t vgg11 vit_b_32 wide_resnet50_2"
)
TIMM = (
    "beit_base_patch16_224 halonet_h1:256 mobileone_s1 cait_xxs24_224 coat_lite_tiny:128 convit_tiny convmixer_768_32 "
    "convnext_atto cpubone_nano crossvit_tiny_240:240 csatv2:128 cs3darknet_focus_s cspnext_tiny davit_tiny "
    "deepseek_vit_412m:56 deit_tiny_distilled_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small "
    "efficientformer_l1:224 efficientformerv2_s0:128 efficientnet_b0 efficientvim_m1 efficientvit_b0 "
    "efficientvit_m0:128 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny:128 "
    "gemma4_vit_167m:48 ghostnet_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224 hieradet_small hrnet_w18_small iformer_t "
    "inception_next_atto inception_resnet_v2:96 inception_v3:128 inception_v4:96 lcnetv2_small levit_128s:128 "
    "lowformer_b0 mambaout_femto maxvit_pico_rw_256:128 poolformerv2_s12 gmlp_ti16_224 mobilenetv3_small_050 "
    "mobilenetv5_base mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny:128 nextvit_small "
    "nf_regnet_b0 pit_ti_224:128 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 "
    "repvit_m1 res2net50_14w_8s resnest14d resnet10t resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 "
    "sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_s3_tiny_224 swinv2_tiny_window8_256 "
    "swinv2_cr_tiny_224 tiny_vit_5m_224:128 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny "
    "vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_224 samvit_base_patch16_224 "
    "vitamin_small_224 volo_d1_224 ese_vovnet19b_dw legacy_xception:96 xception41:96 xcit_nano_12_p16_224"
)
SIDE, USER_SIDE = 64, 32  # pixels
IMAGES, USER_IMAGES = 32, 256
CLASSES = 10
MAX_DROP = 0.05  # of accuracy, in int8; one image of 32
ROUNDS = 21
LIMIT_S = 900  # for one export
HEADER = "| network | image size | export | error | bound | speed | int8 |\n|---|---|---|---|---|---|---|"

USER_GROUP = "Networks as users write them"
PRECISIONS = ("fp32", "int8")
PROCESSES = multiprocessing.get_context("forkserver")

Row = dict[str, Any]


def architectures() -> dict[str, tuple[str, int]]:
    """Return the group of each network and the side of its images, by architecture."""
    networks = {}
    for group, names in {"torchvision": TORCHVISION, "timm": TIMM}.items():
        for name, _, side in (entry.partition(":") for entry in names.split()):
            networks[f"{group}/{name}"] = (group, int(side or SIDE))
    for module in (user_networks, unusual_networks):
        for name, value in vars(module).items():
            if getattr(value, "__module__", "") == module.__name__ and _takes_image_size(value):
                networks[f"{module.__name__}:{name}"] = (USER_GROUP, USER_SIDE)
    return networks


def _takes_image_size(value: Any) -> bool:
    return inspect.isclass(value) and [*inspect.signature(value).parameters] == ["channels", "classes", "size"]


def measure(arch: str, precision: str, side: int) -> Row:
    """Export the network and return its row. A key `refused` or `failed` has the reason."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ort.set_default_logger_severity(3)
    origin = Origin("patches", "0" * 64, {}, 0, 0.0, VERSION, torch.__version__)
    card = ModelCard(arch, tuple(map(str, range(CLASSES))), 3, side, side, (0.5,) * 3, (0.25,) * 3, origin)
    try:
        net = build(card)
        if precision == "fp32":
            dry_run(net, card)
    except NetkitError as exc:
        return {"refused": _reason(exc, arch)}
    images, labels = class_images(side, IMAGES if side > USER_SIDE else USER_IMAGES, CLASSES)
    fit(net, card, images, labels)
    with torch.no_grad():
        predictions = batched_logits(FromPixels(net.eval(), card), images).argmax(1)
    data = ArrayDataSet("patches", "patches", "0" * 64, card.labels, images, labels, images, predictions)
    batch = images[: max(1, MAX_PIXELS // side**2)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            certificate = exporter.export(net, {precision: path}, card=card, data=data, max_drop=MAX_DROP)[precision]
        except NetkitError as exc:
            return {"failed": _reason(exc, arch, str(path))}
        model, nbytes = onnx.load(path), path.stat().st_size
    if precision == "int8":
        return {"nbytes": nbytes, "speed": ratio(onnx.load_model_from_string(convert(net, card)), model, batch, ROUNDS)}
    worst = max(certificate.comparisons, key=lambda comparison: comparison.error / comparison.bound)
    speed = ratio(translate(net, card), model, batch, ROUNDS) if certificate.passes else None
    return {
        "nbytes": nbytes,
        "error": worst.error,
        "bound": worst.bound,
        "speed": speed,
        "passes": certificate.passes,
        "predicted_classes": len(set(predictions.tolist())),
    }


def _reason(exc: NetkitError, *prefixes: str) -> str:
    """Return the message without the names of the network and the file, and without the line of code."""
    reason = re.sub(r" \(\w+\.py, line \d+\)$", "", str(exc))
    for prefix in (*reversed(prefixes), "not written", "the network cannot be exported"):
        reason = reason.removeprefix(f"{prefix}: ")
    return reason


def run_apart(arch: str, precision: str, side: int) -> Row:
    """Run `measure` in a process of its own."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_send_row, args=(sender, arch, precision, side))
    process.start()
    sender.close()
    try:
        row: Row = receiver.recv() if receiver.poll(LIMIT_S) else {"failed": f"takes more than {LIMIT_S} s"}
    except EOFError:
        process.join()
        row = {"failed": f"the process ends with exit status {process.exitcode}"}
    process.kill()
    process.join()
    return row


def _send_row(sender: Connection, arch: str, precision: str, side: int) -> None:
    try:
        sender.send(measure(arch, precision, side))
    except Exception as exc:
        sender.send({"failed": f"TRACEBACK: {type(exc).__name__}: {exc}"})
        raise


def measure_missing(out: Path, names: Iterable[str], precisions: Iterable[str]) -> Mapping[tuple[str, str], Row]:
    """Append the missing rows to `out`, and return all rows. Measure int8 only if the float32 export succeeded."""
    lines = out.read_text().splitlines() if out.exists() else []
    rows = {(line["arch"], line["precision"]): line for line in map(json.loads, lines)}
    for arch in names:
        for precision in precisions:
            if (arch, precision) in rows or "error" not in rows.get((arch, "fp32"), {"error": 0}):
                continue
            row = {"arch": arch, "precision": precision, **run_apart(arch, precision, architectures()[arch][1])}
            print(f"{arch} {precision}: {row}"[:300], file=sys.stderr, flush=True)
            rows[arch, precision] = row
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return rows


def table(group: str, names: Iterable[str], rows: Mapping[tuple[str, str], Row]) -> str:
    """Return the measured rows of a group as a Markdown table."""
    lines = [HEADER]
    for arch in names:
        network_group, side = architectures()[arch]
        if network_group == group and (arch, "fp32") in rows:
            lines.append(_line(arch, side, rows[arch, "fp32"], rows.get((arch, "int8"))))
    return "\n".join(lines)


def _line(arch: str, side: int, row: Row, int8: Row | None) -> str:
    name = arch.replace(":", "/").partition("/")[2]
    if "refused" in row:
        return f"| {name} | {side} | refused: {row['refused']} | | | | |"
    if "failed" in row:
        return f"| {name} | {side} | **failed after the trial:** {row['failed']} | | | | |"
    size, speed = f"{row['nbytes'] / 1e6:.1f} MB", f"{row['speed']:.2f}" if row["speed"] else "same graph"
    return f"| {name} | {side} | {size} | {row['error']:.1e} | {row['bound']:.1e} | {speed} | {_int8(int8, row)} |"


def _int8(int8: Row | None, fp32: Row) -> str:
    if int8 is None:
        return "not measured"
    if "failed" in int8:
        return (
            "no: " + int8["failed"].removeprefix("int8 does not pay: ").removesuffix(" on this CPU").partition(";")[0]
        )
    return f"size {int8['nbytes'] / fp32['nbytes']:.2f}, speed {int8['speed']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = architectures()
    parser.add_argument("--out", type=Path, required=True, metavar="ROWS")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("names", nargs="*", default=list(networks), metavar="NAME")
    arguments = parser.parse_args()
    PROCESSES.set_forkserver_preload(["networks", "torchvision", "timm", "torch.onnx", "torch._dynamo"])
    rows = measure_missing(arguments.out, arguments.names, arguments.precisions)
    for group in dict.fromkeys(group for group, _ in networks.values()):
        print(f"\n## {group}\n\n{table(group, arguments.names, rows)}")


if __name__ == "__main__":
    main()
