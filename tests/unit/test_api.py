"""The public interface for Python: what `import pyiqa_rali` offers."""

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pyiqa_rali
from pyiqa_rali.core.errors import CheckpointError, OptionError

PACKAGE = Path(pyiqa_rali.__file__).parent


@pytest.fixture
def pictures(tmp_path):
    """Three pictures, one file that is none, and a folder without any."""
    rng = np.random.default_rng(0)
    for name in ('a.png', 'b.png', 'c.bmp'):
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    (tmp_path / 'empty').mkdir()
    return tmp_path


def names_of_the_stub():
    tree = ast.parse((PACKAGE / '__init__.pyi').read_text())
    imported = {alias.asname: (node.module, alias.name) for node in tree.body if isinstance(node, ast.ImportFrom)
                for alias in node.names}
    renamed = {node.targets[0].id: ('.'.join(imported[node.value.value.id]), node.value.attr) for node in tree.body
               if isinstance(node, ast.Assign)}
    return {**{name: place for name, place in imported.items() if not name.startswith('_')}, **renamed}


def test_type_checkers_and_the_interpreter_find_the_same():
    stub = names_of_the_stub()
    assert sorted(stub) == pyiqa_rali.__all__ and set(pyiqa_rali.__all__) <= set(dir(pyiqa_rali))
    for name, (module, called) in stub.items():
        assert getattr(pyiqa_rali, name) is getattr(importlib.import_module(module), called), name


@pytest.mark.parametrize('name', pyiqa_rali.__all__)
def test_every_public_name_is_documented_and_typed(name):
    found = getattr(pyiqa_rali, name)
    assert inspect.getdoc(found) and len(inspect.getdoc(found)) > 20
    if inspect.isfunction(found):
        parameters = inspect.signature(found).parameters.values()
        assert all(each.annotation is not each.empty for each in parameters)
        for each in parameters:
            assert f'{each.name}: ' in inspect.getdoc(found), f'{name}: {each.name} is not explained'
    elif dataclasses.is_dataclass(found):
        text = ''.join(base.__doc__ or '' for base in found.__mro__)
        for item in dataclasses.fields(found):
            assert f'{item.name}: ' in text or f'{item.name}, ' in text or item.name == 'model_type', f'{name}: {item.name}'


def test_a_name_that_is_not_public_is_refused_as_usual():
    with pytest.raises(AttributeError, match="module 'pyiqa_rali' has no attribute 'trian'"):
        _ = pyiqa_rali.trian
    with pytest.raises(ImportError, match='cannot import name'):
        exec('from pyiqa_rali import trian')


def test_functions_do_not_stand_in_the_way_of_modules():
    code = ('import types, pyiqa_rali; pyiqa_rali.train_rali, pyiqa_rali.evaluate, pyiqa_rali.score, pyiqa_rali.explain\n'
            'import pyiqa_rali.train, pyiqa_rali.scoring, pyiqa_rali.evaluation\n'
            'assert isinstance(pyiqa_rali.train, types.ModuleType) and callable(pyiqa_rali.train.main)\n'
            'modules = [name for name in pyiqa_rali.__all__ if isinstance(getattr(pyiqa_rali, name), types.ModuleType)]\n'
            'print(modules)')
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert found.stdout == '[]\n'
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or (path / '__init__.py').exists()}
    assert not rooms & set(pyiqa_rali.__all__)


def test_every_image_has_a_score_or_a_reason(pictures, capfd):
    import pyiqa
    found = pyiqa_rali.score([pictures, pictures / 'empty'], device='cpu')
    names = [str(pictures / name) for name in ('a.png', 'b.png', 'broken.png', 'c.bmp')]
    assert found.names == names and len(found) == 4 and [each.image for each in found] == names
    assert list(found.errors) == [names[2]] and 'cannot identify' in found.errors[names[2]]
    metric = pyiqa.create_metric('rali-lite', device='cpu')
    expected = [metric(name).item() if name != names[2] else None for name in names]
    assert found.scores == [None if each is None else pytest.approx(each, abs=1e-5) for each in expected]
    assert found.rows()[2] == {'image': names[2], 'score': None, 'error': found.errors[names[2]]}
    assert (found.metric, found.score_range, found.lower_better) == ('rali-lite', '1, 5', False)
    assert found.empty == [str(pictures / 'empty')]
    assert capfd.readouterr() == ('', '')


