"""Large jobs: workers and batches change no score, kills lose no row."""

import csv
import math
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.cli import score
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.model.checkpoint import save_checkpoint
from pyiqa_rali.scoring import engine as pipeline
from pyiqa_rali.scoring import progress as report
from pyiqa_rali.scoring.metrics import make_metric, metric_label, parse_options
from tests.integration.test_score_command import Brightness
from tests.tiny import TINY_TIMM
from tests.unit.test_rali import random_rali, tensors_of

pytestmark = pytest.mark.slow

ENCODERS = {
    'fixed': {'resize_mode': 'shortest', 'image_size': 32, 'resize_size': 32},
    'native': {'resize_mode': 'native', 'image_size': None, 'resize_size': 48},
}
SIZES = [(40, 48), (48, 40), (64, 96), (40, 48), (20, 300), (96, 64), (40, 48), (48, 40), (128, 96)]

# a metric that takes its time, so that a kill hits the run somewhere in the middle
SLOW = """
import sys, time
from pyiqa_rali.__main__ import main
from pyiqa_rali.cli import score
class Slow:
    device, lower_better, score_range = 'cpu', False, '0, 1'
    def __call__(self, images):
        time.sleep(float(sys.argv[1]))
        if min(images.shape[-2:]) < 16:
            raise RuntimeError(f'{images.shape[-1]} pixels are too few')
        return images.mean((1, 2, 3))[:, None]
score.make_metric = lambda *args: Slow()
sys.exit(main(['score', *sys.argv[2:], '--resume', '--batch-size', '2']))
"""


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    photos = tmp_path / 'photos'
    photos.mkdir()
    for index, (height, width) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(photos / f'{index}.png')
    (photos / 'broken.png').write_bytes(b'no picture')
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photos / 'small.png')
    return photos


@pytest.fixture
def shard(folder):
    path = folder.parent / 'shard.tar'
    with tarfile.open(path, 'w') as tar:
        tar.add(folder, arcname='.')
    return path


def tiny_metric(preprocessing):
    import pyiqa
    torch.manual_seed(0)
    encoder = {'library': 'timm', 'name': TINY_TIMM.split('.')[0], 'pooling': 'mean_std', 'embed_dim': 24,
               'preprocessing': preprocessing}
    metric = pyiqa.create_metric('rali', device=torch.device('cpu'), pretrained=False, image_encoder=encoder, pca_dim=8,
                                 num_basis=12, mos_range=[1, 5], lower_better=False)
    with torch.no_grad():
        metric.net.scorer.basis_scores.uniform_(1, 5)
        for tensor in (metric.net.scorer.basis_vectors, metric.net.scorer.pca_components):
            tensor.normal_()
    return metric


def paths_of(folder):
    return sorted(str(path) for path in folder.iterdir())


def scores_of(*arguments, **options):
    return [each for window in pipeline.score_files(*arguments, **options) for each in window]


@pytest.mark.parametrize('kind', ENCODERS)
def test_neither_batch_nor_window_nor_workers_change_a_score(folder, kind):
    metric, paths = tiny_metric(ENCODERS[kind]), paths_of(folder)
    expected = [metric(path).item() for path in paths[:-2]]
    assert np.ptp(expected) > 1e-4
    for batch_size, workers, window in [(1, 0, None), (3, 0, None), (16, 0, None), (2, 0, 8), (3, 2, None), (2, 1, 11)]:
        found = scores_of(paths, metric, batch_size, workers, window)
        assert [score.image for score in found] == paths
        assert [score.score for score in found[:-2]] == pytest.approx(expected, abs=1e-5), (batch_size, workers, window)
        assert 'cannot identify' in found[-2].error and 'the shorter edge must have at least 16' in found[-1].error


@pytest.mark.parametrize(('kind', 'expected'), [('fixed', [4, 4, 1]), ('native', [2, 1, 1, 1, 1, 1, 1, 1])])
def test_pictures_of_different_sizes_make_one_batch_where_the_encoder_takes_one_size(folder, kind, expected, monkeypatch):
    metric, batches = tiny_metric(ENCODERS[kind]), []
    real = metric.net.score_prepared
    monkeypatch.setattr(metric.net, 'score_prepared', lambda prepared: batches.append(len(prepared)) or real(prepared))
    scores_of(paths_of(folder), metric, 4, 0)
    assert batches == expected


