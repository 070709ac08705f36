"""Fuzz the readers of untrusted files, guided by coverage.

    python scripts/tools/fuzz.py [--seconds N] [READER ...]

Needs atheris (pip install atheris). Starts from valid examples and runs each reader for N seconds. Prints one Markdown
table. The corpus is the valid examples and the inputs that reached new code. An input that raises any other exception
than NetkitError is a failure: the script keeps it as a file and exits with 1.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.support

CHILD_OPTION = "--child"


def fuzz(name: str, arguments: list[str]) -> None:
    """Run libFuzzer with these arguments; this function never returns, because libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["netkit"]):
        from netkit.core.errors import NetkitError
        from tests.support.readers import READERS

    def read(content: bytes) -> None:
        try:
            READERS[name].read(content)
        except NetkitError:
            pass

    atheris.Setup([sys.argv[0], *arguments], read)
    atheris.Fuzz()


def fuzz_in_subprocess(name: str, examples: Iterable[bytes], seconds: int, failures: Path) -> tuple[str, bool]:
    """Return a row of the table, and whether the reader passed."""
    with tempfile.TemporaryDirectory() as corpus:
        for index, example in enumerate(examples):
            (Path(corpus) / str(index)).write_bytes(example)
        options = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={failures / name}-",
            "-timeout=10",
            "-rss_limit_mb=4096",
        ]
        command = [sys.executable, __file__, CHILD_OPTION, name, *options, corpus]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        corpus_size = len(list(Path(corpus).iterdir()))
    counts = re.findall(r"^#(\d+)", done.stderr, re.MULTILINE)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
    result = "0" if done.returncode == 0 else f"exit code {done.returncode}; see {failures}"
    return f"| {name} | {int(counts[-1]) if counts else 0:,} | {corpus_size:,} | {result} |", done.returncode == 0


def main() -> int:
    from tests.support.readers import READERS  # not at module level: the child process instruments these imports

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", choices=[*READERS, "all"], default="all")
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    failures = Path(tempfile.mkdtemp(prefix="netkit-fuzz-"))
    print("| reader | inputs | corpus size | failures |\n|---|---|---|---|")
    results = []
    for name in READERS if "all" in arguments.readers else arguments.readers:
        row, passed = fuzz_in_subprocess(name, READERS[name].examples, arguments.seconds, failures)
        print(row, flush=True)
        results.append(passed)
    return 0 if all(results) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD_OPTION]:
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
