"""Ranks: the processes that train one network together, as torchrun starts them; or one process alone."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank`, from 0, of `count`; `local_count` of them run on this machine."""

    rank: int
    count: int
    local_rank: int
    local_count: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def launcher(self) -> list[str]:
        """The words before a command that start as many processes again; none for one process."""
        if self.count == 1:
            return []
        machines = self.count // self.local_count
        more = ["--nnodes", str(machines)] if machines > 1 else []
        return ["torchrun", *more, "--nproc-per-node", str(self.local_count), "-m"]

    def shard(self, indices: Tensor) -> tuple[Tensor, int]:
        """This rank's part of a batch (n,), and its weight 1; if n is below `count`, maybe one index of weight 0."""
        shard = indices[self.rank :: self.count]
        return (shard, 1) if len(shard) else (indices[:1], 0)

    def gather(self, values: Tensor, batch_size: int) -> Tensor:
        """Values (..., n) of all ranks' shards as those of the batch (..., batch_size), in its order."""
        if self.count == 1:
            return values
        gathered = values.new_zeros(*values.shape[:-1], batch_size)
        gathered[..., self.rank :: self.count] = values  # an empty slice for a shard of weight 0
        distributed.all_reduce(gathered)
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank. All ranks must call this at the same point."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(flags)
        return bool(flags.item())


ALONE = Ranks(rank=0, count=1, local_rank=0, local_count=1)


def from_environment() -> Ranks:
    """The ranks as torchrun describes them in the environment, or ALONE."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    rank, local_rank, local_count = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    return Ranks(rank, count, local_rank, local_count)


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Inside, the ranks can communicate: through NCCL on CUDA, through gloo on the CPU."""
    if ranks.count == 1:
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        # DDP is part of a reference cycle and keeps gloo's threads alive. A thread that is alive when Python exits can
        # abort the process: "terminate called without an active exception".
        gc.collect()
        distributed.destroy_process_group()
