"""Synthetic distortions, the types of KADID-10k and some that real pictures have, at continuous strengths."""

import numpy as np

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.data.distortions import blur, color, compression, noise, spatial
from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE, DistortionType

DISTORTIONS: dict[str, DistortionType] = {kind.name: kind for module in (blur, color, noise, compression, spatial)
                                          for kind in module.TYPES}
FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(kind.name for kind in DISTORTIONS.values() if kind.family == family)
    for family in dict.fromkeys(kind.family for kind in DISTORTIONS.values())}


def distort(image: np.ndarray, name: str, level: float, rng: np.random.Generator) -> np.ndarray:
    """Return the distorted picture.

    Args:
        image: (H, W, 3) uint8 RGB, at least 16 x 16.
        name: a key of `DISTORTIONS`.
        level: 1 (just noticeable) to 5 (awful), anything in [0.5, 5.5].
        rng: draws positions, directions and noise.

    Raises:
        OptionError: unknown name, or a level out of range.
    """
    check_names([name], 'distortion')
    if not LEVEL_RANGE[0] <= level <= LEVEL_RANGE[1]:
        raise OptionError(f'level: {level} must be in [{LEVEL_RANGE[0]}, {LEVEL_RANGE[1]}].')
    kind = DISTORTIONS[name]
    distorted = kind.apply(image.astype(np.float32), kind.parameter(level), rng)
    return np.clip(np.rint(distorted), 0, 255).astype(np.uint8)


def check_names(names: list[str], option: str) -> None:
    """Raise OptionError when a name is not a known distortion."""
    for name in names:
        if name not in DISTORTIONS:
            raise OptionError(f'{option}: "{name}" is not one of {", ".join(DISTORTIONS)}.{did_you_mean(name, DISTORTIONS)}')
