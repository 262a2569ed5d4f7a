"""Reasoning-aligned, lightweight image quality assessment for pyiqa; importing it makes its metrics known to pyiqa.

The names in `__all__` are the public interface for Python; each is imported when it is first used. `pyiqa_rali.train` is the
module behind `python -m pyiqa_rali.train`, so that the functions are called by what they train: `train_rali` and so on.
"""

import importlib
import importlib.util
from typing import Any

from pyiqa_rali import register as _register

__version__ = '0.2.0'

# where each public name is; type checkers read the same in __init__.pyi
_PLACES = {
    'api': ('Checkpoint', 'Scores', 'explain', 'load_checkpoint', 'read_options', 'score', 'score_column',
            'score_metrics'),
    'core.errors': ('CheckpointError', 'DataError', 'OptionError'),
    'data.arrays': ('from_array',),
    'data.fetching': ('FetchOptions',),
    'data.image_files': ('ReadingOptions',),
    'data.picture_measures.measures': ('measure_picture',),
    'data.picture_measures.write_texts': ('MeasuredTextOptions', 'MeasuredTextReport', 'write_measured_texts'),
    'data.sections': ('ManifestOptions', 'TableOptions'),
    'data.synthetic.make_dataset': ('make_dataset',),
    'data.synthetic.options': ('SyntheticOptions',),
    'data.synthetic.settings': ('DatasetSettings',),
    'evaluation.options': ('EvaluateOptions', 'EvaluatePaths', 'StatisticsOptions'),
    'evaluation.run': ('EvaluationResults', 'evaluate'),
    'model.explanation': ('Explanation',),
    'model.rali': ('RALI',),
    'scoring.cluster.datasets': ('score_dataset',),
    'scoring.explaining': ('ExplainedImage',),
    'scoring.score_table': ('ImageScore',),
    'scoring.selection': ('Selection', 'select'),
    'scoring.torch_metric': ('ImageQuality',),
    'studies.chain.options': ('ChainOptions',),
    'studies.chain.run': ('ChainResults', 'run_chain'),
    'training.rali.options': ('AlignOptions', 'BankOptions', 'CompressOptions', 'ExportOptions', 'LoggerOptions', 'PathOptions',
                              'ScoreOptions', 'TextEncoderOptions', 'TrainOptions', 'ValOptions', 'ZeroShotPrompts'),
    'training.rali.run': ('TrainingResults', 'train_rali'),
    'training.vlm.grpo': ('train_grpo',),
    'training.vlm.options': ('GrpoOptions', 'NetworkOptions', 'ReasoningExportOptions', 'ReasoningValOptions', 'RewardOptions',
                             'SftOptions'),
    'training.vlm.ract': ('RactOptions', 'RactResults', 'train_ract'),
    'training.vlm.run': ('ReasoningResults',),
    'training.vlm.sft': ('train_sft',),
    'vlm.prompts': ('ReasoningCard',),
    'vlm.scorer': ('ReasoningScorer',),
    'vlm.write_texts': ('WritingOptions',),
}
_CALLED_THERE = {'train_rali': 'train', 'train_ract': 'run_ract'}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

_NEED = {'ImageQuality': 'torchmetrics'}  # packages that need not be installed

__all__ = sorted(name for name in _MODULES if name not in _NEED or importlib.util.find_spec(_NEED[name]))

_register.register()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    found = getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), _CALLED_THERE.get(name, name))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names too, also before they are used."""
    return sorted({*globals(), *__all__})
