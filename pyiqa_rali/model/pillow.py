"""Resizing by Pillow itself, which the released checkpoint was trained and evaluated with, for exactly its scores."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyiqa_rali.core.errors import OptionError

VALUES_AT_ONCE = 2 ** 18
RESAMPLING = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}


def resize_with_pillow(images: Tensor, height: int, width: int, interpolation: str = 'bicubic') -> Tensor:
    """Return (N, 3, height, width) in [0, 1] for pictures (N, 3, H, W) in [0, 1], taken as 8-bit pictures.

    Raises:
        OptionError: gradients are requested; none can pass through 8-bit values.
    """
    if torch.is_grad_enabled() and images.requires_grad:
        raise OptionError('exact: True has no gradient to the pixels, because Pillow works on 8 bits. Leave exact out.')
    resized = [Image.fromarray(to_8_bits(image)).resize((width, height), RESAMPLING[interpolation]) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized]))
    return (pixels.permute(0, 3, 1, 2).float() / 255).to(images.device)


def to_8_bits(image: Tensor) -> np.ndarray:
    """Return uint8 (H, W, 3) for one picture (3, H, W) in [0, 1]."""
    pixels = np.empty((*image.shape[1:], 3), np.uint8)
    first = 0
    for rows in row_blocks(image.detach()):
        last = first + rows.shape[1]
        pixels[first:last] = rows.mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        first = last
    return pixels


def row_blocks(images: Tensor) -> tuple[Tensor, ...]:
    """Split pictures (..., H, W) into blocks of rows that fit a CPU's cache: allocating memory for larger ones is slow."""
    values_in_a_row = images.numel() // images.shape[-2]
    return images.split(max(1, VALUES_AT_ONCE // max(1, values_in_a_row)), dim=-2)
