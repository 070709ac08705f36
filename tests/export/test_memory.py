"""The peak memory of an export stays near the size of the model, however large the images are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NETWORKS = {
    "two linear layers at 224x224": (
        "nn.Sequential(nn.Flatten(), nn.Linear(224 * 224 * 3, 16), nn.Linear(16, 10))", 224,
    ),
    "a pointwise convolution and a pool at 64x64": (
        "nn.Sequential(nn.Conv2d(3, 12, 1), nn.AvgPool2d(64), nn.Flatten(), nn.Linear(12, 10))", 64,
    ),
    "two convolutions and a pool at 64x64": (
        "nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 1), nn.AvgPool2d(64), nn.Flatten())", 64,
    ),
}  # fmt: skip
SCRIPT = """
import json, resource, sys
from pathlib import Path
import numpy as np
from torch import nn
import netkit.export.exporter as exporter
from netkit.core.model_card import ModelCard, Origin
from netkit.data.dataset import ArrayDataSet

def export(net, side, path):
    origin = Origin("noise", "0" * 64, {}, 0, 0.0, "0.2.0", "2")
    card = ModelCard("net", tuple("0123456789")[: CLASSES], 3, side, side, (0.5,) * 3, (0.25,) * 3, origin)
    images = np.random.default_rng(0).integers(0, 256, (8, 3, side, side), np.uint8)
    data = ArrayDataSet("noise", "noise", "0" * 64, card.labels, images, np.zeros(8, int), images, np.zeros(8, int))
    exporter.export(net.eval(), {"fp32": Path(path)}, card=card, data=data, max_drop=0)

CLASSES = 10
export(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), 4, sys.argv[3])  # loads all libraries
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
net = eval(sys.argv[1])
CLASSES = 8 if len(net) == 4 and isinstance(net[1], nn.Conv2d) else 10
export(net, int(sys.argv[2]), sys.argv[3])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([before * 1024, after * 1024, Path(sys.argv[3]).stat().st_size]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_takes_at_most_500_mb_and_four_times_the_model(tmp_path: Path, name: str) -> None:
    net, side = NETWORKS[name]
    command = [sys.executable, "-c", SCRIPT, net, str(side), str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    before, after, model = json.loads(done.stdout)
    assert after - before < 4 * model + 500e6
