"""Resizing by Pillow itself: what the released checkpoint was trained and evaluated with, for scores that are its own."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyiqa_rali.errors import OptionError

RESAMPLING = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}


def resize_with_pillow(images: Tensor, height: int, width: int, interpolation: str = 'bicubic') -> Tensor:
    """Return (N, 3, height, width) in [0, 1] for pictures (N, 3, H, W) in [0, 1], taken as 8-bit pictures.

    Raises:
        OptionError: gradients are wanted; there are none through 8 bits.
    """
    if torch.is_grad_enabled() and images.requires_grad:
        raise OptionError('exact: True has no gradient to the pixels, because Pillow works on 8 bits. Leave exact out.')
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    if pixels.shape[1:3] != (height, width):
        pixels = np.stack([np.asarray(Image.fromarray(each).resize((width, height), RESAMPLING[interpolation]))
                           for each in pixels])
    return (torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255).to(images.device)
