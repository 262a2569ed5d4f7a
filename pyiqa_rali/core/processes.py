"""The few collective operations of a run under torchrun; each does nothing in a single process."""

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch import distributed as dist

from pyiqa_rali.core.errors import OptionError

LAUNCHERS = ('none', 'pytorch')


@contextlib.contextmanager
def process_group(launcher: str) -> Iterator[None]:
    """Join torchrun's processes (nccl with a GPU each, otherwise gloo) and leave them at the end.

    Raises:
        OptionError: the launcher is unknown, or torchrun did not start this process.
    """
    if launcher not in LAUNCHERS:
        raise OptionError(f'--launcher: "{launcher}" is not one of {", ".join(LAUNCHERS)}. Under slurm start torchrun on '
                          'each node.')
    if launcher == 'none':
        yield
        return
    if 'RANK' not in os.environ:
        raise OptionError('--launcher: pytorch needs torchrun: torchrun --nproc_per_node GPUS -m pyiqa_rali.train '
                          '-opt FILE --launcher pytorch')
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    dist.init_process_group('nccl' if torch.cuda.is_available() else 'gloo')
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's rank, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def gather_features(features: Tensor) -> Tensor:
    """Return all ranks' (n, C) features as (world * n, C), in rank order; this rank's rows keep their gradient."""
    if world_size() == 1:
        return features
    gathered = [torch.zeros_like(features) for _ in range(world_size())]
    dist.all_gather(gathered, features.detach())
    gathered[rank()] = features
    return torch.cat(gathered)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up the gradients of all ranks in place."""
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
