import numpy as np
import pytest
from scipy import stats

from pyiqa_rali.measures.agreement import MEASURES, agreement, bootstrap_indices, fit_to_mos, oriented, resampled


def sample(images=60, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    mos = rng.uniform(1, 5, images)
    return mos + rng.normal(0, noise, images), mos


def test_values_are_pyiqas():
    from pyiqa.metrics.correlation_coefficient import calculate_krcc, calculate_plcc, calculate_rmse, calculate_srcc
    scores, mos = sample()
    found = agreement(scores, mos, bootstrap_indices(60, 50, 0, 'set'), 0.95, 'set')
    fit = {'fit_scale': 'logistic_4params'}
    expected = {'plcc': calculate_plcc(scores, mos), 'plcc_fitted': calculate_plcc(scores, mos, **fit),
                'srcc': calculate_srcc(scores, mos), 'krcc': calculate_krcc(scores, mos),
                'rmse': calculate_rmse(scores, mos, **fit)}
    assert found.fit == 'ok' and tuple(found.values) == MEASURES
    assert found.values == pytest.approx({name: expected[name] for name in MEASURES})


@pytest.mark.parametrize(('measure', 'statistic'), [
    ('plcc', lambda x, y: stats.pearsonr(x, y).statistic), ('srcc', lambda x, y: stats.spearmanr(x, y).statistic),
    ('krcc', lambda x, y: stats.kendalltau(x, y).statistic), ('rmse', lambda x, y: np.sqrt(np.mean((x - y) ** 2)))])
def test_each_resample_is_measured_exactly(measure, statistic, monkeypatch):
    monkeypatch.setattr('pyiqa_rali.measures.agreement.NUMBERS_AT_ONCE', 100)
    scores, mos = sample(30)
    mos = mos.round()  # with ties
    indices = bootstrap_indices(30, 20, 1, 'set')
    assert resampled(measure, scores, mos, indices) == pytest.approx([statistic(scores[rows], mos[rows]) for rows in indices])


@pytest.mark.parametrize('measure', ['plcc', 'srcc'])
def test_intervals_are_those_of_scipy(measure):
    scores, mos = sample(80)
    found = agreement(scores, mos, bootstrap_indices(80, 4000, 3, 'set'), 0.9, 'set').intervals[measure]
    statistic = {'plcc': stats.pearsonr, 'srcc': stats.spearmanr}[measure]
    theirs = stats.bootstrap((scores, mos), lambda x, y: statistic(x, y).statistic, paired=True, vectorized=False,
                             n_resamples=1500, confidence_level=0.9, method='percentile', rng=np.random.default_rng(0))
    assert found == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), abs=0.01)


def test_resamples_depend_on_seed_and_data_set_alone():
    first = bootstrap_indices(50, 4, 0, 'koniq')
    assert (first == bootstrap_indices(50, 4, 0, 'koniq')).all()
    assert (first != bootstrap_indices(50, 4, 1, 'koniq')).any() and (first != bootstrap_indices(50, 4, 0, 'spaq')).any()


def test_a_fit_undoes_a_bent_scale_in_either_direction():
    mos = np.linspace(1, 5, 200)
    bent = np.log((mos - 0.9) / (5.2 - mos))
    for lower_better in (False, True):
        scores, labels = oriented(-bent if lower_better else bent, lower_better), mos
        found = agreement(scores, labels, bootstrap_indices(200, 10, 0, 'set'), 0.95, 'set')
        assert found.values['plcc_fitted'] > 0.9999 > found.values['plcc'] and found.values['rmse'] < 0.02


def test_lower_better_mos_are_fitted_too():
    scores, mos = sample(200, 0.3)
    straight = agreement(scores, mos, bootstrap_indices(200, 10, 0, 'set'), 0.95, 'set').values
    turned = agreement(scores, oriented(6 - mos, True), bootstrap_indices(200, 10, 0, 'set'), 0.95, 'set').values
    assert turned == pytest.approx(straight, rel=1e-4)


@pytest.mark.parametrize(('scores', 'reason'), [
    (np.ones(20), 'all scores are the same'), (np.arange(4.0), '4 images are fewer than 5'),
    (np.where(np.arange(20) == 3, 1e300, np.arange(20.0)), '')])
def test_a_fit_that_fails_is_told_and_is_not_made_up(scores, reason):
    mos = np.random.default_rng(0).uniform(1, 5, len(scores))
    fitted, fit = fit_to_mos(scores, mos)
    assert fitted is None and fit != 'ok' and reason in fit
    found = agreement(scores, mos, bootstrap_indices(len(scores), 10, 0, 'set'), 0.95, 'set')
    assert np.isnan(found.values['rmse']) and np.isnan(found.intervals['plcc_fitted']).all() and found.fit == fit
