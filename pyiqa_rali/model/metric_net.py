"""What pyiqa's metric asks a net of this package, whatever the net computes."""

import contextlib
import os
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.image_files import READING, ReadingOptions, read_rgb, rgb_of
from pyiqa_rali.model.preprocessing import as_unit_float
from pyiqa_rali.model.value_range import check_on_cpu, check_range, range_settled, warn_of_range


class MetricNet(nn.Module):
    """Base of the architectures that are registered with pyiqa (see `pyiqa_rali.register`).

    Attributes:
        reading: how pictures that are given as files or by Pillow are read.
    """

    reading: ReadingOptions = READING  # of nets that an earlier version has pickled
    _seen_as_loss = False  # whether a first batch was

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
        """Return pictures as they are compared: float32, whole numbers scaled."""
        return as_unit_float(images)

    def check_values(self, images: Tensor, required: bool, as_loss: bool) -> None:
        """Check the values of what pyiqa's metric is given (see `model.value_range`).

        Args:
            images: (N, 3 or 1, H, W).
            required: whether the metric checks its input, unless it is a loss (`check_input_range`).
            as_loss: whether it is: of its first batch, values out of range cause a warning.

        Raises:
            RangeError: a picture has values that are not in [0, 1], or not finite.
        """
        if required:
            check_range(images, finite=True)
        elif as_loss and not self._seen_as_loss and not torch.compiler.is_compiling():
            self._seen_as_loss = True
            warn_of_range(images)

    @staticmethod
    def settled() -> contextlib.AbstractContextManager:
        """Return a context in which the range of values is what pyiqa's metric has said about it."""
        return range_settled()

    def as_images(self, picture: Any) -> Tensor:
        """Return what pyiqa's metric is given, such as a path, as what `forward` takes (see `as_tensor`)."""
        return as_tensor(picture, self.reading)

    def as_pictures(self, picture: Any) -> Tensor:
        """Return the same, for methods that pyiqa's metric knows nothing of: where it is a tensor, its values are checked.

        Raises:
            RangeError: they are not in [0, 1] (see `model.value_range`).
        """
        images = self.as_images(picture)
        check_on_cpu(images)
        return images


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
