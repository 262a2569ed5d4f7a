import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.training.rali.compression import (
    buckets_of,
    compress,
    kmeans,
    principal_components,
    share_basis,
    standardisation,
)
from pyiqa_rali.training.rali.options import CompressOptions


def features_and_labels(count=300, width=20, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.beta(4, 2, count)
    features = rng.normal(size=(count, width)) * np.linspace(0.1, 3, width) + 5
    features[:, 3] += labels * 8
    features[:, 7] = 2.5
    return features, labels


@pytest.mark.parametrize('backend', ['scipy', 'torch'])
@pytest.mark.parametrize('num_buckets', [1, 10, 240])
def test_shapes_scores_and_determinism(backend, num_buckets):
    features, labels = features_and_labels()
    options = CompressOptions(num_basis=250, pca_dim=12, num_buckets=num_buckets, backend=backend)
    found = compress(features, labels, options, seed=3)
    again = compress(features, labels, options, seed=3)
    assert found.pca_components.shape == (12, 20) and found.basis_vectors.shape == (250, 12)
    assert found.basis_scores.shape == (250,) and np.isfinite(found.basis_vectors).all()
    assert labels.min() - 1e-6 <= found.basis_scores.min() and found.basis_scores.max() <= labels.max() + 1e-6
    for name in ('pca_mean', 'pca_scale', 'pca_components', 'basis_vectors', 'basis_scores'):
        assert np.array_equal(getattr(found, name), getattr(again, name))
    assert sum(found.report['images_per_bucket']) == 300 and sum(found.report['basis_per_bucket']) == 250


def test_basis_scores_are_the_mean_labels_of_the_members():
    features, labels = features_and_labels()
    options = CompressOptions(num_basis=6, pca_dim=None, num_buckets=6)
    found = compress(features, labels, options, seed=0)
    bucket = buckets_of(labels, 6, labels.min(), labels.max())
    shares = share_basis(np.bincount(bucket, minlength=6), 6)
    single = [index for index in range(6) if shares[index] == 1]
    assert single
    for index in single:
        position = shares[:index].sum()
        assert found.basis_scores[position] == pytest.approx(labels[bucket == index].mean(), abs=1e-6)


def test_every_basis_score_stays_in_its_bucket():
    features, labels = features_and_labels()
    found = compress(features, labels, CompressOptions(num_basis=60, pca_dim=8, num_buckets=20), seed=0)
    expected = np.repeat(np.arange(20), found.report['basis_per_bucket'])
    assert np.array_equal(buckets_of(found.basis_scores, 20, labels.min(), labels.max()), expected)


@pytest.mark.parametrize(('bucket_range', 'filled'), [('labels', 20), ('mos_range', 8)])
def test_buckets_cover_the_labels_that_occur_or_the_declared_range(bucket_range, filled):
    features, _ = features_and_labels()
    labels = np.linspace(0.3, 0.65, 300)  # of 20 buckets from 0 to 1 these fill numbers 6 to 12, and 0.65 begins number 13
    found = compress(features, labels, CompressOptions(num_basis=60, pca_dim=8, num_buckets=20, bucket_range=bucket_range), 0)
    assert found.report['empty_buckets'] == 20 - filled and found.report['empty_buckets_over_mos_range'] == 12
    assert found.report['mos_label_range'] == ([0.3, 0.65] if bucket_range == 'labels' else [0.0, 1.0])
    assert sum(count > 0 for count in found.report['images_per_bucket']) == filled
    counts = [count for count in found.report['images_per_bucket'] if count]
    assert max(counts) - min(counts) <= (1 if bucket_range == 'labels' else 300)


def test_labels_at_both_ends_and_labels_that_are_all_the_same():
    assert buckets_of(np.array([0.25, 0.375, 0.75]), 4, 0.25, 0.75).tolist() == [0, 1, 3]
    assert buckets_of(np.array([0.5, 0.5]), 4, 0.5, 0.5).tolist() == [0, 0]


@given(arrays(float, st.integers(1, 40), elements=st.floats(0, 1)), st.integers(1, 50))
def test_every_label_is_in_the_bucket_that_holds_it(labels, num_buckets):
    low, high = labels.min(), labels.max()
    found = buckets_of(labels, num_buckets, low, high)
    width = (high - low) / num_buckets
    assert ((found >= 0) & (found < num_buckets)).all()
    assert (low + found * width <= labels + 1e-9).all() and (labels - 1e-9 <= low + (found + 1) * width).all()


def test_principal_components_match_a_singular_value_decomposition():
    features, _ = features_and_labels()
    mean, scale = standardisation(features)
    standardised = (features - mean) / scale
    components, explained = principal_components(standardised, 5)
    _, values, reference = np.linalg.svd(standardised, full_matrices=False)
    assert np.abs(np.abs((components * reference[:5]).sum(axis=1)) - 1).max() < 1e-6
    assert explained == pytest.approx((values[:5] ** 2).sum() / (values ** 2).sum())


def test_constant_features_keep_scale_one():
    features, _ = features_and_labels()
    assert standardisation(features)[1][7] == 1.0
    assert (standardisation(features, by_deviation=False)[1] == 1.0).all()


def test_kmeans_finds_separate_clusters_and_leaves_none_empty():
    rng = np.random.default_rng(0)
    centers = np.array([[0, 0], [10, 0], [0, 10]])
    points = np.concatenate([center + rng.normal(0, 0.1, (20, 2)) for center in centers])
    centroids, assignment = kmeans(points, 3, CompressOptions(num_basis=3), seed=1)
    assert sorted(np.bincount(assignment)) == [20, 20, 20]
    assert np.abs(centroids[np.lexsort(centroids.T)].round() - centers[np.lexsort(centers.T)]).max() == 0
    same = np.zeros((8, 2))
    assert (np.bincount(kmeans(same, 4, CompressOptions(num_basis=4), seed=1)[1], minlength=4) > 0).all()


@pytest.mark.parametrize(('counts', 'num_basis', 'expected'), [
    ([5, 5], 4, [2, 2]), ([1, 9], 4, [1, 3]), ([0, 3, 0, 3], 2, [0, 1, 0, 1]), ([2, 2], 4, [2, 2]),
])
def test_share_basis(counts, num_basis, expected):
    assert share_basis(np.array(counts), num_basis).tolist() == expected


@pytest.mark.parametrize(('options', 'message'), [
    ({'num_basis': 250, 'pca_dim': 21}, 'pca_dim: 21 is more than 300 images of 20 features give; at most 20'),
    ({'num_basis': 301}, 'num_basis: 301 is more than the 300 training images'),
    ({'num_basis': 3, 'num_buckets': 10}, 'num_basis: 3 is less than the'),
])
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        compress(*features_and_labels(), CompressOptions(**options), seed=0)
