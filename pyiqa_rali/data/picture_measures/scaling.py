"""Scaling: how much of the spectrum that the pixels could hold is there."""

import functools

import numpy as np

from pyiqa_rali.data.picture_measures.spectrum import FLOOR, Spectrum, frequencies

BINS = 48  # of the frequency, up to half a cycle per pixel
FINE = (0.42, 0.49)  # cycles per pixel: between the harmonics of an 8 x 8 grid


def measure_scaling(spectrum: Spectrum) -> dict[str, float]:
    """Return `bandwidth` and `fine_energy`.

    Args:
        spectrum: of the picture.

    Returns:
        `bandwidth`: the frequency below which 95 per cent of the energy of the gradients lies, as a share of the highest one
        that the pixels can hold, in [0, 1]; about 1 / n after scaling up n times. `fine_energy`: the power of the finest
        details, of little more than two pixels, in decibels above the rounding to 8 bits.
    """
    rings = spectrum.mean_in(_rings(*spectrum.size), BINS)
    frequency = (np.arange(BINS) + 0.5) / BINS / 2
    energy = np.maximum(rings - FLOOR, 0) * frequency ** 3  # power times frequency squared, over rings of growing size
    total = energy.sum()
    bandwidth = float('nan') if total <= 0 else float(np.interp(0.95, np.cumsum(energy) / total, frequency * 2))
    fine = rings[(frequency >= FINE[0]) & (frequency <= FINE[1])].mean()
    return {'bandwidth': bandwidth, 'fine_energy': float(10 * np.log10(max(fine, 1e-2) / FLOOR))}


@functools.lru_cache(maxsize=8)
def _rings(height: int, width: int) -> np.ndarray:
    radius, _ = frequencies(height, width)
    return np.minimum((radius * 2 * BINS).astype(np.int64), BINS)  # the corners of the plane are in no ring
