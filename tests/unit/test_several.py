import csv

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.cli import score
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data import image_files
from pyiqa_rali.scoring import entries
from pyiqa_rali.scoring.several import own_options


class Mean:
    """A metric in pyiqa's form; it refuses pictures below a size."""

    device, lower_better, score_range = 'cpu', False, '0, 1'

    def __init__(self, channel, least=0):
        self.channel, self.least, self.seen = channel, least, 0

    def __call__(self, images):
        if images.shape[-1] < self.least:
            raise ValueError('too small')
        self.seen += len(images)
        return images[:, self.channel].mean((1, 2))[:, None]


@pytest.fixture
def metrics(monkeypatch):
    made = {'brisque': Mean(0), 'piqe': Mean(1, least=10)}
    monkeypatch.setattr(score, 'make_metric', lambda name, *arguments: made[name])
    return made


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / 'photos'
    photos.mkdir()
    for index in range(12):
        Image.fromarray(np.full((9, 9 + index % 3, 3), (index, 2 * index, 0), np.uint8)).save(photos / f'{index:02d}.png')
    (photos / 'broken.png').write_bytes(b'no picture')
    return photos


def rows(path):
    with open(path, newline='') as stream:
        return list(csv.DictReader(stream))


def run(folder, out, *more):
    return main(['score', str(folder), '-m', 'brisque', '-m', 'piqe', '--out', str(out), *more])


def test_each_picture_is_read_once_and_each_metric_has_a_whole_table(metrics, folder, tmp_path, monkeypatch, capsys):
    read = []
    whole = entries.read_rgb
    monkeypatch.setattr(entries, 'read_rgb', lambda path, *more: read.append(path) or whole(path, *more))
    assert run(folder, tmp_path / 's.csv') == 1
    assert len(read) == len(set(read)) == 13 and image_files.read_rgb is whole
    first, second = rows(tmp_path / 's.brisque.csv'), rows(tmp_path / 's.piqe.csv')
    assert [row['image'] for row in first] == [row['image'] for row in second] == sorted(map(str, folder.iterdir()))
    for index, (one, other) in enumerate(zip(first[:12], second[:12], strict=True)):
        assert float(one['score']) == pytest.approx(index / 255, rel=1e-4)
        if index % 3 == 0:
            assert (other['score'], other['error']) == ('', 'too small')
        else:
            assert float(other['score']) == pytest.approx(2 * index / 255, rel=1e-4)
    assert {row['metric'] for row in first} == {'brisque'} and {row['metric'] for row in second} == {'piqe'}
    told = capsys.readouterr().err
    assert 'brisque: 12 images scored' in told and 'piqe: 8 images scored' in told


def test_a_table_that_is_ahead_is_continued_without_repeating(metrics, folder, tmp_path):
    run(folder, tmp_path / 'whole.csv')
    run(folder, tmp_path / 's.csv')
    for name, kept in (('brisque', 9), ('piqe', 4)):
        path = tmp_path / f's.{name}.csv'
        path.write_bytes(b''.join(path.read_bytes().splitlines(keepends=True)[:kept]))
    assert run(folder, tmp_path / 's.csv', '--resume') == 1
    for name in metrics:
        assert (tmp_path / f's.{name}.csv').read_bytes() == (tmp_path / f'whole.{name}.csv').read_bytes()
    metrics['piqe'].least = 0
    assert run(folder, tmp_path / 's.csv', '--retry-failed') == 1
    assert sum(bool(row['error']) for row in rows(tmp_path / 's.piqe.csv')) == 1
    assert (tmp_path / 's.brisque.csv').read_bytes() == (tmp_path / 'whole.brisque.csv').read_bytes()


def test_on_the_screen_all_metrics_are_in_one_line(metrics, folder, capsys):
    assert main(['score', str(folder / '01.png'), '-m', 'brisque', '-m', 'piqe']) == 0
    assert capsys.readouterr().out == f'{folder}/01.png\tbrisque 0.0039\tpiqe 0.0078\n'


