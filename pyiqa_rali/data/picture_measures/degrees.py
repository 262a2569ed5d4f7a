"""What is wrong with a picture, and how much: measures as degrees in five steps.

A measure is compared with what authentic photographs have: `quantiles.json` holds the percentiles of each measure over the
training part of BIQ2021. A fault is told by one measure, or by two: then by the mean of their ranks, which has percentiles of
its own. Where a fault begins is a rank among the photographs, the same for all faults.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

QUANTILES = Path(__file__).with_name('quantiles.json')
DEGREES = ('none', 'slight', 'moderate', 'strong', 'severe')
BOUNDS = (0.70, 0.82, 0.91, 0.97)  # ranks from which on a fault is slight, moderate, strong, severe
ASPECTS = ('focus', 'noise', 'exposure', 'contrast', 'colour', 'compression', 'scaling')
CLEAR = 2  # the degree from which on a fault is taken for known


@dataclass(frozen=True)
class Fault:
    """A fault that measures tell.

    Attributes:
        name: of the fault.
        aspect: of quality that it harms; see `ASPECTS`.
        told_by: names of measures, each with 1 where high values are the fault and -1 where low ones are.
        distortion: the type of synthetic distortion that means the same; texts take its phrase.
        sound: sentences for a picture that has none of it.
    """

    name: str
    aspect: str
    told_by: tuple[tuple[str, int], ...]
    distortion: str
    sound: tuple[str, ...] = ()


RIGHT_LIGHT = ('The exposure is right.', 'The light is balanced.')
# chroma noise is no fault here: in photographs it is mostly foliage and other colourful texture (SRCC with MOS +.09)
FAULTS: dict[str, Fault] = {each.name: each for each in (
    Fault('out of focus', 'focus', (('edge_spread', 1), ('fine_energy', -1)), 'lens_blur',
          ('The focus is right.', 'Edges remain crisp.')),
    Fault('motion blur', 'focus', (('directional_blur', 1), ('bandwidth', -1)), 'motion_blur'),
    Fault('noise', 'noise', (('coarse_noise', 1), ('disorder', 1)), 'luma_noise',
          ('The picture is not noisy.', 'There is no noise to speak of.')),
    Fault('underexposure', 'exposure', (('underexposure', 1), ('clipped_bright', -1)), 'darken', RIGHT_LIGHT),
    Fault('overexposure', 'exposure', (('overexposure', 1), ('clipped_bright', 1)), 'overexpose', RIGHT_LIGHT),
    Fault('low contrast', 'contrast', (('tone_deviation', -1),), 'low_contrast'),
    Fault('faded colours', 'colour', (('saturation', -1),), 'desaturate', ('Colours are natural.',)),
    Fault('oversaturation', 'colour', (('saturation', 1),), 'oversaturate', ('Colours are natural.',)),
    Fault('colour cast', 'colour', (('cast', 1),), 'color_cast', ('Colours are natural.',)),
    Fault('blocking', 'compression', (('blocking', 1),), 'jpeg',
          ('There are no compression artefacts.', 'There are no blocks in it.')),
    Fault('upscaling', 'scaling', (('bandwidth', -1),), 'resample'),
)}


@dataclass(frozen=True)
class Quantiles:
    """What photographs have: the percentiles 0 to 100 of each measure, and of the score of each fault.

    Attributes:
        measures: by name of the measure, in its unit.
        faults: by name of the fault; see `fault_scores`.
    """

    measures: Mapping[str, Sequence[float]]
    faults: Mapping[str, Sequence[float]]


def fault_scores(measures: Mapping[str, float], quantiles: Quantiles | None = None) -> dict[str, float]:
    """Return for each fault the mean rank of the measures that tell it, in [0, 1]; NaN where one of them could not be measured.

    Args:
        measures: of `measure_picture`.
        quantiles: of the photographs among which ranks are; None takes those of the package.
    """
    known = stored_quantiles() if quantiles is None else quantiles
    own = {name: _rank(measures[name], known.measures[name]) for name in {name for fault in FAULTS.values()
                                                                          for name, _ in fault.told_by}}
    return {fault.name: float(np.mean([own[name] if sign > 0 else 1 - own[name] for name, sign in fault.told_by]))
            for fault in FAULTS.values()}


def ranks(measures: Mapping[str, float], quantiles: Quantiles | None = None) -> dict[str, float]:
    """Return for each fault the share of photographs that have less of it, in [0, 1]; arguments are those of `fault_scores`."""
    known = stored_quantiles() if quantiles is None else quantiles
    return {name: _rank(score, known.faults[name]) for name, score in fault_scores(measures, known).items()}


def aspects(measures: Mapping[str, float], quantiles: Quantiles | None = None) -> dict[str, float]:
    """Return how good each aspect is, in [0, 1]: the share of photographs that have more of its worst fault.

    Args:
        measures: of `measure_picture`.
        quantiles: see `fault_scores`.

    Returns:
        By the names of `ASPECTS`; NaN where one of its faults could not be measured.
    """
    of_faults = ranks(measures, quantiles)
    return {aspect: float(1 - np.max([rank for name, rank in of_faults.items() if FAULTS[name].aspect == aspect]))
            for aspect in ASPECTS}


def _rank(value: float, percentiles: Sequence[float]) -> float:
    """Return the rank of a value in [0, 1]; the middle one where many photographs have that very value."""
    if np.isnan(value):
        return float('nan')
    first, last = (int(np.searchsorted(percentiles, value, side)) for side in ('left', 'right'))
    if last > first:
        return (first + last - 1) / 2 / (len(percentiles) - 1)
    return float(np.interp(value, percentiles, np.linspace(0, 1, len(percentiles))))


def degrees(measures: Mapping[str, float], quantiles: Quantiles | None = None) -> dict[str, int | None]:
    """Return the degree of each fault: an index of `DEGREES`; None where it could not be measured.

    Args:
        measures: of `measure_picture`.
        quantiles: see `fault_scores`.
    """
    return {name: None if np.isnan(rank) else int(np.searchsorted(BOUNDS, rank, 'right'))
            for name, rank in ranks(measures, quantiles).items()}


@functools.cache
def stored_quantiles() -> Quantiles:
    """Return those of the training part of BIQ2021."""
    stored = json.loads(QUANTILES.read_text(encoding='utf-8'))
    return Quantiles(stored['measures'], stored['faults'])


def quantiles_of(columns: Mapping[str, np.ndarray]) -> Quantiles:
    """Return the quantiles of a set of photographs, with six significant digits.

    Args:
        columns: the values of each measure; NaN are left out.
    """
    of_measures = {name: _percentiles(values) for name, values in columns.items()}
    known = Quantiles(of_measures, {})
    count = len(next(iter(columns.values())))
    scores = [fault_scores({name: float(values[index]) for name, values in columns.items()}, known) for index in range(count)]
    return Quantiles(of_measures, {name: _percentiles(np.array([each[name] for each in scores])) for name in FAULTS})


def _percentiles(values: np.ndarray) -> list[float]:
    return [float(f'{value:.6g}') for value in np.nanpercentile(np.asarray(values, np.float64), np.arange(101))]
