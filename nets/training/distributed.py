"""Ranks: the processes that train one net together, as torchrun starts them; or one process alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `count`; `local_count` of them share this machine."""

    rank: int
    count: int
    local_rank: int
    local_count: int

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def launcher(self) -> list[str]:
        """What stands before the command to start as many processes again; nothing for one."""
        if self.count == 1:
            return []
        machines = self.count // self.local_count
        more = ["--nnodes", str(machines)] if machines > 1 else []
        return ["torchrun", *more, "--nproc-per-node", str(self.local_count), "-m"]

    def share(self, rows: Tensor) -> tuple[Tensor, int]:
        """This rank's part of a batch, and 1; or, where rows are too few, any row, and 0, as it is not to count."""
        share = rows[self.rank :: self.count]
        return (share, 1) if len(share) else (rows[:1], 0)

    def whole(self, values: Tensor, count: int) -> Tensor:
        """From values (..., n) of this rank's share those of the whole batch (..., count), in its order."""
        if self.count == 1:
            return values
        found = values.new_zeros(*values.shape[:-1], count)
        found[..., self.rank :: self.count] = values  # of a share that is not to count there is nowhere to put it
        distributed.all_reduce(found)
        return found

    def any(self, yes: bool) -> bool:
        """Whether any rank says yes. All ranks must ask at the same point."""
        if self.count == 1:
            return yes
        answers = torch.tensor(float(yes), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(answers)
        return bool(answers.item())


ALONE = Ranks(rank=0, count=1, local_rank=0, local_count=1)


def from_environment() -> Ranks:
    """What torchrun says this process is, or ALONE."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    numbers = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    rank, local_rank, local_count = numbers
    return Ranks(rank, count, local_rank, local_count)


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Inside, the ranks can talk to each other: by NCCL on CUDA, by gloo on the CPU."""
    if ranks.count == 1:
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()