def test_a_larger_window_brings_equal_sizes_together_and_keeps_the_order(folder):
    metric, paths = Brightness(), paths_of(folder)
    found = scores_of(paths, metric, 3, 0, 11)
    assert metric.batches[:2] == [3, 2] and [score.image for score in found] == paths


def test_scores_are_waited_for_in_order_when_passes_run_ahead(folder):
    metric = tiny_metric(ENCODERS['fixed'])
    reader, scorer = pipeline.EntryReader(), pipeline.Scorer(metric, 1)
    windows = [pipeline.Decoded.of([reader[pipeline.as_entry(path)]]) for path in paths_of(folder)]
    expected = scores_of(paths_of(folder), metric, 1, 0)
    for ahead in (0, 1, 5, 99):
        for window in windows:
            for each in window.scores:
                each.score = None
        assert [each for found in pipeline._score_ahead(windows, scorer, ahead) for each in found] == expected


def test_an_interrupted_run_makes_the_same_batches_and_bit_equal_scores(folder):
    metric, paths = tiny_metric(ENCODERS['native']), paths_of(folder)
    whole = {score.image: score.score for score in scores_of(paths, metric, 4, 0)}
    for done in range(len(paths)):
        rest = scores_of(paths, metric, 4, 0, skip=paths[:done].__contains__)
        assert {score.image: score.score for score in rest} == {path: whole[path] for path in paths[done:]}


def test_a_shard_gives_the_scores_of_its_files_also_from_workers(folder, shard, tmp_path, monkeypatch):
    monkeypatch.setattr(score, 'make_metric', lambda *given: tiny_metric(ENCODERS['native']))
    tables = {}
    for name, source, workers in (('a', folder, 0), ('b', shard, 0), ('c', shard, 2)):
        assert main(['score', str(source), '--out', str(tmp_path / f'{name}.csv'), '--workers', str(workers)]) == 1
        with open(tmp_path / f'{name}.csv', newline='') as stream:
            tables[name] = {os.path.basename(row['image']): row['score'] and float(row['score'])
                            for row in csv.DictReader(stream)}
    assert len(tables['a']) == 11 and list(tables['b']) == list(tables['c'])
    for name in 'bc':
        assert {image for image, value in tables[name].items() if value == ''} == {'broken.png', 'small.png'}
        assert all(value == '' or value == pytest.approx(tables['a'][image], abs=2e-5)
                   for image, value in tables[name].items())


def content(path):
    if path.suffix != '.parquet':
        return path.read_bytes()
    from pyarrow import parquet
    return parquet.read_table(path).to_pylist()


