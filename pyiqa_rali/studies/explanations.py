"""How accurate explanations are on pictures with known distortions: class, level, and the value of the uncertainty."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.runs import KeyedRows, claim_folder
from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.reasoning_texts import PRISTINE
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset, as_tensor
from pyiqa_rali.data.synthetic.known_distortions import DrawnPictures, KnownPicture, TablePictures
from pyiqa_rali.figures.explanations import draw_measures
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.rali import RALI

# types that most data sets with synthetic distortions have, from every family of ours but one ('spatial' has pixelation)
COMMON_TYPES = ('gaussian_blur', 'motion_blur', 'jpeg', 'jpeg2000', 'white_noise', 'impulse_noise', 'brighten', 'darken',
                'low_contrast', 'desaturate', 'color_cast', 'pixelate', 'oversharpen')
BINS = 10
METRICS = measures_of('plcc', 'srcc')
PICTURES, RESULTS, SETTINGS, FIGURE = 'pictures.jsonl', 'results.json', 'settings.json', 'explanations.png'
BATCH = 16


@dataclass
class DrawnSettings:
    """Pictures that are drawn from photographs: each crop with each type of distortion at each level.

    Attributes:
        photos: folder of photographs; None takes those that the dependencies install.
        phase: which part of the split: 'train', 'val' or 'test'.
        split_seed: of the split; 0 is that of rali-lite.
        ratios: shares of the split for training, validation and test; the default are those of rali-lite.
        num_photographs: only this many, one crop of each; None takes all crops.
        levels: in [0.5, 5.5].
        composites: instead of the grid, this many random pictures, half of them with two distortions and a tenth with none.
        size: (height, width) of the crops, in pixels.
    """

    photos: str | None = None
    phase: str = 'test'
    split_seed: int = 0
    ratios: Sequence[float] = (0.8, 0.05, 0.15)
    num_photographs: int | None = None
    levels: Sequence[float] = (1, 2, 3, 4, 5)
    composites: int | None = None
    size: Sequence[int] = (384, 512)

    def values(self) -> dict[str, Any]:
        """Return the keys of a `SyntheticNRDataset` that follow from these."""
        found = {'dataroot_photos': self.photos, 'phase': self.phase, 'split_seed': self.split_seed,
                 'split_ratios': list(self.ratios), 'crop_size': list(self.size), 'num_photographs': self.num_photographs}
        if self.composites is not None:
            return {**found, 'samples_per_epoch': self.composites, 'composite_probability': 0.5, 'pristine_probability': 0.1}
        return {**found, 'levels': [float(level) for level in self.levels]}

    def pictures(self) -> DrawnPictures:
        """Return the pictures.

        Raises:
            OptionError, DataError: a value or the photographs cannot be used.
        """
        return DrawnPictures(SyntheticNRDataset({'name': 'photographs', 'type': 'SyntheticNRDataset', 'texts_per_image': 0,
                                                 'source_scale': [1.0, 1.0], **self.values()}))


@dataclass
class ExplanationResult:
    """How accurate explanations are.

    Attributes:
        root: the folder with results.json, pictures.jsonl and the figure.
        measures: what `measure_explanations` returns.
        pictures: one row per picture; see `measure_explanations`.
        figure: the drawing, a PNG file.
    """

    root: Path
    measures: dict[str, Any]
    pictures: list[dict[str, Any]]
    figure: Path


def evaluate_explanations(net: RALI, source: str | os.PathLike | DrawnSettings, out: str | os.PathLike) -> ExplanationResult:
    """Explain pictures with known distortions, and measure all explanations.

    Pictures that a stopped run has explained are not explained again.

    Args:
        net: a RALI whose checkpoint has a text bank.
        source: a data set of `make-dataset`, or what to draw from photographs.
        out: the folder to write.

    Raises:
        OptionError: a value cannot be used, or the folder contains results of something else.
        DataError: pictures or their table cannot be used.
        CheckpointError: the checkpoint has no text bank.
    """
    pictures: DrawnPictures | TablePictures
    if isinstance(source, DrawnSettings):
        pictures, settings = source.pictures(), source.values()
    else:
        pictures, settings = TablePictures(str(source)), {'folder': str(source)}
    root = Path(out)
    claim_folder(root / SETTINGS, {**settings, 'weights': weights_digest(net)}, '--out')
    kept = KeyedRows(root / PICTURES, 'image', durable=False)
    left = [index for index, name in enumerate(pictures.names()) if name not in kept.done]
    with progress_bar(total=len(left), unit='picture', disable=None) as bar:
        for start in range(0, len(left), BATCH):
            chunk = list(_explained(net, pictures.read(left[start:start + BATCH])))
            kept.add(chunk)
            bar.update(len(chunk))
    rows = list(kept.done.values())
    found = measure_explanations(rows)
    write_json(root / RESULTS, found)
    draw_measures(found, rows, root / FIGURE)
    return ExplanationResult(root, found, rows, root / FIGURE)


def _explained(net: RALI, pictures: Iterable[KnownPicture]) -> Iterator[dict[str, Any]]:
    """Yield a row for each picture (see `measure_explanations`)."""
    device = next(net.parameters()).device
    for picture in pictures:
        found = net.explain(as_tensor([picture.pixels]).to(device))[0]
        yield {'image': picture.image, 'distortions': picture.distortions, 'mos': picture.mos, 'score': found.score,
               'uncertainty': found.uncertainty, 'shares': {vote.distortion: round(vote.share, 6) for vote in found.votes},
               'levels': {vote.distortion: vote.level if vote.level is None else round(vote.level, 4)
                          for vote in found.votes}}


def measure_explanations(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return every measure of explained pictures.

    Args:
        rows: one per picture: `image`, `distortions` ((type, level) pairs, none for a pristine picture), `mos`, `score`,
            `uncertainty`, `shares` and `levels` (by class, over all classes of the bank).

    Raises:
        DataError: no picture has exactly one distortion.
    """
    single = [row for row in rows if len(row['distortions']) == 1]
    if not single:
        raise DataError('no picture with one known distortion: there is no class to compare with.')
    common = [row for row in single if _kind(row) in COMMON_TYPES]
    return {'pictures': len(rows), 'all_types': measure_classes(single),
            'common_types': measure_classes(common) if common else None,
            'among_common_types': measure_classes(common, COMMON_TYPES) if common else None,
            'composite': measure_composites([row for row in rows if len(row['distortions']) > 1]),
            'pristine': measure_pristine([row for row in rows if not row['distortions']]),
            'vote_calibration': calibration(single), 'by_type': accuracy_by_type(single),
            'score': measure_scores(rows)}


