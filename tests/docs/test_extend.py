"""The files of the page on extending work: each is written to a folder, and run as the page says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.docs.pages import ROOT, blocks_of
from tests.integration.test_grpo import read_csv, start_cold, table, write_options
from tests.tiny import tiny_options, tiny_vlm

pytestmark = pytest.mark.slow
PAGE = ROOT / 'docs' / 'extend.md'


def write_file(name: str, folder: Path) -> None:
    """Write one of the page's files."""
    text = next(block.text for block in blocks_of(PAGE) if block.mark == f'file: {name}')
    (folder / name).write_text(text)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python in a folder."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=600,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(folder), os.environ.get('PYTHONPATH', '')])})


def test_an_encoder_of_ones_own_trains_and_scores(tmp_path):
    write_file('my_encoder.py', tmp_path)
    encoder = {'library': 'timm', 'name': 'edge_net', 'projection_dim': 24,
               'preprocessing': {'resize_mode': 'native', 'image_size': None}}
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(tiny_options(tmp_path, network__image_encoder=encoder)))
    result = run(tmp_path, 'my_encoder.py', '-opt', 'options.yml')
    assert result.returncode == 0, result.stderr
    weights = tmp_path / 'experiments' / 'tiny' / 'models' / 'rali.safetensors'
    use = f'import pyiqa; print(float(pyiqa.create_metric("rali", pretrained_model_path={str(weights)!r})("data/000.png")))'
    scored = run(tmp_path, '-c', f'import my_encoder; {use}')
    assert scored.returncode == 0 and 0 < float(scored.stdout.split()[-1]) < 6, scored.stderr
    without = run(tmp_path, '-c', use)
    assert without.returncode != 0 and '"edge_net" is not a model of timm' in without.stderr


def test_a_data_set_of_ones_own_is_evaluated(tmp_path):
    write_file('my_dataset.py', tmp_path)
    (tmp_path / 'beaches' / 'test').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        noise = rng.normal(0, 12 * number, (48, 64, 3))
        Image.fromarray(np.clip(128 + noise, 0, 255).astype(np.uint8)).save(
            tmp_path / 'beaches' / 'test' / f'beach{number}_{5 - number / 2}.png')
    text = next(block.text for block in blocks_of(PAGE) if 'NamedByMosNRDataset' in block.text and block.language == 'yaml')
    (tmp_path / 'evaluate.yml').write_text(text)
    result = run(tmp_path, 'my_dataset.py', 'evaluate', '-opt', 'evaluate.yml')
    assert result.returncode == 0, result.stderr
    scores = (tmp_path / 'experiments' / 'mine' / 'scores' / 'beaches.csv').read_text().splitlines()
    assert len(scores) == 9 and 'beach0_5.0.png' in scores[1]
    (tmp_path / 'beaches' / 'test' / 'nameless.png').write_bytes(b'')
    refused = run(tmp_path, 'my_dataset.py', 'evaluate', '-opt', 'evaluate.yml')
    assert refused.returncode == 2 and 'nameless.png: its name must end with _MOS.png' in refused.stderr


def test_a_reward_of_ones_own_is_trained_with(tmp_path):
    write_file('my_rewards.py', tmp_path)
    write_pictures(tmp_path)
    start_cold(tmp_path, tiny_vlm(tmp_path / 'random'))
    text = next(block.text for block in blocks_of(PAGE) if 'my_rewards:brevity' in block.text and block.language == 'yaml')
    runs = tmp_path / 'runs'
    runs.mkdir()
    options = write_options(tmp_path, runs, rewards=yaml.safe_load(text)['rewards'], grpo__max_steps=2, val__val_freq=None)
    result = run(tmp_path, '-m', 'pyiqa_rali.train', '-opt', options)
    assert result.returncode == 0, result.stderr
    log = read_csv(runs / 'tiny' / 'log.csv')
    assert all(0 <= float(row['rewards/brevity/mean']) <= 1 for row in log) and float(log[0]['rewards/brevity/mean']) > 0
    shutil.rmtree(runs / 'tiny' / 'models')
    (tmp_path / 'my_rewards.py').write_text((tmp_path / 'my_rewards.py').read_text() + '\n# changed\n')
    resumed = run(tmp_path, '-m', 'pyiqa_rali.train', '-opt', options, '--auto_resume')
    assert resumed.returncode == 2 and 'rewards: functions: my_rewards:brevity: is no longer what' in resumed.stderr
    (tmp_path / 'my_rewards.py').unlink()
    missing = run(tmp_path, '-m', 'pyiqa_rali.train', '-opt', options)
    assert missing.returncode == 2 and 'Start from the folder that holds my_rewards.py' in missing.stderr


def write_pictures(folder: Path) -> None:
    """Write twelve gray pictures and the table that `write_options` names."""
    (folder / 'images').mkdir()
    rows = ['image,mos,a_split']
    for number in range(12):
        Image.fromarray(np.full((32, 32, 3), 20 * number, dtype=np.uint8)).save(folder / 'images' / f'{number}.png')
        rows.append(f'{number}.png,{100 * number / 11:.1f},{"val" if number % 4 == 3 else "train"}')
    Path(table(folder)['meta_info_file']).write_text('\n'.join(rows))
