import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import pyiqa_rali
from pyiqa_rali import register

REPOSITORY = Path(pyiqa_rali.__file__).parents[1]
TABLE = 'DEFAULT_CONFIGS = {"psnr": {"metric_opts": {"type": "PSNR"}, "metric_mode": "FR"}}\n'
REGISTRY = """
class Registry:
    def __init__(self):
        self.lazy = {}
    def register_lazy(self, name, import_path):
        if name in self.lazy:
            raise AssertionError(name)
        self.lazy[name] = import_path
DATASET_REGISTRY, ARCH_REGISTRY = Registry(), Registry()
"""
METRIC = """
class InferenceModel:
    def __init__(self, net, score_range=None):
        self.score_range, self.lower_better = score_range, None
        self.__dict__['_modules'] = {'net': net}
    def is_valid_input(self, x):
        assert x < 1
    def forward(self, target, ref=None):
        return target
"""
SHOW = """
import json, sys
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY
print(json.dumps([list(DEFAULT_CONFIGS), list(ARCH_REGISTRY.lazy), list(DATASET_REGISTRY.lazy),
                  [type(finder).__name__ for finder in sys.meta_path].count('HostFinder'),
                  [name for name in ('torch', 'transformers', 'trl') if name in sys.modules],
                  type(vars(sys.modules['pyiqa.models.inference_model'].InferenceModel).get('score_range')).__name__]))
"""
ALL = [['psnr', *register.METRICS], ['RALI', 'ReasoningScorer', 'Cascade'], ['SyntheticNRDataset', 'ManifestNRDataset'], 0, [],
       'FactOfNet']
NONE = [['psnr'], [], [], 0, [], 'NoneType']
START = 'import pyiqa_rali_hook\npyiqa_rali_hook.install()\n'


@pytest.fixture
def stand_in(tmp_path):
    """A package in pyiqa's place with the three modules that registration needs, which imports in no time."""
    (tmp_path / 'pyiqa' / 'utils').mkdir(parents=True)
    (tmp_path / 'pyiqa' / '__init__.py').write_text(
        'import pyiqa.default_model_configs, pyiqa.utils.registry, pyiqa.models.inference_model\n')
    (tmp_path / 'pyiqa' / 'models').mkdir()
    (tmp_path / 'pyiqa' / 'models' / '__init__.py').write_text('')
    (tmp_path / 'pyiqa' / 'models' / 'inference_model.py').write_text(METRIC)
    (tmp_path / 'pyiqa' / 'default_model_configs.py').write_text(TABLE)
    (tmp_path / 'pyiqa' / 'utils' / '__init__.py').write_text('')
    (tmp_path / 'pyiqa' / 'utils' / 'registry.py').write_text(REGISTRY)
    return tmp_path


def run(code, folder, *flags, **environment):
    path = os.pathsep.join([str(folder), str(REPOSITORY), os.environ['PYTHONPATH']])
    return subprocess.run([sys.executable, *flags, '-c', code], env={**os.environ, 'PYTHONPATH': path, **environment},
                          cwd=folder, capture_output=True, text=True)


def shown(code, folder, **environment):
    result = run(code, folder, **environment)
    assert (result.returncode, result.stderr) == (0, '')
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize('code', [
    START, START + START, 'import pyiqa_rali\n', START + 'import pyiqa_rali\n', 'import pyiqa\nimport pyiqa_rali\n',
    'import pyiqa.default_model_configs\nimport pyiqa_rali\n', START + 'import pyiqa\nimport pyiqa_rali\n',
    START + 'import pyiqa\nfrom pyiqa_rali.register import register\nregister(); register()\n',
    START + 'from pyiqa.utils import registry\n',
])
def test_every_way_in_registers_everything_once_and_leaves_no_finder(code, stand_in):
    assert shown(code + SHOW, stand_in) == ALL


def test_the_switch_turns_the_start_up_hook_off_but_not_an_import(stand_in):
    assert shown(START + SHOW, stand_in, PYIQA_RALI_AUTO='0') == NONE
    assert shown(START + 'import pyiqa_rali\n' + SHOW, stand_in, PYIQA_RALI_AUTO='0') == ALL


def test_importing_the_package_imports_nothing_heavy(tmp_path):
    code = 'import sys, json, pyiqa_rali; print(json.dumps(sorted(sys.modules)))'
    found = [name for name in shown(code, tmp_path) if name.startswith(('pyiqa', 'torch', 'transformers', 'numpy'))]
    assert found == ['pyiqa_rali', 'pyiqa_rali.register', 'pyiqa_rali_hook']


def test_the_module_keeps_its_own_loader(stand_in):
    code = START + """
import inspect, json
import pyiqa.default_model_configs as table
loaders = table.__loader__, table.__spec__.loader
print(json.dumps([*(type(loader).__name__ for loader in loaders), 'PSNR' in inspect.getsource(table)]))
"""
    assert shown(code, stand_in) == ['SourceFileLoader', 'SourceFileLoader', True]


