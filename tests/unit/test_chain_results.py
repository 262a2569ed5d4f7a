import numpy as np
import pytest

from pyiqa_rali.studies.chain.results import score_statistics
from pyiqa_rali.studies.chain.run import medians_of
from pyiqa_rali.vlm.tables import Row

NAN = float('nan')


def rows(mos, classes):
    return [Row(f'{number}.png', 'set', mos=value, distortion_class=kind)
            for number, (value, kind) in enumerate(zip(mos, classes, strict=True))]


@pytest.mark.parametrize('order', [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_medians_leave_out_and_tell_seeds_without_a_value(order):
    values = [{'srcc': 0.5, 'plcc': 0.1}, {'srcc': NAN, 'plcc': 0.3}, {'srcc': 0.9, 'plcc': 0.2, 'srcc_jpeg': 0.4}]
    medians, without = medians_of({seed: values[seed] for seed in order})
    assert medians == {'srcc': pytest.approx(0.7), 'plcc': 0.2, 'srcc_jpeg': 0.4}
    assert {name: sorted(seeds) for name, seeds in without.items()} == {'srcc': [1], 'srcc_jpeg': [0, 1]}


def test_a_figure_that_no_seed_has_is_no_number():
    medians, without = medians_of({3: {'srcc': NAN}, 4: {'srcc': NAN}})
    assert np.isnan(medians['srcc']) and without == {'srcc': [3, 4]}


def test_pictures_without_a_rating_are_left_out_and_counted():
    mos = [1.0, 2.0, 3.0, 4.0, 5.0, 4.97, 4.98]
    classes = ['jpeg'] * 4 + ['pristine'] * 3
    found = score_statistics(np.array([1, 2, NAN, 4, 5, 6, 7.0]), rows(mos, classes))
    assert found['unrated'] == 1 and found['srcc_jpeg'] == pytest.approx(1)
    assert 'srcc_pristine' not in found  # their labels differ by rounding
    few = score_statistics(np.array([1, NAN, NAN, NAN, 5, NAN, NAN]), rows(mos, classes))
    assert np.isnan(few['srcc']) and few['unrated'] == 5
