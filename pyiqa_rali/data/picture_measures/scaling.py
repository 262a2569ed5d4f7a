"""Scaling: how much of the spectrum that the pixels could hold is there."""

import functools

import numpy as np
from scipy import fft

TILE = 256  # pixels
FLOOR = 0.1  # 8-bit levels squared per coefficient: rounding to whole levels leaves 1/12
BINS = 48  # of the frequency, up to half a cycle per pixel
NOISE_BAND = (0.42, 0.5)  # cycles per pixel


def measure_scaling(gray: np.ndarray) -> dict[str, float]:
    """Return `bandwidth` and `fine_energy`.

    Args:
        gray: float32 (H, W) luma in [0, 255].

    Returns:
        `bandwidth`: the frequency below which 95 per cent of the energy of the gradients lies, as a share of the highest one
        that the pixels can hold, in [0, 1]; about 1 / n after scaling up n times. `fine_energy`: what the highest sixth of
        the frequencies holds, in decibels above the rounding to 8 bits.
    """
    spectrum = _radial_spectrum(gray)
    frequency = (np.arange(BINS) + 0.5) / BINS / 2
    energy = np.maximum(spectrum - FLOOR, 0) * frequency ** 3  # power times frequency squared, over rings of growing size
    total = energy.sum()
    bandwidth = float('nan') if total <= 0 else float(np.interp(0.95, np.cumsum(energy) / total, frequency * 2))
    band = (frequency >= NOISE_BAND[0]) & (frequency <= NOISE_BAND[1])
    return {'bandwidth': bandwidth, 'fine_energy': float(10 * np.log10(max(spectrum[band].mean(), 1e-3) / FLOOR))}


def _radial_spectrum(gray: np.ndarray) -> np.ndarray:
    """Return the mean power of each ring of frequencies over tiles of the picture, so that white noise gives its variance."""
    height, width = (min(TILE, each) for each in gray.shape)
    window, ring = _window(height, width), _rings(height, width)
    counts = np.bincount(ring.ravel(), minlength=BINS + 1)[:BINS]
    total = np.zeros(BINS)
    tiles = [gray[top:top + height, left:left + width] for top in _starts(gray.shape[0], height)
             for left in _starts(gray.shape[1], width)]
    for tile in tiles:
        power = np.abs(fft.rfft2((tile - tile.mean()) * window)) ** 2
        total += np.bincount(ring.ravel(), power.ravel(), BINS + 1)[:BINS]
    return total / np.maximum(counts, 1) / len(tiles) / float((window ** 2).sum())


def _starts(length: int, tile: int) -> list[int]:
    """Return where tiles begin, spread evenly over the length."""
    count = max(1, round(length / tile))
    return [round(start) for start in np.linspace(0, length - tile, count)]


@functools.lru_cache(maxsize=8)
def _window(height: int, width: int) -> np.ndarray:
    return np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _rings(height: int, width: int) -> np.ndarray:
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    return np.minimum((radius * 2 * BINS).astype(np.int64), BINS)  # the corners of the plane are in no ring
