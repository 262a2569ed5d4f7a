"""The sliders that distort a picture: what they are called, how far they go, and what they do."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.distortions import DISTORTIONS

SEED = 0  # of the noise: one place of a slider is one picture


@dataclass(frozen=True)
class Slider:
    """A slider.

    Attributes:
        name: of the value in `distorted`.
        label: what people call it.
        unit: what stands after its value.
        low: smallest value.
        high: largest value.
        step: from one value to the next.
        neutral: where it changes nothing.
        curve: values at which its curve is drawn, from the neutral one on or across it.
    """

    name: str
    label: str
    unit: str
    low: float
    high: float
    step: float
    neutral: float
    curve: tuple[float, ...]


# in the order in which they are applied, which is that of a camera: light, lens, sensor, size, file
SLIDERS = (
    Slider('exposure', 'Exposure', 'stops', -3, 3, 0.1, 0, (-3, -2, -1.2, -0.5, 0, 0.5, 1.2, 2, 3)),
    Slider('blur', 'Blur', 'px', 0, 6, 0.1, 0, (0, 0.5, 0.8, 1.2, 1.8, 2.5, 3.5, 4.5, 6)),
    Slider('noise', 'Noise', 'of 255', 0, 50, 1, 0, (0, 3, 6, 10, 15, 22, 30, 40, 50)),
    Slider('scale', 'Scale', '%', 10, 100, 1, 100, (100, 85, 70, 55, 45, 35, 25, 17, 10)),
    Slider('jpeg', 'JPEG quality', '', 5, 100, 1, 100, (100, 92, 80, 65, 50, 35, 22, 12, 5)),
)


def checked(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values of all sliders, neutral where none is given.

    Raises:
        OptionError: there is no such slider, or a value is no number or beyond its ends.
    """
    known = {slider.name: slider for slider in SLIDERS}
    for name, value in values.items():
        if name not in known:
            raise OptionError(f'"{name}" is not one of the sliders {", ".join(known)}.')
        slider = known[name]
        if not isinstance(value, int | float) or not math.isfinite(value) or not slider.low <= value <= slider.high:
            raise OptionError(f'{slider.label}: {value!r} must be a number from {slider.low:g} to {slider.high:g}.')
    return {name: float(values.get(name, slider.neutral)) for name, slider in known.items()}


def distorted(pixels: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
    """Return a picture as the sliders make it.

    Args:
        pixels: uint8 (H, W, 3).
        values: of sliders by their names; those that are missing or neutral change nothing.

    Returns:
        uint8 (H, W, 3); `pixels` itself when nothing changes.

    Raises:
        OptionError: see `checked`.
    """
    places = checked(values)
    if all(places[slider.name] == slider.neutral for slider in SLIDERS):
        return pixels
    image, rng = pixels.astype(np.float32), np.random.default_rng(SEED)
    if places['exposure']:
        image = _applied('overexpose', image, places['exposure'], rng)  # fewer stops than none make it darker
    if places['blur']:
        image = _applied('gaussian_blur', image, places['blur'], rng)
    if places['noise']:
        image = _applied('white_noise', image, places['noise'], rng)
    if places['scale'] != 100:
        image = _applied('resample', image, 100 / places['scale'], rng)
    if places['jpeg'] != 100:
        image = _applied('jpeg', image, places['jpeg'], rng)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _applied(kind: str, image: np.ndarray, parameter: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(DISTORTIONS[kind].apply(image, parameter, rng), 0, 255)
