"""Data-parallel training in several processes, as torchrun starts them, or in a single process."""

import copy
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from netkit.core.errors import TrainingError, UsageError, first_line

CONNECT_TIMEOUT_S = 300.0  # torch tries twice; one process may load the images faster than another


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
        """Return this rank's indices of a batch (n,), and the number of leading indices that count.

        Batch norm needs two images, so a rank with fewer also gets images of other ranks, which do not count.
        """
        shard = indices[self.rank :: self.world_size]
        return (shard if len(shard) > 1 else indices.roll(-self.rank)[:2]), len(shard)

    def gather(self, values: Tensor, batch_size: int) -> Tensor:
        """Gather the values (..., n) of all ranks' shards to (..., batch_size), in the order of the batch."""
        if self.world_size == 1:
            return values
        gathered = values.new_zeros(*values.shape[:-1], batch_size)
        gathered[..., self.rank :: self.world_size] = values
        distributed.all_reduce(gathered)
        return gathered

    def run_on_main(self, function: Callable[[], None]) -> None:
        """Call `function` in the main process. If it raises an exception, the others raise TrainingError.

        All ranks must call this at the same point.
        """
        failure: BaseException | None = None
        if self.is_main:
            try:
                function()
            except BaseException as exc:  # also KeyboardInterrupt, because the others wait
                failure = exc
        if self.any(failure is not None):
            raise failure or TrainingError("stopped, because the main process failed")

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true on any rank. All ranks must call this at the same point."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(float(flag), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(flags)
        return bool(flags.item())


SINGLE_PROCESS = Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1)


def from_environment() -> Ranks:
    """Read torchrun's environment variables; SINGLE_PROCESS if WORLD_SIZE is not set, empty or 1.

    Raises UsageError if one of the other variables is missing, or if they do not describe one of several processes.
    """
    if os.environ.get("WORLD_SIZE", "") in ("", "1"):
        return SINGLE_PROCESS
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name, "") for name in names]
    if all(value.isdecimal() for value in values):
        ranks = Ranks(*map(int, values))
        if ranks.rank < ranks.world_size and ranks.local_rank < ranks.local_world_size <= ranks.world_size:
            return ranks
    found = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
    raise UsageError(f"not the environment of a torchrun process: {found}; start with torchrun, or unset WORLD_SIZE")


@contextmanager
def process_group(ranks: Ranks, device: torch.device, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Iterator[None]:
    """Connect the ranks inside the context, with NCCL on CUDA and with gloo on the CPU.

    Raises UsageError if they cannot be connected, for example because torchrun's MASTER_ADDR is missing, or because
    it does not answer within `timeout_s`.
    """
    if ranks.world_size == 1:
        yield
        return
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
        store.set_timeout(distributed.default_pg_timeout)
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    except (ValueError, RuntimeError) as exc:
        cause = first_line(exc).rstrip(".")
        raise UsageError(f"cannot connect the processes: {cause}; start with torchrun, or unset WORLD_SIZE") from None
    try:
        yield
    finally:
        # DDP is part of a reference cycle and keeps gloo's threads alive. A thread that runs when Python exits can
        # abort the process: "terminate called without an active exception".
        gc.collect()
        distributed.destroy_process_group()


def data_parallel(model: nn.Module, images: Tensor) -> DistributedDataParallel:
    """Wrap `model`, so that all ranks train on the mean of their gradients. `images` are an example of its input.

    DDP must know whether some parameters get no gradient, such as those of an auxiliary head. A backward pass on the
    example finds out. DDP itself would search in each step, which takes time.
    """
    example = copy.deepcopy(model).train()
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        example(images).sum().backward()
    unused = any(weight.requires_grad and weight.grad is None for weight in example.parameters())
    return DistributedDataParallel(model, find_unused_parameters=unused)
