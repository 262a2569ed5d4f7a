"""Stage 3: fine-tune the scoring definition on cached features (arXiv 2510.11369); the encoder stays frozen."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.records import RunRecord
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.training.rali.features import FeatureTable
from pyiqa_rali.training.rali.options import ScoreOptions
from pyiqa_rali.training.rali.quality import LabelMaps, Labels, quality_loss

Validate = Callable[[BasisScorer], dict[str, float]]


def fine_tune(scorer: BasisScorer, train: FeatureTable, options: ScoreOptions, seed: int, validate: Validate,
              record_file: Path, tb_folder: Path | None = None,
              ordered: Sequence[int] = ()) -> tuple[BasisScorer, dict[str, float]]:
    """Train basis vectors and scores on MOS labels in [0, 1]; return the best scorer and its validation.

    Args:
        scorer: stage 2's scorer, its temperature set.
        train: features and labels of the training images.
        options: stage 3's options.
        seed: seeds the order of the batches.
        validate: returns the metrics of a scorer; 'key' among them decides which epoch is best, higher better.
        record_file: CSV of losses and metrics.
        tb_folder: TensorBoard's folder.
        ordered: data sets of `train` of which the order alone teaches.
    """
    best, best_values = copy.deepcopy(scorer), validate(scorer)
    record = RunRecord(record_file, ['loss', *best_values], tb_folder=tb_folder)
    record.add(0, best_values)
    if options.fine_tune:
        labels = train.labels
        maps = LabelMaps(int(labels.sets.max()) + 1, options.heads)
        optimizer = _optimizer(scorer, maps, options)
        with torch.no_grad():
            compressed = scorer.compress(train.image_features)
        generator = torch.Generator().manual_seed(seed)
        progress = progress_bar(range(1, options.total_epochs + 1), desc='stage 3: score', unit='epoch')
        for epoch in progress:
            loss = _train_epoch(scorer, maps, compressed, labels, optimizer, options, generator, ordered)
            values = validate(scorer)
            record.add(epoch, {'loss': loss, **values})
            progress.set_postfix(loss=f'{loss:.5f}', key=f'{values["key"]:.4f}')
            if _comparable(values['key']) > _comparable(best_values['key']):
                best, best_values = copy.deepcopy(scorer), values
    record.close()
    return best, best_values


def _comparable(value: float) -> float:
    """Let NaN, the correlation of a constant, lose to any number."""
    return -math.inf if math.isnan(value) else value


def _optimizer(scorer: BasisScorer, maps: LabelMaps, options: ScoreOptions) -> torch.optim.Optimizer:
    scorer.temperature.requires_grad_(options.train_temperature)
    groups = [{'params': [scorer.basis_vectors], 'lr': options.lr},
              {'params': [scorer.basis_scores], 'lr': options.lr_scores or options.lr}]
    if options.train_temperature:
        groups.append({'params': [scorer.temperature], 'lr': options.lr})
    if scorer.temperature_direction is not None:
        groups.append({'params': [scorer.temperature_direction], 'lr': options.lr})
    if any(True for _ in maps.parameters()):
        groups.append({'params': list(maps.parameters()), 'lr': options.lr_scores or options.lr})
    return torch.optim.Adam(groups)


def _train_epoch(scorer: BasisScorer, maps: LabelMaps, compressed: Tensor, labels: Labels, optimizer: torch.optim.Optimizer,
                 options: ScoreOptions, generator: torch.Generator, ordered: Sequence[int]) -> float:
    total = 0.0
    order = torch.randperm(len(compressed), generator=generator)
    for rows in order.split(options.batch_size):
        quality = scorer.score_compressed(compressed[rows]).squeeze(-1)
        loss = quality_loss(quality, maps, labels.rows(rows), ordered, options)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            scorer.temperature.clamp_(min=1e-3)
            if options.within_range:
                scorer.basis_scores.clamp_(0, 1)
        total += loss.item() * len(rows)
    return total / len(compressed)
