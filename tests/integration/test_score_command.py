import csv
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.cli import score
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.scoring import score_table

pytestmark = pytest.mark.slow


class Brightness:
    """A metric in the form of pyiqa's: mean brightness, which refuses small pictures and has no answer for black ones."""

    device, lower_better, score_range = 'cpu', False, '0, 1'

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        if min(images.shape[-2:]) < 16:
            raise RuntimeError(f'{images.shape[-1]} pixels are too few\nsecond line')
        means = images.mean((1, 2, 3))[:, None]
        return torch.where(means == 0, torch.nan, means)


@pytest.fixture
def metric(monkeypatch):
    made = Brightness()
    monkeypatch.setattr(score, 'make_metric', lambda *arguments: made)
    return made


@pytest.fixture
def folder(tmp_path):
    """Ten good pictures of two sizes, a broken one, one that is too small, a black one and a text."""
    photos = tmp_path / 'photos'
    photos.mkdir()
    for index in range(10):
        picture = np.full((20, 24 + index % 2, 3), 20 * index + 10, np.uint8)
        Image.fromarray(picture).save(photos / f'{index}.png')
    (photos / 'broken.png').write_bytes((photos / '3.png').read_bytes()[:60])
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(photos / 'small.png')
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(photos / 'black.png')
    (photos / 'notes.txt').write_text('no picture')
    return photos


def rows(path):
    with open(path, newline='') as stream:
        return {os.path.basename(row['image']): row for row in csv.DictReader(stream)}


@pytest.mark.parametrize('workers', ['0', '2'])
def test_every_picture_of_a_folder_has_a_line(folder, tmp_path, metric, capsys, workers):
    out = tmp_path / 'scores.csv'
    assert main(['score', str(folder), '--out', str(out), '--batch-size', '4', '--workers', workers]) == 1
    found = rows(out)
    assert list(found) == sorted(found) and len(found) == 13
    for index in range(10):
        assert float(found[f'{index}.png']['score']) == pytest.approx((20 * index + 10) / 255, abs=1e-5)
    assert {name: row['error'] for name, row in found.items() if row['score'] == ''} == {
        'broken.png': found['broken.png']['error'], 'small.png': '8 pixels are too few', 'black.png': 'the score is nan'}
    assert found['broken.png']['error'] != ''
    told = capsys.readouterr().err
    assert '10 images scored, mean 0.392 (0, 1; higher is better), ' in told and ' images/s' in told
    assert f'3 images have NO SCORE: see the column "error" of {out}' in told
    assert '1 other files are not images by their extension: .txt 1' in told


def test_equal_sizes_are_scored_together(folder, metric):
    paths = sorted(str(path) for path in folder.glob('?.png'))
    assert len(list(score.score_files(paths, metric, 4, 0))) == 3
    assert metric.batches == [2, 2, 2, 2, 1, 1]


def test_a_worker_process_has_one_thread(folder):
    class Threads(Brightness):
        def __call__(self, images):
            return torch.full((len(images), 1), torch.get_num_threads())

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = [[chunk[0].score for chunk in score.score_files([str(folder / '1.png')], Threads(), 1, workers)]
                 for workers in (0, 1)]
    finally:
        torch.set_num_threads(before)
    assert found == [[2], [1]]


def test_one_picture_is_printed_with_its_score(folder, metric, capsys):
    assert main(['score', str(folder / '4.png')]) == 0
    assert capsys.readouterr().out == f'{folder / "4.png"}\t{90 / 255:.4f}\n'
    assert main(['score', str(folder / 'small.png')]) == 1
    assert capsys.readouterr().out == f'{folder / "small.png"}\terror: 8 pixels are too few\n'


@pytest.mark.parametrize(('arguments', 'made', 'label'), [
    ([], ('rali-lite', None), 'rali-lite'), (['--weights', 'a.pth'], ('rali', 'a.pth'), 'rali:a.pth'),
    (['-m', 'piqe'], ('piqe', None), 'piqe'), (['-m', 'rali-lite', '--weights', 'a'], ('rali-lite', 'a'), 'rali-lite:a'),
])
def test_the_metric_and_its_weights_stand_in_the_table(folder, tmp_path, monkeypatch, arguments, made, label):
    asked = []
    monkeypatch.setattr(score, 'make_metric', lambda *given: asked.append(given[:2]) or Brightness())
    assert main(['score', str(folder / '1.png'), '--out', str(tmp_path / 'scores.csv'), *arguments]) == 0
    assert asked == [made] and rows(tmp_path / 'scores.csv')['1.png']['metric'] == label


