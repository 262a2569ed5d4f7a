"""All that pyiqa is told about this package: metric names, the architecture and the data set.

This is the only file that touches pyiqa's registries and its table of metrics. It imports neither pyiqa nor torch.
"""

import copy
import sys
import warnings
from types import ModuleType
from typing import Any

import pyiqa_rali_hook


def _rali(pretrained: str, score_range: str) -> dict[str, Any]:
    """Return pyiqa's entry for a metric of the RALI arch; a checkpoint corrects the range when it is loaded."""
    return {'metric_opts': {'type': 'RALI', 'pretrained': pretrained}, 'metric_mode': 'NR', 'lower_better': False,
            'score_range': score_range}


def _reasoning(pretrained: str | None, **options: Any) -> dict[str, Any]:
    """Return pyiqa's entry for a reasoning model; without weights of its own it asks for a path."""
    return {'metric_opts': {'type': 'ReasoningScorer', 'pretrained': pretrained, **options}, 'metric_mode': 'NR',
            'lower_better': False, 'score_range': '1, 5'}


METRICS = {
    'rali': _rali('rali', '1, 5'),
    'rali-lite': _rali('rali-lite', '~1, ~5'),
    'rali-reasoning': _reasoning(None),
    'qinsight': _reasoning('ByteDance/Q-Insight:score_degradation', rating_range=[1, 5], release='qinsight'),
    'visualquality-r1': _reasoning('TianheWu/VisualQuality-R1-7B', rating_range=[1, 5], release='visualquality-r1'),
}
ARCHS = {'RALI': 'pyiqa_rali.model.rali:RALI', 'ReasoningScorer': 'pyiqa_rali.vlm.scorer:ReasoningScorer'}
DATASETS = {'SyntheticNRDataset': 'pyiqa_rali.data.synthetic.dataset:SyntheticNRDataset',
            'ManifestNRDataset': 'pyiqa_rali.data.manifests:ManifestNRDataset'}

_registered: set[tuple[int, str]] = set()  # (id of pyiqa's registry, name): what this module put there


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


def _add_lazily(registry: Any, entries: dict[str, str], kind: str) -> None:
    for name, import_path in entries.items():
        if (id(registry), name) in _registered:
            continue
        try:
            registry.register_lazy(name, import_path)
            _registered.add((id(registry), name))
        except AssertionError:  # how pyiqa says that the name is taken
            _warn_taken(kind, name)


def _warn_taken(kind: str, name: str) -> None:
    warnings.warn(f'pyiqa already has another {kind} "{name}"; it is kept, and the one of pyiqa_rali is not '
                  'registered. Register yours under another name to have both.', RuntimeWarning, stacklevel=4)


ADDITIONS = {'pyiqa.default_model_configs': add_metrics, 'pyiqa.utils.registry': add_archs_and_datasets}
_COMPLETE_WITH = {'pyiqa.default_model_configs': 'DEFAULT_CONFIGS', 'pyiqa.utils.registry': 'ARCH_REGISTRY'}
