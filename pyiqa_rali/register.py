"""All that pyiqa is told about this package: metric names, architectures, data sets, what our nets know of themselves.

This is the only file that touches pyiqa's registries, its table of metrics and its class of metrics. It imports neither pyiqa
nor torch.
"""

import copy
import functools
import sys
import warnings
from types import ModuleType
from typing import Any

import pyiqa_rali_hook


def _rali(pretrained: str, score_range: str) -> dict[str, Any]:
    """Return pyiqa's entry for a metric with the RALI arch; loading a checkpoint corrects the range."""
    return {'metric_opts': {'type': 'RALI', 'pretrained': pretrained}, 'metric_mode': 'NR', 'lower_better': False,
            'score_range': score_range}


def _reasoning(pretrained: str | None, **options: Any) -> dict[str, Any]:
    """Return pyiqa's entry for a reasoning model; one without published weights needs a path."""
    return {'metric_opts': {'type': 'ReasoningScorer', 'pretrained': pretrained, **options}, 'metric_mode': 'NR',
            'lower_better': False, 'score_range': '1, 5'}


def _cascade() -> dict[str, Any]:
    """Return pyiqa's entry for a fast and a slow metric; the slow one, and a rule, must be given."""
    return {'metric_opts': {'type': 'Cascade', 'fast': 'rali-lite'}, 'metric_mode': 'NR', 'lower_better': False,
            'score_range': '~1, ~5'}


METRICS = {
    'rali': _rali('rali', '1, 5'),
    'rali-lite': _rali('rali-lite', '1, 5'),
    'rali-lite-v1': _rali('rali-lite-v1', '~1, ~5'),
    'rali-cascade': _cascade(),
    'rali-reasoning': _reasoning(None),
    'qinsight': _reasoning('ByteDance/Q-Insight:score_degradation', rating_range=[1, 5], release='qinsight'),
    'visualquality-r1': _reasoning('TianheWu/VisualQuality-R1-7B', rating_range=[1, 5], release='visualquality-r1'),
}
ARCHS = {'RALI': 'pyiqa_rali.model.rali:RALI', 'ReasoningScorer': 'pyiqa_rali.vlm.scorer:ReasoningScorer',
         'Cascade': 'pyiqa_rali.scoring.cascade:Cascade'}
DATASETS = {'SyntheticNRDataset': 'pyiqa_rali.data.synthetic.dataset:SyntheticNRDataset',
            'ManifestNRDataset': 'pyiqa_rali.data.manifests:ManifestNRDataset'}

_registered: set[tuple[int, str]] = set()  # (id of pyiqa's registry, name) of everything that this module has added


def register() -> None:
    """Add everything to pyiqa: now to what is imported of it, later to the rest. Calling it again changes nothing."""
    missing = []
    for name, add in ADDITIONS.items():
        module = sys.modules.get(name)
        if module is not None and hasattr(module, _COMPLETE_WITH[name]):
            add(module)
        else:
            missing.append(name)
    if missing:
        pyiqa_rali_hook.watch(missing)


def add_metrics(module: ModuleType) -> None:
    """Add the metric names to `pyiqa.default_model_configs`; a name that is taken stays as it is, with a warning."""
    for name, entry in METRICS.items():
        held = module.DEFAULT_CONFIGS.setdefault(name, copy.deepcopy(entry))
        if held.get('metric_opts', {}).get('type') != entry['metric_opts']['type']:
            _warn_taken('metric', name)


def add_archs_and_datasets(module: ModuleType) -> None:
    """Add the architectures and the data sets to `pyiqa.utils.registry`, to be imported when first used."""
    _add_lazily(module.ARCH_REGISTRY, ARCHS, 'arch')
    _add_lazily(module.DATASET_REGISTRY, DATASETS, 'data set')


