"""Tasks whose process died: how often, and over which image.

A decoder that crashes takes its process along, whatever is caught in Python. Ray runs the task again, and without a record the
same image would end process after process. Each task that is under way has a small file here. After two deaths its images are
scored one by one, each named before it is read; an image over which two processes died gets a reason in place of a score.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from pyiqa_rali.scoring.cluster.part_files import ATTEMPTS

DEATHS = 2  # of a task, before it is taken image by image; and of an image, before it is left out


class Attempts:
    """The record of one task.

    Args:
        out: the folder of the table.
        number: of the task.

    Attributes:
        careful: whether images are to be scored one by one.
        deadly: names of images over which processes died, with how many.
    """

    def __init__(self, out: Path, number: int):
        self.path = out / ATTEMPTS / f'{number:09d}.jsonl'
        self.careful = False
        self.deadly: dict[str, int] = {}

    def __enter__(self) -> 'Attempts':
        self.path.parent.mkdir(exist_ok=True)
        attempts = _attempts(self.path)
        self.careful = len(attempts) >= DEATHS
        last = Counter(names[-1] for names in attempts if names)
        self.deadly = {name: count for name, count in last.items() if count >= DEATHS}
        self._stream = open(self.path, 'ab', buffering=0)
        self._add({'process': os.getpid()})
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        self._stream.close()
        if kind is None:
            self.path.unlink(missing_ok=True)

    def begin(self, image: str) -> None:
        """Note that an image is about to be read."""
        self._add({'image': image})

    def reason(self, image: str) -> str:
        """Return why an image is left out; empty where it is not."""
        count = self.deadly.get(image)
        return f'its process ended without an error, {count} times, while this image was read or scored' if count else ''

    def _add(self, line: dict[str, Any]) -> None:
        self._stream.write(f'{json.dumps(line)}\n'.encode())


def _attempts(path: Path) -> list[list[str]]:
    """Return the images that each earlier attempt named, in their order."""
    found: list[list[str]] = []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # cut short by the end of its process
            continue
        if 'process' in row:
            found.append([])
        elif found:
            found[-1].append(row['image'])
    return found
