"""The sheet of scored pictures: which are shown, what is said of them, and the command that draws it from a data set."""

import re
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.inspection import inspect_images
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.data.training_images import TrainingImages
from pyiqa_rali.figures.scored import spread_over_scores
from pyiqa_rali.scoring import sheet
from pyiqa_rali.scoring.score_table import ImageScore
from pyiqa_rali.scoring.sheet import draw_sheet, known_images
from tests.tiny import tiny_options, tiny_table


class Brightness:
    """A metric in the form of pyiqa's: mean brightness."""

    device, lower_better, score_range = 'cpu', False, '0, 1'
    net = SimpleNamespace(training_images=None)

    def __call__(self, images):
        return images.mean((1, 2, 3))[:, None]


@pytest.fixture
def shown(monkeypatch):
    """What is handed over to be drawn: the pictures, the heading and the remark."""
    calls = []
    drawn = sheet.score_sheet
    monkeypatch.setattr(sheet, 'score_sheet', lambda *arguments: calls.append(arguments) or drawn(*arguments))
    return calls


def data_set(folder):
    paths = tiny_table(folder)
    text = (folder / 'meta_info.csv').read_text().splitlines()
    kinds = ['distortion,level,photograph', *('motion_blur,4,a' if number % 2 else 'jpeg+haze,3+1.5,b' for number in range(24))]
    (folder / 'meta_info.csv').write_text('\n'.join(f'{line},{kind}' for line, kind in zip(text, kinds, strict=True)))
    return build_table('val', {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': paths['images'],
                               'meta_info_file': paths['table'], 'split_index': 'split_photo', 'mos_range': [1, 5],
                               'lower_better': False}, 0)


def test_pictures_are_spread_from_the_lowest_score_to_the_highest():
    scores = np.random.default_rng(0).permutation(np.linspace(1, 5, 81))
    chosen = scores[spread_over_scores(scores, 5)]
    assert chosen == pytest.approx([1, 2, 3, 4, 5])
    assert sorted(spread_over_scores(np.ones(4), 4)) == [0, 1, 2, 3] and spread_over_scores(np.ones(1), 1).tolist() == [0]


def test_of_pictures_with_nearly_one_score_those_of_another_kind_are_shown():
    scores = np.repeat(np.linspace(0, 1, 5), 2) + np.tile([0, 1e-3], 5)
    kinds = [('blur',) if number % 2 == 0 else (f'kind {number}',) for number in range(10)]
    chosen = spread_over_scores(scores, 5, kinds)
    assert len({kinds[place] for place in chosen}) == 5 and (np.diff(scores[chosen]) > 0.2).all()


def test_what_a_table_says_of_its_pictures_stands_on_the_sheet(tmp_path, shown):
    table = data_set(tmp_path / 'data')
    names = table.image_names()
    scores = [ImageScore(name, 1 + 3 * place / len(names)) for place, name in enumerate(names)]
    metric = Brightness()
    metric.score_range, metric.net = '1, 5', SimpleNamespace(training_images=TrainingImages())
    without_score = ImageScore('gone.png', None, 'not found')
    out = draw_sheet([*scores, without_score], tmp_path / 'sheet.png', metric, 'tiny', known_images(table))
    items, heading, remark, span, _ = shown[0]
    assert Image.open(out).size[0] > 800 and len(items) == len(names) == 8 and span == (1, 5)
    assert [item.score for item in items] == sorted(each.score for each in scores)
    assert items[0].text == 'MOS 5.00\njpeg 3 + haze 1.5' and items[1].text.endswith('motion blur, level 4')
    assert heading.endswith(', of pictures that training did not see')
    assert remark.startswith('8 pictures') and 'SRCC of score and MOS 1.000' in remark