def test_a_second_finder_that_delegates_as_ours_does_is_no_endless_loop(stand_in):
    other = """
import sys
class Other:
    def find_spec(self, name, path=None, target=None):
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                return spec
sys.meta_path.insert(0, Other())
"""
    assert shown(other + START + SHOW, stand_in) == ALL
    assert shown(START + other + SHOW, stand_in) == ALL


@pytest.mark.slow
def test_without_pyiqa_the_usual_error_comes(tmp_path):
    attempt = 'try:\n import pyiqa.utils.registry\nexcept ModuleNotFoundError as error:\n print(error.name)\n'
    result = run(START + attempt, tmp_path, '-S')
    assert (result.stdout, result.stderr) == ('pyiqa\n', '')


@pytest.mark.slow
def test_a_failure_of_ours_is_told_and_does_not_stop_pyiqa(stand_in):
    (stand_in / 'pyiqa' / 'default_model_configs.py').write_text('DEFAULT_CONFIGS = None\n')
    result = run(START + 'import pyiqa\nprint("alive")', stand_in)
    assert result.stdout == 'alive\n'
    assert "its metrics are not registered with pyiqa: AttributeError: 'NoneType'" in result.stderr
    assert 'PYIQA_RALI_AUTO=0' in result.stderr


def test_a_name_that_is_taken_stays_as_it_is_with_a_warning():
    theirs = {'metric_opts': {'type': 'Other'}, 'metric_mode': 'NR'}
    module = SimpleNamespace(DEFAULT_CONFIGS={'rali': theirs})
    with pytest.warns(RuntimeWarning, match='already has another metric "rali"; it is kept.*under another name'):
        register.add_metrics(module)
    assert module.DEFAULT_CONFIGS['rali'] is theirs and 'rali-lite' in module.DEFAULT_CONFIGS


def test_options_that_the_user_gave_to_our_metric_stay():
    theirs = {'metric_opts': {'type': 'RALI', 'pretrained_model_path': 'mine'}, 'metric_mode': 'NR'}
    module = SimpleNamespace(DEFAULT_CONFIGS={'rali': theirs})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        register.add_metrics(module)
    assert module.DEFAULT_CONFIGS['rali'] is theirs


def test_an_arch_that_is_taken_stays_as_it_is_with_a_warning():
    namespace = {}
    exec(REGISTRY, namespace)
    module = SimpleNamespace(**namespace)
    module.ARCH_REGISTRY.register_lazy('RALI', 'someone:Else')
    with pytest.warns(RuntimeWarning, match='already has another arch "RALI"; it is kept'):
        register.add_archs_and_datasets(module)
    assert module.ARCH_REGISTRY.lazy['RALI'] == 'someone:Else'
    assert list(module.DATASET_REGISTRY.lazy) == ['SyntheticNRDataset', 'ManifestNRDataset']


def test_pyiqa_may_change_its_entries_without_changing_ours():
    module = SimpleNamespace(DEFAULT_CONFIGS={})
    register.add_metrics(module)
    module.DEFAULT_CONFIGS['rali']['metric_opts']['pretrained'] = 'changed'
    assert register.METRICS['rali']['metric_opts']['pretrained'] == 'rali'


def test_a_metric_asks_its_net_for_range_and_direction_and_others_keep_their_own():
    namespace = {}
    exec(METRIC, namespace)
    metric = namespace['InferenceModel']
    for _ in range(2):
        register.let_nets_tell_facts(SimpleNamespace(InferenceModel=metric))
    net = SimpleNamespace(metric_facts={'score_range': '1, 5', 'lower_better': False}, as_checked=lambda x: x)
    ours, wrapped, other = metric(net, 'table'), metric(SimpleNamespace(module=net), 'table'), metric(None, 'table')
    assert (ours.score_range, ours.lower_better) == (wrapped.score_range, wrapped.lower_better) == ('1, 5', False)
    net.metric_facts['score_range'] = '~1, ~5'
    assert ours.score_range == '~1, ~5' and (other.score_range, other.lower_better) == ('table', None)
    assert vars(ours)['score_range'] == 'table'  # a pickle is pyiqa's own
    with pytest.raises(AssertionError):
        ours.is_valid_input(2)


def test_no_hook_into_every_module_of_the_process_is_left():
    import torch

    from pyiqa_rali.model.rali import RALI  # noqa: F401
    from pyiqa_rali.vlm.scorer import ReasoningScorer  # noqa: F401
    hooks = torch.nn.modules.module._global_module_registration_hooks
    assert not [hook for hook in hooks.values() if hook.__module__.startswith('pyiqa_rali')]


@pytest.mark.parametrize('name', register.METRICS)
def test_metric_names_and_archs_are_ones_that_pyiqa_can_use(name):
    entry = register.METRICS[name]
    assert 'fid' not in name, 'pyiqa treats such names as FID'
    assert entry['metric_opts']['type'] in register.ARCHS and entry['metric_mode'] == 'NR'
    low, high = (float(bound.strip(' ~')) for bound in entry['score_range'].split(','))
    assert low < high
