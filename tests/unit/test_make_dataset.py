"""Data sets on disk: what is written, that pyiqa reads it, and that it can be interrupted."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.data.distortions import DEFAULT_TYPES, DISTORTIONS, FAMILIES
from pyiqa_rali.data.reasoning_texts import join_texts, load_reasoning_texts
from pyiqa_rali.data.tables import build_table
from tests.unit.test_distortions import photograph

TYPES = ['gaussian_blur', 'jpeg', 'white_noise', 'desaturate']


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    for index in range(6):
        image = photograph(90, 110, index)
        Image.fromarray(image if index else image[..., :1].repeat(3, -1)).save(folder / f'{index}.png')
    return folder


def arguments(photos, out, *more):
    return ['make-dataset', '--photos', str(photos), '--out', str(out), '--size', '48', '64', '--types', *TYPES,
            '--levels', '1', '3', '5', '--composites', '2', '--metrics', 'psnr', 'gmsd',
            '--calibration', str(photos / 'cal.json'), '--ratios', '0.5', '0.2', '0.3', '--workers', '1', *more]


@pytest.fixture(scope='module')
def made(photos, tmp_path_factory):
    table = {'psnr': np.linspace(10, 50, 9).tolist(), 'gmsd': np.linspace(0, 0.4, 9).tolist()}
    (photos / 'cal.json').write_text(json.dumps({'quantiles': table}))
    out = tmp_path_factory.mktemp('made') / 'set'
    assert main(arguments(photos, out, '--splits', '2', '--hold-out', 'white_noise')) == 0
    return out


def rows_of(folder):
    with open(folder / 'meta_info.csv', newline='') as stream:
        return list(csv.DictReader(stream))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.is_file() and path.name != 'dataset.yml'}


def test_the_table(made):
    rows = rows_of(made)
    assert {row['image_name'] for row in rows} == {path.name for path in (made / 'images').iterdir()}
    left_out = int(re.search(r'(\d+) pictures were left out', (made / 'README.txt').read_text())[1])
    assert len(rows) == 6 * (1 + 4 * 3 + 2) - left_out and 3 <= left_out <= 5
    for row in rows:
        assert 1 <= float(row['mos']) <= 5 and float(row['psnr']) > 0
        assert Image.open(made / 'images' / row['image_name']).size == (64, 48)
    noise = [float(row['mos']) for row in rows if row['image_name'].startswith('3__white_noise')]
    assert noise == sorted(noise, reverse=True) and len(noise) == 3


def test_what_has_no_effect_is_left_out_and_counted(made):
    assert not any(row['image_name'].startswith('0__desaturate') for row in rows_of(made))
    assert '0__desaturate_3.png' in (made / 'README.txt').read_text()


def test_splits_are_by_photograph_and_hold_types_out(made):
    rows = rows_of(made)
    columns = [name for name in rows[0] if name.startswith('ratio') and not name.endswith('held_out')]
    assert columns == ['ratio523_seed0_split_01', 'ratio523_seed0_split_02']
    for column in columns:
        phases = {}
        for row in rows:
            if row['held_out'] == '1':
                assert row[column] == 'unused' and 'white_noise' in row['distortion']
                assert row[f'{column}_held_out'] in ('test', 'unused')
            else:
                phases.setdefault(row['photograph'], set()).add(row[column])
        assert all(len(found) == 1 for found in phases.values())
        assert sorted(next(iter(found)) for found in phases.values()) == ['test', 'test', 'train', 'train', 'train', 'val']


def test_pyiqa_reads_it_and_every_image_has_texts(made):
    sections = yaml.safe_load((made / 'dataset.yml').read_text())['datasets']
    assert '&' not in (made / 'dataset.yml').read_text()
    assert list(sections) == ['train', 'val', 'val_test', 'val_held_out']
    tables = {name: build_table(name, values, 0) for name, values in sections.items()}
    rows = rows_of(made)
    for name, phase in (('train', 'train'), ('val', 'val'), ('val_test', 'test')):
        assert len(tables[name]) == sum(row['ratio523_seed0_split_01'] == phase for row in rows)
    item = tables['train'][0]
    assert item['img'].shape == (3, 48, 64) and 0 <= item['mos_label'] <= 1
    texts = load_reasoning_texts(made / 'reasoning_texts.jsonl')
    assert len(texts) == len(rows) and all(len({item.text for item in each}) == 4 for each in texts.values())
    joined = join_texts(tables['train'].image_names(), texts, tables['train'].table_names())
    assert len(joined) == len(tables['train'])


def test_it_says_what_it_is(made):
    for name in ('README.txt', 'dataset.yml'):
        assert 'no human gave an opinion' in (made / name).read_text()


@pytest.mark.slow
def test_processes_make_the_same_files(photos, made, tmp_path):
    out = tmp_path / 'set'
    assert main([*arguments(photos, out, '--splits', '2', '--hold-out', 'white_noise'), '--workers', '2']) == 0
    assert contents(out) == contents(made)


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_files(photos, made, tmp_path):
    out = tmp_path / 'set'
    command = [sys.executable, '-m', 'pyiqa_rali', *arguments(photos, out, '--splits', '2', '--hold-out', 'white_noise')]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None and len(list(out.glob('images/*.png'))) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / 'meta_info.csv').exists()
    (out / 'images' / '.half.png.part').write_bytes(b'half')
    damaged = next(out.glob('images/*.png'))
    damaged.unlink()
    assert main(command[3:]) == 0
    assert contents(out) == contents(made)


def test_a_finished_folder_is_only_described_anew(photos, made, capsys):
    before = {path: path.stat().st_mtime_ns for path in (made / 'images').iterdir()}
    assert main(arguments(photos, made, '--splits', '2', '--hold-out', 'white_noise')) == 0
    assert {path: path.stat().st_mtime_ns for path in (made / 'images').iterdir()} == before


@pytest.mark.parametrize('more, message', [
    (['--seed', '5'], 'begun with another seed: 0, now 5'),
    (['--levels', '2'], 'begun with another levels: [1.0, 3.0, 5.0], now [2.0]'),
    (['--size', '40', '64'], 'begun with another size: ')])
def test_a_folder_of_other_options_is_not_mixed(photos, made, capsys, more, message):
    assert main([*arguments(photos, made), *more]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('more, message', [
    (['--types', 'jpg'], 'types: "jpg" is not one of'), (['--hold-out', 'haze'], 'hold_out: haze not among the types'),
    (['--hold-out', 'upscaling'], 'hold_out: upscale_soft, upscale_jagged, upscale_sharp'),
    (['--levels', '9'], 'levels: element 1: 9.0 must be in [0.5, 5.5]'), (['--levels', '1', '1'], 'has one twice'),
    (['--types', 'jpeg'], 'cannot be made of one type'), (['--size', '8', '8'], 'size: element 1: 8 must be in [32, 4096]'),
    (['--texts-per-image', '99'], 'texts_per_image: 99 must be in [1, 40]'),
    (['--workers', '0'], 'workers: 0 must be at least 1'),
    (['--ratios', '0', '0', '0'], 'split_ratios'), (['--photos', '/gone'], 'photographs: /gone is not a folder'),
    (['--metrics', 'lpips'], 'metrics: "lpips" is not one of'), (['--size', '200', '200'], 'smaller than the crop'),
    (['--calibration', '/gone.json'], '/gone.json is not a calibration file'),
    (['--out', '/proc/nowhere/set'], '/proc/nowhere'),
])
def test_arguments_that_cannot_be_used(photos, made, tmp_path, capsys, more, message):
    assert main([*arguments(photos, tmp_path / 'set'), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'set').exists()


def test_a_folder_with_other_things_is_left_alone(photos, tmp_path, capsys):
    (tmp_path / 'mine.txt').write_text('mine')
    assert main(arguments(photos, tmp_path)) == 2
    assert 'is not empty and holds no data set of ours' in capsys.readouterr().err
    assert os.listdir(tmp_path) == ['mine.txt']


def test_groups_of_types(monkeypatch):
    made = []
    monkeypatch.setattr('pyiqa_rali.data.synthetic.make_dataset.make_dataset',
                        lambda settings, workers: made.append(settings) or 1)
    for more in ([], ['--hold-out', 'blur', 'jpeg'], ['--types', 'upscaling', 'blur', '--hold-out', 'blur']):
        assert main(['make-dataset', '--out', 'unused', *more]) == 0
    assert made[0].types == made[1].types == DEFAULT_TYPES and made[0].hold_out == ()
    assert made[1].hold_out == ('gaussian_blur', 'lens_blur', 'motion_blur', 'zoom_blur', 'resample', 'jpeg')
    assert made[2].types == (*FAMILIES['upscaling'], *FAMILIES['blur']) and made[2].hold_out == FAMILIES['blur']


def test_types_are_listed(capsys):
    assert main(['make-dataset', '--list-types']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(DISTORTIONS) + 1 and any(line.startswith('jpeg ') for line in lines)
    assert lines[-1].startswith('Groups: version_0.1, all, blur,') and lines[-1].endswith('is the first 38.')
    assert main(['make-dataset']) == 2 and '--out: must be given' in capsys.readouterr().err
