"""How far data sets are apart: in visual features, in the reasoning texts, and in aligned image embeddings.

In each of these spaces: the maximum mean discrepancy, the accuracy of a linear classifier, and a map in the plane.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.spatial.distance
import torch

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.options import from_known_keys
from pyiqa_rali.core.processes import torch_device
from pyiqa_rali.data.reasoning_texts import join_texts, load_reasoning_texts
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.figures.analyses import draw_spaces
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.image_encoder import ImageEncoder
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.studies.analyses.folder import AnalysisFolder, AnalysisResult
from pyiqa_rali.studies.analyses.inputs import OptionFile, drawn, sections_of
from pyiqa_rali.training.rali.features import embed
from pyiqa_rali.training.rali.options import PathOptions, TextEncoderOptions
from pyiqa_rali.training.rali.towers import build_towers

VISUAL, TEXT, ALIGNED = 'visual features', 'reasoning texts', 'aligned embeddings'
FOLDS = 5


def analyse_domains(opt: OptionFile, sections: Sequence[str], checkpoint: str | os.PathLike, out: str | os.PathLike,
                    limit: int | None = None, seed: int = 0, permutations: int = 500,
                    device: str | None = None) -> AnalysisResult:
    """Measure the distances of data sets in three feature spaces.

    Visual features are those of the image encoder that the option file starts from, before alignment; texts are the first
    of each image, by the option file's text encoder as it is before training.

    Args:
        opt: option file of a training, or its values.
        sections: names of two or more data sets in it, all with reasoning texts.
        checkpoint: an export of RALI, for the aligned embeddings.
        out: folder for distances.csv, points.csv, results.json and domains.png.
        limit: at most so many images of each data set.
        seed: of all draws.
        permutations: draws of the test.
        device: torch's name of the device; None takes a GPU if there is one.

    Raises:
        OptionError: fewer than two sections, a value that cannot be used, or a folder that was begun with something else.
        DataError: images without a text.
        CheckpointError: weights are not on this machine, and the hub does not provide them.
    """
    if len(set(sections)) < 2:
        raise OptionError(f'sections: {", ".join(sections) or "none"}: must name at least two different data sets.')
    if permutations < 1:
        raise OptionError(f'permutations: {permutations} must be at least 1.')
    values, wanted = sections_of(opt, sections)
    chosen = {section: _chosen_images(section, options, limit, seed) for section, options in wanted.items()}
    folder = AnalysisFolder(out, 'domains', {
        'checkpoint': str(checkpoint), 'limit': limit, 'seed': seed, 'permutations': permutations, 'datasets': wanted,
        'network': values.get('network'), 'text_encoder': values.get('text_encoder'),
        'pretrain_network': (values.get('path') or {}).get('pretrain_network')})
    target = torch_device(device) or torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    models = {space: model.to(target).eval() for space, model in encoders_of(values, checkpoint, seed).items()}
    folder.check_weights({space: weights_digest(model) for space, model in models.items()})
    spaces = _embeddings(models, chosen, target)
    of = [section for section, (table, _) in chosen.items() for _ in table.names]
    images = [image for table, _ in chosen.values() for image in table.names]
    rows = [{'space': space, **row} for space, points in spaces.items() for row in gaps(points, of, permutations, seed)]
    maps = {space: plane(standardised(points), seed) for space, points in spaces.items()}
    places = [{'space': space, 'dataset': of[place], 'image': images[place], 'x': x, 'y': y}
              for space, points in maps.items() for place, (x, y) in enumerate(points.tolist())]
    draw_spaces(maps, of, rows, folder.picture('domains'), 't-SNE')
    return folder.finish({'distances': rows, 'points': places}, {
        'distances': rows, 'plane': ['t-SNE'], 'images': {section: len(table.names) for section, (table, _) in chosen.items()}},
        folder.picture('domains'))


def encoders_of(values: Mapping[str, Any], checkpoint: str | os.PathLike, seed: int) -> dict[str, torch.nn.Module]:
    """Return the module of each space; no network is needed when everything that the option file names is on this machine.

    Args:
        values: an option file's.
        checkpoint: an export of RALI.
        seed: of weights that are random before alignment.

    Raises:
        OptionError: there is no section network.
        CheckpointError: weights are not on this machine, and the hub does not provide them.
    """
    if not values.get('network'):
        raise OptionError('network: must be given in the option file: its image encoder is the one before alignment.')
    text = from_known_keys(TextEncoderOptions, {**(values.get('text_encoder') or {}), 'train': False}, 'text_encoder')
    path = from_known_keys(PathOptions, values.get('path') or {}, 'path')
    aligned = RALI(pretrained_model_path=checkpoint).image_encoder
    torch.manual_seed(seed)
    towers = build_towers(values['network'], text, path)
    before = towers.image_encoder
    if before.config.library == 'timm' and not path.pretrain_network:
        before = ImageEncoder(before.config, before.backbone, torch.nn.Identity())  # its projection has random weights
    return {VISUAL: before, TEXT: towers.text_encoder, ALIGNED: aligned}


class _Chosen:
    """Some images of a table, with the interface that `embed` reads."""

    def __init__(self, table: QualityTable, places: list[int]):
        self.table, self.places, self.name = table, places, table.name
        every = table.image_names()
        self.names = [every[place] for place in places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        """Return items for torch's loader."""
        return self.table.__getitems__([self.places[place] for place in places])


