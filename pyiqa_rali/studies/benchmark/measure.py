"""The process that measures one subject: `python -m pyiqa_rali.studies.benchmark.measure REQUEST`, rows as JSON lines.

Its first row, 'start', covers the time from the start of the process to the first score of a file; then comes one row for each
cell, and last the scores of the check pictures.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyiqa_rali.studies.benchmark.cells import Cell, send_rows
from pyiqa_rali.studies.benchmark.subjects import OWN, Subject, bare_tower, build

LARGEST_PIXELS = 100_000_000  # of a call: 1.2 GB as float32, a few times that inside the metrics


def main(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one subject.

    Args:
        request: 'subject', 'device', 'threads', 'cells', 'pictures' (a file for each 'WIDTHxHEIGHT'), 'first' (the file of
            the first score), 'check' (files), 'repeats', 'seconds', 'call_limit' (see `time_calls` and `too_long`), and
            'started' (`time.time()` just before the process was).
    """
    import torch
    torch.set_num_threads(request['threads'])
    subject, device = Subject(**request['subject']), request['device']
    before = time.perf_counter()
    scorer = build(subject, device)
    loaded = time.perf_counter() - before
    scorer.from_files([request['first']]).cpu()
    start = {'start_s': time.time() - request['started'], 'start_cpu_s': time.process_time(), 'load_s': loaded}
    parameters = sum(parameter.numel() for parameter in scorer.module.parameters())
    computed = {'computed_by': getattr(scorer, 'computed_by', None)}
    yield {'section': 'start', **start, 'parameters': parameters, **peaks(device), **computed}
    floor = peak_memory_mb()
    calls: dict[Cell, float] = {}
    for values in request['cells']:
        cell = Cell(**values)
        yield {'section': 'speed', **values, **_measured_cell(scorer, subject, cell, request, calls, floor), **computed}
    if request['check']:
        yield {'section': 'scores', 'images': len(request['check']), 'score_range': getattr(scorer, 'score_range', None),
               'scores': [scorer.from_files([path]).item() for path in request['check']]}


def _measured_cell(scorer: Any, subject: Subject, cell: Cell, request: dict[str, Any], calls: dict[Cell, float],
                   floor: float) -> dict[str, Any]:
    """Return the columns of one cell, or 'error' with what kept it from being measured."""
    reason = too_long(cell, calls, request['call_limit'])
    if reason:
        return {'error': reason}
    reset_peaks(request['device'])
    try:
        call = prepared_call(scorer, subject, cell, request)
        seconds = time_calls(call, request['repeats'], request['seconds'], request['device'])
    except (RuntimeError, ValueError, AssertionError, MemoryError) as error:
        lines = str(error).strip().splitlines()
        return {'error': lines[0] if lines else type(error).__name__}
    calls[cell] = statistics.median(clock for clock, _ in seconds)
    found = {**times(seconds, cell.batch), **peaks(request['device'], floor)}
    if cell.input == 'tower':
        found['gflops'] = gigaflops(call)
        found['peak_share'] = found['gflops'] / 1e3 / calls[cell] / attainable_tflops(subject.precision, request['device'])
    return found


def too_long(cell: Cell, calls: dict[Cell, float], limit: float) -> str | None:
    """Return why a cell is left out, or None: too many pixels, or a call would be longer than `limit` seconds.

    Smaller calls (`calls`) give a lower bound of a call's time: as long as the same pictures in smaller batches.
    """
    if cell.pixels > LARGEST_PIXELS:
        return f'left out: {cell.pixels / 1e6:.0f} megapixels in a call are more than {LARGEST_PIXELS / 1e6:.0f}'
    known = [seconds * cell.batch / smaller.batch for smaller, seconds in calls.items()
             if smaller.input == cell.input and smaller.batch <= cell.batch and smaller.width <= cell.width]
    if known and max(known) > limit:
        return f'left out: a call would take about {max(known):.0f} s or more, over the limit of {limit:g} s'
    return None


def prepared_call(scorer: Any, subject: Subject, cell: Cell, request: dict[str, Any]) -> Callable[[], Any]:
    """Return the call that a cell times."""
    import torch
    path = request['pictures'][f'{cell.width}x{cell.height}']
    if cell.input == 'file':
        return lambda: scorer.from_files([path] * cell.batch).cpu()
    images = picture_tensor(path).expand(cell.batch, -1, -1, -1).contiguous()
    if cell.input == 'tower':
        if subject.name not in OWN:
            raise ValueError(f'{subject.name}: only {" and ".join(OWN)} have a tower to time')
        backbone, inputs = bare_tower(scorer, images)
        return torch.no_grad()(lambda: backbone(*inputs))
    if cell.input == 'resident':
        images = images.to(request['device'])
    return lambda: scorer.from_tensor(images).cpu()


