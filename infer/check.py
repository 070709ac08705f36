"""Check: one thing that `netkit verify` or `netkit doctor` looked at, with the outcome."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`name` is what was checked, `detail` what was seen, and `fix` what to do if it is not `ok`."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
