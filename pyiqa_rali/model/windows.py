"""Large pictures at their own resolution: windows that the encoder takes as they are, each scored, and weighted by the map.

An encoder sees a large picture scaled down, and noise, blur and blocking of a few pixels vanish with the scaling. Windows of
the size that the encoder takes keep every pixel. A window counts by what the map of the scaled-down picture says of its place.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.preprocessing import Preprocessing

EMPHASIS = 0.0


@dataclass(frozen=True)
class WindowScores:
    """Scores of the windows of one picture.

    Attributes:
        score: of the picture, the weighted mean of the windows' scores.
        windows: (top, left, bottom, right) of each window, in pixels.
        scores: of each window.
        weights: of each window; they add up to 1.
    """

    score: float
    windows: list[tuple[int, int, int, int]]
    scores: list[float]
    weights: list[float]


def side_of(preprocessing: Preprocessing) -> int | None:
    """Return the longest edge, in pixels, that an encoder takes as it is; None where it takes any."""
    return preprocessing.image_size or preprocessing.resize_size


def is_larger(preprocessing: Preprocessing, height: int, width: int) -> bool:
    """Whether a picture is larger than an encoder takes it."""
    side = side_of(preprocessing)
    return side is not None and max(height, width) > side


def starts_of(length: int, side: int) -> list[int]:
    """Return where windows start along an edge, so that they cover it evenly with as few as possible.

    Example:
        >>> starts_of(1000, 400), starts_of(300, 400)
        ([0, 300, 600], [0])
    """
    count = -(-length // side)
    if count <= 1:
        return [0]
    return [round(number * (length - side) / (count - 1)) for number in range(count)]


def windows_of(height: int, width: int, side: int) -> list[tuple[int, int, int, int]]:
    """Return (top, left, bottom, right) of the windows that cover a picture, row by row.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        side: of a window, in pixels; a shorter edge of the picture shortens it.
    """
    return [(top, left, min(height, top + side), min(width, left + side))
            for top in starts_of(height, side) for left in starts_of(width, side)]


def means_under(values: Tensor, region: tuple[float, float, float, float],
                windows: list[tuple[int, int, int, int]]) -> Tensor:
    """Return the mean (n,) of a map (H', W') under each window; outside the map's region its nearest positions count.

    Args:
        values: the map.
        region: (top, left, bottom, right) that it covers, in pixels.
        windows: in pixels.
    """
    rows, columns = values.shape
    top, left, bottom, right = region

    def span(start: float, end: float, first: float, last: float, count: int) -> slice:
        scale = count / (last - first)
        begin = min(count - 1, max(0, int((start - first) * scale)))
        return slice(begin, max(begin + 1, min(count, round((end - first) * scale))))

    return torch.stack([values[span(each[0], each[2], top, bottom, rows), span(each[1], each[3], left, right, columns)].mean()
                        for each in windows])


def weights_of(means: Tensor, emphasis: float, mos_range: tuple[float, float], lower_better: bool = False) -> Tensor:
    """Return the weights (n,) of windows with these means of the map: softmax(emphasis q), q the mean as quality in [0, 1].

    Args:
        means: (n,), in the unit of the score.
        emphasis: 0 weights all windows alike; above 0 the better ones count more, below 0 the worse ones.
        mos_range: of the score.
        lower_better: direction of the score.

    Raises:
        OptionError: the emphasis is not a finite number.
    """
    if not torch.isfinite(torch.tensor(float(emphasis))):
        raise OptionError(f'emphasis: {emphasis} must be a finite number.')
    low, high = mos_range
    quality = (means - low) / (high - low)
    return torch.softmax(emphasis * (1 - quality if lower_better else quality), dim=0)
