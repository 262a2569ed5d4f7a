"""The test of the light model: several seeds and splits by photograph, unseen types of distortion, and baselines."""

import copy
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import write_json, write_yaml
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.runs import differences, read_claim
from pyiqa_rali.data.sections import dataset_section
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.model.image_encoder import ImageEncoder
from pyiqa_rali.training.rali.features import embed, load_features
from pyiqa_rali.training.rali.options import TrainOptions, train_options
from pyiqa_rali.training.rali.run import train
from pyiqa_rali.training.rali.run_folder import RunFolder, read_scores
from pyiqa_rali.training.rali.towers import build_towers

HELD_OUT = ('motion_blur', 'color_shift', 'vignette', 'haze', 'multiplicative_noise', 'webp', 'aliasing', 'ringing')
LEVELS = (1.0, 2.0, 3.0, 4.0, 5.0)
METRICS = measures_of('plcc', 'srcc')
SETS = ('test_in_domain', 'test_out_of_domain')
ALPHAS = tuple(10.0 ** power for power in range(-1, 6))  # penalties of ridge regression


@dataclass
class ProtocolResult:
    """What the protocol measured.

    Attributes:
        path: the JSON file with all of it.
        seeds: for each seed and test set the number of images, PLCC, SRCC, 'level_order', and each baseline's PLCC and SRCC.
        median: the median of each number over the seeds.
    """

    path: Path
    seeds: dict[int, dict[str, Any]]
    median: dict[str, Any]


def run_protocol(values: Mapping[str, Any], out: str | os.PathLike, seeds: Sequence[int] = (0, 1, 2),
                 photos: str | None = None, num_photographs: int | None = None, with_baselines: bool = True) -> ProtocolResult:
    """Train and measure once for every seed; an interrupted protocol continues where it stopped.

    Args:
        values: options of a light run, such as options/rali_lite_v1.yml as read from YAML.
        out: the JSON file of the results; each seed's own are in the folder of the same name without '.json'.
        seeds: of the runs, each with its own split of the photographs.
        photos: folder of photographs; None takes the installed ones.
        num_photographs: number of test photographs of each split; None takes all.
        with_baselines: also measure ridge regression on the frozen backbone, PIQE and BRISQUE.

    Raises:
        OptionError, DataError, CheckpointError: the runs cannot be trained; the message says why.
    """
    path = Path(out)
    results: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        options = protocol_options(dict(values), seed, photos, num_photographs)
        option_file = path.with_suffix('') / f'seed_{seed}.yml'
        write_yaml(option_file, options)
        finished = _finished_result(option_file.with_suffix('.json'), options, with_baselines)
        if finished is None:
            train(str(option_file), auto_resume=True)
            finished = measure_run(options, with_baselines)
            write_json(option_file.with_suffix('.json'), {'options': options, 'baselines': with_baselines, 'result': finished})
        results[seed] = finished
        write_json(path, {'held_out': HELD_OUT, 'seeds': results, 'median': medians(list(results.values()))})
    return ProtocolResult(path, results, medians(list(results.values())))


def _finished_result(path: Path, options: dict[str, Any], with_baselines: bool) -> dict[str, Any] | None:
    """Return what an earlier call measured with the same options, or None."""
    found = read_claim(path)
    if found is None or differences({**found, 'result': None}, {'options': options, 'baselines': with_baselines}):
        return None
    return dict(found['result'])


def measure_run(values: dict[str, Any], with_baselines: bool) -> dict[str, Any]:
    """Return correlations, level order and baselines of one finished run.

    Args:
        values: its options.
        with_baselines: whether the baselines are measured too.
    """
    options = train_options(values)
    folder = RunFolder(options)
    found: dict[str, Any] = {}
    for section in SETS:
        names, mos, scores = read_scores(folder.scores(section))
        found[section] = {'images': len(names), **measure(mos, scores, section), 'level_order': level_order(names, scores)}
        if with_baselines:
            for name, metric in (('piqe', Piqe()), ('brisque', Brisque())):
                baseline = [metric(picture) for picture in progress_bar(_pictures(options, section), total=len(names),
                                                                desc=f'{name} on {section}')]
                found[section][name] = measure(mos, np.array(baseline), name)
    if with_baselines:
        _add_ridge(found, options, folder)
    return found


def _pictures(options: TrainOptions, section: str) -> Iterator[np.ndarray]:
    """Yield the pictures of a test set as uint8 (H, W, 3)."""
    table = build_table(section, options.datasets[section], options.manual_seed)
    for index in range(len(table)):
        yield table.base.draw(index).distorted


