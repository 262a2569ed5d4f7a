"""What a light model is compared with: ridge regression on a frozen backbone, PIQE and BRISQUE."""

import numpy as np
import torch

from pyiqa_rali.core.errors import OptionError

ALPHAS = tuple(10.0 ** power for power in range(-1, 6))


def ridge_scores(train_features: np.ndarray, train_labels: np.ndarray, test_features: np.ndarray) -> np.ndarray:
    """Return ridge regression's scores (m,) for test features (m, C), fitted on (n, C) features and (n,) labels.

    Features are standardised; the penalty is the one with the smallest leave-one-out error on the training set.
    """
    mean, scale = train_features.mean(axis=0), train_features.std(axis=0) + 1e-8
    features, center = (train_features - mean) / scale, train_labels.mean()
    left, values, right = np.linalg.svd(features, full_matrices=False)
    projected = left.T @ (train_labels - center)
    best = min(ALPHAS, key=lambda alpha: _leave_one_out(left, values, projected, train_labels - center, alpha))
    weights = right.T @ (projected * values / (values ** 2 + best))
    return (test_features - mean) / scale @ weights + center


def _leave_one_out(left: np.ndarray, values: np.ndarray, projected: np.ndarray, labels: np.ndarray, alpha: float) -> float:
    """Return the mean squared leave-one-out error in closed form."""
    shrink = values ** 2 / (values ** 2 + alpha)
    fitted = left @ (shrink * projected)
    leverage = (left ** 2 * shrink).sum(axis=1) + 1 / len(labels)
    return float(np.mean(((labels - fitted) / (1 - leverage)) ** 2))


class Piqe:
    """pyiqa's PIQE on uint8 (H, W, 3) pictures, turned so that higher is better."""

    def __init__(self):
        import pyiqa
        self._metric = pyiqa.create_metric('piqe', device=torch.device('cpu'))

    def __call__(self, picture: np.ndarray) -> float:
        """Return minus the PIQE score."""
        return -float(self._metric(torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0).float() / 255))


class Brisque:
    """The package `brisque` on uint8 (H, W, 3) RGB pictures, turned so that higher is better.

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
