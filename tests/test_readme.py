"""README's Python, run as it stands."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from nets.data.dataset import DataSet
from nets.data.sample import write_sample

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_six_lines_of_plain_onnxruntime_run_the_file(tmp_path: Path, workplace: Path, digits_data: DataSet) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(program.splitlines()) == 6
    (tmp_path / "runs").mkdir()
    shutil.copytree(workplace / "runs/residual", tmp_path / "runs/inception")
    write_sample(digits_data, tmp_path / "images")
    first_seven = min((tmp_path / "images/7").iterdir(), key=lambda path: int(path.stem))
    first_seven.rename(tmp_path / "images/7/0.png")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[7]\n"
