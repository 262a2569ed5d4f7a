"""Nets handed to other processes as one block of shared memory.

PyTorch passes each tensor with its own file descriptor, and a net has hundreds: more than a forkserver may pass on, and soon
more than a process may have open. So all tensors of a net are moved into one block, once, where every process that gets the net
finds them.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # bytes: the alignment that suits vector units


@dataclass(frozen=True)
class Place:
    """Where a tensor is in the block.

    Attributes:
        start: first byte.
        dtype: of its values.
        size: lengths of its axes.
        stride: of its axes, in values.
        requires_grad: None for a tensor that is not a parameter.
    """

    start: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool | None

    def tensor(self, block: Tensor) -> Tensor:
        """Return the tensor at this place in a block of bytes."""
        values = block[self.start:self.start + self.dtype.itemsize * _values(self.size, self.stride)].view(self.dtype)
        tensor = torch.as_strided(values, self.size, self.stride)
        return tensor if self.requires_grad is None else nn.Parameter(tensor, self.requires_grad)


def share_as_one_block(kind: type[nn.Module]) -> None:
    """Let multiprocessing pass on the nets of a class in this way; other ways of pickling stay as they are."""
    ForkingPickler.register(kind, reduced)


def reduced(net: nn.Module) -> tuple[Callable[..., Any], tuple[Any, ...]] | Any:
    """Return how multiprocessing rebuilds a net (see `object.__reduce__`); nets on a GPU are left to PyTorch."""
    pickler = _WithoutTensors(stream := io.BytesIO())
    pickler.dump(net)
    tensors = pickler.tensors
    if not all(tensor.device.type == 'cpu' and tensor.layout == torch.strided for tensor in tensors):
        return net.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    block = _common_block(tensors)
    return rebuilt, (stream.getvalue(), block, [_place(tensor) for tensor in tensors])


def rebuilt(content: bytes, block: Tensor, places: list[Place]) -> nn.Module:
    """Return the net that `reduced` took apart; its tensors are in the block."""
    return _WithTensors(io.BytesIO(content), [place.tensor(block) for place in places]).load()


class _WithoutTensors(pickle.Pickler):
    """Pickles everything except tensors, which are collected, each once."""

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, item: Any) -> int | None:
        """Return a tensor's number, None for everything else."""
        if not isinstance(item, Tensor):
            return None
        if id(item) not in self._numbers:
            self._numbers[id(item)] = len(self.tensors)
            self.tensors.append(item)
        return self._numbers[id(item)]


class _WithTensors(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, tensors: list[Tensor]):
        super().__init__(stream)
        self._tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        """Return the tensor of a number."""
        return self._tensors[number]


def _common_block(tensors: list[Tensor]) -> Tensor:
    """Return the bytes that hold all tensors, after moving the tensors there if they are elsewhere."""
    if len({tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}) > 1:
        _move(tensors)
    storage = next((tensor.untyped_storage() for tensor in tensors if tensor.numel()), torch.UntypedStorage(0))
    return torch.empty(0, dtype=torch.uint8).set_(storage)


@torch.no_grad()
def _move(tensors: list[Tensor]) -> None:
    """Give all tensors places in a new block, keeping the order of their axes in memory."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
    block = torch.empty(end, dtype=torch.uint8)
    for tensor, start in zip(tensors, starts, strict=True):
        stride = tensor.stride() if _values(tensor.shape, tensor.stride()) == tensor.numel() else torch.empty(
            tensor.shape, device='meta').stride()
        moved = Place(start, tensor.dtype, tuple(tensor.shape), stride, None).tensor(block)
        tensor.data = moved.copy_(tensor)


def _place(tensor: Tensor) -> Place:
    return Place(int(tensor.storage_offset()) * tensor.element_size(), tensor.dtype, tuple(tensor.shape), tensor.stride(),
                 tensor.requires_grad if isinstance(tensor, nn.Parameter) else None)


def _values(size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return how many values lie from a tensor's first to its last."""
    return 0 if 0 in size else 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
