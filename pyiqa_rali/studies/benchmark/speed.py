"""Time and memory of one metric on one image file, in a process of its own."""

import time
from typing import Any

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.image_files import read_size
from pyiqa_rali.studies.benchmark.cells import Cell
from pyiqa_rali.studies.benchmark.run import child_rows
from pyiqa_rali.studies.benchmark.subjects import Subject


def measure_metric(name: str, image: str, repeats: int, threads: int, device: str,
                   options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what one metric costs.

    Args:
        name: a no-reference metric of pyiqa.
        image: an image file; reading it is part of the time.
        repeats: timed calls, after one that is not.
        threads: of torch.
        device: torch's name of the device.
        options: keywords for `create_metric`, such as 'pretrained_model_path'.

    Returns:
        'metric', 'median_ms', 'min_ms', 'max_ms', 'start_s' (from the start of the process to the first score), 'load_s'
        (making the metric), 'parameters', 'peak_mb' (largest resident memory of the process), and on a GPU 'peak_gpu_mb'.

    Raises:
        DataError: the metric cannot be made or fails on the image; the message says why.
    """
    height, width = read_size(image)
    request = {'subject': Subject(name, options=options or {}).to_dict(), 'device': device, 'threads': threads, 'first': image,
               'pictures': {f'{width}x{height}': image}, 'cells': [Cell('file', width, height, 1).to_dict()], 'check': [],
               'repeats': repeats, 'seconds': float('inf'), 'call_limit': float('inf'), 'started': time.time()}
    try:
        start, timed = child_rows('measure', request, threads)
    except DataError as error:
        raise DataError(f'benchmark: {name} failed: {error}') from error
    if 'error' in timed:
        raise DataError(f'benchmark: {name} failed: {timed["error"]}')
    return {'metric': name, **start, **timed}
