"""Colour: how strong it is, and whether one tint lies over everything."""

import numpy as np


def measure_colour(lab: np.ndarray) -> dict[str, float]:
    """Return `saturation` and `cast`.

    Args:
        lab: uint8 (H, W, 3) CIELAB as OpenCV codes it: L* in [0, 255], a* and b* plus 128.

    Returns:
        In units of CIELAB: `saturation`, the mean chroma. `cast`, the distance of the mean colour from gray less the spread of
        the colours around it: positive only where nearly all colours lie on one side.
    """
    a, b = (lab[..., channel].astype(np.float32) - 128 for channel in (1, 2))
    mean_a, mean_b = float(a.mean()), float(b.mean())
    spread = float(np.sqrt(((a - mean_a) ** 2 + (b - mean_b) ** 2).mean()))
    return {'saturation': float(np.sqrt(a * a + b * b).mean()), 'cast': float(np.hypot(mean_a, mean_b)) - spread}
