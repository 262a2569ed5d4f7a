"""An ablation at tiny scale: the plan, the table against the runs' own results, and going on after a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.studies.ablation.plan import ablation_options, changed, file_digest, plan
from pyiqa_rali.studies.ablation.run import run_cell
from pyiqa_rali.training.rali.run import train
from tests.tiny import tiny_options

pytestmark = pytest.mark.slow

BANK = {'num_texts': 4, 'num_candidates': 16}


def write_ablation(folder, **changes):
    base = folder / 'base.yml'
    base.write_text(yaml.safe_dump(tiny_options(folder, bank=BANK)))
    values = {'name': 'ablation', 'model_type': 'ABLATION', 'base': str(base), 'path': {'experiments_root': str(folder)},
              'repeats': [{'manual_seed': 0}, {'manual_seed': 1}],
              'variants': {'full': {}, 'no PCA': {'compress:pca_dim': None}, 'one text': {'align:texts_per_image': 1}},
              'sweeps': {'K': {'key': 'compress:num_basis', 'values': [4, 8]}}, 'paper': {'full': 0.798}, **changes}
    path = folder / 'ablation.yml'
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def planned(path):
    return plan(ablation_options(yaml.safe_load(path.read_text())))


def test_cells_are_shared_where_options_are_the_same(tmp_path):
    places, cells = planned(write_ablation(tmp_path))
    key = {(variant.name, repeat): key for variant, repeat, key in places}
    assert len(places) == 10 and len(cells) == 8
    assert key['full', 0] == key['K = 8', 0] != key['K = 4', 0]
    encoder = {place: cells[each].encoder for place, each in key.items()}
    assert encoder['full', 0] == encoder['no PCA', 0] == encoder['K = 4', 0]
    assert len({encoder['full', 0], encoder['full', 1], encoder['one text', 0], encoder['one text', 1]}) == 4


def test_a_cell_is_another_one_when_its_data_change(tmp_path):
    path = write_ablation(tmp_path)
    before = set(planned(path)[1])
    texts = tmp_path / 'data' / 'texts.jsonl'
    texts.write_text(texts.read_text().replace('clear', 'sharp'))
    file_digest.cache_clear()
    assert not before & set(planned(path)[1])


@pytest.mark.parametrize('name', ['001.png', '000.png'])  # of the training part, and of the validation part
def test_a_cell_is_another_one_when_a_picture_of_the_same_name_changes(tmp_path, name):
    path, picture = write_ablation(tmp_path), tmp_path / 'data' / name
    before = planned(path)[1]
    os.utime(picture, ns=(1, 1))
    assert planned(path)[1] == before
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    after = planned(path)[1]
    assert not set(before) & set(after) and len(before) == len(after)
    assert not {cell.encoder for cell in before.values()} & {cell.encoder for cell in after.values()}
    picture.unlink()
    assert not set(after) & set(planned(path)[1])  # the training itself says that it is missing


def test_pictures_are_read_once_for_all_cells(tmp_path, monkeypatch):
    path, read = write_ablation(tmp_path), []
    monkeypatch.setattr('pyiqa_rali.core.files.sha256', lambda file: read.append(str(file)) or f'of {file}')
    for _ in range(2):
        planned(path)
    pictures = [file for file in read if file.endswith('.png')]
    assert len(pictures) == len(set(pictures)) == 24


@pytest.mark.parametrize(('kind', 'line', 'message'), [
    (DataError, 'z.png,9,train', r'full, repeat 0: datasets: train: .*9'),
    (OptionError, None, 'full, repeat 0: datasets: train: .*no_such')])
def test_tables_that_cannot_be_used_are_told_before_anything_is_trained(tmp_path, kind, line, message):
    path = write_ablation(tmp_path, changes={} if line else {'datasets:train:mos_range': 'no_such'})
    if line:
        with open(tmp_path / 'data' / 'meta_info.csv', 'a') as table:
            table.write(f'{line}\n')
    with pytest.raises(kind, match=message):
        planned(path)


@pytest.mark.parametrize('option', ['path:pretrain_network', 'network:image_encoder:pretrained', 'text_encoder:path'])
def test_a_cell_is_another_one_when_weights_of_the_same_name_change(tmp_path, option):
    weights = tmp_path / 'text' / 'model.safetensors' if option == 'text_encoder:path' else tmp_path / 'start.safetensors'
    value = str(weights.parent if option == 'text_encoder:path' else weights)
    path = write_ablation(tmp_path, changes={option: value})
    weights.write_bytes(b'one')
    file_digest.cache_clear()
    before = planned(path)[1]
    weights.write_bytes(b'two')
    file_digest.cache_clear()
    after = planned(path)[1]
    assert not set(before) & set(after)
    assert not {cell.encoder for cell in before.values()} & {cell.encoder for cell in after.values()}


@pytest.mark.parametrize(('option', 'file'), [('network:image_encoder:pretrained', 'weights.pth'),
                                              ('text_encoder:path', 'model/model.safetensors')])
def test_a_cell_is_another_one_when_installed_weights_change(tmp_path, monkeypatch, option, file):
    package = f'weights_of_{option.split(":")[0]}'
    weights = tmp_path / package / file
    weights.parent.mkdir(parents=True)
    (tmp_path / package / '__init__.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    path = write_ablation(tmp_path, changes={option: f'installed:{package}'})
    found = []
    for content in (b'one', b'two'):
        weights.write_bytes(content)
        file_digest.cache_clear()
        found.append(set(planned(path)[1]))
    assert not found[0] & found[1]


def test_a_cell_is_another_one_with_another_version_of_a_package(tmp_path, monkeypatch):
    path = write_ablation(tmp_path)
    before = set(planned(path)[1])
    monkeypatch.setattr('importlib.metadata.version', lambda package: '9.9')
    assert not before & set(planned(path)[1])


def test_where_the_files_go_and_how_is_logged_changes_nothing(tmp_path):
    before = set(planned(write_ablation(tmp_path))[1])
    after = planned(write_ablation(tmp_path, changes={'logger:print_freq': 3}, path={'experiments_root': 'elsewhere'}))[1]
    assert set(after) == before


def test_changes():
    values = {'manual_seed': 0, 'datasets': {'train': {'a': 1}, 'val': {}}, 'align': {'lr': 1}}
    found = changed(values, {'manual_seed': 3, 'datasets:*:split_index': 'x', 'align:lr': 2, 'align:new': None})
    assert found == {'manual_seed': 3, 'datasets': {'train': {'a': 1, 'split_index': 'x'}, 'val': {'split_index': 'x'}},
                     'align': {'lr': 2, 'new': None}}
    assert values['align'] == {'lr': 1}


@pytest.mark.parametrize(('changes', 'message'), [
    ({'repeats': []}, 'repeats: must hold at least one'),
    ({'variants': {'full': {'aling:lr': 1}}}, 'full, repeat 0: "aling:lr": there is no section "aling".* Did you mean "align"'),
    ({'variants': {'full': {'align:lrr': 1}}}, 'full, repeat 0: align: unknown key "lrr".*Did you mean "lr"'),
    ({'sweeps': {'K': {'key': 'compress:num_basis', 'values': []}}}, 'sweeps: K: values: must hold at least one'),
    ({'sweeps': {'K': {'kye': 'compress:num_basis', 'values': [1]}}}, 'Did you mean "key"'),
    ({'paper': {'fll': 0.1}}, 'paper: "fll" is not one of the variants .* Did you mean "full"'),
    ({'base': 'nowhere.yml'}, 'nowhere.yml is not a file'),
    ({'sweeps': {'K': {'key': 'compress:num_basis', 'values': [4, 4]}}}, '"K = 4" appears in them twice')])
def test_options_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        planned(write_ablation(tmp_path, **changes))


def ablate(path, *arguments):
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(Path.cwd()), *sys.path])}
    return subprocess.Popen([sys.executable, '-m', 'pyiqa_rali', 'ablate', '-opt', str(path), *arguments], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished_cells(root):
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob('cells/*/cell.json')}


def test_a_killed_ablation_goes_on_and_its_table_holds_the_results_of_the_runs(tmp_path, monkeypatch, capsys):
    path, root = write_ablation(tmp_path, variants={'full': {}, 'no PCA': {'compress:pca_dim': None}}), tmp_path / 'ablation'
    process = ablate(path)
    deadline = time.monotonic() + 120
    while not finished_cells(root) and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its own process ends by itself
    kept = finished_cells(root)
    time.sleep(1)
    assert finished_cells(root) == kept and 0 < len(kept) < 6

    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(Path.cwd()), *sys.path]))
    assert main(['ablate', '-opt', str(path), '--processes', '2']) == 0
    after = finished_cells(root)
    assert len(after) == 6 and kept.items() <= after.items()
    places, _ = planned(path)
    results = {(variant.name, repeat): json.loads((root / 'cells' / key / 'results.json').read_text())['best']['val/plcc']
               for variant, repeat, key in places}
    with open(root / 'table.csv', encoding='utf-8', newline='') as stream:
        table = {row['variant']: row for row in csv.DictReader(stream)}
    assert set(table) == {'full', 'no PCA', 'K = 4', 'K = 8'}
    for name, row in table.items():
        values = np.array([results[name, 0], results[name, 1]])
        assert float(row['plcc_mean']) == pytest.approx(values.mean()) and row['repeats'] == '2'
        assert float(row['plcc_sd']) == pytest.approx(values.std(ddof=1))
        change = values - np.array([results['full', 0], results['full', 1]])
        assert float(row['plcc_change_mean']) == pytest.approx(change.mean(), abs=1e-9)
    assert table['full']['paper_plcc'] == '0.798' and table['no PCA']['paper_plcc'] == ''
    text = (root / 'table.md').read_text()
    assert '## ablation' in text and '## K' in text and '.798' in text and 'not measured here' in text
    assert all((root / 'figures' / name).stat().st_size > 0 for name in ('ablation.png', 'sweeps.png'))
    assert not list(root.glob('cells/*/models'))
    assert len(list((root / 'encoders').iterdir())) == 2

    capsys.readouterr()
    assert main(['ablate', '-opt', str(path), '--plan']) == 0
    assert '0 trainings are left' in capsys.readouterr().out


def test_shared_encoders_give_what_a_run_by_itself_gives(tmp_path):
    path = write_ablation(tmp_path, repeats=[{'manual_seed': 7}], sweeps={}, variants={
        'full': {}, 'few': {'compress:num_basis': 5}}, paper={}, keep_models=True)
    places, cells = planned(path)
    for cell in cells.values():
        run_cell(tmp_path / 'cells', tmp_path / 'encoders', cell, keep_models=True)
    files = [tmp_path / 'cells' / key / 'align' / 'image_encoder.safetensors' for key in cells]
    assert files[0].stat().st_ino == files[1].stat().st_ino
    alone = tiny_options(tmp_path, name='alone', compress__num_basis=5, bank=BANK)
    (tmp_path / 'alone.yml').write_text(yaml.safe_dump(alone))
    expected = train(str(tmp_path / 'alone.yml')).best
    found = json.loads((tmp_path / 'cells' / places[1][2] / 'cell.json').read_text())['best']
    assert found == expected
    banks = [tmp_path / 'cells' / key / 'align' / 'bank.safetensors' for key in cells]
    assert banks[0].stat().st_ino == banks[1].stat().st_ino


def test_cells_have_a_text_bank_only_where_their_models_are_kept(tmp_path):
    places, cells = planned(write_ablation(tmp_path, variants={'full': {}, 'small bank': {'bank:num_texts': 2}}, sweeps={}))
    assert all(cell.values['bank'] is None for cell in cells.values()) and len(cells) == 2 < len(places)
    kept = planned(write_ablation(tmp_path, sweeps={}, keep_models=True))[1]
    assert all(cell.values['bank'] == BANK for cell in kept.values())


def test_a_training_that_fails_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(Path.cwd()), *sys.path]))
    path = write_ablation(tmp_path, repeats=[{'manual_seed': 0}], sweeps={}, paper={}, variants={
        'full': {}, 'too many': {'compress:num_basis': 99}})
    assert main(['ablate', '-opt', str(path)]) == 2
    error = capsys.readouterr().err
    assert '1 of 2 trainings failed' in error and 'num_basis: 99 is more than the 16 training images' in error
