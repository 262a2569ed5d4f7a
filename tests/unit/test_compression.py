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
    ranks_within,
    share_basis,
    standardisation,
)
from pyiqa_rali.training.rali.options import CompressOptions

BACKENDS = ['sklearn', 'torch']


def features_and_labels(count=300, width=20, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.beta(4, 2, count)
    features = rng.normal(size=(count, width)) * np.linspace(0.1, 3, width) + 5
    features[:, 3] += labels * 8
    features[:, 7] = 2.5
    return features, labels


@pytest.mark.parametrize('backend', BACKENDS)
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


@pytest.mark.parametrize('backend', BACKENDS)
def test_principal_components_match_a_singular_value_decomposition(backend):
    features, _ = features_and_labels()
    mean, scale = standardisation(features)
    standardised = (features - mean) / scale
    components, explained = principal_components(standardised, 5, backend)
    assert (components[np.arange(5), np.abs(components).argmax(axis=1)] > 0).all()
    assert components @ components.T == pytest.approx(np.eye(5), abs=1e-9)
    _, values, reference = np.linalg.svd(standardised, full_matrices=False)
    assert np.abs(np.abs((components * reference[:5]).sum(axis=1)) - 1).max() < 1e-6
    assert explained == pytest.approx((values[:5] ** 2).sum() / (values ** 2).sum())


def test_constant_features_keep_scale_one():
    features, _ = features_and_labels()
    assert standardisation(features)[1][7] == 1.0
    assert (standardisation(features, by_deviation=False)[1] == 1.0).all()


@pytest.mark.parametrize('backend', BACKENDS)
def test_kmeans_finds_separate_clusters(backend):
    rng = np.random.default_rng(0)
    centers = np.array([[0, 0], [10, 0], [0, 10]])
    points = np.concatenate([center + rng.normal(0, 0.1, (20, 2)) for center in centers])
    centroids, assignment = kmeans(points, 3, CompressOptions(num_basis=3, backend=backend), seed=1)
    assert sorted(np.bincount(assignment)) == [20, 20, 20]
    assert np.abs(centroids[np.lexsort(centroids.T)].round() - centers[np.lexsort(centers.T)]).max() == 0


@pytest.mark.parametrize('backend', BACKENDS)
@given(points=arrays(float, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.integers(0, 2)), data=st.data())
def test_no_cluster_is_ever_empty_and_centroids_are_means(backend, points, data):
    """Most of these points stand in one place with others: there are fewer places than clusters."""
    count = data.draw(st.integers(1, len(points)))
    options = CompressOptions(num_basis=count, backend=backend, kmeans_iter=data.draw(st.integers(0, 5)))
    centroids, assignment = kmeans(points, count, options, seed=data.draw(st.integers(0, 2 ** 40)))
    assert (np.bincount(assignment, minlength=count) > 0).all() and len(centroids) == count
    for cluster in range(count):
        assert centroids[cluster] == pytest.approx(points[assignment == cluster].mean(axis=0))


@pytest.mark.parametrize('backend', BACKENDS)
def test_features_that_are_all_the_same_still_give_a_basis(backend):
    options = CompressOptions(num_basis=9, pca_dim=3, num_buckets=4, backend=backend)
    labels = np.linspace(0, 1, 40)
    found = compress(np.full((40, 6), 7.0), labels, options, seed=0)
    assert found.basis_vectors.shape == (9, 3) and not found.basis_vectors.any()
    assert np.isfinite(found.basis_scores).all() and found.report['explained_variance'] == 1.0
    assert np.array_equal(found.pca_components @ found.pca_components.T, np.eye(3))


def test_more_clusters_than_points_are_refused():
    with pytest.raises(OptionError, match='num_basis: 5 clusters need at least as many points, and there are 4'):
        kmeans(np.zeros((4, 2)), 5, CompressOptions(num_basis=5), seed=0)


def test_both_backends_find_clusters_that_are_as_tight():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(600, 8)) + 4 * rng.normal(size=(12, 8))[rng.integers(12, size=600)]
    spread = {}
    for backend in BACKENDS:
        centroids, assignment = kmeans(points, 12, CompressOptions(num_basis=12, backend=backend), seed=0)
        spread[backend] = ((points - centroids[assignment]) ** 2).sum()
    best = ((points - points.mean(axis=0)) ** 2).sum()
    assert spread['sklearn'] == pytest.approx(spread['torch'], rel=0.25) and max(spread.values()) < best / 3


def test_the_backend_of_version_0_1_is_told_what_it_means_now(caplog):
    features, labels = features_and_labels()
    old, now = (compress(features, labels, CompressOptions(num_basis=20, backend=backend), seed=1)
                for backend in ('scipy', 'sklearn'))
    assert np.array_equal(old.basis_vectors, now.basis_vectors)
    assert 'backend: scipy: was the k-means of version 0.1 and now means sklearn' in caplog.text


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


def test_buckets_by_rank_hold_as_many_of_every_data_set():
    """One set's labels lie below 0.3, the other's above 0.6: by label they share no bucket, by rank all."""
    rng = np.random.default_rng(0)
    sets = np.repeat([0, 1], 60)
    labels = np.concatenate([rng.uniform(0, 0.3, 60), rng.uniform(0.6, 1, 60)])
    buckets = buckets_of(ranks_within(labels, sets), 6, 0.0, 1.0)
    assert all(np.bincount(buckets[sets == number], minlength=6).tolist() == [10] * 6 for number in (0, 1))
    features = rng.normal(size=(120, 8))
    found = compress(features, labels, CompressOptions(num_basis=12, num_buckets=6, bucket_by='rank'), 0, sets)
    assert found.report['empty_buckets'] == 0 and found.report['images_per_bucket'] == [20] * 6
    by_label = compress(features, labels, CompressOptions(num_basis=12, num_buckets=6), 0, sets)
    assert by_label.report['empty_buckets'] > 0


def test_of_an_ordered_set_the_values_teach_the_basis_nothing():
    """Any rising change of its MOS gives the same basis, and no basis score leaves the first set's MOS."""
    rng = np.random.default_rng(0)
    features, first, second = rng.normal(size=(40, 6)), rng.uniform(0.4, 0.6, 20), rng.permutation(20) / 20
    sets, options = np.repeat([0, 1], 20), CompressOptions(pca_dim=3, num_buckets=4, num_basis=8)
    found, changed = (compress(features, np.concatenate([first, values]), options, 0, sets, [1])
                      for values in (second, second ** 3 / 2))
    assert np.array_equal(found.basis_scores, changed.basis_scores)
    assert np.array_equal(found.basis_vectors, changed.basis_vectors)
    assert first.min() <= found.basis_scores.min() and found.basis_scores.max() <= first.max()
