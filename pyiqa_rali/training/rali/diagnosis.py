"""Making the diagnosis of a checkpoint: linear readings of image features, fitted on a run's training pictures.

The bank's texts give each distortion a direction: p_k of the ridge regression of the (centred) text features on what the
texts name. Images and texts share a space, so softmax over p_k . x / |x| says already which distortion a picture has. The
readings start there, and learn from the training pictures how far to leave it; how far is chosen on validation pictures.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.data.picture_measures.fault_types import ASPECT_OF_FAULTS, TYPES_OF_FAULTS, clearness_of
from pyiqa_rali.data.reasoning_texts import (
    PRISTINE,
    Distortions,
    ReasoningText,
    join_texts,
    load_reasoning_texts,
    paired,
)
from pyiqa_rali.data.sections import DatasetOptions, DatasetSection, TableOptions, sections_for
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.model.explanation import NO_BANK
from pyiqa_rali.model.image_encoder import ImageEncoder
from pyiqa_rali.model.text_bank import TextBank
from pyiqa_rali.training.rali.feature_store import FeatureStore
from pyiqa_rali.training.rali.options import DiagnosisOptions, TrainOptions
from pyiqa_rali.training.rali.picture_rows import Embedding
from pyiqa_rali.training.rali.readings import faults_loss, fit_faults, fit_levels, fit_shares

TEXT_RIDGE = 0.5  # of the directions: so many texts without a class are added to each
LEFT_OUT = 10  # one of so many training pictures chooses the strengths where no validation picture can

logger = logging.getLogger(__name__)


@dataclass
class KnownPictures:
    """Features of pictures, and what is known to be wrong with them.

    Attributes:
        image_features: (n, C).
        distortions: of each picture: (type, level) pairs, an empty list for none, None when nothing is known.
        drawn: (n,) whether the picture was distorted on purpose: what is not named is then not there.
    """

    image_features: Tensor
    distortions: list[Distortions]
    drawn: np.ndarray

    @classmethod
    def join(cls, parts: 'Sequence[KnownPictures]') -> 'KnownPictures':
        """Return several sets as one."""
        return cls(torch.cat([each.image_features for each in parts]), [pairs for each in parts for pairs in each.distortions],
                   np.concatenate([each.drawn for each in parts]))

    def rows(self, chosen: np.ndarray) -> 'KnownPictures':
        """Return some of the pictures, by a mask (n,)."""
        return KnownPictures(self.image_features[torch.from_numpy(chosen)],
                             [pairs for pairs, kept in zip(self.distortions, chosen, strict=True) if kept], self.drawn[chosen])


@dataclass
class MadeDiagnosis:
    """A diagnosis for a checkpoint.

    Attributes:
        tensors: of a `Diagnosis`, by name.
        values: the section `diagnosis` of the metadata.
        report: on validation pictures: `accuracy` of the votes, of the texts' directions alone (`texts_accuracy`), the mean
            error of levels, and the strengths that were chosen.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]
    report: dict[str, Any]


def known_pictures(encoder: ImageEncoder, store: FeatureStore, device: torch.device, section: DatasetSection,
                   table: QualityTable, options: TrainOptions) -> KnownPictures | None:
    """Return the features of a section's pictures, and what its texts or its draws say is wrong with them.

    Features that are kept in the store are not computed again.

    Args:
        encoder: with its final weights.
        store: of features.
        device: where to encode.
        section: of an option file.
        table: its pictures.
        options: of the run.

    Returns:
        None where nothing is known of them.

    Raises:
        OptionError: the pictures are not the same each time.
    """
    drawn = isinstance(table.base, SyntheticNRDataset)
    texts = None if drawn else _texts_of(section, table)
    if not drawn and texts is None:
        return None
    limit = options.diagnosis.num_pictures if options.diagnosis else None
    count = len(table)
    only = None if limit is None or limit >= count else np.linspace(0, count - 1, limit).astype(int).tolist()
    kept = options.align.cache_backbone
    embedding = (Embedding.of_backbone if kept else Embedding.of_encoder)(encoder, store, device)
    found = embedding.rows(table, section.options.num_worker_per_gpu or 0, only=only)
    if found is None:
        raise OptionError(f'datasets: {section.section}: type: {type(table.base).__name__} makes its pictures in its own way, '
                          'and a diagnosis needs pictures that stay as they are.')
    features = found.rows
    if kept:
        with torch.inference_mode():
            features = torch.cat([encoder.project(part.to(device)).float().cpu() for part in found.rows.split(1024)])
    places = range(count) if only is None else only
    pairs = ([paired(item['distortion'], item['levels']) for item in found.items] if texts is None
             else [texts[place][0].distortions for place in places])
    return KnownPictures(features, pairs, np.full(len(pairs), drawn))


