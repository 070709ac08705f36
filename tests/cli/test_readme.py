"""The Python examples of README run as printed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from netkit.data.dataset import ArrayDataSet
from netkit.data.sample import write_sample

README = (Path(__file__).parents[2] / "README.md").read_text()


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(("program", "stdout"), [*zip(programs(), ["7 ok\n", "[7]\n"], strict=True)])
def test_examples_classify_a_seven(
    tmp_path: Path, workspace: Path, digits_data: ArrayDataSet, program: str, stdout: str
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copytree(workspace / "runs/residual", tmp_path / "runs/inception")
    write_sample(digits_data, tmp_path / "images")
    first_seven = min((tmp_path / "images/7").iterdir(), key=lambda path: int(path.stem))
    first_seven.rename(tmp_path / "images/7/0.png")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == stdout


def test_the_example_with_plain_onnxruntime_has_six_lines() -> None:
    assert len(programs()[-1].splitlines()) == 6
