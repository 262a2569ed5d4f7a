"""Stage 2: standardisation, PCA and bucketed k-means (arXiv 2510.11369, feature compression).

Deterministic for a seed, and pure: features and labels in, the scorer's tensors out.
"""

from dataclasses import dataclass

import numpy as np
import scipy.cluster.vq
import scipy.linalg
import scipy.spatial.distance
import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.training.rali.options import CompressOptions


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


def compress(image_features: np.ndarray, mos_label: np.ndarray, options: CompressOptions, seed: int) -> Compression:
    """Fit standardisation, PCA and basis.

    Args:
        image_features: (n, C).
        mos_label: (n,) in [0, 1].
        options: stage 2's options.
        seed: seeds k-means.

    Raises:
        OptionError: D or K cannot be had from this many images or features.
    """
    features = np.asarray(image_features, dtype=np.float64)
    _check_sizes(features.shape, options)
    mean, scale = standardisation(features, options.standardise)
    components, explained = principal_components((features - mean) / scale, options.pca_dim)
    compressed = ((features - mean) / scale) @ components.T
    vectors, scores, report = bucketed_kmeans(compressed, np.asarray(mos_label, dtype=np.float64), options, seed)
    report = {'images': len(features), 'explained_variance': round(explained, 4), **report}
    return Compression(*(np.ascontiguousarray(array, dtype=np.float32)
                         for array in (mean, scale, components, vectors, scores)), report)


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


def principal_components(standardised: np.ndarray, pca_dim: int | None) -> tuple[np.ndarray, float]:
    """Return the leading (D, C) orthonormal components and the share of variance they hold; None means no PCA."""
    if pca_dim is None:
        return np.eye(standardised.shape[1]), 1.0
    covariance = standardised.T @ standardised / len(standardised)
    values, vectors = scipy.linalg.eigh(covariance)
    components = vectors[:, ::-1][:, :pca_dim].T
    signs = np.sign(components[np.arange(pca_dim), np.abs(components).argmax(axis=1)])
    return components * signs[:, None], float(values[::-1][:pca_dim].sum() / values.sum())


def bucketed_kmeans(compressed: np.ndarray, mos_label: np.ndarray, options: CompressOptions,
                    seed: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Run k-means inside each MOS bucket; return centroids (K, D), mean labels (K,), and a report.

    Raises:
        OptionError: fewer basis vectors than filled buckets.
    """
    low, high = bucket_ends(mos_label, options.bucket_range)
    bucket = buckets_of(mos_label, options.num_buckets, low, high)
    counts = np.bincount(bucket, minlength=options.num_buckets)
    shares = share_basis(counts, options.num_basis)
    vectors, scores = [], []
    for index in np.flatnonzero(shares):
        members = np.flatnonzero(bucket == index)
        centroids, assignment = kmeans(compressed[members], shares[index], options, seed + int(index))
        vectors.append(centroids)
        scores += [mos_label[members[assignment == cluster]].mean() for cluster in range(shares[index])]
    over_declared = np.bincount(buckets_of(mos_label, options.num_buckets, 0.0, 1.0), minlength=options.num_buckets)
    report = {'num_buckets': options.num_buckets, 'empty_buckets': int((counts == 0).sum()),
              'bucket_range': options.bucket_range, 'mos_label_range': [low, high],
              'empty_buckets_over_mos_range': int((over_declared == 0).sum()),
              'buckets_below_their_share': int(((counts > 0) & (counts < options.num_basis / options.num_buckets)).sum()),
              'images_per_bucket': counts.tolist(), 'basis_per_bucket': shares.tolist()}
    return np.concatenate(vectors), np.array(scores), report


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
    while shares.sum() < num_basis:
        wanted = np.where(shares < counts, counts / (shares + 1), -np.inf)
        shares[wanted.argmax()] += 1
    return shares


def kmeans(points: np.ndarray, num_clusters: int, options: CompressOptions, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return centroids (k, D) and the assignment (n,) of k-means++ with no cluster left empty."""
    if num_clusters == 1:
        return points.mean(axis=0, keepdims=True), np.zeros(len(points), dtype=int)
    start = plus_plus(points, num_clusters, np.random.default_rng(seed))
    step = _assign_torch if options.backend == 'torch' else _assign_scipy
    centroids = start
    for _ in range(max(1, options.kmeans_iter)):
        assignment = _fill_empty(points, centroids, step(points, centroids), num_clusters)
        updated = np.stack([points[assignment == cluster].mean(axis=0) for cluster in range(num_clusters)])
        if np.array_equal(updated, centroids):
            break
        centroids = updated
    return centroids, assignment


def plus_plus(points: np.ndarray, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return k starting centroids (k, D) by k-means++: each new one is drawn by its squared distance to the others.

    scipy's own does not take points that are all the same.
    """
    chosen = [int(rng.integers(len(points)))]
    for _ in range(num_clusters - 1):
        distance = scipy.spatial.distance.cdist(points, points[chosen], 'sqeuclidean').min(axis=1)
        distance[chosen] = 0
        left = np.setdiff1d(np.arange(len(points)), chosen)
        weights = distance[left] if distance[left].sum() > 0 else np.ones(len(left))
        chosen.append(int(rng.choice(left, p=weights / weights.sum())))
    return points[chosen]


def _assign_scipy(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return scipy.cluster.vq.vq(points, centroids)[0]


def _assign_torch(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    distances = torch.cdist(torch.from_numpy(points).to(device), torch.from_numpy(np.asarray(centroids)).to(device))
    return distances.argmin(dim=1).cpu().numpy()


def _fill_empty(points: np.ndarray, centroids: np.ndarray, assignment: np.ndarray, num_clusters: int) -> np.ndarray:
    """Give each empty cluster the point farthest from its centroid, taken from a cluster that keeps others."""
    assignment = assignment.copy()
    for cluster in range(num_clusters):
        counts = np.bincount(assignment, minlength=num_clusters)
        if counts[cluster]:
            continue
        distance = np.linalg.norm(points - centroids[assignment], axis=1)
        distance[counts[assignment] < 2] = -1
        assignment[distance.argmax()] = cluster
    return assignment
