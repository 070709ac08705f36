"""Networks from torchvision, and classes in the user's modules."""

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

from netkit.core.errors import MissingExtraError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.nets.build import build, create
from netkit.nets.training import checkpoint
from netkit.nets.training.plan import Plan
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.run import train
from tests.support.commands import run_netkit

SMALL = "torchvision/mobilenet_v3_small"
USER_MODULE = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, channels, classes, size):
        super().__init__()
        if size[0] < 9:
            raise ValueError("too small for my net")
        self.linear = nn.Linear(channels * size[0] * size[1], classes)

    def forward(self, x):
        return self.linear(x.flatten(1))

class TwoOutputs(MyNet):
    def forward(self, x):
        return super().forward(x), x

class OtherArguments(nn.Module):
    def __init__(self, classes):
        super().__init__()

class NoParameters(nn.Module):
    def __init__(self, channels, classes, size):
        super().__init__()

    def forward(self, x):
        return x.flatten(1)[:, :10]

COUNT = 3
"""
LATE_IMPORT = """
from mypkg.mymodule import MyNet

class Net(MyNet):
    def __init__(self, channels, classes, size):
        import helper
        super().__init__(channels, classes, size)
        self.width = helper.WIDTH
"""


@pytest.fixture
def color_card(card: ModelCard) -> ModelCard:
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
def user_card(card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """The card of a network whose class is in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("mypkg").mkdir()
    Path("mypkg/mymodule.py").write_text(USER_MODULE)
    Path("mypkg/broken.py").write_text("import missing_module")
    Path("mypkg/syntax.py").write_text("a = 1\ndef f(:\n")
    Path("mypkg/late.py").write_text(LATE_IMPORT)
    Path("helper.py").write_text("WIDTH = 7")
    for name in ("mypkg", "mypkg.mymodule", "mypkg.late", "helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return replace(card, arch="mypkg.mymodule:MyNet")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_are_created_without_them(color_card: ModelCard, name: str) -> None:
    net = build(replace(color_card, arch=f"torchvision/{name}", height=80, width=80)).train()
    assert net(torch.randn(2, 3, 80, 80)).shape == (2, 3)
    assert not [key for key in net.state_dict() if key.lower().startswith("aux")]


@pytest.mark.parametrize(("name", "min_side"), [("inception_v3", 75), ("vit_b_16", 16)])
def test_error_for_a_small_size_names_the_smallest_one(color_card: ModelCard, name: str, min_side: int) -> None:
    with pytest.raises(
        UsageError,
        match=rf"/{name} cannot take 9x9 images with 3 channels; the smallest size is --image-size {min_side}$",
    ):
        build(replace(color_card, arch=f"torchvision/{name}", height=9, width=9))


@pytest.mark.slow
def test_error_for_a_size_that_does_not_fit_the_patches_suggests_the_next_multiple(color_card: ModelCard) -> None:
    with pytest.raises(UsageError, match=r"cannot take 28x28 images with 3 channels; pass, .*--image-size 32$"):
        build(replace(color_card, arch="torchvision/vit_b_16", height=28, width=28))


@pytest.mark.parametrize(
    ("name", "question"), [("resnet19", "did you mean torchvision/resnet18, "), ("unheard-of", "")]
)
def test_error_for_an_unknown_name_has_at_most_five_suggestions(
    color_card: ModelCard, name: str, question: str
) -> None:
    with pytest.raises(
        UsageError, match=rf"'torchvision/{name}': {question}.*to list the names, run: python -c .*list_models"
    ) as caught:
        build(replace(color_card, arch=f"torchvision/{name}"))
    assert str(caught.value).count("torchvision/") <= 1 + 5


def test_torchvisions_networks_need_3_channels(card: ModelCard) -> None:
    with pytest.raises(UsageError, match="takes images of 3 channels, not 1; pass --channels 3"):
        build(replace(card, arch=SMALL))


def test_timm_networks_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"timm is not installed; install netkit's extra \[timm\]"):
        create("timm/resnet18", channels=3, classes=10, size=224)


