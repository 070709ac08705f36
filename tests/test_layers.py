"""Who may know whom, seen at run time: in fresh interpreters, by what is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

import infer

MODULES = sorted(path.stem for path in Path(infer.__path__[0]).glob("*.py"))
BARE = {"nets", "nets.card", "nets.errors", "nets.fields", "nets.files", "nets.machine", "nets.process", "nets.remote"}
TORCH_FREE = BARE | {"nets.bounds", "nets.images", "nets.png"}


def loaded_by(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_infer_loads_no_torch_and_of_nets_only_what_needs_none(module: str) -> None:
    loaded = loaded_by("import infer" if module == "__init__" else f"import infer.{module}")
    assert not {"torch", "torchvision", "click", "netkit", "export"} & loaded
    assert {name for name in loaded if name.partition(".")[0] == "nets"} <= TORCH_FREE


@pytest.mark.parametrize("module", sorted(BARE))
def test_all_that_infer_shares_with_nets_but_decoding_needs_the_standard_library_alone(module: str) -> None:
    fresh = loaded_by(f"import {module}") - loaded_by("pass")
    foreign = {name.partition(".")[0] for name in fresh} - sys.stdlib_module_names - {"nets"}
    assert not foreign


def test_help_loads_neither_torch_nor_onnxruntime_nor_numpy() -> None:
    loaded = loaded_by("import netkit\ntry: netkit.cli(['--help'])\nexcept SystemExit as end: assert not end.code")
    assert not {"torch", "onnx", "onnxruntime", "numpy", "rich", "PIL"} & loaded
