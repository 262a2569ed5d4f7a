"""Exposure: how far the light is from the middle, and how much of the picture is lost at both ends."""

import numpy as np

MIDDLE_GRAY = 0.18  # of white in linear light
BLACK, WHITE = 12, 250  # at and beyond which nothing is told apart
# linear light of each 8-bit value (sRGB)
CODED = np.arange(256) / 255
LINEAR = np.where(CODED <= 0.04045, CODED / 12.92, ((CODED + 0.055) / 1.055) ** 2.4)


def measure_exposure(gray: np.ndarray, brightest: np.ndarray) -> dict[str, float]:
    """Return `underexposure`, `overexposure`, `clipped_dark` and `clipped_bright`.

    Args:
        gray: uint8 (H, W) luma.
        brightest: uint8 (H, W), the largest of the three channels.

    Returns:
        `underexposure`: how far the mean light is below middle gray, in stops (log2; negative above it). `overexposure`: how
        far the brightest tenth of the picture is above middle gray, in stops. `clipped_dark`: per cent of the pixels that are
        black. `clipped_bright`: per cent of the pixels of which a channel is at its end.
    """
    counts = np.bincount(gray.ravel(), minlength=256) / gray.size
    mean = float(counts @ LINEAR)
    brighter = LINEAR[min(int(np.searchsorted(np.cumsum(counts), 0.9)), 255)]
    return {'underexposure': float(-np.log2(max(mean, 1e-4) / MIDDLE_GRAY)),
            'overexposure': float(np.log2(max(brighter, 1e-4) / MIDDLE_GRAY)),
            'clipped_dark': 100 * float(counts[:BLACK + 1].sum()), 'clipped_bright': 100 * float((brightest >= WHITE).mean())}
