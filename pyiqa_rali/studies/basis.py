"""Does a basis that follows the images carry further, and do positions add to the score of the whole picture?

Each image of data sets with human scores is encoded once. Then the basis is refreshed from the images of each set, without
their scores, and agreement is compared before and after; and the score of the picture is blended with mean and maximum of the
scores of its positions, with weights that are fitted on validation images.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.runs import KeyedRows, claim_folder
from pyiqa_rali.data.sections import DatasetOptions, dataset_section
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.data.training_images import overlap
from pyiqa_rali.evaluation.options import EvaluateOptions
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.positions import SHARE, position_rows
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.adapt import AdaptOptions, refreshed

SRCC = measures_of('srcc')
ADAPTED = {**{f'means, strength {strength}': AdaptOptions('means', strength) for strength in (1, 10, 100)},
           'buckets': AdaptOptions('buckets')}
STEPS = 20  # of the weights of a blend, from 0 to 1
PARTS = ('whole', 'mean', 'best')
RESULTS, SETTINGS = 'results.json', 'settings.json'


@dataclass
class Encoded:
    """What is known of the images of one data set.

    Attributes:
        mos: (n,) higher better.
        parts: (n, 3) the score of the whole picture, and the mean and the best of its positions, higher better.
        features: (n, C) image features.
        trained_on: how many of the images the weights were trained on; None where no record is kept.
    """

    mos: np.ndarray
    parts: np.ndarray
    features: Tensor
    trained_on: int | None = None


@dataclass
class BasisResult:
    """What a study of the basis leaves.

    Attributes:
        root: the folder with results.json.
        adapted: SRCC of each data set before ('before') and after each way of refreshing the basis.
        blended: SRCC of each data set of the whole picture, of each part alone, and of the blend.
        weights: of the blend, for `PARTS`; empty without validation images.
        fitted_on: the data sets that the weights were fitted on.
        trained_on: how many images of each data set the weights were trained on; None where no record is kept.
    """

    root: Path
    adapted: dict[str, dict[str, float]] = field(default_factory=dict)
    blended: dict[str, dict[str, float]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    fitted_on: list[str] = field(default_factory=list)
    trained_on: dict[str, int | None] = field(default_factory=dict)


def evaluate_basis(net: RALI, options: EvaluateOptions, out: str | os.PathLike, names: Sequence[str] = (),
                   num_images: int | None = None) -> BasisResult:
    """Measure bases that follow the images, and blends with positions.

    Images that a stopped run has encoded are not encoded again.

    Args:
        net: the weights.
        options: data sets; the weights of the blend are fitted on those with `phase: val`, and all are measured.
        out: the folder to write.
        names: of the data sets; empty for all.
        num_images: at most so many images of each, drawn at random with the options' seed; None takes all.

    Raises:
        OptionError: there is no such data set, or `out` has results of something else.
        DataError: images cannot be used.
    """
    unknown = [name for name in names if name not in options.datasets]
    if unknown:
        raise OptionError(f'datasets: {some(unknown)} not in the option file, which has {some(list(options.datasets), 9)}.')
    chosen, root = list(names or options.datasets), Path(out)
    settings = {'weights': weights_digest(net), 'num_images': num_images, 'seed': options.manual_seed}
    claim_folder(root / SETTINGS, settings, '--out')
    encoded = {name: _encoded(net, name, options, root, num_images) for name in chosen}
    validation = [name for name in chosen if _section_of(name, options.datasets[name]).images == 'val']
    found = BasisResult(root, {name: adapted_agreement(net, each) for name, each in encoded.items()}, fitted_on=validation,
                        trained_on={name: each.trained_on for name, each in encoded.items()})
    weights = fit_blend([encoded[name] for name in validation]) if validation else None
    if weights is not None:
        found.weights = dict(zip(PARTS, weights.tolist(), strict=True))
    found.blended = {name: blended_agreement(each, weights) for name, each in encoded.items()}
    write_json(root / RESULTS, {name: value for name, value in vars(found).items() if name != 'root'})
    return found


def adapted_agreement(net: RALI, encoded: Encoded) -> dict[str, float]:
    """Return SRCC with the basis as it is, and with each way of refreshing it from these images without their MOS."""
    with torch.no_grad():
        found = {'before': srcc(_higher_better(net, net.scorer(encoded.features)), encoded.mos)}
        for name, options in ADAPTED.items():
            scorer = refreshed(net.scorer, encoded.features, options)
            found[name] = srcc(_higher_better(net, scorer(encoded.features)), encoded.mos)
    return found


def fit_blend(sets: Sequence[Encoded]) -> np.ndarray:
    """Return the weights (3,) of `PARTS`, none negative, their sum 1, with the highest mean SRCC over data sets.

    Of equally good weights those with the most for the whole picture are taken.
    """
    grid = [np.array(each) / STEPS for each in itertools.product(range(STEPS + 1), repeat=3) if sum(each) == STEPS]
    ordered = sorted(grid, key=lambda weights: -weights[0])
    return max(ordered, key=lambda weights: round(float(np.mean([srcc(each.parts @ weights, each.mos) for each in sets])), 6))


def blended_agreement(encoded: Encoded, weights: np.ndarray | None) -> dict[str, float]:
    """Return SRCC of each part alone, and of the blend where there are weights."""
    found = {name: srcc(encoded.parts[:, place], encoded.mos) for place, name in enumerate(PARTS)}
    return found if weights is None else {**found, 'blend': srcc(encoded.parts @ weights, encoded.mos)}


def srcc(scores: np.ndarray, mos: np.ndarray) -> float:
    """Return Spearman's correlation."""
    return correlations(scores, mos, SRCC, 'scores')['srcc']


