"""Check: the outcome of one check by `netkit verify` or `netkit doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`name` says what was checked and `detail` what was found. `fix`, if not empty, says what to install or run."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
