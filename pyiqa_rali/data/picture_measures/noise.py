"""Noise: its standard deviation in the flattest parts of a picture, in luma and in chroma, and its lack of direction."""

import cv2
import numpy as np

BLOCK, COARSE_BLOCK = 16, 32  # pixels
FINEST = 0.7  # standard deviation, in pixels, of the Gaussian before gradients
FLATTEST, FLATTEST_CHROMA = 2, 15  # per cent of the blocks; compression leaves no chroma at all in the very flattest
LIMITS = (8.0, 247.0)  # mean luma of a block; beyond, clipping hides the noise
# answers to no constant, slope or edge along an axis, and keeps the standard deviation of white noise
MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6


def measure_noise(gray: np.ndarray, chroma: np.ndarray) -> dict[str, float]:
    """Return `noise`, `coarse_noise`, `chroma_noise` and `disorder`.

    Args:
        gray: float32 (H, W) luma in [0, 255].
        chroma: float32 (H, W, 2) blue and red difference (Cb, Cr).

    Returns:
        Standard deviations in 8-bit levels. `noise`: of luma from pixel to pixel. `coarse_noise`: of luma averaged over 2 x 2
        pixels, which compression leaves. `chroma_noise`: root mean square of both chroma planes, averaged likewise.
        NaN where nearly every part is black or white. `disorder`: how little the finest gradients agree on a direction within
        32 x 32 pixels, in [0, 1]: 0 where all are of one edge, near 1 for noise.
    """
    half, half_chroma = _halved(gray), _halved(chroma)
    flat = _usable(half)
    pairs = [_flat_deviation(plane, flat, FLATTEST_CHROMA) for plane in cv2.split(half_chroma)]
    return {'noise': _flat_deviation(gray, _usable(gray)), 'coarse_noise': _flat_deviation(half, flat),
            'chroma_noise': float(np.sqrt(np.mean(np.square(pairs)))), 'disorder': _disorder(gray)}


def _halved(plane: np.ndarray) -> np.ndarray:
    height, width = (max(each // 2, 1) for each in plane.shape[:2])
    return cv2.resize(plane[:2 * height, :2 * width], (width, height), interpolation=cv2.INTER_AREA)


def _flat_deviation(plane: np.ndarray, usable: np.ndarray, share: float = FLATTEST) -> float:
    """Return the standard deviation of the noise, as the flattest of the usable blocks have it."""
    deviation = np.sqrt(_block_means(np.square(cv2.filter2D(plane, -1, MASK))))[usable]
    return float(np.percentile(deviation, share)) if deviation.size else float('nan')


def _disorder(gray: np.ndarray) -> float:
    """Return one less the coherence of the structure tensor, at the median block."""
    smooth = cv2.GaussianBlur(gray, (0, 0), FINEST)
    across = cv2.filter2D(smooth, -1, np.array([[-0.5, 0, 0.5]], np.float32))
    down = cv2.filter2D(smooth, -1, np.array([[-0.5], [0], [0.5]], np.float32))
    xx, yy, xy = (_block_means(each, COARSE_BLOCK) for each in (across * across, down * down, across * down))
    return float(1 - np.median(np.sqrt((xx - yy) ** 2 + 4 * xy ** 2) / (xx + yy + 1e-3)))


def _usable(gray: np.ndarray) -> np.ndarray:
    mean = _block_means(gray)
    return (mean > LIMITS[0]) & (mean < LIMITS[1])


def _block_means(plane: np.ndarray, side: int = BLOCK) -> np.ndarray:
    """Return the means of whole blocks; of the picture where it is smaller than one."""
    rows, columns = (max(each // side, 1) for each in plane.shape)
    cut = plane[:rows * side, :columns * side]
    return cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA)
