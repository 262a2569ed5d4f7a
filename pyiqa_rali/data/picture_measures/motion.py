"""Motion: whether fine detail is lost in one direction more than in the others."""

import functools
import itertools

import numpy as np

from pyiqa_rali.data.picture_measures.spectrum import FLOOR, Spectrum, frequencies

DIRECTIONS = 12
BANDS = (0.03, 0.08, 0.2, 0.4)  # cycles per pixel: the ends of a coarse, a middle and a fine band


def measure_motion(spectrum: Spectrum) -> dict[str, float]:
    """Return `directional_blur`.

    Args:
        spectrum: of the picture.

    Returns:
        The fall of power from coarse to middle detail in the direction where it is steepest less that where it is least, and
        the same from middle to fine detail, together in octaves (log2 of ratios of powers): a short movement takes fine detail
        alone. NaN for a picture without detail.
    """
    powers = [spectrum.mean_in(_sectors(*spectrum.size, *band), DIRECTIONS) for band in itertools.pairwise(BANDS)]
    if powers[1].max() <= FLOOR:
        return {'directional_blur': float('nan')}
    coarse, middle, fine = (np.log2(np.maximum(power, FLOOR)) for power in powers)
    return {'directional_blur': float(np.ptp(coarse - middle) + np.ptp(middle - fine))}


@functools.lru_cache(maxsize=16)
def _sectors(height: int, width: int, low: float, high: float) -> np.ndarray:
    """Return which direction each coefficient of a band has; those on the axes, where borders and blocks are, have none."""
    radius, angle = frequencies(height, width)
    number = np.minimum((angle / np.pi * DIRECTIONS).astype(np.int64), DIRECTIONS - 1)
    inside = (radius >= low) & (radius < high)
    inside[0], inside[:, 0] = False, False
    return np.where(inside, number, DIRECTIONS)
