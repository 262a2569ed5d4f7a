"""What pyiqa's metric asks a net of this package, whatever the net computes."""

import os
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.image_files import READING, ReadingOptions, read_rgb, rgb_of
from pyiqa_rali.model.preprocessing import as_unit_float


class MetricNet(nn.Module):
    """Base of the architectures that are registered with pyiqa (see `pyiqa_rali.register`).

    Attributes:
        reading: how pictures that are given as files or by Pillow are read.
    """

    reading: ReadingOptions = READING  # of nets that an earlier version has pickled

    @property
    def score_range(self) -> str:
        """The range of the scores as pyiqa writes it, such as '1, 5'."""
        raise NotImplementedError

    @property
    def lower_better(self) -> bool:
        """Whether low scores mean good quality."""
        raise NotImplementedError

    @property
    def metric_facts(self) -> dict[str, Any]:
        """What pyiqa's metric says about itself, from the weights that are loaded."""
        return {'score_range': self.score_range, 'lower_better': self.lower_better}

    @staticmethod
    def as_checked(images: Tensor) -> Tensor:
        """Return pictures as pyiqa's metric checks their range: float32, whole numbers scaled."""
        return as_unit_float(images)

    def as_images(self, picture: Any) -> Tensor:
        """Return what pyiqa's metric is given, such as a path, as what `forward` takes (see `as_tensor`)."""
        return as_tensor(picture, self.reading)


def as_tensor(picture: Any, options: ReadingOptions = READING) -> Tensor:
    """Return a picture as the tensor that metrics take, read by the package's one rule.

    Args:
        picture: a path, the bytes of a file, a Pillow image, or a tensor, which is returned as it is.
        options: orientation and pixel limit.

    Returns:
        float32 (1, 3, H, W), RGB in [0, 1].

    Raises:
        UnreadableImage: there is no such file, or no picture in it; the message names it.
        OptionError: it is something else, such as an array, which does not tell the order of its axes and colours.
    """
    if isinstance(picture, Tensor):
        return picture
    if isinstance(picture, Image.Image):
        pixels = rgb_of(picture, options)
    elif isinstance(picture, str | os.PathLike | bytes):
        pixels = read_rgb(picture, options)
    else:
        raise OptionError(f'a picture was given as {type(picture).__name__}; it must be a path, the bytes of a file, a picture '
                          'of Pillow, or a tensor (N, 3, H, W), RGB in [0, 1]. An array may be RGB or BGR, '
                          'which its numbers do not tell: pyiqa_rali.from_array(array, "rgb") or "bgr" makes it a picture.')
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) / 255
