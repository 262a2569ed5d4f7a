"""Synthetic distortions, the types of KADID-10k and some that real pictures have, at continuous strengths."""

from collections.abc import Iterable

import numpy as np
from PIL import features

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.data.distortions import blur, camera, color, compression, noise, spatial, upscaling
from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE, DistortionType

_FIRST = {kind.name: kind for module in (blur, color, noise, compression, spatial) for kind in module.TYPES}
DISTORTIONS: dict[str, DistortionType] = {**_FIRST, **{kind.name: kind for module in (upscaling, camera)
                                                       for kind in module.TYPES}}
FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(kind.name for kind in DISTORTIONS.values() if kind.family == family)
    for family in dict.fromkeys(kind.family for kind in DISTORTIONS.values())}
# what is drawn unless options say otherwise: the types of version 0.1, so that its option files draw what they drew then
DEFAULT_TYPES = tuple(_FIRST)
GROUPS: dict[str, tuple[str, ...]] = {'version_0.1': DEFAULT_TYPES, 'all': tuple(DISTORTIONS), **FAMILIES}


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
    check_codecs([name], 'distortion')
    if not LEVEL_RANGE[0] <= level <= LEVEL_RANGE[1]:
        raise OptionError(f'level: {level} must be in [{LEVEL_RANGE[0]}, {LEVEL_RANGE[1]}].')
    kind = DISTORTIONS[name]
    distorted = kind.apply(image.astype(np.float32), kind.parameter(level), rng)
    return np.clip(np.rint(distorted), 0, 255).astype(np.uint8)


def check_names(names: Iterable[str], option: str) -> None:
    """Raise OptionError when a name is not a known distortion."""
    for name in names:
        if name not in DISTORTIONS:
            raise OptionError(f'{option}: "{name}" is not one of {", ".join(DISTORTIONS)}.{did_you_mean(name, DISTORTIONS)}')


def expand_names(names: str | Iterable[str], option: str) -> list[str]:
    """Return the distortions that names stand for, each once, in the order in which they come.

    Args:
        names: keys of `DISTORTIONS` or `GROUPS`: 'jpeg', a family such as 'blur', 'version_0.1', 'all'.
        option: what messages call them.

    Raises:
        OptionError: a name that is neither.
    """
    found: dict[str, None] = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in GROUPS and name not in DISTORTIONS:
            raise OptionError(f'{option}: "{name}" is not one of {", ".join(DISTORTIONS)}, nor one of the groups '
                              f'{", ".join(GROUPS)}.{did_you_mean(name, [*DISTORTIONS, *GROUPS])}')
        found.update(dict.fromkeys(GROUPS.get(name, (name,))))
    return list(found)


def check_codecs(names: Iterable[str], option: str) -> None:
    """Raise OptionError when a distortion needs an encoder that this installation of Pillow does not have."""
    for name in names:
        codec = DISTORTIONS[name].codec
        if codec and not features.check(codec):
            raise OptionError(f'{option}: {name} needs the encoder {codec}, which this installation of Pillow lacks. Install a '
                              f'Pillow that has it (11.3 and later from PyPI do), or hold {name} out.')
