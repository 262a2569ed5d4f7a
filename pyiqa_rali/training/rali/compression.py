"""Stage 2: standardisation, PCA and bucketed k-means (arXiv 2510.11369, feature compression).

Deterministic for a seed, and pure: features and labels in, the scorer's tensors out. PCA and k-means are scikit-learn's, or
run in torch on a GPU.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.training.rali.options import CompressOptions

logger = logging.getLogger(__name__)


@dataclass
class Compression:
    """The scorer before fine-tuning, as float32 arrays.

    Attributes:
        pca_mean: (C,).
        pca_scale: (C,).
        pca_components: (D, C), orthonormal rows.
        basis_vectors: (K, D).
        basis_scores: (K,), mean MOS label of each centroid's members.
        report: how the buckets came out, for people.
    """

    pca_mean: np.ndarray
    pca_scale: np.ndarray
    pca_components: np.ndarray
    basis_vectors: np.ndarray
    basis_scores: np.ndarray
    report: dict


def compress(image_features: np.ndarray, mos_label: np.ndarray, options: CompressOptions, seed: int,
             sets: np.ndarray | None = None, ordered: Sequence[int] = ()) -> Compression:
    """Fit standardisation, PCA and basis.

    Args:
        image_features: (n, C).
        mos_label: (n,) in [0, 1].
        options: stage 2's options.
        seed: seeds k-means.
        sets: (n,) which data set an image is of; None for one.
        ordered: the data sets of which the order alone teaches, never the first.

    Raises:
        OptionError: D or K is more than this many images or features.
    """
    features = np.asarray(image_features, dtype=np.float64)
    _check_sizes(features.shape, options)
    if options.backend == 'scipy':
        logger.warning('compress: backend: scipy: was the k-means of version 0.1 and now means sklearn; the basis vectors '
                       'differ from those of that version. Write sklearn.')
    mean, scale = standardisation(features, options.standardise)
    standardised = (features - mean) / scale
    components, explained = principal_components(standardised, options.pca_dim, options.backend)
    compressed = standardised @ components.T
    labels = labels_of_order(np.asarray(mos_label, dtype=np.float64), sets, ordered)
    vectors, scores, report = bucketed_kmeans(compressed, labels, options, seed, sets)
    report = {'images': len(features), 'explained_variance': round(explained, 4), **report}
    mean, scale, components, vectors, scores = (np.ascontiguousarray(array, dtype=np.float32)
                                                for array in (mean, scale, components, vectors, scores))
    return Compression(mean, scale, components, vectors, scores, report)


def enough_for_basis(count: int, options: CompressOptions) -> None:
    """Check that there are images enough for the basis, as far as that can be told before there are features.

    Raises:
        OptionError: D or K is more than so many training images.
    """
    for name, value in (('pca_dim', options.pca_dim), ('num_basis', options.num_basis)):
        if value is not None and value > count:
            raise OptionError(f'compress: {name}: {value} is more than the {count} training images. Use fewer.')


def _check_sizes(shape: tuple[int, int], options: CompressOptions) -> None:
    count, width = shape
    if options.pca_dim is not None and options.pca_dim > min(count, width):
        raise OptionError(f'compress: pca_dim: {options.pca_dim} is more than {count} images of {width} features give; at '
                          f'most {min(count, width)}, or ~ for no PCA.')
    if options.num_basis > count:
        raise OptionError(f'compress: num_basis: {options.num_basis} is more than the {count} training images. Use fewer.')


def standardisation(features: np.ndarray, by_deviation: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (C,) of each feature; features that never vary get scale 1."""
    scale = features.std(axis=0)
    usable = by_deviation & (scale > 1e-8)
    return features.mean(axis=0), np.where(usable, scale, 1.0)


