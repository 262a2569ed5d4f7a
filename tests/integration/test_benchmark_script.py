"""pyiqa's benchmark_results.py is in its repository alone; here is what it asks of pyiqa, in its order, with our metrics."""

import copy
from pathlib import Path

import pytest
import torch

import pyiqa_rali  # noqa: F401  (registers the metrics)
from tests.tiny import tiny_table

pytestmark = pytest.mark.slow

OPTIONS = Path(__file__).parents[2] / 'options'


@pytest.fixture
def configurations(monkeypatch):
    """pyiqa's table of metrics, which the script writes into, given back as it was."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    before = copy.deepcopy(dict(DEFAULT_CONFIGS))
    yield DEFAULT_CONFIGS
    DEFAULT_CONFIGS.clear()
    DEFAULT_CONFIGS.update(before)


@pytest.fixture
def data_options(tmp_path):
    paths = tiny_table(tmp_path / 'data', count=8)
    return {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': paths['images'], 'meta_info_file': paths['table'],
            'phase': 'test', 'num_worker_per_gpu': 1, 'prefetch_mode': 'cpu', 'num_prefetch_queue': 8}


def scores_as_the_script(configurations, name, data_options, extra):
    """Score a data set with a metric of the table as the script does: keywords from the table, batches, lists of numbers."""
    from pyiqa import create_metric
    from pyiqa.data import build_dataloader, build_dataset
    configurations[name]['metric_opts'].update(extra)
    mode = configurations[name]['metric_mode']
    metric = create_metric(name, device=torch.device('cpu'), metric_mode=mode, **configurations[name]['metric_opts'])
    scores, mos = [], []
    for batch in build_dataloader(build_dataset(data_options), data_options, num_gpu=0):
        found = metric(batch['img'])
        assert not torch.isnan(found).any()
        values = found.squeeze().cpu().tolist()
        scores += values if isinstance(values, list) else [values]
        mos += batch['mos_label'].flatten().tolist()
    return scores, mos


@pytest.mark.parametrize('batch_size', [1, 3])
def test_by_name(configurations, data_options, batch_size):
    from pyiqa.metrics import calculate_krcc, calculate_plcc, calculate_srcc
    scores, mos = scores_as_the_script(configurations, 'rali-lite', {**data_options, 'batch_size_per_gpu': batch_size}, {})
    assert len(scores) == len(mos) == 8
    for function in (calculate_plcc, calculate_srcc, calculate_krcc):
        assert -1 <= round(function(scores, mos), 4) <= 1


def test_by_an_option_file(configurations, data_options, tmp_path):
    import yaml
    from pyiqa.utils.options import ordered_yaml

    from pyiqa_rali.model.locate import locate_checkpoint
    with open(OPTIONS / 'metric_rali.yml') as stream:
        own = yaml.load(stream, Loader=ordered_yaml()[0])
    assert set(own) == {'rali_demo'}
    own['rali_demo']['metric_opts']['pretrained_model_path'] = str(locate_checkpoint('rali-lite'))
    configurations.update(own)
    by_file, _ = scores_as_the_script(configurations, 'rali_demo', data_options, {})
    by_name, _ = scores_as_the_script(configurations, 'rali-lite', data_options, {})
    assert by_file == by_name


def test_the_ready_file_points_to_what_the_demo_leaves():
    import yaml
    metric = yaml.safe_load((OPTIONS / 'metric_rali.yml').read_text())['rali_demo']
    demo = yaml.safe_load((OPTIONS / 'demo.yml').read_text())
    export = Path(demo['path']['experiments_root']) / demo['name'] / 'models' / 'rali.safetensors'
    assert Path(metric['metric_opts']['pretrained_model_path']) == export
