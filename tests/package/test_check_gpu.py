"""Exit codes of scripts/check_gpu, and its sections on the CPU."""

import subprocess
from pathlib import Path

import pytest

from netkit.core.system import missing_cuda_driver

CHECK_GPU = Path(__file__).parents[2] / "scripts/check_gpu"
SECTIONS = (
    "doctor", "tests", "train", "deterministic", "resume", "torchrun",
    "export", "rows", "provider", "memory", "train-speed", "infer-speed",
)  # fmt: skip


def check_gpu(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([CHECK_GPU, *arguments], capture_output=True, text=True, timeout=900)


@pytest.mark.skipif(missing_cuda_driver() is None, reason="needs a machine without a CUDA driver")
def test_check_gpu_skips_all_sections_but_doctor_and_exits_with_3_without_a_gpu() -> None:
    done = check_gpu()
    assert done.returncode == 3, done.stderr
    assert done.stderr == f"no GPU: {missing_cuda_driver()}\n"
    headings = [line for line in done.stdout.splitlines() if line.startswith("## ")]
    assert tuple(heading[3:].partition(":")[0] for heading in headings) == SECTIONS
    assert done.stdout.count(f"| all | skipped | {missing_cuda_driver()} |") == len(SECTIONS) - 1  # all but doctor


def test_a_failed_check_exits_with_1() -> None:
    done = check_gpu("--device", "cpu", "--only", "torchrun", "--data", "nowhere")
    assert done.returncode == 1, done.stderr
    assert "| remaining checks | FAILED | " in done.stdout


def test_the_error_for_an_unknown_section_lists_the_known_ones() -> None:
    done = check_gpu("--only", "doctor,training")
    assert done.returncode == 2
    assert done.stderr.endswith(f"unknown section 'training'; known: {', '.join(SECTIONS)}\n")


@pytest.mark.slow
def test_sections_pass_on_the_cpu() -> None:
    sections = "deterministic,resume,torchrun,export,rows,provider"
    done = check_gpu("--device", "cpu", "--data", "digits", "--only", sections)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed, 0 skipped" in done.stdout
