"""Where RALI's scores come from: the basis scores, and which basis vectors carry the score of an image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.reasoning_texts import load_reasoning_texts
from pyiqa_rali.data.sections import dataset_section
from pyiqa_rali.figures.scored import histogram
from pyiqa_rali.figures.style import svg_and_png
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.checkpoint import DIRECTION, load_checkpoint
from pyiqa_rali.report.blocks import Block, Figure, Section, Table, Text, number
from pyiqa_rali.training.rali.features import FeatureTable, load_features
from pyiqa_rali.training.rali.options import TrainOptions
from pyiqa_rali.training.rali.run_folder import RunFolder

IMAGES_SHOWN, VECTORS_SHOWN = 3, 3


@dataclass
class Training:
    """The images that the basis was made from.

    Attributes:
        compressed: (n, D) unit length.
        names: n names.
        texts: a reasoning text of each, by name; empty where there are none.
        remark: why there are none.
    """

    compressed: Tensor
    names: list[str]
    texts: dict[str, str]
    remark: str = ''


def basis_section(run: RunFolder, options: TrainOptions, anchor: str, validated: list[str], command: str) -> Section | None:
    """Return the section on a run's basis; None when the run has no export yet."""
    if not run.export.exists():
        return None
    tensors, metadata = load_checkpoint(run.export)
    scorer = scorer_of(tensors)
    features = {name: load_features(run.features(name)) for name in validated if run.features(name).exists()}
    sources = [name for name in options.datasets if run.features(name).exists() and name not in features]
    marks = {'MOS of the basis images': np.concatenate([_mos(load_features(run.features(name)), metadata) for name in sources])
             } if sources else {}
    svg, png = svg_and_png(histogram(tensors['scorer.basis_scores'].numpy(), 'basis score, in MOS units', 'basis vectors',
                                     marks))
    blocks: list[Block] = [Figure(f'The {len(scorer.basis_scores)} basis scores'
                                  + (', and the MOS of the images that they were made from, scaled to the same area.'
                                     if marks else '.'), svg, png, command)]
    training = _training(run, options, scorer, sources)
    if training is not None:
        if training.remark:
            blocks.append(Text(training.remark))
        blocks += [carriers(scorer, features[name], training, name, command) for name in features]
    return Section('Where the scores come from', blocks)


def scorer_of(tensors: dict[str, Tensor]) -> BasisScorer:
    """Return the scorer of a checkpoint's tensors."""
    scorer = BasisScorer(tensors['scorer.pca_components'].shape[1], tensors['scorer.pca_components'].shape[0],
                         len(tensors['scorer.basis_scores']), DIRECTION in tensors)
    scorer.load_state_dict({name: tensors[f'scorer.{name}'] for name in scorer.state_dict()})
    return scorer.eval()


@torch.no_grad()
def carriers(scorer: BasisScorer, table: FeatureTable, training: Training, name: str, command: str = '') -> Table:
    """Return which basis vectors carry the scores of the images with the lowest, middle and highest score, with a text for
    each.

    Args:
        scorer: of the run.
        table: image features of a validation set.
        training: the images that the basis was made from.
        name: of the validation set.
        command: reproduces the numbers.
    """
    weights = scorer.weights(scorer.compress(table.image_features))
    scores = weights @ scorer.basis_scores
    order = torch.argsort(scores, stable=True)
    shown = dict.fromkeys(int(order[position]) for position in
                          np.linspace(0, len(order) - 1, min(IMAGES_SHOWN, len(order))).round().astype(int))
    rows = []
    for image in shown:
        for rank, vector in enumerate(weights[image].topk(min(VECTORS_SHOWN, len(scorer.basis_scores))).indices.tolist()):
            label = f'{Path(table.image_names[image]).name}, score {scores[image]:.2f}' if rank == 0 else ''
            rows.append((label, f'{weights[image, vector]:.1%}', number(float(scorer.basis_scores[vector]), 2),
                         nearest_text(scorer, vector, training)))
    return Table(f'{name}: the basis vectors with the largest weights in the scores of the lowest, a middling and the highest '
                 'image', ('image', 'weight', 'basis score', 'the training image next to it'), rows, command)


def nearest_text(scorer: BasisScorer, vector: int, training: Training) -> str:
    """Return name and text of the training image with the largest cosine to a basis vector."""
    cosine = training.compressed @ F.normalize(scorer.basis_vectors[vector].detach(), dim=0)
    name = training.names[int(cosine.argmax())]
    text = training.texts.get(name, '')
    return f'{Path(name).name}: {text}' if text else Path(name).name


@torch.no_grad()
def _training(run: RunFolder, options: TrainOptions, scorer: BasisScorer, sources: list[str]) -> Training | None:
    if not sources:
        return None
    tables = [load_features(run.features(name)) for name in sources]
    compressed = F.normalize(scorer.compress(torch.cat([table.image_features for table in tables])), dim=-1)
    names = [name for table in tables for name in table.image_names]
    texts, remark = _texts(options, names)
    return Training(compressed, names, texts, remark)


def _texts(options: TrainOptions, names: list[str]) -> tuple[dict[str, str], str]:
    """Return a text for each image that has one, and why others have none, where the run's files are missing or lack texts."""
    sections = [dataset_section(name, section).options for name, section in options.datasets.items()]
    paths = [section.reasoning_texts for section in sections if section.reasoning_texts]
    if not paths:
        return {}, 'The run drew its texts with its pictures and kept none, so that basis vectors are shown by images alone.'
    by_name: dict[str, list[tuple[str, str]]] = {}
    try:
        for path in paths:
            for known, items in load_reasoning_texts(path).items():
                by_name.setdefault(Path(known).name, []).append((Path(known).as_posix(), items[0].text))
    except (DataError, OptionError) as error:
        return {}, f'The texts cannot be shown: {error}'
    return {name: text for name in names for known, text in by_name.get(Path(name).name, ())
            if Path(name).as_posix().endswith(known)}, ''


def _mos(table: FeatureTable, metadata: dict) -> np.ndarray:
    """Return the labels of a feature table in the unit of the checkpoint's scores."""
    scale = MosScale(tuple(metadata['mos_range']), metadata['lower_better'])
    return scale.denormalise(table.mos_label).numpy()
