import numpy as np
import pytest

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.studies.analyses.domains import (
    domain_accuracy,
    gaps,
    mmd2,
    mmd_test,
    plane,
    rbf_kernel,
    standardised,
)


def test_mmd_by_hand():
    points = np.array([[0.0], [1.0], [0.0], [3.0]])
    first = np.array([True, True, False, False])
    near, across_far, far, own_far = (np.exp(-distance ** 2 / 2) for distance in (1, 3, 2, 3))
    expected = near + own_far - 2 * (1 + across_far + near + far) / 4
    assert mmd2(rbf_kernel(points, 1.0), first) == pytest.approx(expected)


def test_mmd_of_many_divisions_is_that_of_each():
    rng = np.random.default_rng(0)
    kernel = rbf_kernel(rng.normal(size=(9, 3)))
    divisions = np.stack([rng.permutation([True] * 4 + [False] * 5) for _ in range(6)], axis=1)
    expected = [float(mmd2(kernel, divisions[:, place])) for place in range(6)]
    assert mmd2(kernel, divisions) == pytest.approx(expected)


def test_the_bandwidth_is_the_median_distance():
    points = np.array([[0.0], [1.0], [3.0]])  # distances 1, 2, 3
    assert rbf_kernel(points)[0, 1] == pytest.approx(np.exp(-1 / 8))


def two_sets(shift, count=60, width=5, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(2 * count, width))
    points[count:, 0] += shift
    return points, np.arange(2 * count) < count


def test_equal_distributions_are_not_apart_and_shifted_ones_are():
    p_values = [mmd_test(*two_sets(0, seed=seed), 200, 0)['p_value'] for seed in range(20)]
    assert sum(value < 0.05 for value in p_values) <= 4 and np.mean(p_values) > 0.3
    found = mmd_test(*two_sets(2.0), 200, 0)
    assert found['p_value'] == pytest.approx(1 / 201) and found['mmd2'] > 0.05
    unbiased = np.mean([mmd_test(*two_sets(0, seed=seed), 1, 0)['mmd2'] for seed in range(40)])
    assert abs(unbiased) < 0.004


def test_the_classifier_is_at_chance_on_equal_and_right_on_distant_sets():
    equal = np.mean([domain_accuracy(*two_sets(0, seed=seed), 0)['accuracy'] for seed in range(8)])
    assert 0.4 < equal < 0.6
    assert domain_accuracy(*two_sets(8.0), 0)['accuracy'] > 0.98
    points, first = two_sets(8.0)
    kept = np.r_[0:60, 60:70]  # sets of different size: both count the same
    assert domain_accuracy(points[kept], first[kept], 0)['accuracy'] > 0.9


def test_every_pair_of_sets_has_a_row():
    points, _ = two_sets(3.0)
    rows = gaps(points, ['a'] * 40 + ['b'] * 40 + ['c'] * 40, 50, 0)
    assert [(row['first'], row['second']) for row in rows] == [('a', 'b'), ('a', 'c'), ('b', 'c')]
    assert {row['first_images'] for row in rows} == {40}


@pytest.mark.parametrize(('points', 'first', 'message'), [
    (np.ones((6, 2)), [True] * 3 + [False] * 3, 'are the same'),
    (np.arange(8.0).reshape(4, 2), [True] * 3 + [False], '3 and 1 points; two of each set')])
def test_what_cannot_be_measured(points, first, message):
    with pytest.raises(DataError, match=message):
        mmd_test(points, np.array(first), 5, 0)


def test_a_constant_feature_does_no_harm():
    points, first = two_sets(3.0)
    assert standardised(np.c_[points, np.full(120, 7.0)])[:, -1].tolist() == [0.0] * 120
    assert domain_accuracy(np.c_[points, np.full(120, 7.0)], first, 0)['accuracy'] > 0.8


def test_sets_that_are_apart_stay_apart_in_the_plane():
    points, first = two_sets(9.0)
    places = plane(points, 0)
    assert places.shape == (120, 2) and np.array_equal(places, plane(points, 0))
    middles = places[first].mean(axis=0), places[~first].mean(axis=0)
    nearest = np.linalg.norm(places[:, None] - np.stack(middles), axis=2).argmin(axis=1)
    assert (nearest == ~first).mean() > 0.95
