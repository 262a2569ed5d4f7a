"""Whether an exported model gives the scores of the net that it was made from."""

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.model.preprocessing import MIN_SIZE, Preprocessing
from pyiqa_rali.model.rali import RALI

TOLERANCE = 1e-4  # of the score range
SIZE_WITHOUT_TARGET = 224


def checked_sizes(preprocessing: Preprocessing) -> list[tuple[int, int, int]]:
    """Return (N, H, W) of the batches that an exported model is tried on.

    The size of the encoder; portrait and landscape; odd; smaller, larger and on both sides of that size; extreme aspect ratios.
    """
    side = preprocessing.resize_size or preprocessing.image_size or SIZE_WITHOUT_TARGET
    small, tall = max(MIN_SIZE, side // 3), side * 3 // 2
    return [(1, side, side), (2, side, side * 4 // 3), (1, tall + 1, side), (3, small + 1, small + 8), (1, side + 1, small),
            (2, small, side + 3), (1, MIN_SIZE, MIN_SIZE), (1, MIN_SIZE + 1, tall), (1, tall, MIN_SIZE + 3),
            (1, 2 * side + 1, 2 * side - 5)]


def check_agreement(path: str | os.PathLike, net: RALI, name: str) -> dict[str, Any]:
    """Compare the scores of an exported model with those of its net on batches of several sizes.

    Args:
        path: the model.
        net: the metric, on the CPU in float32.
        name: how messages call the model.

    Returns:
        'largest_difference' in the unit of the scores, 'allowed', and 'sizes' that were tried.

    Raises:
        CheckpointError: a score differs by more than `TOLERANCE` of the score range.
    """
    session = open_session(path)
    low, high = net.metadata['mos_range']
    allowed = TOLERANCE * (high - low)
    generator = torch.Generator().manual_seed(0)
    sizes = checked_sizes(net.image_encoder.config.preprocessing)
    found = []
    for shape in progress_bar(sizes, desc='check', unit='size'):
        images = varied_pictures(shape, generator)
        with torch.no_grad():
            expected = net(images)
        scores = torch.from_numpy(session.run(None, {'images': images.numpy()})[0])
        if scores.shape != expected.shape:
            raise CheckpointError(f'{name}: gives {tuple(scores.shape)} for {shape[0]} pictures of {shape[2]} x {shape[1]}; '
                                  f'torch gives {tuple(expected.shape)}.')
        found.append((scores - expected).abs().max().item())
        if not found[-1] <= allowed:  # written so that NaN is refused too
            raise CheckpointError(f'{name}: is not kept: its scores differ by {found[-1]:.2g} from those of torch for '
                                  f'pictures of {shape[2]} x {shape[1]} pixels; {allowed:.2g} is allowed ({TOLERANCE:g} of the '
                                  'range).')
    return {'largest_difference': max(found), 'allowed': allowed,
            'sizes': [f'{count} of {width} x {height}' for count, height, width in sizes]}


def varied_pictures(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Return (N, 3, H, W) in [0, 1]: smooth colours with noise, clipped here and there, the first of a batch on 8 bits."""
    count, height, width = shape
    smooth = F.interpolate(torch.rand(count, 3, 5, 7, generator=generator), size=(height, width), mode='bicubic')
    images = (smooth * 1.2 - 0.1 + 0.05 * torch.randn(count, 3, height, width, generator=generator)).clamp(0, 1)
    images[0] = (images[0] * 255).round() / 255
    return images


def open_session(path: str | os.PathLike, threads: int = 0):
    """Return an onnxruntime session on the CPU; 0 threads lets it choose."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=['CPUExecutionProvider'])
