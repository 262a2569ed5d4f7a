"""How well `score` keeps the model busy: images per second of decoding alone, the model alone, and the whole command."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.files import write_picture
from pyiqa_rali.studies.benchmark.cells import send_rows
from pyiqa_rali.studies.benchmark.subjects import OWN, Subject, build

BATCH = 8
POLL = 0.02  # seconds
MODEL_SECONDS = 4.0


def main(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row: decoding alone on one core ('decode'), or the model alone with all threads ('model').

    Args:
        request: 'input', 'folder' (of JPEG files), and for the model 'subject', 'device', 'threads', 'batch'.
    """
    import torch

    from pyiqa_rali.data.image_files import read_rgb
    paths = sorted(str(path) for path in Path(request['folder']).iterdir())
    if request['input'] == 'decode':
        torch.set_num_threads(1)
        read_rgb(paths[0])
        start = time.perf_counter()
        files = [read_rgb(path) for path in paths[:64]]
        yield {'section': 'pipeline', 'images': len(files), 'images_per_s': len(files) / (time.perf_counter() - start)}
        return
    from pyiqa_rali.studies.benchmark.measure import picture_tensor, time_calls, times
    torch.set_num_threads(request['threads'])
    scorer = build(Subject(**request['subject']), request['device'])
    images = torch.cat([picture_tensor(path) for path in paths[:request['batch']]])
    seconds = time_calls(lambda: scorer.from_tensor(images).cpu(), 20, MODEL_SECONDS, request['device'])
    yield {'section': 'pipeline', 'images': len(images), **times(seconds, len(images))}


def command_row(subject: Subject, folder: Path, out: Path, workers: int, device: str, batch: int = BATCH) -> dict[str, Any]:
    """Run `python -m pyiqa_rali score` on a folder, and return its steady number of images per second.

    The time is measured from its first lines to its last, so that neither the start of Python nor loading counts.

    Args:
        subject: what scores.
        folder: image files.
        out: the CSV that it writes; removed first.
        workers: of the command.
        device: of the command.
        batch: of the command.

    Raises:
        DataError: it failed, or wrote all its lines at once.
    """
    out.unlink(missing_ok=True)
    weights = subject.options.get('pretrained_model_path')
    command = [sys.executable, '-m', 'pyiqa_rali', 'score', str(folder), '-m', subject.name, '--out', str(out),
               '--device', device, '--workers', str(workers), '--batch-size', str(batch),
               *(['--weights', str(weights)] if weights else []),
               *(['--metric-opt', f'backend={subject.backend}'] if subject.name in OWN else [])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        marks = list(_growth(process, out))
        error = process.communicate()[1].strip().splitlines()
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise DataError(f'score: {error[-1] if error else f"status {process.returncode}"}')
    if len(marks) < 2:
        raise DataError('score: it wrote all its lines at once; give more images to time it.')
    (first, begin), (last, end) = marks[0], marks[-1]
    return {'section': 'pipeline', 'images': last, 'images_per_s': (last - first) / (end - begin)}


def _growth(process: subprocess.Popen, out: Path) -> Iterator[tuple[int, float]]:
    """Yield how many images the command has written, and when, each time that it has written more."""
    size = images = 0
    running = True
    while running:
        running = process.poll() is None
        now = time.perf_counter()
        if out.exists() and out.stat().st_size > size:
            content = out.read_bytes()
            size, lines = len(content), content.count(b'\n') - 1  # without the header
            if lines > images:
                images = lines
                yield images, now
        time.sleep(POLL)


def write_jpegs(folder: Path, pictures: list[Path], size: tuple[int, int], count: int) -> Path:
    """Write so many JPEG files of one size (width, height) from some pictures, one after the other, and return the folder."""
    from PIL import Image

    from pyiqa_rali.data.image_files import read_rgb
    folder.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(pictures[:count]):
        picture = Image.fromarray(read_rgb(path)).resize(size, Image.Resampling.LANCZOS)
        write_picture(folder / f'{index:05d}.jpg', picture, quality=90)
    for index in range(min(len(pictures), count), count):
        target = folder / f'{index:05d}.jpg'
        target.unlink(missing_ok=True)
        os.link(folder / f'{index % len(pictures):05d}.jpg', target)
    return folder


if __name__ == '__main__':
    send_rows(main(json.loads(sys.argv[1])))
