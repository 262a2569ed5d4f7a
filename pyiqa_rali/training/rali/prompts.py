"""Stages 2 and 3 for prompts: their features, and a second set of basis scores over the basis of the quality."""

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, DataError
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.records import RunRecord
from pyiqa_rali.data.prompted import Prompted
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.prompt_scorer import PromptScorer
from pyiqa_rali.model.text_tower import TextTower
from pyiqa_rali.training.rali.options import ScoreOptions
from pyiqa_rali.training.rali.quality import LabelMaps, Labels, quality_loss

LEAST_WEIGHT = 1e-3  # of pictures beside a basis vector, against the mean of all: fewer say nothing of it
START = 2.0  # standard deviations of the cosines of training pairs become so many units of the sigmoid at first

Validate = Callable[[PromptScorer], dict[str, float]]


@dataclass
class PromptTable:
    """Prompts of one data set, or of several, in the order of the pictures.

    Attributes:
        text_features: (n, C) float32.
        mos_label: (n,) float32 MOS of alignment in [0, 1], higher better.
        mos: (n,) float64 the same as the data set's table has them.
        image_names: n names.
    """

    text_features: Tensor
    mos_label: Tensor
    mos: Tensor
    image_names: list[str]

    @classmethod
    def join(cls, tables: Sequence['PromptTable']) -> 'PromptTable':
        """Return one table for several data sets."""
        return cls(torch.cat([table.text_features for table in tables]), torch.cat([table.mos_label for table in tables]),
                   torch.cat([table.mos for table in tables]), [name for table in tables for name in table.image_names])

    def save(self, path: Path) -> None:
        """Write the table as safetensors, atomically."""
        from safetensors.torch import save_file
        tensors = {'text_features': self.text_features.contiguous(), 'mos_label': self.mos_label, 'mos': self.mos}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={'image_names': json.dumps(self.image_names)})

    @classmethod
    def load(cls, path: Path) -> 'PromptTable':
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing: the stage before has not been run with `aspects`.
        """
        from safetensors import safe_open
        if not path.exists():
            raise CheckpointError(f'{path}: does not exist; stage 2 was run without "aspects" in the data set. Run it again '
                                  '(stages: [compress, score]).')
        with safe_open(path, framework='pt') as stream:
            return cls(stream.get_tensor('text_features'), stream.get_tensor('mos_label'), stream.get_tensor('mos'),
                       json.loads(stream.metadata()['image_names']))


@torch.no_grad()
def embed_prompts(tower: TextTower, found: Prompted, image_names: list[str], name: str) -> PromptTable:
    """Return the text features of a data set's prompts; each different prompt is encoded once.

    Args:
        tower: with its final weights.
        found: prompts and MOS.
        image_names: of the pictures.
        name: of the data set, for the progress bar.
    """
    row = {prompt: place for place, prompt in enumerate(dict.fromkeys(found.prompts))}
    features = torch.cat([tower([prompt]).cpu() for prompt in progress_bar(row, desc=f'prompts: {name}', unit='prompt')])
    return PromptTable(features[[row[prompt] for prompt in found.prompts]], torch.from_numpy(found.mos_label),
                       torch.from_numpy(found.mos.astype(np.float64)), image_names)


def fit_prompt_scorer(scorer: BasisScorer, image_features: Tensor, train: PromptTable, options: ScoreOptions, seed: int,
                      validate: Validate, record_file: Path,
                      tb_folder: Path | None = None) -> tuple[PromptScorer, dict[str, float]]:
    """Return the alignment over the basis of a scorer, which stays as it is, and its validation.

    As for the quality, a start from weighted means of MOS, then gradient descent, and the best epoch on validation pictures is
    kept. All is on labels in [0, 1].

    Args:
        scorer: of the quality, final.
        image_features: (n, C) of the training pictures.
        train: their prompts.
        options: stage 3's.
        seed: seeds the order of the batches.
        validate: returns the metrics of a candidate; 'key' among them decides which epoch is best, higher better.
        record_file: CSV of losses and metrics.
        tb_folder: TensorBoard's folder.

    Raises:
        DataError: all prompts are the same: no picture could disagree with its own.
    """
    with torch.no_grad():
        compressed = scorer.compress(image_features)
        weights = scorer.weights(compressed)
        found = started(scorer, compressed, weights, train)
        cosine = found.cosine(scorer, compressed, train.text_features)
    best, best_values = copy.deepcopy(found), validate(found)
    record = RunRecord(record_file, ['loss', *best_values], tb_folder=tb_folder)
    record.add(0, best_values)
    if options.fine_tune:
        labels = Labels(train.mos_label, torch.zeros(len(train.mos_label), dtype=torch.int64))
        maps, generator = LabelMaps(1, 'none'), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(found.parameters(), lr=options.lr_scores or options.lr)
        for epoch in progress_bar(range(1, options.total_epochs + 1), desc='stage 3: alignment with prompts', unit='epoch'):
            total = 0.0
            for rows in torch.randperm(len(weights), generator=generator).split(options.batch_size):
                alignment = found.score(weights[rows], found.agreement_of(cosine[rows]))
                loss = quality_loss(alignment, maps, labels.rows(rows), (), options)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                keep_order(found)
                if options.within_range:
                    found.basis_scores.data.clamp_(0, 1)  # keeps the order, too
                total += loss.item() * len(rows)
            values = validate(found)
            record.add(epoch, {'loss': total / len(weights), **values})
            if math.isnan(best_values['key']) or values['key'] >= best_values['key']:  # without validation the last one
                best, best_values = copy.deepcopy(found), values
    record.close()
    return best.requires_grad_(False), best_values


@torch.no_grad()
def started(scorer: BasisScorer, compressed: Tensor, weights: Tensor, train: PromptTable) -> PromptScorer:
    """Return the start: agreement by the spread of the cosines of training pairs, basis scores as weighted means of MOS.

    Args:
        scorer: of the quality.
        compressed: (n, D) training pictures.
        weights: (n, K) their weights of the basis.
        train: their prompts.
    """
    found = PromptScorer({'scorer': ''}, train.text_features.shape[1], weights.shape[1])
    directions = F.normalize(train.text_features.float(), dim=-1)
    deviation = directions.std(dim=0)
    if not (deviation > 1e-6).any():
        raise DataError('prompt_column: all prompts of the training pictures are the same; agreement with prompts cannot be '
                        'learned from them.')
    found.text_mean.copy_(directions.mean(dim=0))
    found.text_scale.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
    cosine = found.cosine(scorer, compressed, train.text_features)
    scale = START / cosine.std().clamp(min=1e-6)
    found.agreement_scale.copy_(scale)
    found.agreement_bias.copy_(-scale * cosine.mean())
    agreement = found.agreement_of(cosine)
    for row, shares in enumerate((1 - agreement, agreement)):
        near = weights * shares.unsqueeze(1)
        overall = (shares @ train.mos_label) / shares.sum()
        # as many pictures as LEAST_WEIGHT of the mean have this overall label: a vector that none is near keeps it
        prior = LEAST_WEIGHT * near.sum() / near.shape[1]
        found.basis_scores[row].copy_((near.T @ train.mos_label + prior * overall) / (near.sum(dim=0) + prior))
    keep_order(found)
    return found


@torch.no_grad()
def keep_order(found: PromptScorer) -> None:
    """Bring a candidate back to where less agreement is never better: the nearest such basis scores, and no negative scale."""
    found.agreement_scale.clamp_(min=0)
    apart, together = found.basis_scores
    middle, wrong = (apart + together) / 2, apart > together
    found.basis_scores.copy_(torch.where(wrong, middle, found.basis_scores))


@torch.no_grad()
def aligned(scorer: BasisScorer, found: PromptScorer, image_features: Tensor, text_features: Tensor) -> Tensor:
    """Return labels of alignment (n,) for image features (n, C) and text features (n, C), by a candidate of stage 3."""
    compressed = scorer.compress(image_features)
    return found.score(scorer.weights(compressed), found.agreement_of(found.cosine(scorer, compressed, text_features)))

