"""One common quality for several data sets: each set's labels as a rising function of it, and losses on values and order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.training.rali.options import Heads

LEAST_QUALITY = 1e-2  # below it a power continues along its tangent: at 0 its slope may be infinite, below 0 it has no value
RANK_WIDTH = 0.1  # of the quality in [0, 1]: how far two pictures are apart when the better one is told with 84 %
LEAST_PROBABILITY = 1e-4  # the root in the fidelity has an infinite slope at 0


class LossWeights(Protocol):
    """How much each part of `quality_loss` counts."""

    mse_weight: float
    plcc_weight: float
    rank_weight: float


@dataclass
class Labels:
    """What is known of the pictures of a batch.

    Attributes:
        mos_label: (N,) MOS in [0, 1] on the scale of each picture's own data set, higher better.
        sets: (N,) int64, which data set a picture is of.
        agreement: (N, M) what several judges say of each picture, higher better; NaN where there are none. Order is taken from
            pairs on which all agree.
    """

    mos_label: Tensor
    sets: Tensor
    agreement: Tensor | None = None

    def rows(self, chosen: Tensor) -> 'Labels':
        """Return the labels of some of the pictures."""
        return Labels(self.mos_label[chosen], self.sets[chosen], None if self.agreement is None else self.agreement[chosen])

    def to(self, device: torch.device) -> 'Labels':
        """Return the same on a device."""
        return Labels(self.mos_label.to(device), self.sets.to(device),
                      None if self.agreement is None else self.agreement.to(device))


def padded(agreement: Tensor | None, like: Tensor, width: int) -> Tensor:
    """Return what judges say of pictures as (N, width), NaN for those that are not there.

    Args:
        agreement: (N, M) with M of `width` at most; None for no judges.
        like: (N,) labels of the pictures.
        width: number of judges.
    """
    wide = torch.full((len(like), width), float('nan'), device=like.device)
    if agreement is not None:
        wide[:, :agreement.shape[1]] = agreement
    return wide


class LabelMap(nn.Module):
    """A rising function from the common quality to the labels of one data set.

    Args:
        kind: 'none' is the identity; 'affine' is scale * q + shift; 'power' is scale * q ** exponent + shift, and its tangent
            below `LEAST_QUALITY`. Scale and exponent are positive, and start at 1, the shift at 0.
    """

    def __init__(self, kind: Heads):
        super().__init__()
        self.kind = kind
        if kind != 'none':
            self.log_scale, self.shift = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        if kind == 'power':
            self.log_exponent = nn.Parameter(torch.zeros(()))

    def forward(self, quality: Tensor) -> Tensor:
        """Return labels of the shape of the quality."""
        if self.kind == 'none':
            return quality
        if self.kind == 'power':
            exponent, above = self.log_exponent.exp(), quality.clamp(min=LEAST_QUALITY)
            slope = exponent * LEAST_QUALITY ** (exponent - 1)
            quality = above ** exponent + slope * (quality - above)
        return self.log_scale.exp() * quality + self.shift


class LabelMaps(nn.Module):
    """A map for each of several data sets. That of the first is the identity: the quality is on its scale.

    Args:
        count: of data sets.
        kind: of the others' maps.
    """

    def __init__(self, count: int, kind: Heads):
        super().__init__()
        self.maps = nn.ModuleList([LabelMap(kind if number else 'none') for number in range(count)])

    def forward(self, quality: Tensor, sets: Tensor) -> Tensor:
        """Return labels (N,) for qualities (N,) of pictures of these data sets (N,)."""
        labels = torch.zeros_like(quality)
        for number, each in enumerate(self.maps):
            labels = torch.where(sets == number, each(quality), labels)
        return labels


class QualityHead(nn.Module):
    """The common quality as a linear function of the direction of image features; stage 1 alone has it, exports do not.

    Args:
        feature_dim: width C of the features.
        sets: number of data sets.
        heads: kind of the data sets' maps.
    """

    def __init__(self, feature_dim: int, sets: int, heads: Heads):
        super().__init__()
        self.linear = nn.Linear(feature_dim, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.constant_(self.linear.bias, 0.5)  # the middle of the labels
        self.maps = LabelMaps(sets, heads)

    def forward(self, image_features: Tensor) -> Tensor:
        """Return (N,) qualities for image features (N, C), normalised or not."""
        # contrastive alignment teaches directions alone; the factor lets weights of the usual size span the labels
        return self.linear(F.normalize(image_features.float(), dim=-1) * math.sqrt(image_features.shape[-1])).squeeze(-1)


def quality_loss(quality: Tensor, maps: LabelMaps, labels: Labels, ordered: Sequence[int], weights: LossWeights) -> Tensor:
    """Return the loss of a batch's qualities: over each data set alone, then averaged by the sets' shares of the pictures.

    Args:
        quality: (N,) of the pictures.
        maps: from the quality to each set's labels.
        labels: of the pictures.
        ordered: the data sets of which the order alone teaches.
        weights: of squared error, PLCC and order.
    """
    total = 0 * quality.sum()  # has a gradient, of 0, also for a batch that teaches nothing: one picture of an ordered set
    predicted = maps(quality, labels.sets)
    for number in labels.sets.unique().tolist():
        rows = torch.nonzero(labels.sets == number).squeeze(-1)
        loss, own = quality.new_zeros(()), labels.rows(rows)
        if number not in ordered:
            loss = value_loss(predicted[rows], own.mos_label, weights)
        if weights.rank_weight:
            loss = loss + weights.rank_weight * rank_loss(quality[rows], own)
        total = total + loss * (len(rows) / len(quality))
    return total


def value_loss(predicted: Tensor, mos_label: Tensor, weights: LossWeights) -> Tensor:
    """Return the weighted sum of mean squared error and pyiqa's PLCC loss for labels (N,) of one data set."""
    loss = weights.mse_weight * F.mse_loss(predicted, mos_label)
    if weights.plcc_weight and len(predicted) > 1:
        from pyiqa.losses import PLCCLoss
        loss = loss + weights.plcc_weight * PLCCLoss()(predicted.unsqueeze(-1), mos_label.unsqueeze(-1))
    return loss


