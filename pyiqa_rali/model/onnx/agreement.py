"""Whether an exported model gives the scores of the net that it was exported from."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.model.onnx.network import INPUT
from pyiqa_rali.model.preprocessing import MIN_SIZE, Preprocessing

if TYPE_CHECKING:
    from pyiqa_rali.model.rali import RALI

TOLERANCE = 1e-4  # of the score range
SIZE_WITHOUT_TARGET = 224
NETWORK_SIZES = [(1, 224, 224), (2, 150, 201), (3, 33, 61), (1, MIN_SIZE, 130), (1, 301, MIN_SIZE + 1)]


def checked_sizes(preprocessing: Preprocessing) -> list[tuple[int, int, int]]:
    """Return (N, H, W) of the batches that an exported model is tried on.

    The size of the encoder; portrait and landscape; odd; smaller, larger and on both sides of that size; extreme aspect ratios.
    """
    side = preprocessing.resize_size or preprocessing.image_size or SIZE_WITHOUT_TARGET
    small, tall = max(MIN_SIZE, side // 3), side * 3 // 2
    return [(1, side, side), (2, side, side * 4 // 3), (1, tall + 1, side), (3, small + 1, small + 8), (1, side + 1, small),
            (2, small, side + 3), (1, MIN_SIZE, MIN_SIZE), (1, MIN_SIZE + 1, tall), (1, tall, MIN_SIZE + 3),
            (1, 2 * side + 1, 2 * side - 5)]


def check_agreement(path: str | os.PathLike, net: 'RALI', name: str) -> dict[str, Any]:
    """Compare the scores of an exported model with those of its net on batches of several sizes.

    Args:
        path: the model.
        net: the metric, on the CPU in float32.
        name: the model's name in messages.

    Returns:
        'largest_difference' in the unit of the scores, 'allowed', and 'sizes' that were tried.

    Raises:
        CheckpointError: a score differs by more than `TOLERANCE` of the score range.
    """
    session = open_session(path)
    return _compared(lambda images: session.run(None, {INPUT: images.numpy()})[0], net, net, name,
                     checked_sizes(net.image_encoder.config.preprocessing))


def check_network(path: str | os.PathLike, net: 'RALI', name: str) -> dict[str, Any]:
    """Compare the scores of an exported network, on prepared pictures, with those of its net; see `check_agreement`."""
    session = open_session(path)
    return _compared(lambda images: session.run(None, {INPUT: net.prepare(images).numpy()})[0], net,
                     lambda images: net.torch_scores(net.prepare(images)), name, NETWORK_SIZES)


def _compared(score: Callable[[Tensor], np.ndarray], net: 'RALI', reference: Callable[[Tensor], Tensor], name: str,
              sizes: list[tuple[int, int, int]]) -> dict[str, Any]:
    low, high = net.metadata['mos_range']
    allowed = TOLERANCE * (high - low)
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in progress_bar(sizes, desc='check', unit='size'):
        images = varied_pictures(shape, generator)
        with torch.no_grad():
            expected = reference(images)
            scores = torch.from_numpy(score(images))
        if scores.shape != expected.shape:
            raise CheckpointError(f'{name}: gives {tuple(scores.shape)} for {shape[0]} pictures of {shape[2]} x {shape[1]}; '
                                  f'torch gives {tuple(expected.shape)}.')
        found.append((scores - expected).abs().max().item())
        if not found[-1] <= allowed:  # written so that NaN is rejected too
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
    """Return an onnxruntime session on the CPU; 0 threads lets it choose.

    Its threads sleep while there is nothing to do. By default they wait in a loop, which takes the cores from those of PyTorch
    that prepare the next pictures.
    """
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=['CPUExecutionProvider'])
