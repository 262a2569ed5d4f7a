"""Does a map of quality tell where a picture is bad? Half of a photograph is distorted, and the map has to say which half."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.runs import KeyedRows, claim_folder
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset, as_tensor
from pyiqa_rali.figures.quality_maps import MappedPicture, draw_maps
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.studies.explanations import COMMON_TYPES
from pyiqa_rali.training.rali.map_shares import HALVES, half_distorted, positions_inside

PICTURES, RESULTS, SETTINGS, FIGURE = 'pictures.jsonl', 'results.json', 'settings.json', 'maps.png'
SHOWN = 4  # pictures of the figure


@dataclass
class HalvesSettings:
    """Photographs of which one half is distorted: each with each type of distortion at each level.

    Attributes:
        photos: folders of photographs; None takes those that the dependencies install.
        phase: which part of the split: 'train', 'val' or 'test'.
        split_seed: of the split; 0 is that of rali-lite.
        ratios: shares of the split for training, validation and test; the default are those of rali-lite.
        num_photographs: only this many, one crop of each; None takes all crops.
        longest_side: larger photographs are scaled down to it; None keeps them.
        types: of distortion.
        levels: in [0.5, 5.5].
        size: (height, width) of the crops, in pixels.
        share: of the map (see `RALI.quality_map`); None takes the default.
    """

    photos: Sequence[str] | None = None
    phase: str = 'test'
    split_seed: int = 0
    ratios: Sequence[float] = (0.8, 0.05, 0.15)
    num_photographs: int | None = None
    longest_side: int | None = 1024
    types: Sequence[str] = COMMON_TYPES
    levels: Sequence[float] = (1, 2, 3, 4, 5)
    size: Sequence[int] = (384, 512)
    share: float | None = None

    def dataset(self) -> SyntheticNRDataset:
        """Return the data set that the pictures are drawn from.

        Raises:
            OptionError, DataError: a value or the photographs cannot be used.
        """
        if not self.types or not self.levels:
            raise OptionError('types, levels: there must be one of each at least.')
        every = SyntheticNRDataset({
            'name': 'photographs', 'type': 'SyntheticNRDataset', 'texts_per_image': 0, 'source_scale': [1.0, 1.0],
            'dataroot_photos': None if self.photos is None else list(self.photos), 'phase': self.phase,
            'split_seed': self.split_seed, 'split_ratios': list(self.ratios), 'crop_size': list(self.size),
            'num_photographs': self.num_photographs, 'longest_side': self.longest_side, 'only': list(self.types),
            'levels': [float(level) for level in self.levels]})
        if not len(every):
            raise DataError(f'phase: {self.phase} of the split holds no photograph.')
        return every


@dataclass
class MapResult:
    """How well maps tell where a picture is bad.

    Attributes:
        root: the folder with results.json, pictures.jsonl and the figure.
        measures: what `measure_maps` returns.
        rows: one per picture; see `measure_maps`.
    """

    root: Path
    measures: dict[str, Any]
    rows: list[dict[str, Any]]


def evaluate_maps(net: RALI, settings: HalvesSettings, out: str | os.PathLike) -> MapResult:
    """Distort one half of photographs, and measure whether maps tell it from the other.

    Pictures that a stopped run has measured are not measured again.

    Args:
        net: a RALI whose encoder has positions.
        settings: which pictures.
        out: the folder to write.

    Raises:
        OptionError: a value cannot be used, or the folder contains results of something else.
        DataError: photographs cannot be used.
    """
    dataset, root = settings.dataset(), Path(out)
    claim_folder(root / SETTINGS, {**vars(settings), 'weights': weights_digest(net)}, '--out')
    kept = KeyedRows(root / PICTURES, 'image', durable=False)
    for index in progress_bar(range(len(dataset)), desc='maps', unit='picture'):
        if str(index) not in kept.done:
            kept.add([_measured(net, dataset, index, settings)])
    rows = [kept.done[str(index)] for index in range(len(dataset))]
    found = measure_maps(rows)
    write_json(root / RESULTS, found)
    low, high = net.metadata['mos_range']
    draw_maps(list(_shown(net, dataset, settings)), root / FIGURE, (low, high), net.lower_better)
    return MapResult(root, found, rows)


def area_under_curve(values: np.ndarray, where: np.ndarray) -> float:
    """Return the probability that a position outside has a higher value than one inside, ties counted by half.

    Args:
        values: (H', W') of a map, higher better.
        where: (H', W') true inside.

    Example:
        >>> area_under_curve(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[True, True, False, False]]))
        1.0
    """
    from scipy.stats import mannwhitneyu
    inside, outside = values[where], values[~where]
    return float(mannwhitneyu(outside, inside).statistic / (len(inside) * len(outside)))


def _measured(net: RALI, dataset: SyntheticNRDataset, index: int, settings: HalvesSettings) -> dict[str, Any]:
    """Return the row of one picture (see `measure_maps`)."""
    draw = dataset.draw(index)
    half = HALVES[(index // len(settings.levels)) % len(HALVES)]
    mixed, where = half_distorted(draw.reference, draw.distorted, half)
    values = _map(net, mixed, settings)
    sign = -1.0 if net.lower_better else 1.0
    distorted = as_tensor([draw.distorted]).to(net.scorer.basis_vectors.device)
    scores = {'pristine': _score(net, draw.reference), 'distorted': _score(net, draw.distorted)}
    kind = dataset.types[(index // len(settings.levels)) % len(dataset.types)]
    return {'image': str(index), 'photograph': draw.photograph, 'distortion': kind, 'half': half,
            'level': float(settings.levels[index % len(settings.levels)]), 'visible': bool(draw.distortions),
            'auc': area_under_curve(sign * values, positions_inside(where, values.shape)), 'map_score': _score(net, mixed),
            'map_mean': float(values.mean()), 'score_of_distorted': scores['distorted'],
            'score_of_pristine': scores['pristine'],
            'map_mean_of_distorted': float(net.quality_map(distorted, *_share(settings)).mean()),
            'told_by_scores': bool(sign * scores['distorted'] < sign * scores['pristine'])}


def _share(settings: HalvesSettings) -> tuple[float, ...]:
    return () if settings.share is None else (settings.share,)


def _map(net: RALI, pixels: np.ndarray, settings: HalvesSettings) -> np.ndarray:
    pictures = as_tensor([pixels]).to(net.scorer.basis_vectors.device)
    return net.quality_map(pictures, *_share(settings))[0].cpu().numpy()


def _score(net: RALI, pixels: np.ndarray) -> float:
    return float(net(as_tensor([pixels]).to(net.scorer.basis_vectors.device)).detach())


def measure_maps(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return every measure of maps of pictures of which one half is distorted.

    Args:
        rows: one per picture: `distortion`, `level`, `auc` (area under the curve, of the map's positions), `visible` (whether
            the distortion changed the picture), `map_mean` and `map_score` (the mean of the map and the picture's score),
            `map_mean_of_distorted` and `score_of_distorted` (the same of the picture that is distorted everywhere) and
            `told_by_scores` (whether that one's score is worse than the undistorted picture's).

    Raises:
        DataError: no distortion changed its picture.
    """
    seen = [row for row in rows if row['visible']]
    if not seen:
        raise DataError('no distortion changed its picture: there are no halves to tell apart.')
    by_type = {name: _mean(seen, 'auc', distortion=name) for name in dict.fromkeys(row['distortion'] for row in seen)}
    by_level = {f'{level:g}': _mean(seen, 'auc', level=level) for level in sorted({row['level'] for row in seen})}
    everywhere = np.array([(row['map_mean_of_distorted'], row['score_of_distorted']) for row in seen])
    mixed = np.array([(row['map_mean'], row['map_score']) for row in seen])
    return {'pictures': len(seen), 'invisible': len(rows) - len(seen), 'auc': float(np.mean(list(by_type.values()))),
            'by_type': by_type, 'by_level': by_level,
            'half_with_lower_mean': float(np.mean([row['auc'] > 0.5 for row in seen])),
            'told_by_scores': float(np.mean([row['told_by_scores'] for row in seen])),
            'told_by_scores_by_type': {name: _mean(seen, 'told_by_scores', distortion=name) for name in by_type},
            'auc_where_scores_tell': float(np.mean([row['auc'] for row in seen if row['told_by_scores']] or [np.nan])),
            'mean_of_map_and_score': {'distorted_everywhere': _agreement(everywhere), 'one_half': _agreement(mixed)}}