def principal_components(standardised: np.ndarray, pca_dim: int | None,
                         backend: str = 'sklearn') -> tuple[np.ndarray, float]:
    """Return the leading (D, C) orthonormal components and the share of variance they hold; None means no PCA.

    The largest entry of each component is positive, so that signs do not depend on who computes them.

    Args:
        standardised: (n, C), each feature with mean 0.
        pca_dim: D, at most n and C.
        backend: 'torch' computes on a GPU if there is one, everything else by scikit-learn.
    """
    if pca_dim is None:
        return np.eye(standardised.shape[1]), 1.0
    if not standardised.any():  # no feature varies: every direction is as good, and there is no variance to lose
        return np.eye(pca_dim, standardised.shape[1]), 1.0
    if backend == 'torch':
        return _components_torch(standardised, pca_dim)
    from sklearn.decomposition import PCA
    found = PCA(pca_dim, svd_solver='covariance_eigh').fit(standardised)
    return found.components_, float(found.explained_variance_ratio_.sum())


def _components_torch(standardised: np.ndarray, pca_dim: int) -> tuple[np.ndarray, float]:
    features = torch.from_numpy(standardised).to(_device())
    # The eigenvectors of the covariance (C, C), rather than a singular value decomposition of all features (n, C): the same
    # components, at a cost that does not grow with n beyond one product. The condition number is squared, which float64 bears.
    values, vectors = torch.linalg.eigh(features.T @ features / len(features))  # rising
    components = vectors.flip(1)[:, :pca_dim].T.cpu().numpy()
    # an eigenvector's sign is arbitrary, and libraries choose differently: fixed, so that checkpoints can be compared
    signs = np.sign(components[np.arange(pca_dim), np.abs(components).argmax(axis=1)])
    return components * signs[:, None], float(values[-pca_dim:].sum() / values.sum())


def bucketed_kmeans(compressed: np.ndarray, mos_label: np.ndarray, options: CompressOptions, seed: int,
                    sets: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, dict]:
    """Run k-means inside each MOS bucket; return centroids (K, D), mean labels (K,), and a report.

    Raises:
        OptionError: fewer basis vectors than filled buckets.
    """
    # Clustering all images at once would spend most centroids on the middling MOS that most images have, and average the label
    # of what looks alike. Within buckets, rare qualities keep centroids, and a centroid's label is exact to a bucket's width.
    low, high = bucket_ends(mos_label, options.bucket_range)
    by_rank = options.bucket_by == 'rank'
    bucket = (buckets_of(ranks_within(mos_label, sets), options.num_buckets, 0.0, 1.0) if by_rank else
              buckets_of(mos_label, options.num_buckets, low, high))
    counts = np.bincount(bucket, minlength=options.num_buckets)
    shares = share_basis(counts, options.num_basis)
    vectors, scores = [], []
    for index in np.flatnonzero(shares):
        members = np.flatnonzero(bucket == index)
        # the seed is the bucket's own: what one bucket draws does not depend on how many draws the others took
        centroids, assignment = kmeans(compressed[members], shares[index], options, seed + int(index))
        vectors.append(centroids)
        scores += [mos_label[members[assignment == cluster]].mean() for cluster in range(shares[index])]
    over_declared = np.bincount(buckets_of(mos_label, options.num_buckets, 0.0, 1.0), minlength=options.num_buckets)
    report = {'num_buckets': options.num_buckets, 'empty_buckets': int((counts == 0).sum()),
              'bucket_by': options.bucket_by, 'bucket_range': options.bucket_range, 'mos_label_range': [low, high],
              'empty_buckets_over_mos_range': int((over_declared == 0).sum()),
              'buckets_below_their_share': int(((counts > 0) & (counts < options.num_basis / options.num_buckets)).sum()),
              'images_per_bucket': counts.tolist(), 'basis_per_bucket': shares.tolist()}
    return np.concatenate(vectors), np.array(scores), report


