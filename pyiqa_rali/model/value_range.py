"""Whether the values of float pictures are those of pictures, in [0, 1], and not 0 to 255 or normalised for some network.

Nothing but the values themselves tells: a picture from 0 to 255 would be clipped to white and scored without a complaint.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from pyiqa_rali.core.errors import OptionError

# how far values may be outside [0, 1]: bicubic resampling of a picture in [0, 1] goes at most 0.446 beyond, its weights for one
# axis (a = -0.75, halfway between two pixels) being -0.09375, 0.59375, 0.59375, -0.09375
TOLERANCE = 0.45
LOWEST, HIGHEST = -TOLERANCE, 1 + TOLERANCE
ADVICE = (f'they must be in [0, 1], resampled ones up to {TOLERANCE:g} outside. Of values from 0 to 255, give images / 255, or '
          'the type uint8; of values from -1 to 1, (images + 1) / 2; of any others, images.clamp(0, 1)')

_settled: ContextVar[bool] = ContextVar('range_settled', default=False)


class RangeError(OptionError, AssertionError):
    """The values of a picture are not in [0, 1]; an AssertionError too, as which pyiqa's metrics say so."""


@contextlib.contextmanager
def range_settled() -> Iterator[None]:
    """Leave out `check_on_cpu` inside: the caller has decided about the range of values."""
    token = _settled.set(True)
    try:
        yield
    finally:
        _settled.reset(token)


def check_range(images: Tensor, finite: bool = False) -> None:
    """Raise RangeError where a picture of (N, C, H, W) has values that are not in [0, 1], give or take `TOLERANCE`.

    Args:
        images: of any type; whole numbers have a white of their own.
        finite: also refuse pictures with values that are not finite, which otherwise pass: their score is NaN.
    """
    if not images.is_floating_point() or not images.numel():
        return
    images = images.detach()
    if _inside(*torch.aminmax(images)):
        return
    for place, image in enumerate(images):  # a picture that is not finite hides the ends of the others
        low, high = torch.aminmax(image)
        if not _inside(low, high) and (finite or (low.isfinite() and high.isfinite())):
            wrong = complaint(float(low), float(high))
            raise RangeError(f'Input must be normalized to [0, 1], but images[{place}] has {wrong}')


def _inside(low: Any, high: Any) -> Any:
    """Whether a smallest and a largest value are those of a picture; NaN is not."""
    return (low >= LOWEST) & (high <= HIGHEST)


def complaint(low: float, high: float) -> str:
    """Return what is wrong with a picture whose values have these ends, and what to do; '' where nothing is."""
    if _inside(low, high):
        return ''
    if not (math.isfinite(low) and math.isfinite(high)):
        return f'values from {low:g} to {high:g}, not all finite. Replace those (torch.nan_to_num), or leave the picture out.'
    return f'values from {low:g} to {high:g}; {ADVICE}.'


def check_on_cpu(images: Tensor) -> None:
    """Do what `check_range` does where the values can be seen at once, and belong to pictures.

    That is not so on a GPU, which would have to be waited for; while a program is compiled, traced or exported; and with a
    gradient, where a picture is what a network in training has made.
    """
    if (images.device.type == 'cpu' and not _settled.get() and not images.requires_grad and not torch.compiler.is_compiling()
            and not torch.onnx.is_in_onnx_export() and not torch.jit.is_tracing()):
        check_range(images)


def warn_of_range(images: Tensor) -> None:
    """Warn where `check_range` would raise: networks in training may leave the range."""
    try:
        check_range(images)
    except RangeError as error:
        warnings.warn(f'as_loss: {error} Beyond the range there is hardly a gradient, and a score means nothing.', stacklevel=2)