def _texts_of(section: DatasetSection, table: QualityTable) -> list[list[ReasoningText]] | None:
    """Return the texts of each picture of a table; None where it has none."""
    path = section.options.reasoning_texts
    return None if path is None else join_texts(table.image_names(), load_reasoning_texts(path), table.table_names())


def make_diagnosis(train: KnownPictures, val: KnownPictures | None, bank: TextBank, options: DiagnosisOptions) -> MadeDiagnosis:
    """Fit a diagnosis on training pictures, and choose the strength of its tie to the texts on validation pictures.

    Args:
        train: pictures that the readings are fitted on.
        val: others, that choose; None, and for photographs always, leaves out a tenth of the training pictures for that.
        bank: the checkpoint's texts, whose distortions are known.
        options: the section `diagnosis`.

    Raises:
        DataError: no training picture has a known distortion.
    """
    if not any(train.distortions):
        raise DataError('diagnosis: no training picture has a distortion that is known. Give a SyntheticNRDataset, or texts '
                        'with the key "distortions".')
    apart = _left_out(train, of_drawn=val is None or not any(val.distortions))
    held = train.rows(apart) if val is None else KnownPictures.join([val, train.rows(apart)])
    fitted = train.rows(~apart)
    of_votes = _of_votes(fitted), _of_votes(held)
    classes = [*sorted({name for pairs in of_votes[0].distortions for name, _ in pairs or ()}), PRISTINE]
    space = _Space.of(fitted)
    texts = directions_of(bank, classes) * space.scale / bank.temperature
    votes = _chosen_votes(space, *of_votes, classes, texts, options)
    levels = _chosen_levels(space, *of_votes, classes, options)
    faults = _chosen_faults(space, fitted, held, fault_directions(texts, classes), options)
    tensors = {'feature_mean': space.mean, 'feature_scale': space.scale, **votes.tensors, **levels.tensors, **faults.tensors}
    report = {**votes.report, **levels.report, **faults.report, 'training_pictures': len(fitted.distortions),
              'validation_pictures': len(held.distortions)}
    values = {'classes': classes, 'faults': dict(ASPECT_OF_FAULTS), 'made': {**asdict(options), **report}}
    logger.info('diagnosis: %d classes; of %d validation pictures %.1f %% named right, by the directions of the texts alone '
                '%.1f %%; level off by %.2f', len(classes), len(of_votes[1].distortions), 100 * report['accuracy'],
                100 * report['texts_accuracy'], report['level_error'])
    return MadeDiagnosis({name: tensor.float().contiguous() for name, tensor in tensors.items()},
                         json.loads(json.dumps(values)), report)


def _left_out(train: KnownPictures, of_drawn: bool) -> np.ndarray:
    """Return a mask (n,): every tenth photograph and, where they are not in a validation set, every tenth drawn picture."""
    apart = np.zeros(len(train.drawn), bool)
    for drawn in (False, True) if of_drawn else (False,):
        apart[np.flatnonzero(train.drawn == drawn)[::LEFT_OUT]] = True
    return apart


def _of_votes(pictures: KnownPictures) -> KnownPictures:
    """Return the pictures that teach votes: those that were drawn or, without any, those of which something is known."""
    known = np.array([pairs is not None for pairs in pictures.distortions])
    return pictures.rows(known & pictures.drawn if (known & pictures.drawn).any() else known)


