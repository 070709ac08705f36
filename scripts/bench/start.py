"""How long netkit takes to start, beside what it cannot do without: medians of whole processes, run in turn.

`netkit --help` is to take at most 1.3 times `python -c "import click"`.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 30
PEER = [sys.executable, "-c", "import click"]
HELP = [str(Path(sys.executable).with_name("netkit")), "--help"]


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    rounds = [(seconds(PEER), seconds(HELP)) for _ in range(ROUNDS)]
    peer, helped = (statistics.median(times) for times in zip(*rounds, strict=True))
    print("| command | median of whole process | ratio |")
    print("|---|---|---|")
    print(f"| `python -c 'import click'` | {peer * 1000:.1f} ms | 1.00 |")
    print(f"| `netkit --help` | {helped * 1000:.1f} ms | {helped / peer:.2f} |")


if __name__ == "__main__":
    main()
