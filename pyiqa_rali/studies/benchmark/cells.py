"""The grid of a benchmark: its cells, and rows that identify what they measure."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyiqa_rali.studies.benchmark.subjects import OWN, RELEASE, Subject

INPUTS = ('file', 'tensor', 'resident', 'tower')
KEYS = ('section', 'subject', 'device', 'threads', 'input', 'width', 'height', 'batch')  # what names a row


@dataclass(frozen=True)
class Cell:
    """One kind of call: where the pictures are, their size, and how many there are.

    Attributes:
        input: 'file' (reading included), 'tensor' (in the host's memory), 'resident' (a tensor in the device's memory), or
            'tower' (the bare backbone on its own resident inputs; our metrics only).
        width: in pixels.
        height: in pixels.
        batch: pictures in a call.
    """

    input: str
    width: int
    height: int
    batch: int

    @property
    def pixels(self) -> int:
        """Pixels of a call."""
        return self.width * self.height * self.batch

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def cells_of(subject: Subject, inputs: Sequence[str], sizes: list[tuple[int, int]], peer_sizes: list[tuple[int, int]] | None,
             batches: list[int], device: str) -> list[Cell]:
    """Return the cells of a subject from the least to the most pixels."""
    ours = subject.name in OWN
    peer = not ours and subject.name != RELEASE
    sizes = peer_sizes if peer and peer_sizes is not None else sizes
    has_tower = ours and subject.backend == 'torch'
    kinds = [kind for kind in inputs if (kind != 'tower' or has_tower) and (kind != 'resident' or device != 'cpu')]
    cells = [Cell(kind, width, height, batch) for width, height in sizes for batch in batches for kind in kinds]
    return sorted(cells, key=lambda cell: (cell.pixels, cell.batch))


def row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a row measures."""
    return tuple(row.get(name) for name in KEYS)


def send_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Write each row, as soon as it is measured, to standard output, where the parent process reads them."""
    for row in rows:
        sys.stdout.write(f'{json.dumps(row)}\n')
        sys.stdout.flush()