def _chosen_images(section: str, options: dict[str, Any], limit: int | None, seed: int) -> tuple[_Chosen, list[str]]:
    """Return the drawn images of a section as they are, without random augmentation, and the first text of each."""
    if not options.get('reasoning_texts'):
        raise DataError(f'datasets: {section}: reasoning_texts: must be given; the spaces are compared on the same images.')
    kept = {key: value for key, value in (options.get('augment') or {}).items() if key in ('resize', 'center_crop')}
    table = build_table(section, {**options, 'augment': kept}, seed)
    if table.draws_anew:
        raise DataError(f'datasets: {section}: type: {options["type"]} has no files; write a data set with python -m '
                        'pyiqa_rali make-dataset and name its table.')
    texts = join_texts(table.image_names(), load_reasoning_texts(Path(options['reasoning_texts'])), table.table_names())
    chosen = _Chosen(table, drawn(len(table), limit, seed))
    return chosen, [texts[place][0].text for place in chosen.places]


def _embeddings(models: Mapping[str, Any], chosen: Mapping[str, tuple[_Chosen, list[str]]],
                device: torch.device) -> dict[str, np.ndarray]:
    """Return the points (n, C) of every space, over all sections in their order."""
    found: dict[str, list[np.ndarray]] = {space: [] for space in models}
    for table, texts in chosen.values():
        with torch.no_grad():
            found[TEXT].append(models[TEXT](texts).float().cpu().numpy())
        for space in (VISUAL, ALIGNED):
            found[space].append(embed(models[space], table, device).image_features.numpy())
    return {space: np.concatenate(parts) for space, parts in found.items()}


def standardised(features: np.ndarray) -> np.ndarray:
    """Return features (n, C) with mean 0 and deviation 1 over all data sets together; constant ones become 0."""
    features = np.asarray(features, dtype=np.float64)
    scale = features.std(axis=0)
    return (features - features.mean(axis=0)) / np.where(scale > 1e-8, scale, 1.0)


def rbf_kernel(points: np.ndarray, bandwidth: float | None = None) -> np.ndarray:
    """Return exp(-d^2 / (2 b^2)) for all pairs of points (n, C); None takes the median distance as b.

    Raises:
        DataError: all points are the same.
    """
    distances = scipy.spatial.distance.pdist(points)
    bandwidth = float(np.median(distances)) if bandwidth is None else bandwidth
    if not bandwidth > 0:
        raise DataError('domain gap: more than half of all pairs of points are the same; there is no distance to measure.')
    return np.exp(-scipy.spatial.distance.squareform(distances) ** 2 / (2 * bandwidth ** 2))