def test_a_resumed_run_scores_what_is_missing_and_counts_what_failed(folder, tmp_path, metric, capsys):
    out = tmp_path / 'scores.csv'
    main(['score', str(folder), '--out', str(out)])
    whole = out.read_bytes()
    half = whole[:len(whole) // 2]
    out.write_bytes(half)
    already = half.count(b'\n') - 1
    capsys.readouterr()
    assert main(['score', str(folder), '--out', str(out), '--resume', '--batch-size', '1']) == 1
    assert out.read_bytes() == whole
    told = capsys.readouterr().err
    assert f'{already} were already in {out}' in told and '3 images have NO SCORE' in told
    metric.batches.clear()
    assert main(['score', str(folder), '--out', str(out), '--resume']) == 1
    assert metric.batches == [] and out.read_bytes() == whole


def test_a_run_that_is_killed_goes_on(folder, tmp_path):
    out = tmp_path / 'scores.csv'
    code = f"""
import sys, time
from pyiqa_rali.__main__ import main
from pyiqa_rali.cli import score
class Slow:
    device, lower_better, score_range = 'cpu', False, '0, 1'
    def __call__(self, images):
        time.sleep(float(sys.argv[1]))
        return images.mean((1, 2, 3))[:, None]
score.make_metric = lambda *args: Slow()
sys.exit(main(['score', {str(folder)!r}, '--out', {str(out)!r}, '--resume', '--batch-size', '1']))
"""
    process = subprocess.Popen([sys.executable, '-c', code, '0.2'], stderr=subprocess.DEVNULL)
    while not out.exists() or out.read_bytes().count(b'\n') < 4:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(rows(out)) < 13
    assert subprocess.run([sys.executable, '-c', code, '0'], stderr=subprocess.DEVNULL).returncode == 1
    assert len(rows(out)) == 13 and len(out.read_bytes().splitlines()) == 14


def test_no_more_than_a_few_batches_are_taken_from_the_stream(folder, metric):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield str(folder / '1.png')

    scores = score.score_files(endless(), metric, 4, 0)
    assert len(next(scores)) == 4 and len(taken) <= 8


def test_a_worker_that_dies_is_told(folder):
    class Deadly(Brightness):
        def __call__(self, images):
            os._exit(9)

    with pytest.raises(DataError, match='DataLoader worker .*Lower --batch-size or --workers; with --out, --resume continues'):
        list(score.score_files([str(folder / '1.png')], Deadly(), 1, 1))


def test_a_broken_device_ends_the_run_and_does_not_fail_every_picture(folder):
    class Broken(Brightness):
        def __call__(self, images):
            raise torch.AcceleratorError('device lost')

    with pytest.raises(torch.AcceleratorError):
        list(score.score_files([str(folder / '1.png')], Broken(), 8, 0))


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--batch-size', '0'], '--batch-size: 0 must be at least 1'),
    (['--workers', '-1'], '--workers: -1 must be at least 0'),
    (['--resume'], '--resume: needs --out'),
])
def test_wrong_arguments_are_told_before_anything_is_loaded(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(score, 'make_metric', lambda *args: pytest.fail('loaded'))
    assert main(['score', str(folder), *arguments]) == 2
    assert f'pyiqa-rali score: error: {message}' in capsys.readouterr().err


def test_where_nothing_is_there_that_was_named_nothing_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(score, 'make_metric', lambda *args: pytest.fail('loaded'))
    assert main(['score', 'nowhere.png', 'nowhere.tar']) == 2
    assert 'pyiqa-rali score: error: nowhere.png, nowhere.tar: no such file or folder' in capsys.readouterr().err


def test_a_missing_file_beside_others_has_a_line_with_the_reason(folder, monkeypatch, capsys):
    monkeypatch.setattr(score, 'make_metric', lambda *args: Brightness())
    assert main(['score', 'nowhere.png', str(folder / '1.png')]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith('nowhere.png\terror: ') and 'No such file' in first
    name, value = second.split('\t')
    assert name == str(folder / '1.png') and float(value) >= 0


@pytest.mark.parametrize(('name', 'weights', 'device', 'message'), [
    ('rali-light', None, None, '--metric: "rali-light" is not known to pyiqa.*Did you mean "rali-lite"'),
    ('ssim', None, None, '--metric: "ssim" compares with a reference image; give a no-reference metric'),
    ('piqe', 'a.safetensors', None, '--weights: "piqe" is not a metric of pyiqa_rali'),
    ('piqe', None, 'cuda:77', '--device: "cuda:77" cannot be used: .*Give cpu, cuda or cuda:N'),
    ('piqe', None, 'gpu', '--device: "gpu" cannot be used'),
])
def test_a_metric_that_cannot_be_made_says_why(name, weights, device, message):
    with pytest.raises(OptionError, match=message):
        score.make_metric(name, weights, device)


def test_any_no_reference_metric_of_pyiqa_can_be_used(folder, capsys):
    assert main(['score', str(folder / '1.png'), '-m', 'entropy', '--device', 'cpu']) == 0
    assert json.loads(capsys.readouterr().out.split('\t')[1]) == pytest.approx(0, abs=1e-4)


def test_a_full_disk_is_told(folder, tmp_path, metric, monkeypatch, capsys):
    def full(self, stream, scores):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(score_table.ScoreTable, 'write', full)
    assert main(['score', str(folder), '--out', str(tmp_path / 'scores.csv')]) == 2
    assert 'pyiqa-rali score: error: [Errno 28] No space left on device' in capsys.readouterr().err


def test_a_reasoning_model_scores_files_too(tmp_path):
    from tests.tiny import tiny_vlm
    Image.new('RGB', (40, 40), 'teal').save(tmp_path / 'a.png')
    model = tiny_vlm(tmp_path / 'model')
    arguments = ['score', str(tmp_path / 'a.png'), '-m', 'rali-reasoning', '--weights', str(model), '--device', 'cpu']
    assert main([*arguments, '--out', str(tmp_path / 'scores.csv')]) == 0
    with open(tmp_path / 'scores.csv', newline='') as stream:
        row, = csv.DictReader(stream)
    assert 1 <= float(row['score']) <= 5 and re.fullmatch(f'rali-reasoning:{model}@[0-9a-f]{{8}}', row['metric'])


@pytest.mark.parametrize('workers', [0, 2])
def test_the_score_of_a_metric_that_draws_does_not_depend_on_its_neighbours(folder, workers):
    class Drawing(Brightness):
        def __call__(self, images):
            return images.mean((1, 2, 3)) + torch.rand(len(images))

    paths = sorted(str(path) for path in folder.glob('?.png'))
    alone = [score.score_files([path], Drawing(), 1, 0) for path in paths]
    expected = [next(found)[0].score for found in alone]
    together = [each.score for window in score.score_files(paths, Drawing(), 4, workers) for each in window]
    assert together == expected


def test_a_metric_that_returns_another_number_of_scores_is_no_fault_of_the_pictures(folder):
    class Pooled(Brightness):
        def __call__(self, images):
            return images.mean()[None]

    paths = sorted(str(path) for path in folder.glob('?.png'))
    for workers in (0, 1):
        with pytest.raises(DataError, match='^metric Pooled: returned 1 scores for 2 pictures. .*--batch-size'):
            list(score.score_files(paths, Pooled(), 4, workers))


@pytest.mark.slow
def test_pipes_sockets_and_devices_have_rows_and_stop_nothing(folder, tmp_path):
    for name in ('pipe.png', 'pipe.tar', 'pipe.heic'):
        os.mkfifo(folder / name)
    (folder / 'device.png').symlink_to('/dev/zero')
    out = tmp_path / 't.csv'
    command = [sys.executable, '-m', 'pyiqa_rali', 'score', str(folder), str(folder / 'pipe.tar'), '--out', str(out), '-m',
               'entropy', '--device', 'cpu']
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 1
    found = {name: row['error'] for name, row in rows(out).items() if row['error']}
    assert {name: found[name] for name in ('pipe.png', 'pipe.heic', 'device.png', 'pipe.tar')} == {
        'pipe.png': 'it is a named pipe and not a file', 'pipe.heic': 'it is a named pipe and not a file',
        'device.png': 'it is a device and not a file',
        'pipe.tar': 'shard damaged after 0 members: it is a named pipe and not a file'}
    assert len(rows(out)) == 13 + 4


@pytest.mark.parametrize('name', ['t.csv', 't.jsonl', 't.parquet'])
def test_images_that_failed_are_tried_again_only_when_asked(folder, tmp_path, metric, capsys, name):
    out = tmp_path / name
    whole = (folder / '3.png').read_bytes()
    (folder / '3.png').write_bytes(whole[:60])
    arguments = ['score', str(folder), '--out', str(out), '--batch-size', '4']
    assert main(arguments) == 1
    (folder / '3.png').write_bytes(whole)
    capsys.readouterr()
    assert main([*arguments, '--resume']) == 1
    assert '4 images have NO SCORE' in capsys.readouterr().err
    assert main([*arguments, '--retry-failed']) == 1
    told = capsys.readouterr().err
    assert '1 images scored, mean 0.275' in told and '3 images have NO SCORE' in told
    assert f'9 were already in {out}' in told
    again = tmp_path / 'again' / name
    main([*arguments[:3], str(again), *arguments[4:]])
    if name.endswith('parquet'):
        from pyarrow import parquet
        assert parquet.read_table(out).to_pylist() == parquet.read_table(again).to_pylist()
    else:
        assert out.read_bytes() == again.read_bytes()


def test_retry_failed_needs_a_table_and_starts_one_where_there_is_none(folder, tmp_path, metric, capsys):
    assert main(['score', str(folder), '--retry-failed']) == 2
    assert '--retry-failed: needs --out, the table to continue' in capsys.readouterr().err
    assert main(['score', str(folder / '1.png'), '--out', str(tmp_path / 't.csv'), '--retry-failed']) == 0
    assert list(rows(tmp_path / 't.csv')) == ['1.png']


def test_what_holds_no_image_ends_with_status_1_and_is_named(folder, tmp_path, metric, capsys):
    (tmp_path / 'none').mkdir()
    (tmp_path / 'none' / 'notes.txt').write_text('no picture')
    (tmp_path / 'empty.txt').write_text('\n')
    assert main(['score', str(tmp_path / 'none'), str(folder / '1.png'), '--list', str(tmp_path / 'empty.txt')]) == 1
    told = capsys.readouterr()
    assert told.out.count('\n') == 1
    assert f'NO IMAGE in {tmp_path / "none"}, {tmp_path / "empty.txt"}\n' in told.err and '1 images scored' in told.err
