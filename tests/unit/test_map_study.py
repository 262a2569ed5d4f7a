import json

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.image_files import UnreadableImage
from pyiqa_rali.figures.quality_maps import MappedPicture, draw_maps, span_of
from pyiqa_rali.model.checkpoint import save_checkpoint
from pyiqa_rali.report.maps import maps_section
from pyiqa_rali.studies.quality_maps import (
    HalvesSettings,
    area_under_curve,
    evaluate_maps,
    measure_maps,
)
from pyiqa_rali.training.rali.map_shares import HALVES, half_distorted
from tests.unit.test_rali import random_rali, tensors_of


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photographs')
    rng = np.random.default_rng(0)
    for number in range(4):
        small = Image.fromarray(rng.integers(0, 255, (12, 14, 3), dtype=np.uint8))
        small.resize((84, 72), Image.Resampling.BICUBIC).save(folder / f'{number}.png')
    return folder


def settings(photographs, **changes):
    return HalvesSettings(**{'photos': [str(photographs)], 'ratios': (0, 0, 1), 'num_photographs': 2,
                             'types': ('white_noise', 'jpeg'), 'levels': (3, 5), 'size': (64, 80), **changes})


@pytest.mark.parametrize('half', HALVES)
def test_one_half_is_distorted_and_the_other_is_not(half):
    reference, distorted = np.zeros((6, 8, 3), np.uint8), np.full((6, 8, 3), 9, np.uint8)
    mixed, where = half_distorted(reference, distorted, half)
    assert where.mean() == 0.5 and np.array_equal(mixed[..., 0] == 9, where)
    sides = {'left': where[:, 0], 'right': where[:, -1], 'top': where[0], 'bottom': where[-1]}
    assert sides[half].all() and not all(sides[name].all() for name in HALVES)


def test_the_area_under_the_curve_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    values, where = rng.integers(0, 4, (5, 6)).astype(float), rng.random((5, 6)) < 0.4
    pairs = [(outside > inside) + 0.5 * (outside == inside) for outside in values[~where] for inside in values[where]]
    assert area_under_curve(values, where) == pytest.approx(np.mean(pairs))


def row(kind, level, auc, visible=True, told=True):
    return {'distortion': kind, 'level': level, 'auc': auc, 'visible': visible, 'told_by_scores': told, 'map_mean': 3.0,
            'map_score': 3.5, 'map_mean_of_distorted': 2.0, 'score_of_distorted': 1.5}


def test_measures_are_means_over_types_without_what_cannot_be_seen():
    rows = [row('jpeg', 1.0, 0.5), row('jpeg', 3.0, 1.0), row('noise', 3.0, 0.25, told=False),
            row('noise', 1.0, 0.0, visible=False)]
    found = measure_maps(rows)
    assert found['auc'] == pytest.approx((0.75 + 0.25) / 2) and found['by_level'] == {'1': 0.5, '3': pytest.approx(0.625)}
    assert found['pictures'] == 3 and found['invisible'] == 1 and found['told_by_scores'] == pytest.approx(2 / 3)
    assert found['auc_where_scores_tell'] == pytest.approx(0.75)
    assert found['mean_of_map_and_score'] == {'distorted_everywhere': {'difference': 0.5, 'absolute_difference': 0.5},
                                              'one_half': {'difference': -0.5, 'absolute_difference': 0.5}}
    with pytest.raises(DataError, match='no distortion changed its picture'):
        measure_maps(rows[3:])


def test_a_study_is_resumed_and_not_repeated(photographs, tmp_path, monkeypatch):
    net = random_rali().eval()
    found = evaluate_maps(net, settings(photographs), tmp_path)
    assert [each['distortion'] for each in found.rows] == 2 * (2 * ['white_noise'] + 2 * ['jpeg'])
    assert [each['level'] for each in found.rows] == [3.0, 5.0] * 4 and len({each['half'] for each in found.rows}) == 4
    assert json.loads((tmp_path / 'results.json').read_text()) == found.measures
    assert Image.open(tmp_path / 'maps.png').size[0] > 500
    monkeypatch.setattr('pyiqa_rali.studies.quality_maps._measured', lambda *_: pytest.fail('measured again'))
    monkeypatch.setattr('pyiqa_rali.studies.quality_maps.draw_maps', lambda *_: None)
    assert evaluate_maps(net, settings(photographs), tmp_path).measures == found.measures
    with pytest.raises(OptionError, match='levels'):
        evaluate_maps(net, settings(photographs, levels=(2,)), tmp_path)


def test_without_a_share_the_map_cannot_tell(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr('pyiqa_rali.studies.quality_maps.draw_maps', lambda *_: None)
    found = evaluate_maps(random_rali().eval(), settings(photographs, share=0.0, num_photographs=1), tmp_path)
    assert found.measures['mean_of_map_and_score']['one_half']['absolute_difference'] < 1e-4


def test_what_cannot_be_drawn_from_is_refused(photographs):
    with pytest.raises(OptionError, match='there must be one of each'):
        settings(photographs, types=()).dataset()


def test_the_command_prints_what_it_measured(photographs, tmp_path, capsys):
    assert main(['evaluate-maps', '--photos', str(photographs), '--ratios', '0', '0', '1', '--num-photographs', '1', '--types',
                 'jpeg', '--levels', '5', '--size', '64', '80', '--out', str(tmp_path), '--device', 'cpu']) == 0
    printed = capsys.readouterr().out
    assert 'area under the curve' in printed and 'jpeg' in printed


def test_maps_are_drawn_at_their_place(tmp_path):
    rng = np.random.default_rng(0)
    picture = MappedPicture(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8), rng.random((4, 4)), (0, 15, 60, 75), 'a title')
    draw_maps([picture, picture], tmp_path / 'maps.png', (1, 5), False)
    drawn = np.asarray(Image.open(tmp_path / 'maps.png').convert('RGB'))
    assert drawn.std() > 20


def test_colours_of_an_even_map_do_not_exaggerate():
    assert span_of(np.array([[3.0, 3.1]]), (1, 5)) == pytest.approx((2.85, 3.25))
    assert span_of(np.array([[1.0, 4.0]]), (1, 5)) == (1.0, 4.0)


def test_a_report_shows_maps_from_the_lowest_score_to_the_highest(tmp_path):
    net = random_rali()
    save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(net), net.metadata)
    rng, asked = np.random.default_rng(0), []

    def read(name, position):
        asked.append((name, position))
        if position == 1:
            raise UnreadableImage('gone.png', 'no longer exists')
        return rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)

    scored = {'val': ([f'{number}.png' for number in range(5)], np.array([3.0, 2.0, 5.0, 1.0, 4.0]))}
    found = maps_section(tmp_path / 'rali.safetensors', scored, read, 'command')
    assert asked == [('val', 3), ('val', 0), ('val', 2)]
    assert '3.png, score 1' in found.blocks[0].svg and '2.png, score 5' in found.blocks[0].svg
    gone = {'val': (['gone.png', 'gone.png'], np.ones(2))}
    assert maps_section(tmp_path / 'rali.safetensors', gone, lambda *_: read('', 1), '') is None
    assert maps_section(tmp_path / 'none.safetensors', scored, read, '') is None