def mmd2(kernel: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the unbiased squared maximum mean discrepancy (Gretton et al., JMLR 2012, equation 3); may be below 0.

    Args:
        kernel: (n, n) of all points.
        first: (n,) truth values, True for points of the first set; or (n, p) for p divisions, which give (p,) values.
    """
    member = first.astype(np.float64)
    towards = kernel @ member
    inside, across = (member * towards).sum(axis=0), ((1 - member) * towards).sum(axis=0)
    outside = kernel.sum() - inside - 2 * across
    itself, m = np.diag(kernel) @ member, member.sum(axis=0)
    n = len(member) - m
    return (inside - itself) / (m * (m - 1)) + (outside - np.trace(kernel) + itself) / (n * (n - 1)) - 2 * across / (m * n)


def mmd_test(points: np.ndarray, first: np.ndarray, permutations: int, seed: int) -> dict[str, float]:
    """Return 'mmd2' between two sets, and 'p_value': how often sets drawn at random from both together are as far apart.

    Args:
        points: (n, C) of both sets.
        first: (n,) truth values, True for the first set.
        permutations: how many draws.
        seed: of the draws.

    Raises:
        DataError: a set has fewer than two points.
    """
    if min(first.sum(), (~first).sum()) < 2:
        raise DataError(f'domain gap: {int(first.sum())} and {int((~first).sum())} points; two of each set are needed.')
    kernel = rbf_kernel(points)
    found = mmd2(kernel, first)
    rng = np.random.default_rng(seed)
    drawn = mmd2(kernel, np.stack([rng.permutation(first) for _ in range(permutations)], axis=1))
    return {'mmd2': float(found), 'p_value': float((1 + (drawn >= found).sum()) / (1 + permutations))}


def domain_accuracy(features: np.ndarray, first: np.ndarray, seed: int, folds: int = FOLDS) -> dict[str, float]:
    """Return the cross-validated accuracy with which a linear classifier distinguishes two sets; 0.5 is chance.

    Args:
        features: (n, C).
        first: (n,) truth values, True for the first set.
        seed: of the folds.
        folds: how many.

    Returns:
        'accuracy' (mean of both sets' accuracies, mean over folds) and 'accuracy_sd' over folds.

    Raises:
        DataError: a set has fewer points than folds.
    """
    if min(first.sum(), (~first).sum()) < folds:
        raise DataError(f'domain gap: {int(first.sum())} and {int((~first).sum())} points; each set needs {folds}, one a fold.')
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    # sets of different sizes count the same, in training (class_weight) and in the accuracy
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight='balanced', max_iter=1000))
    accuracies = cross_val_score(classifier, features, first, scoring='balanced_accuracy',
                                 cv=StratifiedKFold(folds, shuffle=True, random_state=seed))
    return {'accuracy': float(np.mean(accuracies)), 'accuracy_sd': float(np.std(accuracies, ddof=1))}


def plane(points: np.ndarray, seed: int) -> np.ndarray:
    """Return the points (n, C) in the plane (n, 2), by t-SNE."""
    from sklearn.manifold import TSNE
    perplexity = min(30.0, (len(points) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, init='pca', random_state=seed).fit_transform(points))


def gaps(points: np.ndarray, dataset: Sequence[str], permutations: int, seed: int) -> list[dict[str, Any]]:
    """Return one row for each pair of data sets.

    Args:
        points: (n, C), as they come from the encoder.
        dataset: (n,) names.
        permutations: of the test.
        seed: of draws and folds.
    """
    names, of = list(dict.fromkeys(dataset)), np.array(dataset)
    rows: list[dict[str, Any]] = []
    for place, one in enumerate(names):
        for two in names[place + 1:]:
            chosen = (of == one) | (of == two)
            first = of[chosen] == one
            rows.append({'first': one, 'second': two, 'first_images': int(first.sum()), 'second_images': int((~first).sum()),
                         **mmd_test(standardised(points[chosen]), first, permutations, seed),
                         **domain_accuracy(points[chosen].astype(np.float64), first, seed)})
    return rows