def rank_loss(quality: Tensor, labels: Labels) -> Tensor:
    """Return 1 minus the mean fidelity of all pairs of pictures whose order is known; 0 without such a pair.

    The probability that one picture is better than another is Phi of the distance of their qualities (Thurstone), and its
    fidelity sqrt(p) for p of the order that is right, as in the rank reward (arXiv 2505.14460, section 3).

    Args:
        quality: (N,) of pictures of one data set.
        labels: of the same pictures; equal MOS say nothing of the order.
    """
    first, second = torch.triu_indices(len(quality), len(quality), 1, device=quality.device)
    better = known_order(labels, first, second)
    known = torch.nonzero(better).squeeze(-1)
    if not len(known):
        return quality.new_zeros(())
    distance = (quality[first[known]] - quality[second[known]]) * better[known]
    probability = torch.special.ndtr(distance / (math.sqrt(2) * RANK_WIDTH)).clamp(min=LEAST_PROBABILITY)
    return 1 - probability.sqrt().mean()


def known_order(labels: Labels, first: Tensor, second: Tensor) -> Tensor:
    """Return (P,) 1 where the first picture of a pair is the better one, -1 where the second is, 0 where that is not known.

    Example:
        >>> pair = torch.tensor([0]), torch.tensor([1])
        >>> known_order(Labels(torch.tensor([0.2, 0.7]), torch.zeros(2)), *pair).tolist()
        [-1.0]
        >>> disagreeing = torch.tensor([[0.1, 0.9], [0.4, 0.8]])
        >>> known_order(Labels(torch.tensor([0.2, 0.7]), torch.zeros(2), disagreeing), *pair).tolist()
        [0.0]
    """
    order = torch.sign(labels.mos_label[first] - labels.mos_label[second])
    if labels.agreement is None:
        return order
    distance = labels.agreement[first] - labels.agreement[second]  # NaN where there is no judge
    unanimous = ((torch.sign(distance) == order.unsqueeze(-1)) | distance.isnan()).all(dim=-1)
    return torch.where(unanimous, order, torch.zeros_like(order))