def test_class_in_the_current_directory_gets_channels_classes_and_size(user_card: ModelCard) -> None:
    net = build(user_card)
    assert isinstance(net.linear, nn.Linear)
    assert (net.linear.in_features, net.linear.out_features) == (784, 10)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("no.such.module:Net", "no module no.such.module in the current directory or on Python's path"),
        ("mypkg.broken:Net", r"mypkg.broken cannot be imported: No module .*missing_module.* \(broken.py, line 1\)$"),
        ("mypkg.syntax:Net", r"mypkg.syntax cannot be imported: .*syntax.* \(syntax.py, line 2\)$"),
        ("mypkg.mymodule:Nothing", "mypkg.mymodule has no class 'Nothing'"),
        ("mypkg.mymodule:COUNT", "is of type int, not a subclass of torch.nn.Module"),
        ("collections:OrderedDict", "OrderedDict is not a subclass of torch.nn.Module"),
        (
            "mypkg.mymodule:OtherArguments",
            r"^mypkg.mymodule:OtherArguments: OtherArguments\(channels=1, classes=10, size=\(28, 28\)\) failed: .*"
            "unexpected keyword argument 'channels'; a network class takes these three arguments$",
        ),
        *(
            (arch, "not MODULE:CLASS; for the class Net in mynets.py, pass mynets:Net")
            for arch in ("mypkg:", ":Net", "mypkg.py:Net", "a:b:c", "mypkg/mymodule:MyNet")
        ),
        ("mypkg.mymodule:TwoOutputs", r"its output for 2 images is tuple, not logits \(2, 10\)"),
    ],
)
def test_unusable_class_is_rejected(user_card: ModelCard, arch: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(replace(user_card, arch=arch))


def test_a_network_without_parameters_cannot_be_trained(
    user_card: ModelCard, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    plan = Plan("mypkg.mymodule:NoParameters", recipe_named("baseline"), 0, "cpu", tmp_path / "run")
    with pytest.raises(UsageError, match=r"^mypkg.mymodule:NoParameters: has no parameters to train$"):
        train(plan, digits_data)


def test_resuming_a_finished_run_of_a_users_network_succeeds(
    user_card: ModelCard, digits_data: ArrayDataSet, tmp_path: Path
) -> None:
    plan = Plan(user_card.arch, replace(recipe_named("baseline"), epochs=1), 0, "cpu", tmp_path / "run", resume=True)
    assert train(plan, digits_data) == train(plan, digits_data)


def test_error_contains_the_message_of_the_users_class(user_card: ModelCard) -> None:
    with pytest.raises(
        UsageError,
        match=r"5x5 images with 1 channel: .*: too small for my net \(mymodule.py, line 8\); the smallest .* 9$",
    ):
        build(replace(user_card, height=5, width=5))


def test_weights_file_does_not_choose_which_code_runs(user_card: ModelCard, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, build(user_card), user_card)
    sys.modules.pop("mypkg.mymodule")
    with pytest.raises(UsageError, match=r"is not part of netkit; to run its code, pass --arch mypkg.mymodule:MyNet$"):
        checkpoint.load(path)
    with pytest.raises(UsageError, match=r"pass --arch mypkg.mymodule:MyNet, not mypkg.mymodule:TwoOutputs$"):
        checkpoint.load(path, trusted="mypkg.mymodule:TwoOutputs")
    assert "mypkg.mymodule" not in sys.modules
    net, card = checkpoint.load(path, trusted="mypkg.mymodule:MyNet")
    assert card == user_card and net.state_dict().keys() == build(user_card).state_dict().keys()


def test_constructor_can_import_modules_of_the_current_directory(user_card: ModelCard) -> None:
    assert build(replace(user_card, arch="mypkg.late:Net")).width == 7


@pytest.mark.parametrize("arch", ["mypkg.mymodule:MyNet", "mypkg.broken:Net", "missing:Net"])
def test_import_path_is_restored(user_card: ModelCard, arch: str) -> None:
    before = [*sys.path], [*sys.meta_path]
    with suppress(UsageError):
        build(replace(user_card, arch=arch))
    assert ([*sys.path], [*sys.meta_path]) == before
    with pytest.raises(ModuleNotFoundError):
        import_module("helper")


USER_FILES = {
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
def user_folder(tmp_path: Path) -> Path:
    """A folder with modules named like netkit's folders, like standard modules and like installed packages."""
    for name, content in USER_FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.slow
def test_users_nets_package_has_precedence_over_netkits_nets_folder(user_folder: Path) -> None:
    """With netkit's checkout in PYTHONPATH, `nets` is importable from there, too."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    trained = run_netkit("train", *ARGUMENTS, cwd=user_folder, PYTHONPATH=path)
    assert trained.returncode == 0, trained.stderr
    exported = run_netkit("export", "--arch", "nets.mine:Net", cwd=user_folder, PYTHONPATH=path)
    assert exported.returncode == 0, exported.stderr


def test_user_modules_do_not_replace_standard_modules_or_required_packages(user_folder: Path) -> None:
    program = """if True:
        import sys
        from netkit.core.errors import MissingExtraError, UsageError
        from netkit.nets import create

        for name in ("numpy:Net", "safetensors:Net", "statistics:Net"):
            try:
                create(name)
            except UsageError as exc:
                print(exc)
    """
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=user_folder, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"{name}:Net: {name} has no class 'Net'" for name in ("numpy", "safetensors", "statistics")
    ], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--compile",), ()], ids=["compiled", "two processes"])
def test_subprocesses_of_a_training_find_the_users_class(user_folder: Path, options: tuple[str, ...]) -> None:
    command = ["-m", "netkit", "train", *ARGUMENTS, *options]
    if not options:
        command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", *command]
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=user_folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs/nets-mine-Net/model.safetensors: test accuracy") == 1
