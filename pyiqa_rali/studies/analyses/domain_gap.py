"""How far data sets are apart in a feature space: maximum mean discrepancy, a linear classifier, and a map in the plane."""

from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.spatial.distance
from scipy.special import expit, log_expit

from pyiqa_rali.core.errors import DataError

FOLDS = 5
PENALTY = 1.0  # on the squared weights of standardised features, as scikit-learn's C = 1


def standardised(features: np.ndarray) -> np.ndarray:
    """Return features (n, C) with mean 0 and deviation 1 over all data sets together; constant ones become 0."""
    features = np.asarray(features, dtype=np.float64)
    scale = features.std(axis=0)
    return (features - features.mean(axis=0)) / np.where(scale > 1e-8, scale, 1.0)


def rbf_kernel(points: np.ndarray, bandwidth: float | None = None) -> np.ndarray:
    """Return exp(-d^2 / (2 b^2)) for all pairs of points (n, C); None takes the median distance as b.

    Raises:
        DataError: all points are the same.
    """
    distances = scipy.spatial.distance.pdist(points)
    bandwidth = float(np.median(distances)) if bandwidth is None else bandwidth
    if not bandwidth > 0:
        raise DataError('domain gap: more than half of all pairs of points are the same; there is no distance to measure.')
    return np.exp(-scipy.spatial.distance.squareform(distances) ** 2 / (2 * bandwidth ** 2))


def mmd2(kernel: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the unbiased squared maximum mean discrepancy (Gretton et al., JMLR 2012, equation 3); may be below 0.

    Args:
        kernel: (n, n) of all points.
        first: (n,) truth values, True for points of the first set; or (n, p) for p divisions, which give (p,) values.
    """
    member = first.astype(np.float64)
    towards = kernel @ member
    inside, across = (member * towards).sum(axis=0), ((1 - member) * towards).sum(axis=0)
    outside = kernel.sum() - inside - 2 * across
    itself, m = np.diag(kernel) @ member, member.sum(axis=0)
    n = len(member) - m
    return (inside - itself) / (m * (m - 1)) + (outside - np.trace(kernel) + itself) / (n * (n - 1)) - 2 * across / (m * n)


def mmd_test(points: np.ndarray, first: np.ndarray, permutations: int, seed: int) -> dict[str, float]:
    """Return 'mmd2' between two sets, and 'p_value': how often sets drawn from both together are as far apart.

    Args:
        points: (n, C) of both sets.
        first: (n,) truth values, True for the first set.
        permutations: how many draws.
        seed: of the draws.

    Raises:
        DataError: a set has fewer than two points.
    """
    if min(first.sum(), (~first).sum()) < 2:
        raise DataError(f'domain gap: {int(first.sum())} and {int((~first).sum())} points; two of each set are needed.')
    kernel = rbf_kernel(points)
    found = mmd2(kernel, first)
    rng = np.random.default_rng(seed)
    drawn = mmd2(kernel, np.stack([rng.permutation(first) for _ in range(permutations)], axis=1))
    return {'mmd2': float(found), 'p_value': float((1 + (drawn >= found).sum()) / (1 + permutations))}


def logistic_regression(features: np.ndarray, labels: np.ndarray, penalty: float = PENALTY) -> tuple[np.ndarray, float]:
    """Return weights (C,) and bias of a logistic regression with both classes weighted equally.

    Args:
        features: (n, C).
        labels: (n,) truth values.
        penalty: on half the squared weights, against the summed loss.
    """
    signs = np.where(labels, 1.0, -1.0)
    weight = np.where(labels, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        margin = signs * (features @ values[:-1] + values[-1])
        slope = -weight * signs * expit(-margin)
        gradient = np.append(features.T @ slope + penalty * values[:-1], slope.sum())
        return -(weight * log_expit(margin)).sum() + penalty * values[:-1] @ values[:-1] / 2, gradient

    found = scipy.optimize.minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method='L-BFGS-B')
    return found.x[:-1], float(found.x[-1])


def domain_accuracy(features: np.ndarray, first: np.ndarray, seed: int, folds: int = FOLDS) -> dict[str, float]:
    """Return the cross-validated accuracy with which a linear classifier tells two sets apart; 0.5 is chance.

    Args:
        features: (n, C).
        first: (n,) truth values, True for the first set.
        seed: of the folds.
        folds: how many.

    Returns:
        'accuracy' (mean of both sets' accuracies, mean over folds) and 'accuracy_sd' over folds.

    Raises:
        DataError: a set has fewer points than folds.
    """
    if min(first.sum(), (~first).sum()) < folds:
        raise DataError(f'domain gap: {int(first.sum())} and {int((~first).sum())} points; each set needs {folds}, one a fold.')
    rng = np.random.default_rng(seed)
    fold = np.empty(len(first), dtype=int)
    for members in (np.flatnonzero(first), np.flatnonzero(~first)):
        fold[rng.permutation(members)] = np.arange(len(members)) % folds
    accuracies = []
    for number in range(folds):
        test = fold == number
        mean, scale = features[~test].mean(axis=0), features[~test].std(axis=0)
        scaled = (features - mean) / np.where(scale > 1e-8, scale, 1.0)
        weights, bias = logistic_regression(scaled[~test], first[~test])
        right = (scaled[test] @ weights + bias > 0) == first[test]
        accuracies.append(np.mean([right[first[test]].mean(), right[~first[test]].mean()]))
    return {'accuracy': float(np.mean(accuracies)), 'accuracy_sd': float(np.std(accuracies, ddof=1))}


def plane(points: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Return the points in the plane (n, 2) and by what: t-SNE where scikit-learn is installed, else principal components."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        left, values, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
        return left[:, :2] * values[:2], 'PCA (t-SNE needs scikit-learn)'
    perplexity = min(30.0, (len(points) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init='pca', random_state=seed).fit_transform(points), 't-SNE'


def gaps(points: np.ndarray, dataset: Sequence[str], permutations: int, seed: int) -> list[dict[str, float | str]]:
    """Return one row for each pair of data sets.

    Args:
        points: (n, C), as they come from the encoder.
        dataset: (n,) names.
        permutations: of the test.
        seed: of draws and folds.
    """
    names, of = list(dict.fromkeys(dataset)), np.array(dataset)
    rows = []
    for place, one in enumerate(names):
        for two in names[place + 1:]:
            chosen = (of == one) | (of == two)
            first = of[chosen] == one
            rows.append({'first': one, 'second': two, 'first_images': int(first.sum()), 'second_images': int((~first).sum()),
                         **mmd_test(standardised(points[chosen]), first, permutations, seed),
                         **domain_accuracy(points[chosen].astype(np.float64), first, seed)})
    return rows
