"""Time and memory of metrics on one image file, each metric in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pyiqa_rali.errors import DataError

# the paper's encoder and scorer (arXiv 2510.11369), with random weights: time and memory do not depend on their values
PAPER = 'ViT-L-14-336'
PAPER_OPTIONS = {
    'pretrained': False, 'pca_dim': 512, 'num_basis': 250, 'mos_range': [1, 5], 'lower_better': False,
    'image_encoder': {'library': 'open_clip', 'name': 'ViT-L-14-336-quickgelu', 'embed_dim': 768,
                      'preprocessing': {'image_size': 336, 'resize_size': 336}}}


def measure_metric(name: str, image: str, repeats: int, threads: int, device: str,
                   options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what one metric costs, measured in a fresh process.

    Args:
        name: a no-reference metric of pyiqa, or `PAPER`.
        image: an image file; reading it is part of the time.
        repeats: timed calls, after one that is not.
        threads: torch's threads.
        device: 'cpu' or 'cuda'.
        options: keywords for `create_metric`, such as 'pretrained_model_path'.

    Returns:
        'metric', 'seconds' (of each call), 'median_ms', 'load_s' (making the metric, without importing torch and pyiqa),
        'parameters', 'peak_mb' (largest resident memory of the process), and on CUDA 'peak_gpu_mb'.

    Raises:
        DataError: the process failed; the message holds its last line.
    """
    request = json.dumps({'name': name, 'image': image, 'repeats': repeats, 'threads': threads, 'device': device,
                          'options': options})
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}
    result = subprocess.run([sys.executable, '-m', 'pyiqa_rali.evaluation.speed', request], env=environment,
                            capture_output=True, text=True)
    if result.returncode:
        reason = result.stderr.strip().splitlines() or [f'exit status {result.returncode}']
        raise DataError(f'benchmark: {name} failed: {reason[-1]}')
    return json.loads(result.stdout.splitlines()[-1])


def measure_here(name: str, image: str, repeats: int, threads: int, device: str,
                 options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Do what `measure_metric` says, in this process."""
    import pyiqa
    import torch
    torch.set_num_threads(threads)
    start = time.perf_counter()
    options = PAPER_OPTIONS if name == PAPER else options or {}
    metric = pyiqa.create_metric('rali' if name == PAPER else name, device=torch.device(device), **options)
    loaded = time.perf_counter() - start
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        metric(image).item()  # .item() waits for a GPU
        seconds.append(time.perf_counter() - start)
    found = {'metric': name, 'seconds': seconds[1:], 'median_ms': 1e3 * statistics.median(seconds[1:]), 'load_s': loaded,
             'parameters': sum(parameter.numel() for parameter in metric.net.parameters()), 'peak_mb': peak_memory_mb()}
    if device.startswith('cuda'):
        found['peak_gpu_mb'] = torch.cuda.max_memory_allocated() / 2 ** 20
    return found


def peak_memory_mb() -> float:
    """Return the largest resident memory that this process has had, in MiB.

    Linux's own figure of the program is taken where there is one: getrusage's also counts the parent's at the fork.
    """
    status = Path('/proc/self/status')
    if status.exists():
        line, = [line for line in status.read_text().splitlines() if line.startswith('VmHWM')]
        return int(line.split()[1]) / 2 ** 10
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2 ** 20 if sys.platform == 'darwin' else 2 ** 10)


if __name__ == '__main__':
    print(json.dumps(measure_here(**json.loads(sys.argv[1]))))
