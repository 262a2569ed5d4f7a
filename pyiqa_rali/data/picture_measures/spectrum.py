"""The power spectrum of a picture, which several measures look at."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import fft

TILE = 256  # pixels
FLOOR = 0.1  # 8-bit levels squared per coefficient: rounding to whole levels leaves 1/12


@dataclass(frozen=True)
class Spectrum:
    """Mean power over tiles of a picture, so that white noise of variance v has v everywhere.

    Attributes:
        power: (h, w // 2 + 1), in 8-bit levels squared.
        size: (h, w) of a tile.
    """

    power: np.ndarray
    size: tuple[int, int]

    def mean_in(self, masks: np.ndarray, count: int) -> np.ndarray:
        """Return (count,) the mean power where the masks, numbers in the shape of the power, are 0, 1, ...; 0 where none is."""
        flat = masks.ravel()
        total = np.bincount(flat, self.power.ravel(), count + 1)[:count]
        return total / np.maximum(np.bincount(flat, minlength=count + 1)[:count], 1)


def spectrum_of(gray: np.ndarray) -> Spectrum:
    """Return the spectrum of a picture, float32 (H, W) luma in [0, 255]."""
    height, width = (min(TILE, each) for each in gray.shape)
    window = _window(height, width)
    tiles = [gray[top:top + height, left:left + width] for top in _starts(gray.shape[0], height)
             for left in _starts(gray.shape[1], width)]
    power = sum(np.abs(fft.rfft2((tile - tile.mean()) * window)) ** 2 for tile in tiles)
    return Spectrum(power / len(tiles) / float((window ** 2).sum()), (height, width))


def _starts(length: int, tile: int) -> list[int]:
    """Return where tiles begin, spread evenly over the length."""
    return [round(start) for start in np.linspace(0, length - tile, max(1, round(length / tile)))]


@functools.lru_cache(maxsize=8)
def _window(height: int, width: int) -> np.ndarray:
    return np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)


@functools.lru_cache(maxsize=8)
def frequencies(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return radius, in cycles per pixel, and angle, in [0, pi), of each coefficient of a tile."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    return np.hypot(down, across), np.arctan2(down, across) % np.pi
