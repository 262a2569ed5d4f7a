"""The ways in, each in a fresh process with the real pyiqa and the installed wheel."""

import csv
import json

import pytest
import skimage

pytestmark = pytest.mark.slow

OURS = ['rali', 'rali-cascade', 'rali-lite', 'rali-lite-v1', 'rali-reasoning']
START = 'import json, sys, pyiqa\n'
REGISTRIES = 'from pyiqa.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY\n'
SHOW = "found = [name for name in pyiqa.list_models() if 'rali' in name]\n"

ENTRY_POINTS_ALONE = START + REGISTRIES + SHOW + """
before = found
pyiqa.create_metric('psnr', device='cpu')
found = [name for name in pyiqa.list_models() if 'rali' in name]
print(json.dumps([before, found, 'RALI' in ARCH_REGISTRY, 'SyntheticNRDataset' in DATASET_REGISTRY]))
"""
START_UP_FILE_ALONE = """
import importlib.metadata
importlib.metadata.entry_points = lambda **kwargs: importlib.metadata.EntryPoints()
""" + START + REGISTRIES + SHOW + """
import pyiqa_rali.register
table = pyiqa.default_model_configs.DEFAULT_CONFIGS
print(json.dumps([found, [name for name, entry in table.items() if entry['metric_opts']['type'] == 'RALI'],
                  len(ARCH_REGISTRY._lazy_map), len(DATASET_REGISTRY._lazy_map), list(ARCH_REGISTRY._lazy_map),
                  list(DATASET_REGISTRY._lazy_map), [name for name in sys.modules if name.startswith('pyiqa_rali.')]]))
"""
IMPORT_FIRST = """
import sys, pyiqa_rali
heavy = [name for name in ('torch', 'transformers', 'trl', 'numpy', 'pyiqa') if name in sys.modules]
""" + START + SHOW + """
print(json.dumps([heavy, found, pyiqa_rali.__version__]))
"""
LIKE_PYIQAS_OWN_TESTS = START + """
import torch
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.models.inference_model import InferenceModel
torch.manual_seed(0)
pictures = torch.rand(2, 3, 224, 224)
metric = pyiqa.create_metric('rali-lite', device='cpu')
scores = metric(pictures, torch.rand(2, 3, 224, 224))
noise = torch.randn(2, 3, 224, 224, requires_grad=True)
loss = pyiqa.create_metric('rali-lite', device='cpu', as_loss=True)(noise)
loss.sum().backward()
as_benchmark = InferenceModel('rali-lite', **DEFAULT_CONFIGS['rali-lite']['metric_opts'])
torch.save({'params': metric.net.state_dict()}, sys.argv[1])
as_benchmark.load_weights(sys.argv[1])
print(json.dumps({'shape': list(scores.shape), 'dtype': str(scores.dtype), 'scores': scores.flatten().tolist(),
                  'loss shape': list(loss.shape), 'gradient is finite': bool(noise.grad.isfinite().all()),
                  'gradient': float(noise.grad.abs().sum()), 'range': metric.score_range, 'lower': metric.lower_better,
                  'again': as_benchmark(pictures).flatten().tolist(),
                  'alone': metric(pictures[:1]).flatten().tolist()}))
"""


@pytest.fixture(scope='module')
def picture():
    return f'{skimage.data_dir}/astronaut.png'


def test_way_1_entry_points_alone(installed):
    assert installed.json(ENTRY_POINTS_ALONE, PYIQA_RALI_AUTO='0') == [[], OURS, True, True]


def test_way_2_importing_the_package_first_imports_nothing_heavy(installed):
    assert installed.json(IMPORT_FIRST, PYIQA_RALI_AUTO='0') == [[], OURS, '0.2.0']


def test_way_3_our_own_command(installed, picture):
    result = installed.run('-m', 'pyiqa_rali', 'score', picture, '--device', 'cpu', PYIQA_RALI_AUTO='0')
    path, score = result.stdout.strip().split('\t')
    assert (result.returncode, path) == (0, picture) and 1 <= float(score) <= 5
    assert '1 images scored' in result.stderr


def test_way_4_the_start_up_file_alone(installed):
    found = installed.json(START_UP_FILE_ALONE)
    assert found == [OURS, ['rali', 'rali-lite', 'rali-lite-v1'], 3, 2, ['RALI', 'ReasoningScorer', 'Cascade'],
                     ['SyntheticNRDataset', 'ManifestNRDataset'], ['pyiqa_rali.register']]


def test_way_4_pyiqas_own_command(installed, picture):
    result = installed.run('-m', 'pyiqa.pyiqa_cmd', 'rali-lite', '-t', picture, '--device', 'cpu')
    assert result.returncode == 0, result.stderr
    mean = float(result.stdout.split("'mean': ")[1].split('(')[-1].rstrip(')}\n'))
    assert 1 <= mean <= 5


def test_what_pyiqas_own_tests_and_benchmark_do(installed, tmp_path):
    result = installed.run('-c', LIKE_PYIQAS_OWN_TESTS, str(tmp_path / 'weights.pth'))
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found['shape'], found['dtype'], found['loss shape']) == ([2, 1], 'torch.float32', [])
    assert found['gradient is finite'] and found['gradient'] > 0
    assert found['range'] == '1, 5' and found['lower'] is False and all(1 <= score <= 5 for score in found['scores'])
    assert found['again'] == pytest.approx(found['scores'], abs=1e-5)
    assert found['alone'] == pytest.approx(found['scores'][:1], abs=1e-5)


def test_the_command_scores_a_folder_with_workers_as_pyiqa_does(installed, tmp_path, picture):
    out = tmp_path / 'scores.csv'
    result = installed.run('-m', 'pyiqa_rali', 'score', skimage.data_dir, '--out', str(out), '--device', 'cpu',
                           '--workers', '2', '--batch-size', '2')
    with open(out, newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert result.returncode == (1 if any(row['error'] for row in rows) else 0), result.stderr
    scores = {row['image']: row['score'] for row in rows}
    expected = installed.json(START + f"print(json.dumps(pyiqa.create_metric('rali-lite', device='cpu')({picture!r}).item()))")
    assert float(scores[picture]) == pytest.approx(expected, abs=1e-4)