@dataclass
class _Space:
    """Where readings are linear: the direction of the features, standardised."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, pictures: KnownPictures) -> '_Space':
        direction = F.normalize(pictures.image_features.float(), dim=-1)
        return cls(direction.mean(dim=0), direction.std(dim=0).clamp(min=1e-6))

    def __call__(self, pictures: KnownPictures) -> Tensor:
        return (F.normalize(pictures.image_features.float(), dim=-1) - self.mean) / self.scale


def directions_of(bank: TextBank, classes: Sequence[str]) -> Tensor:
    """Return the direction (T, C) of each class in the space of the features: unit length, or 0 where no text names it.

    Ridge regression of the centred text features on the shares in which texts name classes.
    """
    known = [row for row, pairs in enumerate(bank.distortions) if pairs is not None]
    shares = torch.zeros(len(known), len(classes), dtype=torch.float64)
    for place, row in enumerate(known):
        pairs = bank.distortions[row] or [(PRISTINE, 0.0)]
        for name, _ in pairs:
            if name in classes:
                shares[place, classes.index(name)] += 1 / len(pairs)
    if not known:
        return torch.zeros(len(classes), bank.text_features.shape[1])
    texts = F.normalize(bank.text_features[known].double().cpu(), dim=-1)
    centred = texts - texts.mean(dim=0)
    found = torch.linalg.solve(shares.T @ shares + TEXT_RIDGE * torch.eye(len(classes)), shares.T @ centred)
    return torch.where(shares.sum(dim=0)[:, None] > 0, F.normalize(found, dim=-1), torch.zeros_like(found)).float()


def fault_directions(directions: Tensor, classes: Sequence[str]) -> Tensor:
    """Return (F, V) for each fault the mean direction of the types that have it, less that of pristine pictures."""
    none = directions[classes.index(PRISTINE)]
    rows = []
    for types in TYPES_OF_FAULTS.values():
        own = [classes.index(name) for name in types if name in classes]
        rows.append(directions[own].mean(dim=0) - none if own else torch.zeros_like(none))
    return torch.stack(rows)


@dataclass
class _Part:
    tensors: dict[str, Tensor]
    report: dict[str, Any]


def _chosen_votes(inputs: _Space, train: KnownPictures, val: KnownPictures, classes: Sequence[str], directions: Tensor,
                  options: DiagnosisOptions) -> _Part:
    """Return the votes with the strongest tie to the texts that is no worse on the validation pictures than chance explains.

    That is the one-standard-error rule on the cross-entropy: what pictures teach beyond it holds for their own kind alone.
    """
    points, targets, others, wanted = (*_shares(inputs, train, classes), *_shares(inputs, val, classes))
    tried = []
    for strength in (*sorted(options.strengths), float('inf')):
        weights, bias = fit_shares(points, targets, directions, strength)
        logits = others @ weights.T + bias
        losses = -(wanted * torch.log_softmax(logits, dim=1)).sum(dim=1)
        tried.append((float(losses.mean()), strength, losses, _accuracy(logits, val, classes), weights, bias))
    *tied, alone = tried
    best = min(tied, key=lambda each: each[0])
    limit = best[0] + float(best[2].std(correction=0)) / math.sqrt(len(best[2]))
    loss, strength, _, accuracy, weights, bias = [each for each in tied if each[0] <= limit][-1]
    return _Part({'class_weights': weights, 'class_bias': bias},
                 {'strength': strength, 'accuracy': accuracy, 'texts_accuracy': alone[3], 'cross_entropy': loss})


def _shares(inputs: _Space, pictures: KnownPictures, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return inputs (n, V) and the shares (n, T) in which pictures have the classes."""
    targets = torch.zeros(len(pictures.distortions), len(classes))
    for row, pairs in enumerate(pictures.distortions):
        named = [name for name, _ in pairs or ()] or [PRISTINE]
        for name in named:
            if name in classes:
                targets[row, classes.index(name)] += 1 / len(named)
    return inputs(pictures), targets


def _accuracy(logits: Tensor, pictures: KnownPictures, classes: Sequence[str]) -> float:
    """Return how often the largest vote is right, over pictures with one distortion."""
    right = [classes[place] == pairs[0][0] for place, pairs in zip(logits.argmax(dim=1).tolist(), pictures.distortions,
                                                                  strict=True) if pairs and len(pairs) == 1]
    return float(np.mean(right)) if right else float('nan')