def _mean(rows: list[dict[str, Any]], key: str, **wanted: Any) -> float:
    return float(np.mean([row[key] for row in rows if all(row[name] == value for name, value in wanted.items())]))


def _agreement(pairs: np.ndarray) -> dict[str, float]:
    """Return how far means of maps are from scores (n, 2): mean difference and mean absolute difference."""
    difference = pairs[:, 0] - pairs[:, 1]
    return {'difference': float(difference.mean()), 'absolute_difference': float(np.abs(difference).mean())}


def _shown(net: RALI, dataset: SyntheticNRDataset, settings: HalvesSettings) -> Iterator[MappedPicture]:
    """Yield pictures of different types, at their highest level, with their maps."""
    for number in range(min(SHOWN, len(dataset.types))):
        position = number % len(dataset.photographs)
        kind = number * len(dataset.types) // min(SHOWN, len(dataset.types))
        row = position * len(dataset.types) + kind
        draw = dataset.draw((row + 1) * len(settings.levels) - 1)
        half = HALVES[row % len(HALVES)]
        mixed, _ = half_distorted(draw.reference, draw.distorted, half)
        named = dataset.types[kind].replace('_', ' ')
        yield MappedPicture(mixed, _map(net, mixed, settings), net.map_region(*mixed.shape[:2]),
                            f'{half} half: {named}, level {max(settings.levels):g}')