def picture_tensor(path: str) -> Any:
    """Return a picture file as (1, 3, H, W) in [0, 1]."""
    import torch

    from pyiqa_rali.data.image_files import read_rgb
    return torch.from_numpy(read_rgb(path)).permute(2, 0, 1).unsqueeze(0).float() / 255


def time_calls(call: Callable[[], Any], repeats: int, seconds: float, device: str) -> list[tuple[float, float]]:
    """Return what calls take after a warm-up; except for the first, none begins after `seconds`, including the warm-up.

    Returns:
        For each call its seconds by the clock, and those of all threads of this process on the CPU.
    """
    begin = time.perf_counter()
    _timed(call, device)
    found = [_timed(call, device)]
    while len(found) < repeats and time.perf_counter() - begin < seconds:
        found.append(_timed(call, device))
    return found


def _timed(call: Callable[[], Any], device: str) -> tuple[float, float]:
    clock, cpu = time.perf_counter(), time.process_time()
    call()
    synchronise(device)
    return time.perf_counter() - clock, time.process_time() - cpu


def synchronise(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device != 'cpu':
        import torch
        torch.cuda.synchronize(device)


def times(seconds: list[tuple[float, float]], images: int) -> dict[str, float]:
    """Return the columns of some calls (see `time_calls`) with so many images each."""
    clock = [each for each, _ in seconds]
    median = statistics.median(clock)
    return {'repeats': len(seconds), 'median_ms': 1e3 * median, 'min_ms': 1e3 * min(clock), 'max_ms': 1e3 * max(clock),
            'cpu_ms': 1e3 * statistics.median(cpu for _, cpu in seconds), 'ms_per_image': 1e3 * median / images,
            'images_per_s': images / median}


def gigaflops(call: Callable[[], Any]) -> float:
    """Return the floating-point operations of a call (a multiplication and an addition are two), in 1e9."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

    from pyiqa_rali.model.convolutions import onednn_convolves

    def convolved(images: Any, weight: Any, *others: Any, out_shape: Any, **named: Any) -> int:
        return conv_flop_count(images, weight, out_shape)

    own = {torch.ops.mkldnn._convolution_pointwise: convolved} if onednn_convolves() else {}
    # other attention kernels, and oneDNN's products without gradients, are not counted
    with (torch.enable_grad(), FlopCounterMode(display=False, custom_mapping=own) as counter,
          sdpa_kernel(SDPBackend.MATH)):
        call()
    return counter.get_total_flops() / 1e9


def attainable_tflops(precision: str, device: str) -> float:
    """Return what a large matrix product reaches on the device in a precision, in 1e12 operations a second."""
    import torch

    from pyiqa_rali.model.products import linear
    side = 2048 if device == 'cpu' else 8192
    dtype = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}[precision]
    left, bias = torch.randn(side, side, device=device).to(dtype), torch.zeros(side, device=device, dtype=dtype)
    seconds = time_calls(torch.no_grad()(lambda: linear(left, left, bias)), 5 if device == 'cpu' else 30, 5.0, device)
    return 2 * side ** 3 / min(seconds)[0] / 1e12


def peaks(device: str, floor: float = 0.0) -> dict[str, float]:
    """Return the columns of memory: the process's largest, and on a GPU the largest that torch allocated there.

    Args:
        device: torch's name of the device.
        floor: what the process had needed before the peaks were reset, which is included.
    """
    found = {'peak_mb': max(peak_memory_mb(), floor)}
    if device != 'cpu':
        import torch
        found['peak_gpu_mb'] = torch.cuda.max_memory_allocated(device) / 2 ** 20
    return found


def reset_peaks(device: str) -> None:
    """Reset the peaks where the system supports it (Linux); elsewhere a row's peak includes the rows before it."""
    import contextlib
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')
    if device != 'cpu':
        import torch
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb() -> float:
    """Return the largest resident memory that this process has had, in MiB.

    Linux's own value for the program is used where there is one: that of getrusage includes the parent's at the fork.
    """
    status = Path('/proc/self/status')
    if status.exists():
        line, = [line for line in status.read_text().splitlines() if line.startswith('VmHWM')]
        return int(line.split()[1]) / 2 ** 10
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2 ** 20 if sys.platform == 'darwin' else 2 ** 10)


if __name__ == '__main__':
    send_rows(main(json.loads(sys.argv[1])))
