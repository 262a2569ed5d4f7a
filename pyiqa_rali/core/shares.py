"""Several processes that share one job, started by torchrun; a single process needs none of it."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pyiqa_rali.core.errors import OptionError, first_line

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


def torch_device(name: str | None) -> Any:
    """Return the torch device, None for pyiqa's choice; under torchrun each process gets a GPU of its own.

    Raises:
        OptionError: there is no such device.
    """
    import torch
    if rank_and_world()[1] > 1 and name in (None, 'cuda') and torch.cuda.is_available():
        name = f'cuda:{local_rank()}'
    if name is None:
        return None
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f'--device: "{name}" cannot be used: {first_line(error)}. '
                          'Give cpu, cuda or cuda:N.') from error
