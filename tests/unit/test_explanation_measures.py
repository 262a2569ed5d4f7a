import pytest

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.distortions import DEFAULT_TYPES, DISTORTIONS
from pyiqa_rali.data.synthetic.known_distortions import TablePictures
from pyiqa_rali.studies.explanations import COMMON_TYPES, calibration, measure_classes, measure_explanations


def row(kinds, shares, level=3.0, named=3.0, mos=3.0, score=3.0, uncertainty=1.0):
    return {'image': 'a', 'distortions': [[kind, level] for kind in kinds], 'mos': mos, 'score': score,
            'uncertainty': uncertainty, 'shares': shares, 'levels': dict.fromkeys(shares, named) | {'pristine': None}}


ROWS = [row(['jpeg'], {'jpeg': 0.9, 'haze': 0.1, 'pristine': 0.0}, level=3, named=4, mos=1, score=1.1, uncertainty=0.1),
        row(['jpeg'], {'jpeg': 0.3, 'haze': 0.6, 'pristine': 0.1}, level=5, named=4, mos=2, score=2.2, uncertainty=0.2),
        row(['webp'], {'jpeg': 0.7, 'webp': 0.2, 'haze': 0.1}, level=1, named=2, mos=3, score=3.3, uncertainty=0.3),
        row(['jpeg', 'haze'], {'jpeg': 0.5, 'haze': 0.4, 'webp': 0.1}, mos=4, score=4.4, uncertainty=0.4),
        row(['jpeg', 'haze'], {'jpeg': 0.5, 'webp': 0.4, 'haze': 0.1}, mos=5, score=5.5, uncertainty=0.5),
        row([], {'pristine': 0.8, 'jpeg': 0.2}, mos=4.5, score=4.5, uncertainty=0.05)]


def test_every_measure_of_a_few_pictures():
    found = measure_explanations(ROWS)
    every, common = found['all_types'], found['among_common_types']
    assert every['accuracy'] == pytest.approx(1 / 3) and every['majority'] == pytest.approx(2 / 3)
    assert every['top_3_accuracy'] == 1 and every['family_accuracy'] == pytest.approx(2 / 3) and every['types'] == 2
    assert every['level_error'] == 1 and every['level_error_of_the_median'] == pytest.approx(4 / 3)
    assert found['common_types']['accuracy'] == 0.5
    assert common['pictures'] == 2 and common['accuracy'] == 1  # haze is none of the common types: asked among them, jpeg wins
    assert found['composite'] == {'pictures': 2, 'first_is_one_of_them': 1, 'first_two_are_both': 0.5}
    assert found['pristine'] == {'pictures': 1, 'accuracy': 1}
    assert found['by_type']['webp'] == {'pictures': 1, 'accuracy': 0, 'taken_for': 'jpeg'}
    assert found['score']['uncertainty_srcc'] == pytest.approx(1)


def test_votes_that_are_as_often_right_as_they_say_are_calibrated():
    rows = [row(['jpeg'], {'jpeg': 0.75, 'haze': 0.25})] * 3 + [row(['haze'], {'jpeg': 0.75, 'haze': 0.25})]
    assert calibration(rows)['expected_error'] == pytest.approx(0)
    found = calibration([row(['haze'], {'jpeg': 0.75, 'haze': 0.25})])
    assert found['expected_error'] == pytest.approx(0.75) and found['bins'] == [{'pictures': 1, 'share': 0.75, 'accuracy': 0.0}]


def test_what_cannot_be_measured_is_said():
    with pytest.raises(DataError, match='no picture with one known distortion'):
        measure_explanations(ROWS[3:])
    with pytest.raises(DataError, match='names none of the types'):
        measure_classes(ROWS[:1], ('motion_blur',))


def test_the_common_types_are_thirteen_of_ours():
    assert len(set(COMMON_TYPES)) == 13 and set(COMMON_TYPES) <= set(DISTORTIONS)
    assert {DISTORTIONS[name].family for name in COMMON_TYPES} == {DISTORTIONS[name].family for name in DEFAULT_TYPES}


@pytest.mark.parametrize(('content', 'error', 'message'), [
    (None, OptionError, 'does not exist. Give a data set'),
    ('image_name,mos\na.png,3\n', DataError, 'lacks distortion, level'),
    ('image_name,mos,distortion,level\na.png,3,jpeg,strong\n', DataError, 'cannot be read'),
    ('image_name,mos,distortion,level\na.png,3,jpeg+haze,3\n', DataError, 'names 2 types'),
])
def test_tables_that_do_not_say_what_is_wrong_are_refused(tmp_path, content, error, message):
    if content:
        (tmp_path / 'meta_info.csv').write_text(content)
    with pytest.raises(error, match=message):
        TablePictures(str(tmp_path))
