import numpy as np
import pytest
from scipy import stats

from pyiqa_rali.measures.significance import (
    Comparison,
    bootstrap_p,
    compare_metrics,
    fewest_resamples,
    holm,
    williams_test,
)

OPTIONS = Comparison(bootstrap=400, confidence=0.95, alpha=0.05, seed=0)


def test_williams_test_on_a_known_case():
    t, p = williams_test(0.4, 0.5, 0.1, 103)  # the example of R's psych::r.test: t = -0.89, p = 0.37
    assert (round(t, 2), round(p, 2)) == (-0.89, 0.37)
    assert williams_test(0.5, 0.4, 0.1, 103) == pytest.approx((-t, p))
    assert williams_test(0.7, 0.7, 1.0, 50) == (0.0, 1.0)


@pytest.mark.parametrize(('first', 'second', 'between', 'images'), [
    (0.4, 0.5, 0.1, 103), (0.9, 0.7, 0.8, 40), (0.3, -0.2, -0.6, 25), (-0.6, 0.5, 0.1, 30), (-0.4, -0.7, 0.5, 60)])
def test_williams_test_is_the_formula_of_the_paper(first, second, between, images):
    determinant = np.linalg.det([[1, first, second], [first, 1, between], [second, between, 1]])
    scale = 2 * (images - 1) / (images - 3) * determinant + ((first + second) / 2) ** 2 * (1 - between) ** 3
    t, p = williams_test(first, second, between, images)
    assert t == pytest.approx((first - second) * np.sqrt((images - 1) * (1 + between) / scale))
    assert p == pytest.approx(2 * stats.t.sf(abs(t), images - 3))
    assert williams_test(-first, -second, between, images) == pytest.approx((-t, p))


def test_a_metric_and_the_same_one_turned_around_differ_as_its_correlation_from_zero():
    t, p = williams_test(0.8, -0.8, -1.0, 50)
    assert t == pytest.approx(0.8 * np.sqrt(47 / 0.36)) and p < 1e-10
    assert williams_test(0.8, -0.8 + 1e-6, -1 + 1e-9, 50) == pytest.approx((t, p), rel=1e-2)
    assert williams_test(0.05, -0.05, -1.0, 50)[1] > 0.5
    assert williams_test(1.0, -1.0, -1.0, 50)[1] < 1e-100
    rng = np.random.default_rng(4)
    mos = rng.normal(size=200)
    metric = mos + rng.normal(size=200)
    row = compare_metrics({'turned': -metric, 'right': metric}, mos, OPTIONS, 'set')[0]
    assert row['plcc_better'] == row['srcc_better'] == 'right' and row['plcc_p'] < 1e-10


@pytest.mark.parametrize(('slope', 'shared'), [(1.0, 0.5), (0.0, 0.5), (0.0, -3.0), (-1.0, 0.5), (0.3, -1.0)])
def test_williams_test_is_calibrated_where_nothing_differs(slope, shared):
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(600):
        mos, common = rng.normal(size=50), rng.normal(size=50)
        first, second = (slope * mos + factor * common + rng.normal(size=50) for factor in (abs(shared), shared))
        found = np.corrcoef([mos, first, second])
        p_values.append(williams_test(found[0, 1], found[0, 2], found[1, 2], 50)[1])
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.06)


def test_bootstrap_test_is_not_too_eager_where_nothing_differs():
    rng = np.random.default_rng(1)
    found = []
    for number in range(120):
        mos = rng.normal(size=60)
        scores = {name: mos + rng.normal(size=60) for name in 'ab'}
        found.append(compare_metrics(scores, mos, Comparison(200, 0.95, 0.05, number), 'set')[0]['srcc_p'])
    assert np.mean(np.array(found) < 0.05) < 0.13


@pytest.mark.parametrize(('p_values', 'corrected'), [
    ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.5], [0.5]), ([0.4, 0.9], [0.8, 0.9]), ([], []),
    ([0.02, float('nan'), 0.03], [0.04, float('nan'), 0.04])])
def test_holm(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected, nan_ok=True)


@pytest.mark.parametrize(('differences', 'p'), [([1, 2, 3], 2 / 4), ([-1, 1, 2], 1.0), ([1.0] * 99, 0.02), ([0.0, 0.0], 1.0)])
def test_bootstrap_p_is_never_zero(differences, p):
    assert bootstrap_p(np.array(differences, dtype=float)) == pytest.approx(p)


def test_the_better_metric_is_named():
    rng = np.random.default_rng(2)
    mos = rng.normal(size=300)
    scores = {'noise': rng.normal(size=300), 'good': mos + 0.1 * rng.normal(size=300), 'twin': mos + 0.1 * rng.normal(size=300)}
    rows = {(row['metric_a'], row['metric_b']): row for row in compare_metrics(scores, mos, OPTIONS, 'set')}
    assert len(rows) == 3
    assert rows['noise', 'good']['srcc_better'] == rows['noise', 'good']['plcc_better'] == 'good'
    assert rows['noise', 'good']['srcc_high'] < 0 and rows['noise', 'good']['images'] == 300
    assert rows['good', 'twin']['srcc_better'] == rows['good', 'twin']['plcc_better'] == ''


def test_pairs_are_compared_on_the_images_that_both_have():
    rng = np.random.default_rng(3)
    mos = rng.normal(size=40)
    first, second = mos + rng.normal(size=40), mos + rng.normal(size=40)
    second[:7] = np.nan
    row = compare_metrics({'a': first, 'b': second}, mos, OPTIONS, 'set')[0]
    assert row['images'] == 33 and row['plcc_a'] == pytest.approx(np.corrcoef(first[7:], mos[7:])[0, 1])


def test_what_cannot_be_tested_is_nan_and_named_better_by_nobody():
    mos = np.arange(10.0)
    row = compare_metrics({'a': mos.copy(), 'constant': np.ones(10)}, mos, OPTIONS, 'set')[0]
    assert np.isnan(row['srcc_p']) and np.isnan(row['plcc_p_holm']) and row['srcc_better'] == row['plcc_better'] == ''


def test_enough_resamples_are_asked_for():
    assert fewest_resamples(2, 0.05) == 40 and fewest_resamples(10, 0.05) == 1800
    least = fewest_resamples(4, 0.05)
    assert 2 / (1 + least) * 6 < 0.05 <= 2 / least * 6
