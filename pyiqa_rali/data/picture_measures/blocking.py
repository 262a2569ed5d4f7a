"""Blocking: steps that recur every eight pixels."""

import numpy as np

PERIOD = 8
LARGEST = 24.0  # 8-bit levels; higher steps are edges of the content


def measure_blocking(gray: np.ndarray) -> dict[str, float]:
    """Return `blocking`.

    Args:
        gray: float32 (H, W) luma in [0, 255].

    Returns:
        How much higher the steps between neighbouring pixels are at the lines of an 8 x 8 grid, wherever it starts, than beside
        them: in 8-bit levels, mean of both directions; about 0 without such a grid.
    """
    return {'blocking': (_grid_steps(gray) + _grid_steps(gray.T)) / 2}


def _grid_steps(gray: np.ndarray) -> float:
    """Return the excess of the steps across one of the eight phases of columns over that across the others."""
    steps = np.minimum(np.abs(np.diff(gray, axis=1)), LARGEST)
    excess = (steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2).mean(axis=0)
    phases = np.array([excess[phase::PERIOD].mean() for phase in range(PERIOD)])
    return float(phases.max() - np.median(phases))
