"""Several processes that share one job, started by torchrun; a single process needs none of it."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

LONGEST_WAIT = timedelta(days=30)  # shares end at different times


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes, (0, 1) without torchrun."""
    return int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))


def local_rank() -> int:
    """Return this process's rank on its machine: the number of its GPU."""
    return int(os.environ.get('LOCAL_RANK', 0))


@contextlib.contextmanager
def joined(world: int) -> Iterator[None]:
    """Join the other processes (gloo: only a few numbers are exchanged, GPUs or not), and leave them at the end."""
    if world == 1:
        yield
        return
    from torch import distributed as dist
    dist.init_process_group('gloo', timeout=LONGEST_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(value: Any, world: int) -> list[Any]:
    """Return every process's value, in the order of their ranks, when all have come here."""
    if world == 1:
        return [value]
    from torch import distributed as dist
    values = [None] * world
    dist.all_gather_object(values, value)
    return values
