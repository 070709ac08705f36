"""Measure the start-up time of `netkit --help` relative to `python -c "import click"`.

    python scripts/bench/start.py [--rounds N]

Runs both commands alternately and prints one Markdown table of medians. The goal is a ratio of at most 1.3: the command
line imports little more than click until a command runs.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c 'import click'": [sys.executable, "-c", "import click"],
    "netkit --help": [str(Path(sys.executable).with_name("netkit")), "--help"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = [[seconds(command) for command in COMMANDS.values()] for _ in range(parser.parse_args().rounds)]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    print("| command | median time | ratio |")
    print("|---|---|---|")
    for name, median in zip(COMMANDS, medians, strict=True):
        print(f"| `{name}` | {median * 1000:.1f} ms | {median / medians[0]:.2f} |")


if __name__ == "__main__":
    main()
