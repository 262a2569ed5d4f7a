"""Focus: how wide edges are, and how wide the sharpest of them."""

import cv2
import numpy as np

SCALES = (1.0, 2.0, 4.0)  # standard deviations, in pixels, of the Gaussians whose gradients are compared
DIFFERENCE = 1 / 3  # pixels squared: what a difference over two pixels adds to the variance of the Gaussian
FINE_UNTIL, COARSE_FROM = 1.5, 3.0  # pixels: between them the spread by the fine scales gives way to that by the coarse ones
WIDEST = 8.0  # pixels; wider edges are not told apart
LEAST_GRADIENT = 1.5  # 8-bit levels per pixel: three times what strong noise leaves at the scale of 2 pixels
LEAST_EDGES = 30  # of a picture, before anything is said about its focus
SHARPEST, SHARPER = 10, 33  # per cent of the edges


def measure_focus(gray: np.ndarray) -> dict[str, float]:
    """Return `edge_spread` and `sharpest_spread`.

    An edge that a Gaussian of standard deviation sigma has blurred has, seen through a Gaussian derivative of scale s, a
    gradient proportional to (sigma^2 + s^2)^(-1/2). The ratio of its gradients at two scales therefore tells sigma.

    Args:
        gray: float32 (H, W) luma in [0, 255].

    Returns:
        `edge_spread`: the sigma that the sharper third of the edges stays below, in pixels, in [0, 8]: what is meant to be
        sharp, as the background need not be. `sharpest_spread`: that which the sharpest tenth stays below. NaN where the
        picture has too few edges.
    """
    gradients = [_gradient(gray, scale) for scale in SCALES]
    spreads = _spreads(gradients)
    if len(spreads) < LEAST_EDGES:
        return {'edge_spread': float('nan'), 'sharpest_spread': float('nan')}
    sharpest, sharper = np.percentile(spreads, (SHARPEST, SHARPER))
    return {'edge_spread': float(sharper), 'sharpest_spread': float(sharpest)}


def _gradient(gray: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    smooth = cv2.GaussianBlur(gray, (0, 0), scale, borderType=cv2.BORDER_REFLECT_101)
    return (cv2.filter2D(smooth, -1, np.array([[-0.5, 0, 0.5]], np.float32)),
            cv2.filter2D(smooth, -1, np.array([[-0.5], [0], [0.5]], np.float32)))


def _spreads(gradients: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return sigma at every pixel in the middle of an edge, in pixels."""
    fine, middle, coarse = (cv2.magnitude(*each) for each in gradients)
    at = _middle_of_edges(middle, *gradients[1])
    fine, middle, coarse = fine[at], middle[at], coarse[at]
    narrow = _spread_by_ratio(fine / np.maximum(middle, 1e-6), *SCALES[:2])
    wide = _spread_by_ratio(middle / np.maximum(coarse, 1e-6), *SCALES[1:])
    # the wider the edge, the closer to 1 is the ratio at fine scales, and the less it tells
    share = np.clip((narrow - FINE_UNTIL) / (COARSE_FROM - FINE_UNTIL), 0, 1)
    return narrow + share * (wide - narrow)


def _spread_by_ratio(ratio: np.ndarray, small: float, large: float) -> np.ndarray:
    small, large = small ** 2 + DIFFERENCE, large ** 2 + DIFFERENCE
    squared = (large - ratio ** 2 * small) / np.maximum(ratio ** 2 - 1, 1e-6)
    return np.where(ratio <= 1, WIDEST, np.sqrt(np.clip(squared, 0, WIDEST ** 2)))


def _middle_of_edges(magnitude: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return bool (H, W): where the gradient is strong and the largest along its own direction."""
    along = cv2.dilate(magnitude, np.ones((1, 3), np.uint8)), cv2.dilate(magnitude, np.ones((3, 1), np.uint8))
    largest = np.where(np.abs(across) >= np.abs(down), *along)
    least = max(LEAST_GRADIENT, 0.1 * float(magnitude.max()))
    inside = np.zeros(magnitude.shape, bool)
    inside[3:-3, 3:-3] = True  # gradients at the border are made up
    return (magnitude >= largest) & (magnitude > least) & inside
