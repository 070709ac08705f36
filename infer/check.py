"""Check: the outcome of one check by `netkit verify` or `netkit doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`name` says what was checked, `detail` what was found, and `fix` what to do if `ok` is false."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
