"""What a light model is compared with: ridge regression on a frozen backbone, PIQE and BRISQUE."""

import numpy as np
import torch

from pyiqa_rali.core.errors import OptionError

ALPHAS = tuple(10.0 ** power for power in range(-1, 6))


def ridge_scores(train_features: np.ndarray, train_labels: np.ndarray, test_features: np.ndarray) -> np.ndarray:
    """Return ridge regression's scores (m,) for test features (m, C), fitted on (n, C) features and (n,) labels.

    Features are standardised; the penalty is the one with the smallest leave-one-out error on the training set.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    return make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(train_features, train_labels).predict(test_features)


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
