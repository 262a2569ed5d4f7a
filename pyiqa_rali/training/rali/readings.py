"""Fitting the linear readings of a diagnosis: logistic regressions that start at directions of texts, and levels by classes."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 80
BIAS_STRENGTH = 1e-4  # keeps biases of classes that no picture has finite
OWN_SHARE, OFFSET_VARIANCE = 0.1, 1.0  # of levels: how far a class may leave what all share, and its offset from the mean


def fit_shares(inputs: Tensor, targets: Tensor, directions: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return weights (T, V) and bias (T,) of a softmax over classes.

    The weights are s P + D with the directions P of the classes' texts, a factor s, and what pictures add, D. Minimised is the
    cross-entropy plus strength / 2 |D|^2: without a picture's evidence the texts decide, and the more pictures there are, the
    less the texts do.

    Args:
        inputs: (n, V).
        targets: (n, T), rows summing to 1.
        directions: (T, V).
        strength: of the tie to the texts; infinity leaves the directions as they are, up to the common factor.
    """
    return _fitted(inputs, directions, strength,
                   lambda logits: -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1).mean())


def fit_faults(inputs: Tensor, targets: Tensor, weights: Tensor, directions: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return weights (F, V) and bias (F,) of independent sigmoids; see `fit_shares`.

    Args:
        inputs: (n, V).
        targets: (n, F) in [0, 1]; NaN where nothing is known.
        weights: (n,), how much each picture counts.
        directions: (F, V).
        strength: of the tie to the texts.
    """
    return _fitted(inputs, directions, strength, lambda logits: faults_loss(logits, targets, weights).sum())


def faults_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean cross-entropy of each fault (F,) over the pictures of which it is known; see `fit_faults`."""
    known = (~targets.isnan()) * weights[:, None]
    each = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(0), reduction='none') * known
    return each.sum(dim=0) / known.sum(dim=0).clamp(min=1e-9)


def _fitted(inputs: Tensor, directions: Tensor, strength: float, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    added = torch.zeros(directions.shape, requires_grad=True)
    bias = torch.zeros(len(directions), requires_grad=True)
    factor = torch.ones((), requires_grad=True)
    free = [added, bias, factor] if math.isfinite(strength) else [bias, factor]
    optimizer = torch.optim.LBFGS(free, max_iter=ITERATIONS, history_size=20, tolerance_grad=1e-5,
                                  line_search_fn='strong_wolfe')

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ (factor * directions + added).T + bias
        value = loss(logits) + BIAS_STRENGTH / 2 * bias.square().sum()
        if math.isfinite(strength):
            value = value + strength / 2 * added.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return (factor * directions + added).detach(), bias.detach()


def fit_levels(inputs: Tensor, classes: Tensor, levels: Tensor, num_classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Return weights (T, V) and bias (T,): the level of each class as a linear function of the inputs.

    Ridge regression in which classes share what they have in common: with l_k = l + d_k the penalty is strength (|l|^2 +
    |d_k|^2 / OWN_SHARE). A class of few pictures is read as the others are.

    Args:
        inputs: (n, V).
        classes: (n,) int64; a picture with two distortions is there twice.
        levels: (n,).
        num_classes: T.
        strength: of the penalty, as a share of the inputs' mean square.
    """
    points, wanted, own = inputs.double().numpy(), levels.double().numpy(), classes.numpy()
    mean = wanted.mean()
    scale = strength * np.square(points).sum(axis=1).mean()
    same = own[:, None] == own[None, :]
    # the solution by its dual form, with as many unknowns as there are levels: a Gaussian process whose covariance these are
    covariance = points @ points.T * (1 + OWN_SHARE * same) / scale + OFFSET_VARIANCE * same
    dual = np.linalg.solve(covariance + np.eye(len(points)), wanted - mean)
    members = own[None, :] == np.arange(num_classes)[:, None]
    shared = dual @ points / scale
    weights = shared[None] + OWN_SHARE * (members * dual) @ points / scale
    bias = mean + OFFSET_VARIANCE * (members * dual).sum(axis=1)
    return torch.from_numpy(weights).float(), torch.from_numpy(bias).float()
