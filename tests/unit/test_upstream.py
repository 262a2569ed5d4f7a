"""The changes to pyiqa that docs/upstream.md proposes do what it says."""

import importlib.metadata
import inspect
import re
from pathlib import Path

import pyiqa.models.inference_model as inference_model
import pytest
import torch
from pyiqa.utils.img_util import imread2tensor

from pyiqa_rali import register

TEXT = (Path(__file__).parents[2] / 'docs' / 'upstream.md').read_text(encoding='utf-8')
DIFFS = re.findall(r'```diff\n(.*?)```', TEXT, re.DOTALL)


@pytest.fixture
def patched():
    """pyiqa's own module of metrics with the documented lines in it."""
    source = inspect.getsource(inference_model)
    for diff in DIFFS:
        old, new = (''.join(f'{line[1:]}\n' for line in diff.splitlines() if line[0] in signs) for signs in ('- ', '+ '))
        assert source.count(old) == 1, f'pyiqa has changed; these lines are gone:\n{old}'
        source = source.replace(old, new)
    namespace = {'__name__': 'patched'}
    exec(compile(source, 'patched', 'exec'), namespace)
    return namespace['InferenceModel']


def test_range_and_direction_come_from_the_net(patched, tmp_path):
    from pyiqa_rali.model.checkpoint import save_checkpoint
    from tests.unit.test_rali import random_rali, tensors_of
    net = random_rali(mos_range=(0, 9), lower_better=True)
    save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(net), net.metadata)
    metric = patched('rali', device='cpu', pretrained_model_path=tmp_path)
    assert (metric.score_range, metric.lower_better) == ('0, 9', True)
    metric.load_state_dict({f'net.{name}': tensor for name, tensor in random_rali(mos_range=(2, 3)).state_dict().items()}
                           | {'dummy_param': torch.empty(0)}, strict=False)
    assert (metric.score_range, metric.lower_better) == ('2, 3', False)
    other = patched('piqe', device='cpu')
    assert (other.score_range, other.lower_better) == (pyiqa_table('piqe')['score_range'], True)


def pyiqa_table(name):
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    return DEFAULT_CONFIGS[name]


def test_white_passes_in_half_precision(patched):
    metric = patched('piqe', device='cpu')
    metric.is_valid_input(torch.ones(1, 3, 8, 8, dtype=torch.float16))
    with pytest.raises(AssertionError, match='Input must be normalized'):
        metric.is_valid_input(torch.ones(1, 3, 8, 8, dtype=torch.float16) * 1.01)


def test_a_net_reads_its_pictures_itself(patched, tmp_path):
    from tests.unit.test_given import FILES, as_read, metric_of, saved
    from tests.unit.test_surroundings import HEAD
    path = saved(tmp_path, HEAD)
    metric, content = patched('rali', device='cpu', pretrained_model_path=path), FILES['turned']
    assert torch.equal(metric(content), metric_of(path)(as_read(content)))
    other = patched('entropy', device='cpu')
    assert torch.equal(other(content), other(imread2tensor(content, rgb=True)[None]))


def test_names_come_by_entry_point(monkeypatch):
    code, = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
    group, name, value = re.search(r'entry-points\."(.*?)"\]\n(\w+) = "(.*?)"', TEXT).groups()
    point = importlib.metadata.EntryPoint(name, value, group)
    monkeypatch.setattr(importlib.metadata, 'entry_points', lambda group: [point] if group == point.group else [])
    table = {'rali': 'taken'}
    exec(code, {'DEFAULT_CONFIGS': table})
    assert table == {**register.METRICS, 'rali': 'taken'}
