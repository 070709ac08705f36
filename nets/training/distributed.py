"""Data-parallel training in several processes, as torchrun starts them, or in a single process."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among `world_size` processes, `local_world_size` of which run on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def launcher(self) -> list[str]:
        """Return the torchrun command line that starts the same number of processes; empty for one process."""
        if self.world_size == 1:
            return []
        machines = self.world_size // self.local_world_size
        nnodes = ["--nnodes", str(machines)] if machines > 1 else []
        return ["torchrun", *nnodes, "--nproc-per-node", str(self.local_world_size), "-m"]

    def shard(self, indices: Tensor) -> tuple[Tensor, int]:
        """Return this rank's indices of a batch (n,), and their weight 1.

        If the batch has no index for this rank, return its first index with weight 0.
        """
        shard = indices[self.rank :: self.world_size]
        return (shard, 1) if len(shard) else (indices[:1], 0)

    def gather(self, values: Tensor, batch_size: int) -> Tensor:
        """Gather the values (..., n) of all ranks' shards to (..., batch_size), in the order of the batch."""
        if self.world_size == 1:
            return values
        gathered = values.new_zeros(*values.shape[:-1], batch_size)
        gathered[..., self.rank :: self.world_size] = values  # the slice is empty for a shard of weight 0
        distributed.all_reduce(gathered)
        return gathered

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true on any rank. All ranks must call this at the same point."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(float(flag), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(flags)
        return bool(flags.item())


SINGLE_PROCESS = Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1)


def from_environment() -> Ranks:
    """Read torchrun's environment variables; SINGLE_PROCESS if they are not set."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return SINGLE_PROCESS
    rank, local_rank, local_world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    return Ranks(rank, world_size, local_rank, local_world_size)


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Connect the ranks inside the context, with NCCL on CUDA and with gloo on the CPU."""
    if ranks.world_size == 1:
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        # DDP is part of a reference cycle and keeps gloo's threads alive. A thread that runs when Python exits can
        # abort the process: "terminate called without an active exception".
        gc.collect()
        distributed.destroy_process_group()
