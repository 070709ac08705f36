"""torchvision's classifiers, and classes in the user's own modules."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.nets.build import build
from netkit.nets.training import checkpoint
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.run import Plan, train
from tests.support.commands import run_netkit

SMALL = "torchvision/mobilenet_v3_small"
USERS = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, channels, classes, size):
        super().__init__()
        if size[0] < 9:
            raise ValueError("too small for my net")
        self.linear = nn.Linear(channels * size[0] * size[1], classes)

    def forward(self, x):
        return self.linear(x.flatten(1))

class TwoAnswers(MyNet):
    def forward(self, x):
        return super().forward(x), x
"""
LATE = """
from mypkg.mymodule import MyNet

class Net(MyNet):
    def __init__(self, channels, classes, size):
        import helper
        super().__init__(channels, classes, size)
        self.width = helper.WIDTH
"""


@pytest.fixture
def colour(card: ModelCard) -> ModelCard:
    return replace(
        card,
        arch=SMALL,
        channels=3,
        height=64,
        width=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        labels=("a", "b", "c"),
    )


@pytest.fixture
def users(card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """A card of a network whose class is in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("mypkg").mkdir()
    Path("mypkg/mymodule.py").write_text(USERS)
    Path("mypkg/broken.py").write_text("import nothing_like_it")
    Path("mypkg/late.py").write_text(LATE)
    Path("helper.py").write_text("WIDTH = 7")
    for name in ("mypkg", "mypkg.mymodule", "mypkg.late", "helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return replace(card, arch="mypkg.mymodule:MyNet")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_nets_with_auxiliary_heads_are_made_without(colour: ModelCard, name: str) -> None:
    net = build(replace(colour, arch=f"torchvision/{name}", height=80, width=80)).train()
    assert net(torch.randn(2, 3, 80, 80)).shape == (2, 3)
    assert not [key for key in net.state_dict() if key.lower().startswith("aux")]


@pytest.mark.parametrize(("name", "least"), [("inception_v3", 75), ("vit_b_16", 16)])
def test_a_size_that_is_too_small_is_answered_with_the_least(colour: ModelCard, name: str, least: int) -> None:
    with pytest.raises(UsageError, match=rf"cannot take 9x9 images.*the least that it takes is {least}x{least}"):
        build(replace(colour, arch=f"torchvision/{name}", height=9, width=9))


def test_an_unknown_name_is_answered_with_the_closest(colour: ModelCard) -> None:
    with pytest.raises(UsageError, match="did you mean 'torchvision/resnet18'"):
        build(replace(colour, arch="torchvision/resnet19"))


def test_torchvisions_nets_take_colour(card: ModelCard) -> None:
    with pytest.raises(UsageError, match="takes images of 3 channels, not 1: use --channels 3"):
        build(replace(card, arch=SMALL))


def test_a_class_in_the_working_folder_is_made_with_channels_classes_and_size(users: ModelCard) -> None:
    net = build(users)
    assert isinstance(net.linear, nn.Linear)
    assert (net.linear.in_features, net.linear.out_features) == (784, 10)


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("nowhere.to.be:Found", "no module nowhere.to.be here"),
        ("mypkg.broken:Net", "mypkg.broken cannot be imported: ModuleNotFoundError.*nothing_like_it"),
        ("mypkg.mymodule:Nothing", "mypkg.mymodule has no Nothing"),
        ("mypkg.mymodule:TwoAnswers", r"it gives tuple for 2 images, not logits of \(2, 10\)"),
    ],
)
def test_a_class_that_is_no_net_is_refused(users: ModelCard, arch: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        build(replace(users, arch=arch))


def test_resuming_an_ended_run_of_the_users_net_is_no_error(
    users: ModelCard, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    plan = Plan(users.arch, replace(recipe_named("baseline"), epochs=1), 0, "cpu", tmp_path / "run", resume=True)
    assert train(plan, digits_data) == train(plan, digits_data)


def test_what_a_class_says_of_a_size_is_passed_on(users: ModelCard) -> None:
    with pytest.raises(UsageError, match=r"5x5 images of 1 channels: too small for my net; the least.* 9x9"):
        build(replace(users, height=5, width=5))


def test_a_weights_file_does_not_choose_what_code_is_run(users: ModelCard, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, build(users), users)
    sys.modules.pop("mypkg.mymodule")
    with pytest.raises(UsageError, match=r"code outside netkit: to run it, add --arch mypkg.mymodule:MyNet"):
        checkpoint.load(path)
    assert "mypkg.mymodule" not in sys.modules
    net, card = checkpoint.load(path, trusted="mypkg.mymodule:MyNet")
    assert card == users and net.state_dict().keys() == build(users).state_dict().keys()


def test_a_class_may_import_modules_beside_it_when_it_is_created(users: ModelCard) -> None:
    assert build(replace(users, arch="mypkg.late:Net")).width == 7


@pytest.mark.parametrize("arch", ["mypkg.mymodule:MyNet", "mypkg.broken:Net", "nowhere:Net"])
def test_where_python_looks_for_modules_stays_as_it_was(users: ModelCard, arch: str) -> None:
    before = [*sys.path], [*sys.meta_path]
    with suppress(UsageError):
        build(replace(users, arch=arch))
    assert ([*sys.path], [*sys.meta_path]) == before
    with pytest.raises(ModuleNotFoundError):
        import_module("helper")


FOLDER = {
    "infer.py": "raise SystemExit('the user's infer.py')",
    "export.py": "raise SystemExit('the user's export.py')",
    "data.py": "WIDTH = 4",
    "numpy/__init__.py": "raise SystemExit('the user's numpy')",
    "safetensors/__init__.py": "raise SystemExit('the user's safetensors')",
    "statistics.py": "raise SystemExit('the user's statistics')",
    "nets/__init__.py": "",
    "nets/mine.py": """
from data import WIDTH
from torch import nn

class Net(nn.Sequential):
    def __init__(self, channels, classes, size):
        side = (size[0] - 5) // 4 + 1
        conv = nn.Conv2d(channels, WIDTH, kernel_size=5, stride=4)
        super().__init__(conv, nn.ReLU(), nn.Flatten(), nn.Linear(WIDTH * side * side, classes))
""",
}
ARGUMENTS = ("--arch", "nets.mine:Net", "--data", "digits", "--epochs", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, whose names are also those of netkit's parts, of Python's modules and of installed packages."""
    for name, content in FOLDER.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.slow
def test_a_users_own_nets_folder_is_found_though_netkit_has_one(folder: Path) -> None:
    """Where PYTHONPATH names netkit's checkout, `nets` is a package in it, too."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    trained = run_netkit("train", *ARGUMENTS, cwd=folder, PYTHONPATH=path)
    assert trained.returncode == 0, trained.stderr
    exported = run_netkit("export", "--arch", "nets.mine:Net", cwd=folder, PYTHONPATH=path)
    assert exported.returncode == 0, exported.stderr


def test_nothing_in_the_users_folder_replaces_pythons_modules_or_a_package_that_netkit_needs(folder: Path) -> None:
    program = """if True:
        import sys
        from netkit.core.errors import UsageError
        from netkit.nets import create

        for name in ("numpy:Net", "safetensors:Net", "statistics:Net"):
            try:
                create(name)
            except UsageError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"{name}:Net: {name} has no Net" for name in ("numpy", "safetensors", "statistics")
    ], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--compile",), ()], ids=["compiled", "two processes"])
def test_processes_that_training_starts_find_the_users_class_too(folder: Path, more: tuple[str, ...]) -> None:
    command = ["-m", "netkit", "train", *ARGUMENTS, *more]
    if not more:
        command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", *command]
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs/nets-mine-Net/model.safetensors: test accuracy") == 1
