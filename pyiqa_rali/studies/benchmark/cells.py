"""The grid of a benchmark: presets, cells, and rows that know what they are the measurement of."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.studies.benchmark.subjects import LITE, OFFLINE, OWN, RALI, RELEASE, Subject

INPUTS = ('file', 'tensor', 'resident', 'tower')
KEYS = ('section', 'subject', 'device', 'threads', 'input', 'width', 'height', 'batch')  # what names a row
ALL = 'all'
_CPU = {'device': 'cpu', 'metrics': [RELEASE, RALI, LITE, *OFFLINE], 'precisions': ['fp32', 'bf16'],
        'inputs': ['file', 'tensor'], 'encoder': 'ViT-L/14-336', 'reasoner': None, 'call_limit': 60.0}
PRESETS: dict[str, dict[str, Any]] = {
    'quick': {**_CPU, 'metrics': [RELEASE, RALI, LITE, 'cnniqa', 'musiq', 'topiq_nr'], 'threads': [ALL], 'batches': [1],
              'sizes': ['512x384', '4000x3000'], 'peer_sizes': ['512x384'], 'repeats': 3, 'starts': 1, 'seconds': 8.0,
              'check_images': 4, 'pipeline_images': 48, 'pipeline_sizes': ['512x384'], 'workers': [2]},
    'full': {**_CPU, 'threads': ['1', ALL], 'batches': [1, 8, 32],
             'sizes': ['512x384', '1024x768', '2000x1500', '4000x3000'], 'peer_sizes': None,
             'inputs': ['file', 'tensor', 'tower'], 'repeats': 5, 'starts': 3, 'seconds': 60.0, 'check_images': 50,
             'pipeline_images': 256, 'pipeline_sizes': ['512x384', '4000x3000'], 'workers': [0, 1, 2, 4]},
    'gpu': {**_CPU, 'device': 'cuda', 'precisions': ['fp32', 'bf16', 'fp16'], 'threads': [ALL],
            'batches': [1, 8, 32, 64], 'sizes': ['512x384', '4000x3000'], 'peer_sizes': ['512x384'],
            'inputs': list(INPUTS), 'repeats': 10, 'starts': 3, 'seconds': 10.0, 'check_images': 50, 'pipeline_images': 2048,
            'pipeline_sizes': ['512x384'], 'workers': [1, 8], 'reasoner': '7b'},
}


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


def cells_of(subject: Subject, inputs: list[str], sizes: list[tuple[int, int]], peer_sizes: list[tuple[int, int]] | None,
             batches: list[int], device: str) -> list[Cell]:
    """Return the cells of a subject from the least to the most pixels."""
    ours = subject.name in OWN
    peer = not ours and subject.name != RELEASE
    sizes = peer_sizes if peer and peer_sizes is not None else sizes
    kinds = [kind for kind in inputs if (kind != 'tower' or ours) and (kind != 'resident' or device != 'cpu')]
    cells = [Cell(kind, width, height, batch) for width, height in sizes for batch in batches for kind in kinds]
    return sorted(cells, key=lambda cell: (cell.pixels, cell.batch))


def row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a row is the measurement of."""
    return tuple(row.get(name) for name in KEYS)


def send_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Write each row, as soon as it is measured, to standard output, where the parent process reads them."""
    for row in rows:
        sys.stdout.write(f'{json.dumps(row)}\n')
        sys.stdout.flush()


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Return (width, height) of a text such as '512x384'.

    Raises:
        OptionError: it is none, or an edge is under 16 pixels.
    """
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(part.isdigit() and int(part) >= 16 for part in parts):
        raise OptionError(f'{option}: "{text}" must be WIDTHxHEIGHT in pixels, each 16 at least, such as 512x384.')
    return int(parts[0]), int(parts[1])


def parse_threads(text: str) -> int:
    """Return a number of threads; 'all' is as many as the process may use.

    Raises:
        OptionError: it is neither.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    if text == ALL:
        return usable
    if not text.isdigit() or not 1 <= int(text) <= usable:
        raise OptionError(f'--threads: "{text}" must be {ALL} or a number from 1 to {usable}, the CPUs of this process.')
    return int(text)
