"""Reading photographs of any kind as 8-bit RGB."""

import os
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.image_files import strict_decoding

UNREADABLE = (OSError, UnidentifiedImageError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8 RGB.

    Gray is repeated, 16 bits are scaled to 8, CMYK and palettes are converted, and transparent pixels are laid on white.
    EXIF orientation is left alone, as in pyiqa.

    Raises:
        DataError: the file is missing, empty, truncated or no picture; the message names it.
    """
    try:
        with strict_decoding(), _quiet_open(path) as opened:
            opened.load()
            return np.array(_as_rgb(opened))
    except UNREADABLE as error:
        raise DataError(f'{path}: cannot be read as an image ({error}).') from error


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return a picture's height and width from its header.

    Raises:
        DataError: the file is missing or no picture; the message names it.
    """
    try:
        with _quiet_open(path) as opened:
            return opened.height, opened.width
    except UNREADABLE as error:
        raise DataError(f'{path}: cannot be read as an image ({error}).') from error


def _quiet_open(path: str | os.PathLike) -> Image.Image:
    """Open a picture; one of more than 89 million pixels is none of Pillow's business below its own limit."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        return Image.open(path)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I'):
        return _scaled_to_8_bits(image).convert('RGB')
    if image.mode == 'F':
        raise ValueError('floating-point pixels have no known range; save it with 8 or 16 bits')
    if image.mode in ('LA', 'RGBA', 'PA', 'La', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
    return image.convert('RGB')


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit gray as 8-bit gray. Pillow's 32-bit mode holds 16 bits in a PNG and has no known range elsewhere."""
    if image.mode == 'I' and image.format != 'PNG':
        raise ValueError('32-bit pixels have no known range; save it with 8 or 16 bits')
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