def labels_of_order(mos_label: np.ndarray, sets: np.ndarray | None, ordered: Sequence[int]) -> np.ndarray:
    """Return labels (n,) in which images of ordered sets have what images of the first set have at the same rank.

    Example:
        >>> labels_of_order(np.array([0.0, 0.2, 0.4, 0.9, 0.5, 0.8]), np.array([0, 0, 0, 1, 1, 1]), [1]).tolist()
        [0.0, 0.2, 0.4, 0.4, 0.0, 0.2]
    """
    if sets is None or not ordered:
        return mos_label
    first = np.sort(mos_label[sets == 0])
    ranks = (np.arange(len(first)) + 0.5) / len(first)
    return np.where(np.isin(sets, ordered), np.interp(ranks_within(mos_label, sets), ranks, first), mos_label)


def ranks_within(mos_label: np.ndarray, sets: np.ndarray | None) -> np.ndarray:
    """Return for each label (n,) the share of its data set's images that lie below it, ties counted by half.

    Example:
        >>> ranks_within(np.array([0.1, 0.9, 0.2, 0.3]), np.array([0, 0, 1, 1])).tolist()
        [0.25, 0.75, 0.25, 0.75]
    """
    from scipy.stats import rankdata
    sets = np.zeros(len(mos_label), dtype=int) if sets is None else np.asarray(sets)
    ranks = np.empty(len(mos_label))
    for number in np.unique(sets):
        rows = sets == number
        ranks[rows] = (rankdata(mos_label[rows]) - 0.5) / rows.sum()
    return ranks


def bucket_ends(mos_label: np.ndarray, bucket_range: str) -> tuple[float, float]:
    """Return what the buckets cover: the labels that occur, or all that could (0 to 1)."""
    return (float(mos_label.min()), float(mos_label.max())) if bucket_range == 'labels' else (0.0, 1.0)


def buckets_of(mos_label: np.ndarray, num_buckets: int, low: float, high: float) -> np.ndarray:
    """Return the bucket (n,) of each label among equal-width ones from low to high; the last one takes its upper end in.

    Example:
        >>> buckets_of(np.array([0.25, 0.375, 0.5, 0.75]), 2, 0.25, 0.75).tolist()
        [0, 0, 1, 1]
    """
    if high == low:
        return np.zeros(len(mos_label), dtype=int)
    return np.clip(((mos_label - low) / (high - low) * num_buckets).astype(int), 0, num_buckets - 1)


def share_basis(counts: np.ndarray, num_basis: int) -> np.ndarray:
    """Share K basis vectors among buckets: one for each filled bucket, the rest by size, never more than its images.

    Raises:
        OptionError: K is smaller than the number of filled buckets.

    Example:
        >>> share_basis(np.array([0, 1, 6, 3]), 6).tolist()
        [0, 1, 4, 1]
    """
    filled = counts > 0
    if num_basis < filled.sum():
        raise OptionError(f'compress: num_basis: {num_basis} is less than the {filled.sum()} MOS buckets that hold images; '
                          'raise it, or lower num_buckets.')
    shares = filled.astype(int)
    # one at a time, to the bucket that would then have the most images for each of its vectors (D'Hondt's method): shares are
    # whole, add up to K, and none falls when K grows, as it may with rounded quotas
    while shares.sum() < num_basis:
        wanted = np.where(shares < counts, counts / (shares + 1), -np.inf)
        shares[wanted.argmax()] += 1
    return shares


