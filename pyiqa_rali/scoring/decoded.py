"""The pictures of a window after reading: one tensor of all their pixels, and those of one size as one batch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pyiqa_rali.scoring.score_table import ImageScore

Pixels = tuple[np.ndarray, ...]  # (H, W, 3) uint8 or float32: the picture and, for comparisons, its reference


@dataclass
class Decoded:
    """The pictures of a window after reading: all pixels in one tensor, so that one step passes them to a process or GPU.

    Attributes:
        scores: a result for each picture, without a score; those that could not be read say why.
        pixels: the bytes of one picture after the other, those of one size and type together.
        groups: for each size and type (of the picture and its reference), the indices of its pictures in the order of
            `pixels`.
    """

    scores: list[ImageScore]
    pixels: Any
    groups: dict[tuple[tuple[tuple[int, ...], Any], ...], list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, read: Sequence[tuple[ImageScore, Pixels]]) -> 'Decoded':
        """Collect what was read."""
        import torch
        groups: dict[tuple[tuple[tuple[int, ...], Any], ...], list[int]] = {}
        for index, (_, pictures) in enumerate(read):
            if pictures:
                groups.setdefault(tuple((picture.shape, picture.dtype) for picture in pictures), []).append(index)
        blocks = list(_blocks(groups))
        pixels = np.zeros(blocks[-1].end if blocks else 0, np.uint8)
        for block in blocks:
            start = block.start
            for index in block.indices:
                values = read[index][1][block.place].reshape(-1).view(np.uint8)
                pixels[start:start + len(values)] = values
                start += len(values)
        return cls([score for score, _ in read], torch.from_numpy(pixels), groups)

    def pin_memory(self) -> 'Decoded':
        """Move the pixels to pinned memory, from which a GPU can fetch them; PyTorch's DataLoader calls this."""
        self.pixels = self.pixels.pin_memory()
        return self

    def equal_sizes(self, device: Any) -> Iterator[tuple[list[int], list[Any]]]:
        """Yield indices and pictures on the device, for each size: (N, 3, H, W), the pictures and then their references."""
        import torch
        pixels = self.pixels.to(device, non_blocking=True)
        inputs: list[Any] = []
        for block in _blocks(self.groups):
            kind = torch.from_numpy(np.zeros(0, block.dtype)).dtype
            pictures = pixels[block.start:block.end].view(kind).view(len(block.indices), *block.shape)
            inputs = [*(inputs if block.place else []), pictures.permute(0, 3, 1, 2)]
            if block.last:
                yield block.indices, inputs


class _Block(NamedTuple):
    """Where the pictures of one size and type, or their references, are among the bytes of a window."""

    indices: list[int]
    place: int
    shape: tuple[int, ...]
    dtype: Any
    start: int
    end: int
    last: bool


def _blocks(groups: Mapping[tuple[tuple[tuple[int, ...], Any], ...], list[int]]) -> Iterator[_Block]:
    """Yield the blocks of a window, in their order; numbers of several bytes begin at multiples of their size."""
    end = 0
    for kinds, indices in groups.items():
        for place, (shape, dtype) in enumerate(kinds):
            start = -(-end // dtype.itemsize) * dtype.itemsize
            end = start + len(indices) * math.prod(shape) * dtype.itemsize
            yield _Block(indices, place, shape, dtype, start, end, place == len(kinds) - 1)
