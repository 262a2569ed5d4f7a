"""Several processes that share one job, started by torchrun or accelerate; a single process needs none of this."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pyiqa_rali.core.errors import OptionError, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LAUNCHERS = ('none', 'pytorch')
LONGEST_WAIT = timedelta(days=30)  # shares of a job end at different times

logger = logging.getLogger(__name__)


def rank() -> int:
    """Return this process's rank among those that share the job, 0 for a single one."""
    return _group().get_rank() if _group() else int(os.environ.get('RANK', 0))


def world_size() -> int:
    """Return the number of processes that share the job, 1 for a single one.

    Processes know it from torchrun even before they have joined.
    """
    return _group().get_world_size() if _group() else int(os.environ.get('WORLD_SIZE', 1))


def local_rank() -> int:
    """Return this process's rank on its machine: the number of its GPU."""
    return int(os.environ.get('LOCAL_RANK', 0))


def is_main() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def _group() -> Any:
    """Return `torch.distributed` when the processes have joined, else None; this does not import torch."""
    distributed = sys.modules.get('torch.distributed')
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


@contextlib.contextmanager
def joined(backend: str = 'gloo', timeout: timedelta | None = LONGEST_WAIT) -> Iterator[None]:
    """Join the other processes, and leave them at the end; nothing happens in a single process, or where they have joined.

    Args:
        backend: gloo exchanges a few numbers, GPUs or not; nccl exchanges tensors of GPUs.
        timeout: how long one process may wait for another; None takes the backend's default.
    """
    if world_size() == 1 or _group():
        yield
        return
    from torch import distributed
    distributed.init_process_group(backend, timeout=timeout)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def process_group(launcher: str) -> Iterator[None]:
    """Join torchrun's processes for training (nccl with a GPU each, otherwise gloo) and leave them at the end.

    Raises:
        OptionError: the launcher is unknown, or did not start this process.
    """
    if launcher not in LAUNCHERS:
        raise OptionError(f'--launcher: "{launcher}" is not one of {", ".join(LAUNCHERS)}. Under slurm start torchrun on '
                          'each node.')
    if launcher == 'none':
        if world_size() > 1:
            raise OptionError(f'--launcher: none is for one process, and there are {world_size()}, which would write the same '
                              'files. Under torchrun give --launcher pytorch.')
        yield
        return
    if 'RANK' not in os.environ:
        raise OptionError('--launcher: pytorch needs torchrun: torchrun --nproc_per_node GPUS -m pyiqa_rali.train '
                          '-opt FILE --launcher pytorch')
    import torch
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    with joined('nccl' if torch.cuda.is_available() else 'gloo', None):
        yield


def torch_device(name: str | None) -> 'torch.device | None':
    """Return the torch device, None for pyiqa's choice; under torchrun each process gets its own GPU.

    Raises:
        OptionError: there is no such device.
    """
    import torch
    if world_size() > 1 and name in (None, 'cuda') and torch.cuda.is_available():
        name = f'cuda:{local_rank()}'
    if name is None:
        return None
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f'--device: "{name}" cannot be used: {first_line(error)}. '
                          'Give cpu, cuda or cuda:N.') from error


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        from torch import distributed
        distributed.barrier()


def gather(value: Any) -> list[Any]:
    """Return every process's value in rank order, once all have called this."""
    if world_size() == 1:
        return [value]
    from torch import distributed
    values = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def gather_features(features: 'Tensor') -> 'Tensor':
    """Return all ranks' (n, C) features as (world * n, C), in rank order; this rank's rows keep their gradient."""
    if world_size() == 1:
        return features
    import torch
    from torch import distributed
    gathered = [torch.zeros_like(features) for _ in range(world_size())]
    distributed.all_gather(gathered, features.detach())
    gathered[rank()] = features
    return torch.cat(gathered)


def sum_gradients(parameters: 'Iterable[torch.nn.Parameter]') -> None:
    """Add up the gradients of all ranks in place."""
    if world_size() == 1:
        return
    import torch
    from torch import distributed
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)


def choose_device(num_gpu: int | str) -> 'torch.device':
    """Return the device: 'auto' takes a GPU when there is one; 0 is the CPU.

    Raises:
        OptionError: not a number or 'auto', or several GPUs without torchrun.
    """
    import torch
    if num_gpu != 'auto' and not isinstance(num_gpu, int):
        raise OptionError(f'num_gpu: "{num_gpu}" must be auto or a number.')
    if num_gpu == 0 or (num_gpu == 'auto' and not torch.cuda.is_available()):
        return torch.device('cpu')
    if not torch.cuda.is_available():
        logger.warning('num_gpu: %s: no CUDA device was found; the CPU is used.', num_gpu)
        return torch.device('cpu')
    if isinstance(num_gpu, int) and num_gpu > 1 and world_size() == 1:
        raise OptionError(f'num_gpu: {num_gpu} needs torchrun: torchrun --nproc_per_node {num_gpu} -m pyiqa_rali.train -opt '
                          'FILE --launcher pytorch')
    return torch.device('cuda', torch.cuda.current_device())