def kmeans(points: np.ndarray, num_clusters: int, options: CompressOptions, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return centroids (k, D) and the assignment (n,) of k-means after k-means++, with no cluster left empty.

    Every centroid is the mean of its members. The same points, options and seed give the same bits.

    Args:
        points: (n, D).
        num_clusters: k, at most n.
        options: `backend` and `kmeans_iter`.
        seed: of the starting centroids.

    Raises:
        OptionError: there are fewer points than clusters.
    """
    if num_clusters > len(points):
        raise OptionError(f'num_basis: {num_clusters} clusters need at least as many points, and there are {len(points)}.')
    assign = _assign_torch if options.backend == 'torch' else _assign_sklearn
    iterations = max(1, options.kmeans_iter)
    assignment = assign(points, num_clusters, iterations, seed) if num_clusters > 1 else np.zeros(len(points), dtype=int)
    assignment = _fill_empty(points, assignment, num_clusters)
    return np.stack([points[assignment == cluster].mean(axis=0) for cluster in range(num_clusters)]), assignment


def _assign_sklearn(points: np.ndarray, num_clusters: int, iterations: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits
    # several threads would add up their parts of a mean in any order, and no run would give another one's bits
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter('ignore', ConvergenceWarning)  # fewer different points than clusters: they are filled below
        found = KMeans(num_clusters, n_init=1, max_iter=iterations, tol=0.0, random_state=seed % 2 ** 32).fit(points)
    return found.labels_.astype(int)


def _assign_torch(points: np.ndarray, num_clusters: int, iterations: int, seed: int) -> np.ndarray:
    """Return the assignment (n,) of Lloyd's iterations on a GPU, or without one on the CPU."""
    every = torch.from_numpy(points).to(_device())
    centroids = _plus_plus(every, num_clusters, np.random.default_rng(seed))
    for _ in range(iterations):
        # a product with the one-hot assignment adds up in a fixed order, which scattered additions on a GPU do not
        member = torch.nn.functional.one_hot(torch.cdist(every, centroids).argmin(dim=1), num_clusters).to(every.dtype)
        counts = member.sum(dim=0).unsqueeze(1)
        updated = torch.where(counts > 0, member.T @ every / counts.clamp(min=1), centroids)
        if torch.equal(updated, centroids):
            break
        centroids = updated
    return torch.cdist(every, centroids).argmin(dim=1).cpu().numpy()


def _plus_plus(points: Tensor, num_clusters: int, rng: np.random.Generator) -> Tensor:
    """Return k starting centroids (k, D) by greedy k-means++.

    Each new one is the best of a few points that are drawn by their squared distance to the nearest centroid so far.
    """
    trials = 2 + int(np.log(num_clusters))
    chosen = [int(rng.integers(len(points)))]
    nearest = (points - points[chosen[0]]).square().sum(dim=1)
    for _ in range(num_clusters - 1):
        weights = nearest.cpu().numpy()
        if not weights.sum() > 0:  # all that is left coincides with centroids
            weights = np.ones(len(points))
            weights[chosen] = 0
        drawn = rng.choice(len(points), trials, p=weights / weights.sum())
        # what each candidate would leave: the sum is the clustering's cost so far, and the lowest wins (hence greedy)
        distances = torch.minimum(nearest, torch.stack([(points - points[each]).square().sum(dim=1) for each in drawn]))
        best = int(distances.sum(dim=1).argmin())
        chosen.append(int(drawn[best]))
        nearest = distances[best]
        nearest[chosen[-1]] = 0
    return points[chosen]


def _device() -> torch.device:
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def _fill_empty(points: np.ndarray, assignment: np.ndarray, num_clusters: int) -> np.ndarray:
    """Give each empty cluster the point that is farthest from its cluster's mean, taken from one that keeps others.

    Where points coincide, k-means leaves clusters empty; each would be a basis vector without a score.
    """
    counts = np.bincount(assignment, minlength=num_clusters)
    if counts.all():
        return assignment
    assignment = assignment.copy()
    means = {cluster: points[assignment == cluster].mean(axis=0) for cluster in np.flatnonzero(counts)}
    distance = np.linalg.norm(points - np.stack([means[cluster] for cluster in assignment]), axis=1)
    for cluster in np.flatnonzero(counts == 0):
        farthest = np.where(counts[assignment] > 1, distance, -1).argmax()
        counts[assignment[farthest]] -= 1
        assignment[farthest], counts[cluster], distance[farthest] = cluster, 1, -1
    return assignment
