"""The report: sections, the reasons to skip them, and their rows as Markdown tables."""

import ctypes
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from netkit.core.errors import first_line
from netkit.core.system import CUDA_DRIVER, missing_cuda_driver
from scripts.tools.check_gpu.workspace import Workspace

CHECKOUT = Path(__file__).parents[3]
OK, FAILED, SKIPPED, MEASURED = "ok", "FAILED", "skipped", "measured"


@dataclass(frozen=True)
class Row:
    """One check. `status` is OK, FAILED, SKIPPED, or MEASURED for a number without a limit."""

    check: str
    status: str
    detail: str

    def __str__(self) -> str:
        return f"| {self.check} | {self.status} | {self.detail.replace('|', '/')} |"


@dataclass(frozen=True)
class Section:
    """A part of the report.

    `function` is "module.name" in this package. It takes a Workspace and yields rows. It is imported only if the
    section can run: netkit's `extras` must be installed, and the libraries in `cuda` built with CUDA.
    """

    title: str
    function: str
    extras: tuple[str, ...] = ()
    cuda: tuple[str, ...] = ()

    def rows(self, work: Workspace) -> Iterator[Row]:
        """Run the section. An exception yields a failed row."""
        if cause := self._missing(on_cuda=work.device == "cuda"):
            yield Row("all", SKIPPED, cause)
            return
        module, name = self.function.split(".")
        try:
            function: Callable[[Workspace], Iterator[Row]] = getattr(import_module(f"{__package__}.{module}"), name)
            yield from function(work)
        except Exception as exc:
            yield Row("remaining checks", FAILED, f"{type(exc).__name__}: {first_line(exc)}")

    def _missing(self, *, on_cuda: bool) -> str | None:
        """Return why the section cannot run here, or None if it can."""
        if self.cuda and on_cuda and (cause := missing_gpu()):
            return cause
        if cause := missing_package(self.extras):
            return cause
        causes = (missing_cuda_build(library) for library in self.cuda if on_cuda)
        return next(filter(None, causes), None)


def passed(check: str, condition: bool, detail: str) -> Row:
    """Return a row that is OK if the condition holds, and FAILED otherwise."""
    return Row(check, OK if condition else FAILED, detail)


def print_section(name: str, section: Section, work: Workspace) -> list[Row]:
    """Run a section; print its heading, and each row as soon as it is known."""
    print(f"\n## {name}: {section.title}\n\n| check | status | detail |\n|---|---|---|", flush=True)
    started = time.monotonic()
    rows = []
    for row in section.rows(work):
        print(row, flush=True)
        rows.append(row)
    print(f"\n{time.monotonic() - started:.0f} s", flush=True)
    return rows


def missing_gpu() -> str | None:
    """Return why there is no GPU, or None if there is one."""
    if cause := missing_cuda_driver():
        return cause
    driver, count = ctypes.CDLL(CUDA_DRIVER), ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return "the NVIDIA driver finds no GPU" if failed or not count.value else None


def missing_package(extras: tuple[str, ...]) -> str | None:
    """Return a message on the first dependency of netkit or of the extras that is missing or too old, or None."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    for requirement in map(Requirement, texts):
        installed = _installed_version(requirement.name) or _installed_version(f"{requirement.name}-gpu")
        if installed is None:
            return f"{requirement.name} is not installed"
        if not requirement.specifier.contains(installed, prereleases=True):
            return f"{requirement.name} is {installed}; netkit needs {requirement.specifier}"
    return None


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing_cuda_build(library: str) -> str | None:
    """Return why "torch" or "onnxruntime" cannot use CUDA, or None if it can."""
    if library == "torch":
        import torch

        return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no usable GPU"
    from netkit.infer.runtime.ort import ort
    from netkit.infer.runtime.providers import CUDA

    listed = CUDA in ort.get_available_providers()
    return None if listed else f"onnxruntime {ort.__version__} is built without CUDA"
