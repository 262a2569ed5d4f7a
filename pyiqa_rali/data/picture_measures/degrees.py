"""What is wrong with a picture, and how much: measures as degrees in five steps.

A measure is compared with what authentic photographs have: `quantiles.json` holds the percentiles of each measure over the
training part of BIQ2021. Where a fault begins is a rank among them, the same for all faults.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

QUANTILES = Path(__file__).with_name('quantiles.json')
DEGREES = ('none', 'slight', 'moderate', 'strong', 'severe')
BOUNDS = (0.70, 0.82, 0.91, 0.97)  # ranks from which on a fault is slight, moderate, strong, severe
CLEAR = 2  # the degree from which on a fault is taken for known


@dataclass(frozen=True)
class Fault:
    """A fault that one measure tells.

    Attributes:
        name: of the fault.
        measure: its name.
        high: whether high values of the measure are the fault; otherwise low ones.
        distortion: the type of synthetic distortion that means the same; texts take its phrase.
        sound: sentences for a picture that has none of it.
    """

    name: str
    measure: str
    high: bool
    distortion: str
    sound: tuple[str, ...]


FAULTS: dict[str, Fault] = {each.name: each for each in (
    Fault('out of focus', 'edge_spread', True, 'lens_blur', ('The focus is right.', 'Edges remain crisp.')),
    Fault('motion blur', 'directional_blur', True, 'motion_blur', ()),
    Fault('noise', 'noise', True, 'luma_noise', ('The picture is not noisy.', 'There is no noise to speak of.')),
    Fault('colour noise', 'chroma_noise', True, 'chroma_noise', ()),
    Fault('underexposure', 'underexposure', True, 'darken', ('The exposure is right.', 'The light is balanced.')),
    Fault('overexposure', 'overexposure', True, 'overexpose', ('The exposure is right.', 'The light is balanced.')),
    Fault('low contrast', 'tone_deviation', False, 'low_contrast', ()),
    Fault('faded colours', 'saturation', False, 'desaturate', ('Colours are natural.',)),
    Fault('oversaturation', 'saturation', True, 'oversaturate', ('Colours are natural.',)),
    Fault('colour cast', 'cast', True, 'color_cast', ('Colours are natural.',)),
    Fault('blocking', 'blocking', True, 'jpeg', ('There are no compression artefacts.', 'There are no blocks in it.')),
    Fault('upscaling', 'bandwidth', False, 'resample', ()),
)}


def ranks(measures: Mapping[str, float], percentiles: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Return for each fault the share of photographs that have less of it, in [0, 1]; NaN where it could not be measured.

    Args:
        measures: of `measure_picture`.
        percentiles: of each measure, 101 of them; None takes those of the package.
    """
    known = stored_percentiles() if percentiles is None else percentiles
    found = {}
    for name, fault in FAULTS.items():
        rank = _rank(measures[fault.measure], np.asarray(known[fault.measure], np.float64))
        found[name] = rank if fault.high else 1 - rank
    return found


def _rank(value: float, percentiles: np.ndarray) -> float:
    """Return the rank of a value in [0, 1]; the middle one where many photographs have that very value."""
    if np.isnan(value):
        return float('nan')
    first, last = (np.searchsorted(percentiles, value, side) for side in ('left', 'right'))
    if last > first:
        return (first + last - 1) / 2 / (len(percentiles) - 1)
    return float(np.interp(value, percentiles, np.linspace(0, 1, len(percentiles))))


def degrees(measures: Mapping[str, float], percentiles: Mapping[str, Any] | None = None) -> dict[str, int | None]:
    """Return the degree of each fault: an index of `DEGREES`; None where it could not be measured.

    Args:
        measures: of `measure_picture`.
        percentiles: see `ranks`.
    """
    return {name: None if np.isnan(rank) else int(np.searchsorted(BOUNDS, rank, 'right'))
            for name, rank in ranks(measures, percentiles).items()}


@functools.cache
def stored_percentiles() -> dict[str, list[float]]:
    """Return the percentiles 0 to 100 of each measure over the training part of BIQ2021."""
    return json.loads(QUANTILES.read_text(encoding='utf-8'))['percentiles']


def percentiles_of(columns: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the percentiles 0 to 100 of each measure, six significant digits, for a file like `QUANTILES`.

    Args:
        columns: the values of each measure; NaN are left out.
    """
    return {name: [float(f'{value:.6g}') for value in np.nanpercentile(np.asarray(values, np.float64), np.arange(101))]
            for name, values in columns.items()}
