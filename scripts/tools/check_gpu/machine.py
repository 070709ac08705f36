"""Sections on the machine: driver, libraries, and the tests that need a GPU."""

import json
import subprocess
import sys
from collections.abc import Iterator

from scripts.tools.check_gpu.report import CHECKOUT, Row, passed
from scripts.tools.check_gpu.workspace import TIMEOUT_S, Workspace


def doctor(work: Workspace) -> Iterator[Row]:
    """Report the checks of `netkit doctor`."""
    for line in work.command("doctor", "--json").stdout.splitlines():
        check = json.loads(line)
        yield passed(check["check"], check["ok"], check["detail"])


def tests(work: Workspace) -> Iterator[Row]:
    """Run the tests marked gpu. On a GPU a skipped test counts as a failure."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"], cwd=CHECKOUT,
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    summary = (done.stdout.strip().splitlines() or ["no output"])[-1]
    complete = done.returncode == 0 and (work.device == "cpu" or "skipped" not in summary)
    yield passed("tests marked gpu", complete, summary)
