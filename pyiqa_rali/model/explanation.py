"""Explanations of scores without a language model: what the text bank and the basis say about an image."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.data.reasoning_texts import PRISTINE
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.diagnosis import Diagnosis
from pyiqa_rali.model.text_bank import TextBank

NUM_TEXTS, NUM_BASIS = 3, 5
NO_BANK = ('the checkpoint has no text bank, which explanations are made of. Add one with python -m pyiqa_rali add-bank '
           'CHECKPOINT --texts FILE.jsonl --out NEW, or train with a section "bank:" in the option file.')


@dataclass(frozen=True)
class NearText:
    """A reasoning text of the bank near an image.

    Attributes:
        text: the text.
        cosine: its similarity to the image in [-1, 1].
        distortions: the (type, level) pairs that it names; empty for none, None when nothing is known.
    """

    text: str
    cosine: float
    distortions: list[tuple[str, float]] | None


@dataclass(frozen=True)
class Vote:
    """A class of distortion and how much of the vote it has.

    Attributes:
        distortion: the type, or 'pristine'.
        share: of the vote, in [0, 1]; over all classes they add up to 1.
        level: of the distortion, as the diagnosis reads it, or the mean that the voting texts name, in the unit of the bank;
            None for 'pristine'.
    """

    distortion: str
    share: float
    level: float | None


@dataclass(frozen=True)
class BasisPart:
    """A basis vector in a score.

    Attributes:
        index: which of the K.
        weight: w_i in [0, 1]; over all K they add up to 1.
        basis_score: f_i, in the unit of the score.
        text: the bank's text nearest to it (see `basis_texts`).
    """

    index: int
    weight: float
    basis_score: float
    text: str


@dataclass(frozen=True)
class Explanation:
    """Why an image has its score.

    Attributes:
        score: as `forward` returns it.
        uncertainty: standard deviation of the basis scores under the weights, in the unit of the score: 0 when all
            weight is on basis vectors of one score. It is a spread, not a confidence interval.
        texts: the nearest texts, nearest first.
        votes: all classes that the diagnosis or, without one, the bank knows, the largest share first; empty when it knows
            none.
        basis: the basis vectors with the largest weights, largest first.
        weights: all K weights w_i, in the order of the basis.
        basis_scores: all K basis scores f_i; the score is the sum of w_i f_i.
        aspects: how good each aspect of quality is, in [0, 1] (see `pyiqa_rali.model.diagnosis`); empty without a diagnosis.
        faults: how clear each fault is that the aspects follow from, in [0, 1].
    """

    score: float
    uncertainty: float
    texts: list[NearText]
    votes: list[Vote]
    basis: list[BasisPart]
    weights: list[float]
    basis_scores: list[float]
    aspects: dict[str, float] = field(default_factory=dict)
    faults: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@torch.no_grad()
def explain(image_encoder: nn.Module, scorer: BasisScorer, bank: TextBank | None, images: Tensor, num_texts: int = NUM_TEXTS,
            num_basis: int = NUM_BASIS, diagnosis: Diagnosis | None = None) -> list[Explanation]:
    """Return an explanation of each picture's score (see `RALI.explain`, which calls this)."""
    if bank is None:
        raise CheckpointError(NO_BANK)
    check_counts(num_texts, num_basis)  # before the encoder's work
    return explain_features(image_encoder(images), scorer, bank, num_texts, num_basis, diagnosis)


@torch.no_grad()
def explain_features(image_features: Tensor, scorer: BasisScorer, bank: TextBank | None, num_texts: int = NUM_TEXTS,
                     num_basis: int = NUM_BASIS, diagnosis: Diagnosis | None = None) -> list[Explanation]:
    """Return an explanation of each score, from the image features (N, C) that it comes from.

    Raises:
        CheckpointError: there is no text bank.
        OptionError: a number below 1.
    """
    if bank is None:
        raise CheckpointError(NO_BANK)
    check_counts(num_texts, num_basis)
    compressed = scorer.compress(image_features)
    weights, scores = scorer.weights(compressed), scorer.score_compressed(compressed).squeeze(-1)
    cosines = bank.cosines(image_features)
    votes = _votes_of_all(bank, diagnosis, image_features, cosines)
    aspects = None if diagnosis is None else diagnosis.read(image_features)
    spread, words = uncertainty(weights, scorer.basis_scores), basis_texts(scorer, bank)
    return [Explanation(float(scores[row]), float(spread[row]), _near_texts(bank, cosines[row], num_texts),
                        votes[row], _basis_parts(scorer, words, weights[row], num_basis), weights[row].tolist(),
                        scorer.basis_scores.tolist(), {} if aspects is None else aspects.of(row),
                        {} if aspects is None else aspects.faults_of(row))
            for row in range(len(scores))]


def check_counts(num_texts: int, num_basis: int) -> None:
    """Raise OptionError when fewer than one text or basis vector is asked for."""
    for name, value in (('num_texts', num_texts), ('num_basis', num_basis)):
        if value < 1:
            raise OptionError(f'{name}: {value} must be at least 1.')


def uncertainty(weights: Tensor, basis_scores: Tensor) -> Tensor:
    """Return (N,) the standard deviation of the basis scores (K,) under the weights (N, K), in the unit of the scores.

    Example:
        >>> uncertainty(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([1.0, 5.0])).tolist()
        [0.0, 2.0]
    """
    basis_scores = basis_scores.to(weights.dtype)
    mean = weights @ basis_scores
    return (weights * (basis_scores - mean.unsqueeze(-1)) ** 2).sum(dim=-1).sqrt()


def basis_texts(scorer: BasisScorer, bank: TextBank) -> list[str]:
    """Return for each of the K basis vectors the bank's text whose direction after the projection is nearest to it.

    Texts and images have different means; both are subtracted, the images' mean being the scorer's `pca_mean`.
    """
    texts = bank.text_features.float()
    projected = scorer.compress(texts - texts.mean(dim=0) + scorer.pca_mean.float())
    nearest = F.normalize(scorer.basis_vectors.float(), dim=-1) @ F.normalize(projected, dim=-1).T
    return [bank.entries[index].text for index in nearest.argmax(dim=1).tolist()]


def _near_texts(bank: TextBank, cosines: Tensor, count: int) -> list[NearText]:
    values, indices = cosines.topk(min(count, len(bank.entries)))
    return [NearText(bank.entries[index].text, value, bank.entries[index].distortions)
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)]


def _votes_of_all(bank: TextBank, diagnosis: Diagnosis | None, image_features: Tensor, cosines: Tensor) -> list[list[Vote]]:
    """Return the votes of each picture: the diagnosis's, which is fitted on pictures, or those of the bank's texts."""
    classes = bank.classes if diagnosis is None else diagnosis.classes
    if not classes:
        return [[] for _ in cosines]
    shares, levels = bank.vote(cosines) if diagnosis is None else diagnosis.vote(image_features)
    return [_votes(classes, *each) for each in zip(shares, levels, strict=True)]


def _votes(classes: list[str], shares: Tensor, levels: Tensor) -> list[Vote]:
    values, indices = shares.topk(len(classes))
    return [Vote(classes[index], value, None if classes[index] == PRISTINE else float(levels[index]))
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)]


def _basis_parts(scorer: BasisScorer, words: list[str], weights: Tensor, count: int) -> list[BasisPart]:
    values, indices = weights.topk(min(count, len(weights)))
    return [BasisPart(index, value, float(scorer.basis_scores[index]), words[index])
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)]
