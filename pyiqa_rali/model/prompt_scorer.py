"""How well a generated picture agrees with its prompt: a second set of basis scores over the basis of the quality.

A prompt is a point in the space of the pictures: with its text features t, z(t) = P (t / |t| - m) / s by the principal
components P of the pictures, and mean and deviation of training prompts. Picture and prompt agree to the degree

    a = sigmoid(alpha cos(z(x), z(t)) + beta),

which is the pair probability of SigLIP (arXiv 2303.15343, section 3) in the compressed space. Each basis vector carries two
further scores, of pictures like it whose prompt does not agree and of those whose prompt does, and with the weights w_i of the
quality the alignment is

    sum_i w_i ((1 - a) g_i0 + a g_i1),    g_i1 no worse than g_i0:

a convex combination of basis scores, as the quality is, and never better for a prompt that agrees less.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError, OptionError, some
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.of_one_scorer import OfOneScorer

PROMPTS_KEY = 'prompts'
NO_ALIGNMENT = ('the checkpoint has no alignment with prompts. Train one whose data sets have "aspects: {quality: COLUMN, '
                'alignment: COLUMN}" and "prompt_column", as in options/agiqa3k.yml.')


@dataclass(frozen=True)
class PromptScores:
    """Both aspects of generated pictures, each (N, 1).

    Attributes:
        quality: of the pictures, whatever their prompts: the score of the metric.
        alignment: of the pictures with their prompts, in the unit of the training MOS of alignment.
        agreement: the degree a in [0, 1] to which picture and prompt agree, that the alignment comes from.
    """

    quality: Tensor
    alignment: Tensor
    agreement: Tensor


class PromptScorer(OfOneScorer):
    """The alignment of pictures with their prompts.

    Args:
        values: the section `prompts` of the metadata.
        feature_dim: width C of image and text features.
        num_basis: number K of basis vectors.

    Attributes:
        text_mean: (C,) of the directions of training prompts.
        text_scale: (C,) their standard deviation.
        agreement_scale: alpha, not negative.
        agreement_bias: beta.
        basis_scores: (2, K): g_i0 of pictures whose prompt does not agree, g_i1 of those whose prompt does.
    """

    text_mean: Tensor
    text_scale: Tensor

    def __init__(self, values: Mapping[str, Any], feature_dim: int, num_basis: int):
        super().__init__(values)
        # buffers are fitted to the data once; parameters are what fine-tuning may change
        self.register_buffer('text_mean', torch.zeros(feature_dim))
        self.register_buffer('text_scale', torch.ones(feature_dim))
        self.agreement_scale = nn.Parameter(torch.ones(()))
        self.agreement_bias = nn.Parameter(torch.zeros(()))
        self.basis_scores = nn.Parameter(torch.zeros(2, num_basis))

    def compress(self, scorer: BasisScorer, text_features: Tensor) -> Tensor:
        """Return z(t) (N, D) for text features (N, C)."""
        # Texts and pictures of a contrastive model lie in two narrow cones: each is taken relative to its own kind, or what all
        # prompts have in common would make every cosine alike. The components are those of the pictures, so that both are
        # points of the space in which the basis is.
        directions = F.normalize(text_features.float(), dim=-1)
        return (directions - self.text_mean.float()) / self.text_scale.float() @ scorer.pca_components.float().T

    def cosine(self, scorer: BasisScorer, compressed: Tensor, text_features: Tensor) -> Tensor:
        """Return cos(z(x), z(t)) (N,) for compressed pictures (N, D) and text features (N, C)."""
        return F.cosine_similarity(compressed, self.compress(scorer, text_features).to(compressed.dtype), dim=-1)

    def agreement_of(self, cosine: Tensor) -> Tensor:
        """Return the degree a (N,) of agreement."""
        return torch.sigmoid(self.agreement_scale * cosine + self.agreement_bias)

    def score(self, weights: Tensor, agreement: Tensor) -> Tensor:
        """Return the alignment (N,) for weights of the basis (N, K) and agreement (N,)."""
        apart, together = (weights @ scores for scores in self.basis_scores.to(weights.dtype))
        return torch.lerp(apart, together, agreement.to(weights.dtype))

    def forward(self, scorer: BasisScorer, image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return alignment and agreement, (N, 1) each, for image features (N, C) and text features (N, C).

        Raises:
            CheckpointError: the scorer is not the one whose basis the scores belong to.
        """
        if not self.belongs_to(scorer):
            raise CheckpointError('no alignment: the basis has changed since its scores of alignment were fitted. Train them '
                                  'again.')
        compressed = scorer.compress(image_features.float())
        agreement = self.agreement_of(self.cosine(scorer, compressed, text_features))
        return self.score(scorer.weights(compressed), agreement).unsqueeze(-1), agreement.unsqueeze(-1)


def build_prompt_scorer(metadata: Mapping[str, Any], feature_dim: int, num_basis: int) -> PromptScorer | None:
    """Return an empty scorer of the size that the metadata names; None when there is none."""
    values = metadata.get(PROMPTS_KEY)
    return None if values is None else PromptScorer(values, feature_dim, num_basis)


def checked_prompts(prompts: str | Sequence[str], count: int) -> list[str]:
    """Return one prompt for each picture.

    Args:
        prompts: of the pictures, in their order; one text for one picture.
        count: of pictures.

    Raises:
        OptionError: they are no texts in an order, there are more or fewer, or one is empty: no picture is given a prompt that
            it does not have.
    """
    if isinstance(prompts, bytes | Mapping) or not isinstance(prompts, Iterable):
        raise OptionError(f'prompts: {type(prompts).__name__} must be a list of texts, one for each picture, in their order; '
                          'or one text for one picture.')
    found = [prompts] if isinstance(prompts, str) else list(prompts)
    if len(found) != count:
        raise OptionError(f'prompts: {len(found)} for {count} pictures; give one for each.')
    empty = [f'number {place}' for place, prompt in enumerate(found) if not isinstance(prompt, str) or not prompt.strip()]
    if empty:
        raise OptionError(f'prompts: {some(empty)} is no text. Every picture needs the prompt that it was made from; it is '
                          'never guessed.')
    return found