def let_nets_tell_facts(module: ModuleType) -> None:
    """Let `pyiqa.models.inference_model` ask our metrics' nets for range and direction, and to read and check pictures.

    Range and direction depend on the weights, which pyiqa's table is older than. They are looked up whenever they are asked
    for, so that they follow every way in which weights can change: `load_weights`, `load_state_dict`, copies, pickles. Paths
    and Pillow images are read by this package's own rule, so that a file has one score. Other metrics stay as they are.
    """
    metric = module.InferenceModel
    if isinstance(vars(metric).get('score_range'), FactOfNet):
        return
    metric.score_range, metric.lower_better = FactOfNet('score_range'), FactOfNet('lower_better')
    check = metric.is_valid_input

    @functools.wraps(check)
    def is_valid_input(self: Any, x: Any) -> None:
        """Check the shape as pyiqa does and, where the net is ours, the range of values as the net does.

        pyiqa's own check of the range rejects what bicubic resampling gives, and in half precision white, which is not below
        1.000001 there.
        """
        net = _net_of(self)
        if not hasattr(net, 'check_values') or not hasattr(x, 'dtype'):
            check(self, x)
            return
        check(self, net.as_checked(x.new_zeros((1, *x.shape[1:2], 1, 1)) if x.dim() == 4 else x))
        net.check_values(x, self.check_input_range, self.as_loss)

    metric.is_valid_input = is_valid_input
    forward = metric.forward

    @functools.wraps(forward)
    def read_and_forward(self: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Score as pyiqa does, after the net has read the picture where the net is ours."""
        net = _net_of(self)
        if not hasattr(net, 'as_images'):
            return forward(self, target, *args, **kwargs)
        with net.settled():
            return forward(self, net.as_images(target), *args, **kwargs)

    metric.forward = read_and_forward


class FactOfNet:
    """Attribute of a pyiqa metric that comes from its net, if the net has `metric_facts`; otherwise a plain attribute.

    Args:
        name: of the attribute, and in `metric_facts`.
    """

    def __init__(self, name: str):
        self.name = name

    def __get__(self, metric: Any, owner: type | None = None) -> Any:
        """Return the net's value or, for a metric without such a net, what was assigned."""
        if metric is None:
            return self
        facts = getattr(_net_of(metric), 'metric_facts', None)
        if facts is not None:
            return facts[self.name]
        try:
            return vars(metric)[self.name]
        except KeyError:
            raise AttributeError(f'{type(metric).__name__} has no attribute {self.name!r}') from None

    def __set__(self, metric: Any, value: Any) -> None:
        """Keep a value where a plain attribute would be, so that pickles do not depend on this class."""
        vars(metric)[self.name] = value


def _net_of(metric: Any) -> Any:
    """Return a metric's net, also inside DataParallel; None before there is one."""
    net = vars(metric).get('_modules', {}).get('net')
    return getattr(net, 'module', net)


def _add_lazily(registry: Any, entries: dict[str, str], kind: str) -> None:
    for name, import_path in entries.items():
        if (id(registry), name) in _registered:
            continue
        try:
            registry.register_lazy(name, import_path)
            _registered.add((id(registry), name))
        except AssertionError:  # pyiqa's way of saying that the name is taken
            _warn_taken(kind, name)


def _warn_taken(kind: str, name: str) -> None:
    warnings.warn(f'pyiqa already has another {kind} "{name}"; it is kept, and the one of pyiqa_rali is not '
                  'registered. Register yours under another name to have both.', RuntimeWarning, stacklevel=4)


ADDITIONS = {'pyiqa.default_model_configs': add_metrics, 'pyiqa.utils.registry': add_archs_and_datasets,
             'pyiqa.models.inference_model': let_nets_tell_facts}
_COMPLETE_WITH = {'pyiqa.default_model_configs': 'DEFAULT_CONFIGS', 'pyiqa.utils.registry': 'ARCH_REGISTRY',
                  'pyiqa.models.inference_model': 'InferenceModel'}