def start(out, seconds, folder, shard):
    script = out.parent / 'slow.py'
    script.write_text(SLOW)
    command = [sys.executable, str(script), str(seconds), str(folder), str(shard), '--out', str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def lines_written(out):
    parts = list((out.parent / f'{out.name}.parts').glob('*.jsonl'))
    return sum(path.read_bytes().count(b'\n') for path in [*parts, *([out] if out.exists() else [])])


@pytest.mark.parametrize('name', ['scores.jsonl', 'scores.parquet'])
def test_a_run_killed_at_a_random_moment_ends_with_the_same_table(folder, shard, tmp_path, monkeypatch, capsys, name):
    def alone(path):
        return main(['score', str(folder), str(shard), '--out', str(path), '--resume', '--batch-size', '2'])

    monkeypatch.setattr(score, 'make_metric', lambda *given: Brightness())
    whole, out = tmp_path / 'whole' / name, tmp_path / name
    assert alone(whole) == 1
    process = start(out, 0.3, folder, shard)
    try:
        while lines_written(out) < 5:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        time.sleep(random.random() / 2)
        assert out.exists() == (name == 'scores.jsonl')  # a table put together at the end is whole or absent
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert lines_written(out) < 22
    capsys.readouterr()
    assert alone(out) == 1 and '4 images have NO SCORE' in capsys.readouterr().err
    assert content(out) == content(whole) and not (tmp_path / f'{name}.parts').exists()


def test_torchrun_is_rejected_because_each_process_would_score_everything(folder, monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    assert main(['score', str(folder)]) == 2
    told = capsys.readouterr().err
    assert '2 processes would each score all images. Start score without torchrun' in told and '--engine ray shares' in told


def test_a_list_from_a_pipe_is_scored_and_a_reader_that_stops_is_no_error(folder):
    listed = '\n'.join(paths_of(folder)[:3])
    command = f'{sys.executable} -m pyiqa_rali score - -m entropy --device cpu --batch-size 1 | head -n 1'
    result = subprocess.run(['bash', '-o', 'pipefail', '-c', command], input=listed, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith(f'{folder}/0.png\t') and result.stdout.count('\n') == 1
    assert 'Traceback' not in result.stderr


def test_ctrl_c_tells_how_far_it_came_and_how_to_go_on(folder, shard, tmp_path):
    out = tmp_path / 'scores.csv'
    script = SLOW.replace("'--batch-size', '2'", "'--batch-size', '1', '--workers', '2'")
    process = subprocess.Popen([sys.executable, '-c', script, '0.2', str(folder), str(shard), '--out', str(out)],
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    while lines_written(out) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130 and f'images; --resume continues {out}' in told and 'Traceback' not in told


def test_a_log_file_gets_a_line_now_and_then(folder, monkeypatch, capsys):
    monkeypatch.setattr(score, 'make_metric', lambda *given: tiny_metric(ENCODERS['fixed']))
    monkeypatch.setattr(report, 'SECONDS_BETWEEN_LINES', 0.0)
    assert main(['score', str(folder), '--batch-size', '10']) == 1
    told = capsys.readouterr().err
    assert re.search(r'score: 10 (of 11 )?images, ', told) and ' images/s' in told and ', 1 without a score' in told


def test_damaged_shards_are_counted_in_the_report(folder, shard, monkeypatch, capsys):
    monkeypatch.setattr(score, 'make_metric', lambda *given: tiny_metric(ENCODERS['fixed']))
    shard.write_bytes(shard.read_bytes()[:9000])
    assert main(['score', str(shard), str(folder / '0.png')]) == 1
    told = capsys.readouterr()
    assert f'{shard}\terror: shard damaged after ' in told.out and f'{folder / "0.png"}\t' in told.out
    assert '1 of these are damaged SHARDS: images in the damaged places were not found' in told.err


@pytest.mark.parametrize(('words', 'options'), [
    ([], {}), (['a=4', 'b=true', 'c=bf16', 'd=1e-3', 'e=[1, 2]', 'f=x=y'],
               {'a': 4, 'b': True, 'c': 'bf16', 'd': '1e-3', 'e': [1, 2], 'f': 'x=y'})])
def test_options_of_the_metric_are_read_as_yaml(words, options):
    assert parse_options(words) == options


@pytest.mark.parametrize(('words', 'message'), [
    (['precision'], '--metric-opt: "precision" must be KEY=VALUE, such as precision=bf16'),
    (['=4'], '"=4" must be KEY=VALUE'), (['a=1', 'a=2'], '--metric-opt: a is given twice'),
    (['pretrained_model_path=x'], '--metric-opt: pretrained_model_path is what --weights is for'),
    (['a=['], '--metric-opt: the value of "a=\\[" cannot be read: while parsing'),
])
def test_options_that_cannot_be_read_say_why(words, message):
    with pytest.raises(OptionError, match=message):
        parse_options(words)


@pytest.mark.parametrize(('metric', 'options', 'message'), [
    ('rali-lite', {'num_bassis': 3}, '--metric-opt: rali-lite has no option "num_bassis"; .*Did you mean "num_basis"'),
    ('rali-lite', {'num_basis': 3}, 'num_basis: is only for pretrained: False'),
    ('rali-lite', {'precision': 'fp16'}, 'precision: fp16 is for GPUs'),
    ('rali-lite', {'precision': 'half'}, 'precision: "half" is not one of fp32, bf16, fp16'),
    ('brisque', {'kernel_size': 'x'}, '--metric-opt: brisque cannot be made with kernel_size=x: '),
])
def test_an_option_that_the_metric_does_not_take_is_an_error(metric, options, message):
    with pytest.raises(OptionError, match=message):
        make_metric(metric, None, 'cpu', options)


def test_options_reach_the_metric_and_stand_in_the_table(monkeypatch):
    monkeypatch.setattr('pyiqa.create_metric', lambda name, **options: (name, options))
    assert make_metric('rali', 'a.pth', 'cpu', {'exact': True}) == (
        'rali', {'device': torch.device('cpu'), 'exact': True, 'pretrained_model_path': 'a.pth'})
    assert metric_label('rali', 'a.pth', {'precision': 'bf16', 'exact': True}, None) == 'rali:a.pth exact=True precision=bf16'


def test_a_table_does_not_go_on_with_other_weights_of_the_same_name(folder, tmp_path, capsys):
    weights, out = tmp_path / 'w.safetensors', str(tmp_path / 't.csv')
    arguments = ['score', str(folder), '--weights', str(weights), '--out', out, '--device', 'cpu']
    save_checkpoint(weights, *tensors_and_metadata(1))
    assert main([*arguments[:3], str(tmp_path / 'no.safetensors'), *arguments[4:]]) == 2  # leaves no table behind
    assert main(arguments) == 1
    assert main([*arguments, '--resume']) == 1
    save_checkpoint(weights, *tensors_and_metadata(2))
    capsys.readouterr()
    assert main([*arguments, '--resume']) == 2
    assert 'holds scores of rali:' in capsys.readouterr().err


def tensors_and_metadata(seed):
    net = random_rali(seed=seed)
    return tensors_of(net), net.metadata


START = """
import multiprocessing, sys
if __name__ == '__main__':
    multiprocessing.set_start_method(sys.argv[1])
    from pyiqa_rali.__main__ import main
    sys.exit(main(['score', *sys.argv[2:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_workers_score_under_every_start_method(folder, tmp_path, method):
    """An embedded model has some hundred tensors: handed over one by one, they would take as many file descriptors."""
    script, out = tmp_path / 'start.py', tmp_path / f'{method}.csv'
    script.write_text(START)
    alone = tmp_path / 'alone.csv'
    assert main(['score', str(folder), '--out', str(alone), '--device', 'cpu', '--batch-size', '3']) == 1
    command = f'ulimit -n 256; exec {sys.executable} {script} {method} {folder} --out {out} --device cpu'
    result = subprocess.run(['bash', '-c', f'{command} --workers 2 --batch-size 3'], capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert 'fds' not in result.stderr and 'leaked' not in result.stderr
    tables = []
    for path in (alone, out):
        with open(path, newline='') as stream:
            tables.append(list(csv.DictReader(stream)))
    one, other = ([float(row['score'] or 'nan') for row in table] for table in tables)
    assert other == pytest.approx(one, abs=1e-4, nan_ok=True) and sum(map(math.isnan, one)) == 2
    assert [(row['image'], row['error']) for row in tables[0]] == [(row['image'], row['error']) for row in tables[1]]


def test_a_metric_that_cannot_be_handed_over_says_so(folder):
    metric = Brightness()
    metric.helper = lambda: None
    with pytest.raises(DataError, match='--workers: this metric cannot be handed to other processes .* --workers 0'):
        pipeline._ScoreThere(pipeline.Scorer(metric, 2), folder).__getstate__()


@pytest.mark.slow
def test_a_damaged_shard_ends_with_status_1_and_all_its_other_images(folder, shard, tmp_path):
    with tarfile.open(shard) as tar:
        offset = [member.offset_data - 512 for member in tar][4]
    content = bytearray(shard.read_bytes())
    content[offset:offset + 512] = bytes(512)
    shard.write_bytes(content)
    out = tmp_path / 't.csv'
    assert main(['score', str(shard), '--out', str(out), '--device', 'cpu', '-m', 'entropy']) == 1
    with open(out, newline='') as stream:
        found = list(csv.DictReader(stream))
    assert len(found) == 11 and sum(bool(row['score']) for row in found) == 9
    assert found[-1]['image'] == str(shard) and 'shard damaged after 4 members: a header is not readable' in found[-1]['error']