@pytest.mark.parametrize('trained_on', ['nothing is known', 'one of them'])
def test_pictures_are_called_unseen_only_where_that_is_known(tmp_path, shown, trained_on):
    table = data_set(tmp_path / 'data')
    names, metric = table.image_names(), Brightness()
    record = None if trained_on == 'nothing is known' else TrainingImages.of({'tiny': inspect_images(names[2:3])})
    metric.net = SimpleNamespace(training_images=record)
    draw_sheet([ImageScore(name, 0.5) for name in names], tmp_path / 'sheet.png', metric, 'tiny', known_images(table))
    assert shown[0][1] == 'tiny: from the worst score to the best'


def test_lower_scores_may_be_better_and_members_of_shards_are_shown(tmp_path, shown):
    data_set(tmp_path / 'data')
    with tarfile.open(tmp_path / 'shard.tar', 'w') as shard:
        shard.add(tmp_path / 'data' / '003.png', 'deep/003.png')
    metric = Brightness()
    metric.lower_better, metric.score_range = True, '~0, inf'
    names = [f'{tmp_path}/shard.tar::deep/003.png', f'{tmp_path}/data/004.png']
    scores = [ImageScore(name, score) for name, score in zip(names, (3.0, 9.0), strict=True)]
    draw_sheet(scores, tmp_path / 's.png', metric, 'x')
    items, _, remark, span, lower_better = shown[0]
    assert [item.score for item in items] == [9, 3] and lower_better and span == (3, 9)
    assert np.array_equal(items[1].pixels, np.array(Image.open(tmp_path / 'data' / '003.png')))
    assert 'lower scores are better' in remark and 'SRCC' not in remark


def test_pictures_that_cannot_be_shown_are_told(tmp_path):
    with pytest.raises(DataError, match='--sheet: no image has a score'):
        draw_sheet([ImageScore('a.png', None, 'broken')], tmp_path / 's.png', Brightness(), 'x')
    with pytest.raises(DataError, match=r'--sheet: .*gone.png'):
        draw_sheet([ImageScore(str(tmp_path / 'gone.png'), 0.5)], tmp_path / 's.png', Brightness(), 'x')


@pytest.mark.parametrize('extension', ['csv', 'jsonl'])
def test_score_takes_a_data_set_and_draws_a_sheet(tmp_path, monkeypatch, capsys, shown, extension):
    monkeypatch.setattr('pyiqa_rali.cli.score.make_metric', lambda *arguments, **keywords: Brightness())
    monkeypatch.setattr('pyiqa_rali.cli.score.with_fastest_backend', lambda metric, options, **keywords: options)
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(tiny_options(tmp_path)))
    out, drawn = tmp_path / f'scores.{extension}', tmp_path / 'sheet.png'
    arguments = ['score', '--opt', str(tmp_path / 'options.yml'), '--dataset', 'val', '-m', 'piqe', '--out', str(out)]
    assert main([*arguments, '--sheet', str(drawn)]) == 0
    assert capsys.readouterr().out == f'{drawn}\n' and drawn.stat().st_size > 10_000
    items = shown[0][0]
    assert len(items) == 8 and shown[0][1].startswith('tiny: ') and items[0].text.startswith('MOS ')
    pixels = torch.from_numpy(items[0].pixels).float()
    assert items[0].score == pytest.approx(float(pixels.mean()) / 255, abs=1e-5)


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--opt', 'OPTIONS', 'a.png'], '--opt: takes the images of a data set; give no others'),
    (['--opt', 'OPTIONS', '--sheet', 's.png'], '--sheet: needs --out, the table to draw'),
    (['--opt', 'OPTIONS', '--dataset', 'vall'], '--dataset: "vall" is not in .* Did you mean "val"')])
def test_arguments_that_do_not_go_together(tmp_path, capsys, arguments, message):
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(tiny_options(tmp_path)))
    assert main(['score', *[str(tmp_path / 'options.yml') if each == 'OPTIONS' else each for each in arguments]]) == 2
    assert re.search(message, capsys.readouterr().err)
