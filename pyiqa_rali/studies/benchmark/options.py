"""What a benchmark measures: presets, and their options with the allowed values."""

import os
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.options import check_choice, from_known_keys
from pyiqa_rali.core.processes import torch_device
from pyiqa_rali.model.onnx.backend import is_installed
from pyiqa_rali.model.onnx.network import NEEDED
from pyiqa_rali.studies.benchmark.cells import INPUTS
from pyiqa_rali.studies.benchmark.subjects import LITE, OFFLINE, RALI, RELEASE

ENCODERS = ('ViT-L/14-336', 'tiny')  # of the random weights; see `release.ENCODERS`
REASONERS = ('7b', 'tiny')  # see `reasoner.SIZES`
ALL = 'all'
_CPU = {'device': 'cpu', 'metrics': [RELEASE, RALI, LITE, *OFFLINE], 'precisions': ['fp32', 'bf16'],
        'backends': ['torch', *(['onnx'] if is_installed(*NEEDED) else [])],
        'inputs': ['file', 'tensor'], 'encoder': 'ViT-L/14-336', 'reasoner': None, 'call_limit': 60.0}
PRESETS: dict[str, dict[str, Any]] = {
    'quick': {**_CPU, 'metrics': [RELEASE, RALI, LITE, 'cnniqa', 'musiq', 'topiq_nr'], 'threads': [ALL], 'batches': [1],
              'sizes': [(512, 384), (4000, 3000)], 'peer_sizes': [(512, 384)], 'repeats': 3, 'starts': 1, 'seconds': 8.0,
              'check_images': 4, 'pipeline_images': 48, 'pipeline_sizes': [(512, 384)], 'workers': [2]},
    'full': {**_CPU, 'threads': [1, ALL], 'batches': [1, 8, 32],
             'sizes': [(512, 384), (1024, 768), (2000, 1500), (4000, 3000)], 'peer_sizes': None,
             'inputs': ['file', 'tensor', 'tower'], 'repeats': 5, 'starts': 3, 'seconds': 60.0, 'check_images': 50,
             'pipeline_images': 256, 'pipeline_sizes': [(512, 384), (4000, 3000)], 'workers': [0, 1, 2, 4]},
    'gpu': {**_CPU, 'device': 'cuda', 'backends': ['torch'], 'precisions': ['fp32', 'bf16', 'fp16'], 'threads': [ALL],
            'batches': [1, 8, 32, 64], 'sizes': [(512, 384), (4000, 3000)], 'peer_sizes': [(512, 384)],
            'inputs': list(INPUTS), 'repeats': 10, 'starts': 3, 'seconds': 10.0, 'check_images': 50, 'pipeline_images': 2048,
            'pipeline_sizes': [(512, 384)], 'workers': [1, 8], 'reasoner': '7b'},
}

Size = tuple[Annotated[int, Ge(16)], Annotated[int, Ge(16)]]  # width and height, in pixels


@dataclass(kw_only=True)
class BenchmarkOptions:
    """What is measured, and how often; `benchmark_options` fills in what a preset says.

    Attributes:
        metrics: 'release' (its own path), 'rali', 'rali-lite', and any no-reference metric of pyiqa.
        precisions: of our metrics.
        backends: of rali-lite, in float32: 'torch', and 'onnx' on CPUs with onnxruntime.
        sizes: of the pictures.
        peer_sizes: for the other metrics of pyiqa; None takes the same.
        batches: pictures in a call.
        threads: of torch.
        inputs: see `Cell.input`.
        device: torch's name.
        encoder: of the random weights of 'rali' and 'release': 'ViT-L/14-336' or 'tiny'.
        repeats: timed calls of a cell, after one that is not.
        starts: processes whose time to the first score is measured.
        seconds: start no further call of a cell after this time.
        call_limit: cells with longer calls, in seconds, are left out.
        check_images: pictures whose scores are compared; 0 for none.
        pipeline_images: JPEG files that the command `score` is timed on; 0 for none.
        pipeline_metrics: which score them.
        pipeline_sizes: of those files.
        workers: of the command.
        reasoner: compare with a Qwen2.5-VL that writes texts: '7b' (needs 40 GB) or 'tiny'; None for none.
        reasoner_batch: pictures.
        reasoner_tokens: tokens.
        image: the picture; None takes a photograph that scikit-image installs.
    """

    metrics: Annotated[list[str], MinLen(1)]
    precisions: Annotated[list[Literal['fp32', 'bf16', 'fp16']], MinLen(1)]
    sizes: Annotated[list[Size], MinLen(1)]
    peer_sizes: list[Size] | None = None
    batches: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)]
    threads: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)]
    inputs: Annotated[list[Literal['file', 'tensor', 'resident', 'tower']], MinLen(1)]
    device: str
    encoder: str
    repeats: Annotated[int, Ge(1)]
    starts: Annotated[int, Ge(1)]
    seconds: Annotated[float, Gt(0)]
    call_limit: Annotated[float, Gt(0)]
    check_images: Annotated[int, Ge(0)]
    pipeline_images: Annotated[int, Ge(0)]
    pipeline_metrics: list[str] = field(default_factory=lambda: [LITE])
    pipeline_sizes: list[Size]
    workers: list[Annotated[int, Ge(0)]]
    backends: list[Literal['torch', 'onnx']] = field(default_factory=lambda: ['torch'])
    reasoner: str | None = None
    reasoner_batch: Annotated[int, Ge(1)] = 16
    reasoner_tokens: Annotated[int, Ge(1)] = 100
    image: str | None = None


def benchmark_options(preset: str = 'quick', **changes: Any) -> BenchmarkOptions:
    """Return the options of a preset with changes.

    Args:
        preset: 'quick' (a few minutes), 'full' (the whole grid) or 'gpu'.
        **changes: attributes of `BenchmarkOptions`; None leaves the preset's. `threads` may name 'all'. With `sizes`,
            `peer_sizes` are the same unless they are given.

    Raises:
        OptionError: a value cannot be used.
    """
    check_choice('preset', preset, tuple(PRESETS))
    given = {name: value for name, value in changes.items() if value is not None}
    if 'sizes' in given:
        given.setdefault('peer_sizes', given['sizes'])
    values = {**PRESETS[preset], **given}
    values['threads'] = list(dict.fromkeys(number_of_threads(each) for each in values['threads']))
    options = from_known_keys(BenchmarkOptions, values)
    check_choice('encoder', options.encoder, ENCODERS)
    if options.reasoner is not None:
        check_choice('reasoner', options.reasoner, REASONERS)
    torch_device(options.device)
    if 'onnx' in options.backends and not (is_installed(*NEEDED) and options.device == 'cpu'):
        raise OptionError('backends: onnx is for the device cpu, and needs pip install "pyiqa-rali[onnx]". Leave it out.')
    return options


def number_of_threads(value: int | str) -> int:
    """Return a number of threads; 'all' is as many as the process may use.

    Raises:
        OptionError: it is neither.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    if value == ALL:
        return usable
    if not str(value).isdigit() or not 1 <= int(value) <= usable:
        raise OptionError(f'threads: "{value}" must be {ALL} or a number from 1 to {usable}, the CPUs of this process.')
    return int(value)


def size_of(option: str, text: str) -> tuple[int, int]:
    """Return (width, height) of a text such as '512x384'.

    Raises:
        OptionError: it is not a size, or an edge is under 16 pixels.
    """
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(part.isdigit() and int(part) >= 16 for part in parts):
        raise OptionError(f'{option}: "{text}" must be WIDTHxHEIGHT in pixels, each at least 16, such as 512x384.')
    return int(parts[0]), int(parts[1])
