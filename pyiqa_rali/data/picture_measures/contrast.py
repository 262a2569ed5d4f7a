"""Contrast: the spread of the tones."""

import numpy as np


def measure_contrast(gray: np.ndarray) -> dict[str, float]:
    """Return `tone_deviation` and `tone_range`.

    Args:
        gray: uint8 (H, W) luma.

    Returns:
        In 8-bit levels: `tone_deviation`, the standard deviation of luma; `tone_range`, from the darkest fiftieth of the pixels
        to the brightest.
    """
    counts = np.bincount(gray.ravel(), minlength=256) / gray.size
    values = np.arange(256)
    mean = float(counts @ values)
    low, high = np.searchsorted(np.cumsum(counts), (0.02, 0.98))
    return {'tone_deviation': float(np.sqrt(counts @ (values - mean) ** 2)), 'tone_range': float(high - low)}