def _chosen_levels(inputs: _Space, train: KnownPictures, val: KnownPictures, classes: Sequence[str],
                   options: DiagnosisOptions) -> _Part:
    """Return the levels with the strength that gives the least error on the validation pictures."""
    (points, kinds, levels), (others, other_kinds, wanted) = (_levels(inputs, each, classes) for each in (train, val))
    tried = []
    for strength in options.level_strengths:
        weights, bias = fit_levels(points, kinds, levels, len(classes), strength)
        found = (others * weights[other_kinds]).sum(dim=1) + bias[other_kinds]
        tried.append((float((found - wanted).abs().mean()), strength, weights, bias))
    error, strength, weights, bias = min(tried, key=lambda each: each[0])
    return _Part({'level_weights': weights, 'level_bias': bias}, {'level_strength': strength, 'level_error': error})


def _levels(inputs: _Space, pictures: KnownPictures, classes: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs (m, V), classes (m,) and levels (m,): a row for each distortion of each picture."""
    known = [(row, classes.index(name), level) for row, pairs in enumerate(pictures.distortions) for name, level in pairs or ()
             if name in classes]
    rows = torch.tensor([row for row, _, _ in known], dtype=torch.int64)
    kinds = torch.tensor([kind for _, kind, _ in known], dtype=torch.int64)
    return inputs(pictures)[rows], kinds, torch.tensor([level for _, _, level in known], dtype=torch.float32)


def _chosen_faults(inputs: _Space, train: KnownPictures, val: KnownPictures, directions: Tensor,
                   options: DiagnosisOptions) -> _Part:
    """Return the faults with the strength of the least error on the validation pictures."""
    share = options.photographs_weight
    (points, targets, weights), (others, wanted, other_weights) = (_clearness(inputs, each, share) for each in (train, val))
    tried = []
    for strength in options.strengths:
        found, bias = fit_faults(points, targets, weights, directions, strength)
        tried.append((float(faults_loss(others @ found.T + bias, wanted, other_weights).mean()), strength, found, bias))
    loss, strength, found, bias = min(tried, key=lambda each: each[0])
    return _Part({'fault_weights': found, 'fault_bias': bias}, {'fault_strength': strength, 'fault_cross_entropy': loss})


def _clearness(inputs: _Space, pictures: KnownPictures, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs (n, V), how clear each fault is (n, F), NaN where nothing is known, and what pictures count (n,)."""
    rows = [clearness_of(pairs) or dict.fromkeys(TYPES_OF_FAULTS, float('nan')) for pairs in pictures.distortions]
    drawn = torch.from_numpy(pictures.drawn)
    weights = torch.where(drawn, (1 - share) / drawn.sum().clamp(min=1), share / (~drawn).sum().clamp(min=1))
    if drawn.all() or not drawn.any():
        weights = torch.ones(len(rows))
    return inputs(pictures), torch.tensor([list(row.values()) for row in rows], dtype=torch.float32), weights.float()


def without_augment(section: DatasetOptions) -> DatasetOptions:
    """Return a data set's section without `augment`, which only tables have."""
    return replace(section, augment=None) if isinstance(section, TableOptions) else section


def diagnosis_of_run(encoder: ImageEncoder, store: FeatureStore, device: torch.device, sections: Mapping[str, DatasetSection],
                     bank: TextBank | None, options: TrainOptions) -> MadeDiagnosis:
    """Return the diagnosis of a run: `make_diagnosis` on the pictures of its data sets of which something is known.

    Args:
        encoder: with its final weights.
        store: of features; what is there is not computed again.
        device: where to encode.
        sections: of the option file, by name.
        bank: of the checkpoint.
        options: of the run.

    Raises:
        DataError: no training picture has a known distortion.
        CheckpointError: there is no bank.
    """
    if bank is None:
        raise CheckpointError(NO_BANK)

    def known(phase: Literal['train', 'val']) -> KnownPictures | None:
        # pictures as they are scored later: augmentations are for the alignment
        found = [known_pictures(encoder, store, device, sections[name],
                                build_table(name, without_augment(options.datasets[name]), options.manual_seed), options)
                 for name in sections_for(sections, phase)]
        there = [each for each in found if each is not None]
        return KnownPictures.join(there) if there else None

    train, chosen = known('train'), options.diagnosis or DiagnosisOptions()
    if train is None:
        raise DataError('diagnosis: no training set has texts or is a SyntheticNRDataset: what is wrong with its pictures is '
                        'not known.')
    return make_diagnosis(train, known('val'), bank, chosen)
