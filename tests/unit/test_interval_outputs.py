"""Where intervals go: tables, explanations, info, reports, ONNX, and the commands that make and measure them."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.api import score
from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.core.files import write_yaml
from pyiqa_rali.export.onnx_model import onnx_model, save_model
from pyiqa_rali.measures.intervals import interval_statistics
from pyiqa_rali.model.checkpoint import load_metadata, metadata_to_extra_state, save_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.run import train
from tests.tiny import tiny_options, tiny_table
from tests.unit.test_explanation import save_with_bank
from tests.unit.test_intervals import calibrated
from tests.unit.test_rali import random_rali, tensors_of


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'rali.safetensors'
    save_checkpoint(path, *calibrated(random_rali()))
    return str(path)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    path, net = tmp_path_factory.mktemp('plain') / 'rali.safetensors', random_rali()
    save_checkpoint(path, tensors_of(net), net.metadata)
    return str(path)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (40 + 8 * number, 48, 3), dtype=np.uint8)).save(folder / f'{number}.png')
    (folder / 'broken.png').write_bytes(b'no picture')
    return folder


def rows_of(path):
    with open(path, encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


def test_the_table_has_low_high_and_unlike(weights, pictures, tmp_path, capsys):
    out = tmp_path / 'scores.csv'
    command = ['score', str(pictures), '--weights', weights, '--interval', '90', '--out', str(out)]
    assert main(command) == 1  # one picture is broken
    rows, net = rows_of(out), RALI(pretrained_model_path=weights)
    assert list(rows[0]) == ['image', 'score', 'low', 'high', 'unlike', 'error', 'metric'] and len(rows) == 5
    for row in rows:
        if row['error']:
            assert row['score'] == row['low'] == row['high'] == row['unlike'] == ''
            continue
        found = net.score_with_interval(row['image'])
        assert float(row['low']) == pytest.approx(found.low.item(), abs=1e-3)
        assert float(row['high']) == pytest.approx(found.high.item(), abs=1e-3)
        assert row['unlike'] == str(int(found.unlike)) and row['metric'].endswith(' interval=90')
    unlike = sum(row['unlike'] == '1' for row in rows)
    told = capsys.readouterr().err
    assert (f'{unlike} images are UNLIKE' in told) == (unlike > 0)
    before = out.read_bytes()
    assert main([*command, '--resume']) == 1 and out.read_bytes() == before
    assert main([*command[:5], '80', '--out', str(out), '--resume']) == 2  # another coverage is another table
    assert main(['score', str(pictures), '--weights', weights, '--out', str(out), '--resume']) == 2


@pytest.mark.parametrize('extension', ['jsonl', 'parquet'])
def test_other_formats_have_them_too(weights, pictures, tmp_path, extension):
    from pyiqa_rali.scoring.tables import read_table
    out = tmp_path / f'scores.{extension}'
    main(['score', str(pictures / '0.png'), str(pictures / 'broken.png'), '--weights', weights, '--interval', '80', '--out',
          str(out)])
    good, broken = read_table(str(out), None, ('low', 'high', 'unlike'))
    assert good.further['low'] <= good.score <= good.further['high'] and broken.further == {} and broken.error


def test_python_has_them(weights, pictures):
    found = score(str(pictures / '0.png'), weights=weights, interval=90)
    (low, high), = found.intervals
    assert low <= found.scores[0] <= high and found.rows()[0]['low'] == low and found.metric.endswith('interval=90')
    assert score(str(pictures / '0.png'), weights=weights).intervals == [None]


def test_without_a_calibration_there_is_no_interval(plain, pictures, capsys):
    assert main(['score', str(pictures), '--weights', plain, '--interval', '90']) == 2
    assert 'no interval: the checkpoint was not calibrated' in capsys.readouterr().err
    assert main(['score', str(pictures), '-m', 'piqe', '--interval', '90']) == 2
    assert '"piqe" has no intervals' in capsys.readouterr().err
    assert main(['score', str(pictures), '--weights', plain, '--interval', '100']) == 2
    assert '--interval: 100 must be at least 1 and below 100' in capsys.readouterr().err
    for command in (['score', str(pictures)], ['export-onnx', 'x.onnx']):
        assert main([*command, '--weights', plain, '--interval', '0.9']) == 2
        assert '0.9 is less than one in a hundred: give 90' in capsys.readouterr().err
    assert main(['info', plain]) == 0 and 'interval: no interval: it was not calibrated' in capsys.readouterr().out


def test_info_says_what_intervals_rest_on(weights, capsys):
    assert main(['info', weights]) == 0
    assert 'calibrated on: 200 images of tiny' in capsys.readouterr().out


def test_explain_tells_the_interval(tmp_path, pictures, capsys):
    net = random_rali()
    tensors, metadata = calibrated(net)
    net.load_state_dict({**tensors, '_extra_state': metadata_to_extra_state(metadata)})
    save_with_bank(tmp_path / 'rali.safetensors', net)
    assert load_metadata(tmp_path / 'rali.safetensors')['interval']['images'] == 200
    picture, weights = str(pictures / '0.png'), str(tmp_path / 'rali.safetensors')
    expected = RALI(pretrained_model_path=weights).score_with_interval(picture)
    assert main(['explain', picture, '--weights', weights, '--json']) == 0
    found = json.loads(capsys.readouterr().out)['interval']
    assert found['low'] == pytest.approx(expected.low.item(), abs=1e-3) and found['coverage'] == 0.9
    assert main(['explain', picture, '--weights', weights]) == 0
    assert 'interval of 90%: ' in capsys.readouterr().out


@pytest.mark.slow
def test_an_onnx_file_puts_out_the_interval(weights, plain, tmp_path):
    import onnxruntime
    net = RALI(pretrained_model_path=weights)
    save_model(tmp_path / 'a.onnx', onnx_model(net, coverage=0.9))
    session = onnxruntime.InferenceSession(tmp_path / 'a.onnx', providers=['CPUExecutionProvider'])
    assert [output.name for output in session.get_outputs()] == ['score', 'low', 'high', 'unlike']
    for size in ((64, 80), (33, 50)):
        images = torch.rand(2, 3, *size)
        found, expected = session.run(None, {'images': images.numpy()}), net.score_with_interval(images)
        for values, name in zip(found, ('scores', 'low', 'high', 'unlike'), strict=True):
            assert np.abs(values - getattr(expected, name).float().numpy()).max() < 2e-3
    with pytest.raises(CheckpointError, match='no interval'):
        onnx_model(RALI(pretrained_model_path=plain), coverage=0.9)
    with pytest.raises(OptionError, match='needs at least 999 images'):
        onnx_model(net, coverage=0.999)


def test_statistics_of_intervals():
    generator = np.random.default_rng(0)
    sigma = generator.uniform(0.1, 1, 5000)
    mos = sigma * generator.normal(0, 1, 5000)
    found = interval_statistics(np.zeros(5000), -1.645 * sigma, 1.645 * sigma, sigma > 0.95, mos)
    assert found['coverage'] == pytest.approx(0.9, abs=0.02) and found['srcc_width_error'] > 0.4
    assert found['unlike'] == pytest.approx(0.05 / 0.9, abs=0.02)
    assert np.isnan(interval_statistics(np.zeros(2), -np.ones(2), np.ones(2), np.zeros(2), np.zeros(2))['srcc_width_error'])


def test_too_few_validation_images_are_told_before_the_first_step(tmp_path):
    options = tiny_options(tmp_path, interval={})  # eight of them
    with pytest.raises(DataError, match='interval: 8 calibration images are too few; at least 20 are needed. Give a larger'):
        train(options)
    assert not (tmp_path / 'experiments').exists()


@pytest.mark.slow
def test_training_calibrates_and_reports_and_so_does_the_command(tmp_path, capsys):
    options = tiny_options(tmp_path, interval={'references': 30, 'folds': 3})
    data = tiny_table(tmp_path / 'data', count=90)  # 30 of them for validation
    found = train(options)
    assert load_metadata(found.export)['interval']['images'] == 30
    assert main(['report', str(found.folder), '--out', str(tmp_path / 'report.html')]) == 0
    assert 'SRCC of width and error' in (tmp_path / 'report.md').read_text()
    write_yaml(tmp_path / 'options.yml', options)
    write_yaml(tmp_path / 'evaluate.yml', {
        'name': 'e', 'model_type': 'EVALUATE', 'manual_seed': 0, 'metrics': {'rali': {}},
        'datasets': {'tiny': {**options['datasets']['val'], 'phase': 'val', 'dataroot_target': data['images']}},
        'path': {'experiments_root': str(tmp_path / 'experiments')}})
    capsys.readouterr()
    again, without = tmp_path / 'again.safetensors', tmp_path / 'without.safetensors'
    assert main(['calibrate', str(found.export), '-opt', str(tmp_path / 'options.yml'), '--out', str(again)]) == 0
    assert 'intervals calibrated on 30 images of tiny, 30 of them kept' in capsys.readouterr().out
    first, second = (RALI(pretrained_model_path=str(path)).interval for path in (found.export, again))
    assert torch.allclose(first.ratios, second.ratios, atol=1e-3) and first.values['scorer'] == second.values['scorer']
    evaluated = ['evaluate-intervals', str(again), '-opt', str(tmp_path / 'evaluate.yml')]
    assert main([*evaluated, '--out', str(tmp_path / 'i.csv')]) == 0
    row, = rows_of(tmp_path / 'i.csv')
    assert row['images'] == '30' and row['trained_on'] == '0' and float(row['coverage']) > 0.6
    assert main(['calibrate', str(again), '--remove', '--out', str(without)]) == 0
    assert 'interval' not in load_metadata(without)
    options['datasets']['val']['phase'] = 'train'
    write_yaml(tmp_path / 'options.yml', options)
    assert main(['calibrate', str(without), '-opt', str(tmp_path / 'options.yml'), '--out', str(again)]) == 2
    assert 'Errors are smaller there, and intervals would be too narrow' in capsys.readouterr().err