def test_other_metrics_and_metrics_that_are_made_already(pictures):
    import pyiqa
    metric = pyiqa.create_metric('piqe', device='cpu')
    found = pyiqa_rali.score(str(pictures / '*.bmp'), metric)
    assert found.scores == pyiqa_rali.score(pictures / 'c.bmp', 'piqe', device='cpu').scores and found.lower_better
    with pytest.raises(OptionError, match="weights: 'x' goes with the name of a metric"):
        pyiqa_rali.score(pictures, metric, weights='x')
    with pytest.raises(OptionError, match="precision: 'bf16' goes with the name of a metric"):
        pyiqa_rali.score(pictures, metric, precision='bf16')


@pytest.mark.parametrize(('arguments', 'error', 'message'), [
    (([],), OptionError, 'images: the list is empty'), (('nowhere.png',), FileNotFoundError, 'nowhere.png'),
    (('*.nothing',), OptionError, 'no file matches'), (('.', 'rali-light'), OptionError, 'Did you mean "rali-lite"'),
    (('.', None, 'nowhere.safetensors'), CheckpointError, 'no such file or folder')])
def test_what_cannot_be_scored(arguments, error, message):
    with pytest.raises(error, match=message):
        pyiqa_rali.score(*arguments, device='cpu')


def test_explanations_of_every_image(pictures, capfd):
    found = pyiqa_rali.explain([pictures / 'a.png', pictures / 'broken.png'], device='cpu', num_texts=2)
    assert [each.image for each in found] == [str(pictures / name) for name in ('a.png', 'broken.png')]
    explained, broken = found
    assert explained.error == '' and len(explained.explanation.texts) == 2 and len(explained.explanation.basis) == 5
    assert explained.explanation.score == pytest.approx(pyiqa_rali.score(pictures / 'a.png', device='cpu').scores[0], abs=1e-5)
    assert broken.explanation is None and 'cannot identify' in broken.error
    with pytest.raises(OptionError, match='only rali and rali-lite explain'):
        pyiqa_rali.explain(pictures, 'piqe')
    with pytest.raises(OptionError, match='num_texts: 0 must be'):
        pyiqa_rali.explain(pictures / 'a.png', device='cpu', num_texts=0)
    assert capfd.readouterr() == ('', '')


def test_a_checkpoint_is_loaded():
    import pyiqa
    found = pyiqa_rali.load_checkpoint('rali-lite')
    pixels = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.net(pixels), pyiqa.create_metric('rali-lite', device='cpu')(pixels))
    assert found.metadata is found.net.metadata and found.metadata['mos_range'] == [1, 5]
    assert found.path.suffix == '.safetensors' and found.path.is_file()
    assert not any(weights.requires_grad for weights in found.net.parameters())
    assert all(weights.requires_grad for weights in pyiqa_rali.load_checkpoint(found.path, trainable=True).net.parameters())
    with pytest.raises(CheckpointError, match='no such file or folder'):
        pyiqa_rali.load_checkpoint('nowhere.pth')


@pytest.mark.parametrize(('name', 'kind'), [
    ('demo', 'TrainOptions'), ('grpo', 'GrpoOptions'), ('ract', 'RactOptions'), ('demo/chain', 'ChainOptions'),
    ('evaluate', 'EvaluateOptions')])
def test_option_files_become_objects(name, kind):
    path = PACKAGE.parent / 'options' / f'{name}.yml'
    options = pyiqa_rali.read_options(path, ['name=other'])
    assert type(options) is getattr(pyiqa_rali, kind) and options.name == 'other'
    with pytest.raises(OptionError, match='model_type: "RALLI" is not one of RALI, .*Did you mean "RALI"'):
        pyiqa_rali.read_options(path, ['model_type=RALLI'])