def measure_classes(rows: list[dict[str, Any]], allowed: tuple[str, ...] | None = None) -> dict[str, float]:
    """Return the share of pictures whose largest vote is right, and what a constant answer would reach.

    Args:
        rows: pictures of one distortion.
        allowed: votes for other classes are left out; None takes all votes, 'pristine' among them.
    """
    kinds = [_kind(row) for row in rows]
    ranked = [ranking(row, allowed) for row in rows]
    levels = np.array([row['distortions'][0][1] for row in rows])
    named = np.array([row['levels'][order[0]] or 0.0 for row, order in zip(rows, ranked, strict=True)])
    right = np.array([kind == order[0] for kind, order in zip(kinds, ranked, strict=True)])
    family = [_family(kind) == _family(order[0]) for kind, order in zip(kinds, ranked, strict=True)]
    return {'pictures': len(rows), 'types': len(set(kinds)), 'accuracy': float(right.mean()),
            'majority': max(Counter(kinds).values()) / len(rows),
            'top_3_accuracy': float(np.mean([kind in order[:3] for kind, order in zip(kinds, ranked, strict=True)])),
            'family_accuracy': float(np.mean(family)),
            'level_error': float(np.abs(named - levels).mean()),
            'level_error_when_right': float(np.abs(named - levels)[right].mean()) if right.any() else float('nan'),
            'level_error_of_the_median': float(np.abs(np.median(levels) - levels).mean())}


def measure_composites(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Return how often the largest vote is one of a picture's distortions, and how often the two largest are both."""
    if not rows:
        return None
    names = [{name for name, _ in row['distortions']} for row in rows]
    ranked = [ranking(row) for row in rows]
    return {'pictures': len(rows), 'first_is_one_of_them': float(np.mean([order[0] in each for order, each in
                                                                         zip(ranked, names, strict=True)])),
            'first_two_are_both': float(np.mean([set(order[:2]) == each for order, each in zip(ranked, names, strict=True)]))}


def measure_pristine(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Return how often the largest vote of a picture without distortions says so."""
    if not rows:
        return None
    return {'pictures': len(rows), 'accuracy': float(np.mean([ranking(row)[0] == PRISTINE for row in rows]))}


def calibration(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean share of the largest vote and how often it is right, in bins of the share.

    `expected_error` is the mean distance of the two over the pictures (expected calibration error).
    """
    shares = np.array([row['shares'][ranking(row)[0]] for row in rows])
    right = np.array([ranking(row)[0] == _kind(row) for row in rows])
    place = np.minimum((shares * BINS).astype(int), BINS - 1)
    bins = [{'pictures': int((place == index).sum()), 'share': float(shares[place == index].mean()),
             'accuracy': float(right[place == index].mean())} for index in range(BINS) if (place == index).any()]
    error = sum(item['pictures'] * abs(item['share'] - item['accuracy']) for item in bins) / len(rows)
    return {'mean_share': float(shares.mean()), 'accuracy': float(right.mean()), 'expected_error': error, 'bins': bins}


def measure_scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return correlations of score and MOS, and of the uncertainty with the absolute error of the score."""
    scores, mos, uncertainty = (np.array([row[name] for row in rows]) for name in ('score', 'mos', 'uncertainty'))
    error = np.abs(scores - mos)
    return {**correlations(scores, mos, METRICS, 'score'), 'mean_absolute_error': float(error.mean()),
            'mean_uncertainty': float(uncertainty.mean()),
            'uncertainty_srcc': correlations(uncertainty, error, {'srcc': METRICS['srcc']}, 'uncertainty')['srcc']}


def accuracy_by_type(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each type its pictures, how many are named correctly, and the class that is named most often instead."""
    found = {}
    for kind in sorted({_kind(row) for row in rows}):
        named = Counter(ranking(row)[0] for row in rows if _kind(row) == kind)
        wrong = Counter({name: count for name, count in named.items() if name != kind}).most_common(1)
        found[kind] = {'pictures': sum(named.values()), 'accuracy': named[kind] / sum(named.values()),
                       'taken_for': wrong[0][0] if wrong else None}
    return found


def ranking(row: dict[str, Any], allowed: tuple[str, ...] | None = None) -> list[str]:
    """Return the classes from the largest share to the smallest."""
    shares = {name: share for name, share in row['shares'].items() if allowed is None or name in allowed}
    if not shares:
        raise DataError('the text bank names none of the types that are asked for.')
    return sorted(shares, key=lambda name: -shares[name])


def _kind(row: dict[str, Any]) -> str:
    return row['distortions'][0][0]


def _family(name: str) -> str:
    return DISTORTIONS[name].family if name in DISTORTIONS else name
