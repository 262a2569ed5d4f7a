import numpy as np
import pytest

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.measures.correlations import correlations

METRICS = {name: {'type': f'calculate_{name}'} for name in ('srcc', 'plcc', 'krcc')}


def test_pyiqas_functions_are_used():
    scores, mos = np.array([1.0, 2, 3, 5]), np.array([10.0, 20, 25, 24])
    found = correlations(scores, mos, METRICS, 'set')
    assert found['plcc'] == pytest.approx(np.corrcoef(scores, mos)[0, 1])
    assert found['srcc'] == pytest.approx(0.8) and found['krcc'] == pytest.approx(2 / 3)


def test_constant_scores_have_no_correlation():
    assert all(np.isnan(value) for value in correlations(np.ones(4), np.arange(4), METRICS, 'set').values())


@pytest.mark.parametrize(('scores', 'mos', 'message'), [
    ([1, 2, np.nan], [1, 2, 3], 'set: 1 of 3 scores are not finite'), ([1, 2, 3], [1, np.inf, 3], '1 of 3 MOS'),
    ([1, 2, 3], [2, 2, 2], 'all MOS are 2'), ([1, 2], [1, 2], '2 scores and 2 MOS'), ([1, 2, 3], [1, 2], '3 scores and 2 MOS')])
def test_unusable_numbers_are_refused(scores, mos, message):
    with pytest.raises(DataError, match=message):
        correlations(np.array(scores), np.array(mos), METRICS, 'set')


def test_unknown_metrics_are_named():
    with pytest.raises(OptionError, match='calculate_scc'):
        correlations(np.arange(4), np.arange(4), {'scc': {'type': 'calculate_scc'}}, 'set')
