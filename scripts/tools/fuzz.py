"""Feed every reader of strangers' files with what leads into new branches of its code, for some seconds each.

    python scripts/tools/fuzz.py [--seconds N] [READER ...]

Needs atheris (pip install atheris), which leads the way by coverage from sound examples on. Prints one Markdown table;
an input that raises anything but an error for people is kept as a file, and the script exits with 1.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.support


def fuzz(name: str, arguments: list[str]) -> None:
    """Until libFuzzer, which takes the arguments, has had enough: it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["netkit"]):
        from netkit.core.errors import NetkitError
        from tests.support.readers import READERS

    def once(content: bytes) -> None:
        try:
            READERS[name].read(content)
        except NetkitError:
            pass

    atheris.Setup([sys.argv[0], *arguments], once)
    atheris.Fuzz()


def watched(name: str, examples: Iterable[bytes], seconds: int, keep: Path) -> tuple[str, bool]:
    """A line of the table, and whether nothing was found."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, example in enumerate(examples):
            (Path(corpus) / str(number)).write_bytes(example)
        options = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={keep / name}-",
            "-timeout=10",
            "-rss_limit_mb=4096",
        ]
        command = [sys.executable, __file__, "--inside", name, *options, corpus]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        kept = len(list(Path(corpus).iterdir()))
    counts = re.findall(r"^#(\d+)", done.stderr, re.MULTILINE)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
    found = "nothing" if done.returncode == 0 else f"exit code {done.returncode}: see {keep}"
    return f"| {name} | {int(counts[-1]) if counts else 0:,} | {kept:,} | {found} |", done.returncode == 0


def main() -> int:
    from tests.support.readers import READERS  # not at the top: the inner process has to see its imports

    parser = argparse.ArgumentParser()
    parser.add_argument("readers", nargs="*", choices=[*READERS, "all"], default="all")
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    keep = Path(tempfile.mkdtemp(prefix="netkit-fuzz-"))
    print("| reader | inputs | of them on new ways | found |\n|---|---|---|---|")
    lines = []
    for name in READERS if "all" in arguments.readers else arguments.readers:
        line, well = watched(name, READERS[name].examples, arguments.seconds, keep)
        print(line, flush=True)
        lines.append(well)
    return 0 if all(lines) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
