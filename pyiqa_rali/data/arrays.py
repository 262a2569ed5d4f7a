"""Arrays as pictures: only with their order of colours, which the numbers do not tell."""

from typing import Any

import numpy as np
from PIL import Image

from pyiqa_rali.core.errors import OptionError

# name: how many channels there are, and where red, green, blue (and alpha) are among them
CHANNELS: dict[str, tuple[int, list[int]]] = {'rgb': (3, [0, 1, 2]), 'bgr': (3, [2, 1, 0]), 'rgba': (4, [0, 1, 2, 3]),
                                              'bgra': (4, [2, 1, 0, 3]), 'gray': (1, [0])}
WHITE_16 = 257  # 65535 / 255


def from_array(array: Any, channels: str) -> Image.Image:
    """Return an array as a picture of Pillow, which every function and metric of this package takes.

    Args:
        array: of NumPy, or anything that it makes an array of; uint8 or uint16, (H, W, 3) or (H, W, 4), for gray (H, W) or
            (H, W, 1). 16 bits are divided by 257 and rounded.
        channels: their order: 'rgb' (Pillow, imageio, matplotlib), 'bgr' (OpenCV's imread), 'rgba', 'bgra' or 'gray'. There
            is no default: a picture with red and blue exchanged looks like another picture, and has another score.

    Raises:
        OptionError: another order of colours, shape or type; floats, whose white is not known, among them.

    Example:
        >>> from_array(np.zeros((4, 6, 3), np.uint8), 'bgr').size
        (6, 4)
    """
    if channels not in CHANNELS:
        raise OptionError(f'channels: {channels!r} is not one of {", ".join(CHANNELS)}. An array does not tell the order of '
                          "its colours: arrays of OpenCV are 'bgr', those of Pillow and imageio 'rgb'.")
    values = np.asarray(array)
    count, order = CHANNELS[channels]
    if values.dtype not in (np.uint8, np.uint16):
        raise OptionError(f'array: its type is {values.dtype}; it must be uint8 or uint16, whose white is 255 or 65535. Of '
                          'floats in [0, 1]: (array * 255).round().astype("uint8"), or a tensor (N, 3, H, W) for a metric.')
    fits = values.ndim == 2 if count == 1 and values.ndim != 3 else values.ndim == 3 and values.shape[-1] == count
    if not fits or not values.size:
        shape = '(H, W) or (H, W, 1)' if count == 1 else f'(H, W, {count})'
        first = values.ndim == 3 and values.shape[0] == count
        raise OptionError(f'array: its shape is {values.shape}; channels={channels!r} needs {shape}.'
                          + (' With its channels first: array.transpose(1, 2, 0).' if first else ''))
    if values.dtype == np.uint16:
        values = np.rint(values / WHITE_16).astype(np.uint8)
    if count == 1:
        return Image.fromarray(np.ascontiguousarray(values.reshape(values.shape[:2])))
    return Image.fromarray(np.ascontiguousarray(values[..., order]))
