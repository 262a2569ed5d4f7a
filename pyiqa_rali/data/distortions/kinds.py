"""What a distortion is, and how its strength follows from a level."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Image = np.ndarray
LEVEL_RANGE = (0.5, 5.5)


@dataclass(frozen=True)
class DistortionType:
    """One kind of distortion in five levels, from just noticeable (1) to awful (5).

    Attributes:
        name: identifier.
        family: group of related types.
        phrase: how a text calls it.
        affects: what a text says it harms.
        levels: the parameter at levels 1 to 5; between them it is interpolated, geometrically where all are positive.
        apply: float32 picture (H, W, 3) RGB in [0, 255], parameter, generator -> float32 picture, any range.
        codec: what Pillow's `features.check` calls the encoder that the type needs; '' for none.
        stage: the place in the order of a camera (see `by_camera_order`); '' means that of the family.
    """

    name: str
    family: str
    phrase: str
    affects: str
    levels: tuple[float, float, float, float, float]
    apply: Callable[[Image, float, np.random.Generator], Image]
    codec: str = ''
    stage: str = ''

    def parameter(self, level: float) -> float:
        """Return the strength at a level in [0.5, 5.5]; beyond 1 and 5 it is extrapolated from the nearest two."""
        values = np.array(self.levels, dtype=np.float64)
        geometric = bool((values > 0).all())
        values = np.log(values) if geometric else values
        lower = int(np.clip(np.floor(level), 1, 4))
        value = values[lower - 1] + (level - lower) * (values[lower] - values[lower - 1])
        return float(np.exp(value) if geometric else value)