def _section_of(name: str, options: DatasetOptions) -> Any:
    """Return the section of a data set: the test images unless it says otherwise, as `evaluate` takes them."""
    given = options.given()
    return dataset_section(name, {**({} if 'pyiqa_name' in given else {'name': name}), 'phase': 'test', **given})


def _higher_better(net: RALI, scores: Tensor) -> np.ndarray:
    sign = -1.0 if net.lower_better else 1.0
    return sign * scores.flatten().cpu().double().numpy()


def _encoded(net: RALI, name: str, options: EvaluateOptions, root: Path, num_images: int | None) -> Encoded:
    table = build_table(name, _section_of(name, options.datasets[name]).options, options.manual_seed)
    order = np.random.default_rng(options.manual_seed).permutation(len(table))[:num_images].tolist()
    if len(order) < 3:
        raise DataError(f'datasets: {name}: {len(order)} images; a correlation needs 3 at least.')
    kept = KeyedRows(root / f'{name}.jsonl', 'image', durable=False)
    for index in progress_bar(order, desc=name, unit='image'):
        if str(index) not in kept.done:
            kept.add([{'image': str(index), **_row(net, table, index)}])
    rows = [kept.done[str(index)] for index in order]
    record = net.training_images
    shared = None if record is None else overlap(record, table.source_files()).trained_on
    trained_on = None if shared is None else len(shared)
    return Encoded(np.array([row['mos_label'] for row in rows]), np.array([row['parts'] for row in rows]),
                   torch.tensor([row['features'] for row in rows]), trained_on)


@torch.no_grad()
def _row(net: RALI, table: QualityTable, index: int) -> dict[str, Any]:
    """Return what is kept of one image: MOS, scores of the parts, image features."""
    item, encoder = table[index], net.image_encoder
    prepared = net.prepare(item['img'].unsqueeze(0).to(net.scorer.basis_vectors.device))
    whole, differences = next(encoder.in_parts(prepared, lambda part: position_rows(encoder.backbone, part)))
    shares = SHARE if net.map is None else net.map.shares
    features = encoder.project(whole)
    positions = encoder.project((whole[:, None, None] + shares * differences).flatten(0, 2))
    scores, places = (_higher_better(net, net.scorer(each)) for each in (features, positions))
    return {'mos_label': float(item['mos_label']), 'parts': [float(scores[0]), float(places.mean()), float(places.max())],
            'features': [round(value, 6) for value in features[0].float().tolist()]}
