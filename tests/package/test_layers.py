"""The import rules at run time, in a new interpreter. import-linter checks them statically."""

import pkgutil
import subprocess
import sys

import pytest

import netkit
from netkit.cli import COMMANDS

MODULES = sorted(module.name for module in pkgutil.walk_packages(netkit.__path__, "netkit."))
TORCH_FREE = [name for name in MODULES if name.split(".")[1] in ("core", "images", "data", "infer")]
CORE = [name for name in MODULES if name.split(".")[1] == "core"]


def loaded_by(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_torch_free_modules_import_neither_torch_nor_the_command_line() -> None:
    loaded = loaded_by(f"from importlib import import_module\nfor name in {TORCH_FREE}: import_module(name)")
    assert set(TORCH_FREE) <= loaded
    assert not {"torch", "torchvision", "click", "rich", "netkit.cli", "netkit.nets", "netkit.export"} & loaded


def test_the_core_imports_only_the_standard_library() -> None:
    loaded = loaded_by(f"from importlib import import_module\nfor name in {CORE}: import_module(name)")
    packages = {name.partition(".")[0] for name in loaded - loaded_by("pass")}
    assert packages - sys.stdlib_module_names == {"netkit"}


def test_import_netkit_imports_no_submodule() -> None:
    assert {name for name in loaded_by("import netkit") if name.startswith("netkit")} == {"netkit"}


@pytest.mark.parametrize("package", ["netkit.images", "netkit.data", "netkit.infer"])
def test_a_layer_imports_no_layer_above_it(package: str) -> None:
    order = ["core", "images", "data", "infer"]
    modules = [name for name in TORCH_FREE if name.startswith(package)]
    loaded = loaded_by(f"from importlib import import_module\nfor name in {modules}: import_module(name)")
    above = order[order.index(package.removeprefix("netkit.")) + 1 :]
    assert not [name for name in loaded if name.startswith("netkit.") and name.split(".")[1] in above]


def test_help_imports_no_command_and_no_dependency_of_commands() -> None:
    loaded = loaded_by("from netkit.cli import cli\ntry: cli(['--help'])\nexcept SystemExit: pass")
    assert not {"torch", "onnx", "onnxruntime", "numpy", "rich", "PIL", "netkit.api", "netkit.infer"} & loaded
    assert not {f"netkit.cli.{name}" for name in COMMANDS} & loaded