@pytest.mark.parametrize(('arguments', 'message'), [
    (['-m', 'piqe', '-m', 'piqe'], '-m: piqe is given twice'),
    (['-m', 'brisque', '-m', 'piqe', '--weights', 'x'], '--weights: 0 of these metrics take weights'),
    (['-m', 'rali', '-m', 'rali-lite', '--weights', 'x'], '--weights: 2 of these metrics take weights (rali, rali-lite)'),
    (['-m', 'brisque', '-m', 'piqe', '--metric-opt', 'a=1'], '"a=1" must say which of brisque, piqe it is for'),
])
def test_what_is_not_clear_is_rejected(metrics, folder, arguments, message, capsys):
    assert main(['score', str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_options_of_one_of_several():
    words = ['rali:precision=bf16', 'piqe:a=b:c']
    assert own_options(words, 'rali', ['rali', 'piqe']) == ['precision=bf16']
    assert own_options(words, 'piqe', ['rali', 'piqe']) == ['a=b:c']
    with pytest.raises(OptionError, match='x:a=1'):
        own_options(['x:a=1'], 'rali', ['rali', 'piqe'])


class Aspects:
    """A column that one of the metrics has."""

    columns, label = ('redness',), 'aspects'

    def __call__(self, net, features, scores, images):
        return scores / 2


@pytest.fixture
def of_brisque(metrics, monkeypatch):
    """Aspects, as if brisque had a diagnosis."""
    from pyiqa_rali.scoring import further
    metrics['brisque'].net = None
    whole = further.further_of
    monkeypatch.setattr(further, 'further_of', lambda metric, name, interval=None, aspects=False: (
        [Aspects()] if aspects and name == 'brisque' else whole(metric, name, interval, aspects)))


def test_columns_of_one_metric_beside_another(of_brisque, folder, tmp_path, capsys):
    assert run(folder, tmp_path / 's.csv', '--aspects') == 1
    told = capsys.readouterr().err
    assert 'No columns of --aspects for one of the metrics: "piqe" has no aspects' in told
    first, second = rows(tmp_path / 's.brisque.csv'), rows(tmp_path / 's.piqe.csv')
    assert list(first[0]) == ['image', 'score', 'redness', 'error', 'metric']
    assert list(second[0]) == ['image', 'score', 'error', 'metric']
    assert {row['metric'] for row in first} == {'brisque aspects'}
    for row in first:
        assert bool(row['redness']) != bool(row['error'])
        assert not row['redness'] or float(row['redness']) == pytest.approx(float(row['score']) / 2, rel=1e-4)
    kept = (tmp_path / 's.brisque.csv').read_bytes()
    (tmp_path / 's.brisque.csv').write_bytes(b''.join(kept.splitlines(keepends=True)[:5]))
    assert run(folder, tmp_path / 's.csv', '--aspects', '--resume') == 1
    assert (tmp_path / 's.brisque.csv').read_bytes() == kept
    assert run(folder, tmp_path / 's.csv', '--resume') == 2
    assert "its first line is 'image,score,redness,error,metric', not 'image,score,error,metric'" in capsys.readouterr().err
    assert main(['score', str(folder / '01.png'), '-m', 'brisque', '-m', 'piqe', '--aspects']) == 0
    assert capsys.readouterr().out == f'{folder}/01.png\tbrisque 0.0039\tredness 0.00196078\tpiqe 0.0078\n'


def test_columns_that_no_metric_has_are_rejected(metrics, folder, capsys):
    for option in (['--aspects'], ['--interval', '90']):
        assert main(['score', str(folder), '-m', 'brisque', '-m', 'piqe', *option]) == 2
        told = capsys.readouterr().err
        assert f'{option[0]}: no metric has these columns. "brisque" has no ' in told and '"piqe" has no ' in told


@pytest.mark.slow
def test_ours_and_pyiqas_together_give_what_each_gives_alone(folder, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 255, (96, 80 + 16 * (index % 2), 3), np.uint8)).save(folder / f'{index}.png')
    pictures = [str(folder / f'{index}.png') for index in range(3)]
    assert main(['score', *pictures, '-m', 'rali-lite', '-m', 'piqe', '--out', str(tmp_path / 's.csv'), '--workers', '2',
                 '--interval', '90', '--aspects']) == 0
    for name in ('rali-lite', 'piqe'):
        assert main(['score', *pictures, '-m', name, '--out', str(tmp_path / f'{name}.csv')]) == 0
        both = [[float(row['score']) for row in rows(tmp_path / path)] for path in (f's.{name}.csv', f'{name}.csv')]
        assert torch.tensor(both[0]).allclose(torch.tensor(both[1]), atol=1e-5)
    for row in rows(tmp_path / 's.rali-lite.csv'):
        assert float(row['low']) < float(row['score']) < float(row['high']) and 0 <= float(row['noise']) <= 1
