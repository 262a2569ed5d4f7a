"""A map of quality, drawn to be laid over its picture."""

import io

import cv2
import numpy as np
from PIL import Image

from pyiqa_rali.figures.style import BLUE, ORANGE

ENDS = (5, 95)  # percentiles of the values that have the full colours
CLEAR = 0.2  # how much of the opacity grows evenly from the middle, which is clear, to the ends


def drawn_map(values: np.ndarray, size: tuple[int, int], lower_better: bool = False,
              region: tuple[float, float, float, float] = (0, 0, 1, 1)) -> tuple[bytes, float, float]:
    """Return a transparent PNG of a map, and the values that its full colours stand for.

    Args:
        values: (h, w), how good the picture is where.
        size: height and width of the PNG.
        lower_better: whether low values mean good quality.
        region: the part of the picture that the map covers, (top, left, bottom, right) as shares of its height and width; it
            may reach beyond the picture. The rest stays clear.

    Returns:
        The PNG, orange where the picture is worst and blue where it is best, the value at full orange, and that at full blue.
    """
    low, high = np.percentile(values, ENDS)
    place = np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(values.shape, 0.5)
    goodness = 1 - place if lower_better else place
    large = _in_place(goodness.astype(np.float32), size, region)
    strength = np.abs(2 * large - 1)
    opacity = CLEAR * strength + (1 - CLEAR) * strength ** 2
    colours = np.where(large[..., None] < 0.5, _rgb(ORANGE), _rgb(BLUE))
    pixels = np.dstack([colours, 255 * opacity]).round().astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels, 'RGBA').save(stream, 'PNG', compress_level=3)
    ends = (high, low) if lower_better else (low, high)
    return stream.getvalue(), float(ends[0]), float(ends[1])


def _in_place(goodness: np.ndarray, size: tuple[int, int], region: tuple[float, float, float, float]) -> np.ndarray:
    """Return (h, w) in [0, 1] at its place in a picture of a size, 0.5 where it does not reach."""
    top, left, bottom, right = (round(share * size[index % 2]) for index, share in enumerate(region))
    scaled = cv2.resize(goodness, (max(1, right - left), max(1, bottom - top)), interpolation=cv2.INTER_CUBIC)
    whole = np.full(size, 0.5, np.float32)
    inside = scaled[max(0, -top):size[0] - top, max(0, -left):size[1] - left]
    whole[max(0, top):max(0, top) + inside.shape[0], max(0, left):max(0, left) + inside.shape[1]] = inside
    return np.clip(whole, 0, 1)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[place:place + 2], 16) for place in (1, 3, 5)])