def _add_ridge(found: dict[str, Any], options: TrainOptions, folder: RunFolder) -> None:
    """Add ridge regression on the backbone before alignment, at the same resolution and on the same pictures."""
    built = build_towers(options.network, options.text_encoder, options.path).image_encoder
    encoder = ImageEncoder(built.config, built.backbone, torch.nn.Identity()).eval()

    def embedded(section: str) -> Any:
        table = build_table(section, options.datasets[section], options.manual_seed)
        workers = dataset_section(section, options.datasets[section]).options.num_worker_per_gpu or 0
        return embed(encoder, table, torch.device('cpu'), num_workers=workers)

    basis = embedded('basis').image_features.numpy().astype(np.float64)
    labels = load_features(folder.features('basis')).mos_label.numpy().astype(np.float64)
    for section in SETS:
        test = embedded(section)
        scores = ridge_scores(basis, labels, test.image_features.numpy().astype(np.float64))
        found[section]['ridge'] = measure(test.mos_label.numpy(), scores, 'ridge')


def protocol_options(values: dict[str, Any], seed: int, photos: str | None, num_photographs: int | None) -> dict[str, Any]:
    """Return a run's options for one seed and split: held-out types leave training, test photographs are scored.

    The validation photographs choose the epoch of stage 3, also without the held-out types; the test photographs choose
    nothing.

    Args:
        values: the light run's options as read from YAML.
        seed: the run's seed and the split's.
        photos: folder of photographs; None takes the installed ones.
        num_photographs: so many test photographs; None takes all.
    """
    values = copy.deepcopy(values)
    values.update(name=f'{values["name"]}_protocol_{seed}', manual_seed=seed)
    for section in ('train', 'basis', 'val'):
        values['datasets'][section].update(dataroot_photos=photos, split_seed=seed, hold_out=list(HELD_OUT))
        values['datasets'][section]['seed'] = values['datasets'][section].get('seed', 0) + 10_000_000 * seed
    grid = {key: value for key, value in values['datasets']['val'].items()
            if key not in ('hold_out', 'only', 'samples_per_epoch', 'pristine_probability', 'composite_probability')}
    grid.update(phase='test', dataroot_photos=photos, split_seed=seed, levels=list(LEVELS), num_photographs=num_photographs)
    for name, types in zip(SETS, ({'hold_out': list(HELD_OUT)}, {'only': list(HELD_OUT)}), strict=True):
        values['datasets'][name] = {**grid, 'name': name, **types}
    values['val'].update(val_freq=None, key_dataset='val')
    return values


def level_order(names: list[str], scores: np.ndarray) -> float:
    """Return the share of pairs of levels, of one photograph and type, that the scores put in the right order.

    Args:
        names: 'photograph|type|level#index' of each picture.
        scores: (n,), higher better; ties count as wrong.
    """
    groups = defaultdict(list)
    for name, score in zip(names, scores, strict=True):
        photograph, kind, level = name.rsplit('#', 1)[0].rsplit('|', 2)
        groups[photograph, kind].append((float(level), score))
    right = [first[1] > second[1] if first[0] < second[0] else first[1] < second[1]
             for group in groups.values() for first, second in combinations(group, 2) if first[0] != second[0]]
    return float(np.mean(right))


def measure(mos: np.ndarray, scores: np.ndarray, name: str) -> dict[str, float]:
    """Return PLCC and SRCC, rounded to four digits."""
    return {metric: round(value, 4) for metric, value in correlations(scores, mos, METRICS, name).items()}


def medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median over seeds of every number in nested results."""
    first = results[0]
    return {key: medians([result[key] for result in results]) if isinstance(first[key], dict)
            else round(float(np.median([result[key] for result in results])), 4)
            for key in first if isinstance(first[key], (dict, int, float))}


def ridge_scores(train_features: np.ndarray, train_labels: np.ndarray, test_features: np.ndarray) -> np.ndarray:
    """Return ridge regression's scores (m,) for test features (m, C), fitted on (n, C) features and (n,) labels.

    Features are standardised; the penalty is the one with the smallest leave-one-out error on the training set.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    return make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(train_features, train_labels).predict(test_features)


class Piqe:
    """pyiqa's PIQE on uint8 (H, W, 3) pictures, negated: higher is better."""

    def __init__(self):
        import pyiqa
        self._metric = pyiqa.create_metric('piqe', device=torch.device('cpu'))

    def __call__(self, picture: np.ndarray) -> float:
        """Return minus the PIQE score."""
        return -float(self._metric(torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0).float() / 255))


class Brisque:
    """The package `brisque` on uint8 (H, W, 3) RGB pictures, negated: higher is better.

    Raises:
        OptionError: the package is not installed.
    """

    def __init__(self):
        try:
            from brisque import BRISQUE
        except ImportError as error:
            raise OptionError('brisque: the package is not installed. Install it with pip install brisque, or leave this '
                              'comparison out.') from error

        class ScalarBrisque(BRISQUE):
            """brisque 0.2 hands numpy one-element arrays where numbers are due, which numpy 2.4 refuses."""

            def scale_features(self, features):
                return super().scale_features([np.asarray(feature).item() for feature in features])

        self._metric = ScalarBrisque(url=False)

    def __call__(self, picture: np.ndarray) -> float:
        """Return minus the BRISQUE score."""
        return -float(self._metric.score(np.ascontiguousarray(picture[..., ::-1])))
