"""pyiqa's metrics from an option file, and what their scores depend on."""

import json
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError, did_you_mean, first_line
from pyiqa_rali.core.memory import bound_primitive_cache
from pyiqa_rali.evaluation.options import OWN_METRIC_KEYS
from pyiqa_rali.model.digest import weights_digest

NOT_PER_IMAGE = ('fid', 'inception_score')  # metrics of sets of images, by a part of their name


@dataclass(frozen=True)
class MetricSection:
    """One metric of the option file.

    Attributes:
        label: its name in the results.
        name: pyiqa's name.
        options: keywords of `pyiqa.create_metric`.
        paper_name: its name in the paper's tables; None matches by name, False leaves the comparison out.
    """

    label: str
    name: str
    options: dict[str, Any]
    paper_name: str | bool | None = None


def metric_section(label: str, values: dict[str, Any]) -> MetricSection:
    """Return a metric's section, checked against pyiqa's list.

    Raises:
        OptionError: pyiqa does not know the metric, or it does not score single images.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    name = str(values.get('name', label))
    if name not in DEFAULT_CONFIGS:
        raise OptionError(f'metrics: {label}: name: "{name}" is not known to pyiqa. All of them: pyiqa -ls'
                          f'{did_you_mean(name, DEFAULT_CONFIGS)}')
    if any(part in name for part in NOT_PER_IMAGE):
        raise OptionError(f'metrics: {label}: "{name}" compares sets of images and has no score for each. Leave it out.')
    options = {key: value for key, value in values.items() if key not in OWN_METRIC_KEYS}
    return MetricSection(str(label), name, options, values.get('paper_name'))


def make_metric(section: MetricSection, device: torch.device) -> Any:
    """Make the metric.

    Raises:
        CheckpointError: pyiqa cannot make it; the message says why.
        OptionError: an option of this package's metrics cannot be used.
    """
    import pyiqa
    bound_primitive_cache()
    try:
        return pyiqa.create_metric(section.name, device=device, **section.options)
    except (OptionError, CheckpointError, DataError) as error:
        raise type(error)(f'metrics: {section.label}: {error}') from error
    except Exception as error:  # each of pyiqa's architectures fails in its own way, most often because a download is missing
        raise CheckpointError(f'metrics: {section.label}: pyiqa cannot make "{section.name}" with '
                              f'{section.options or "its default options"}: {type(error).__name__}: {first_line(error)}. Give '
                              'weights that are there, or leave it out.') from error


def describe_metric(section: MetricSection, metric: Any) -> dict[str, Any]:
    """Return everything that the metric's scores depend on, apart from the image."""
    card = getattr(metric.net, 'card', None)  # a reasoning model's prompt and rating scale
    return {'name': section.name, 'options': json.loads(json.dumps(section.options, default=str)),
            'card': None if card is None else asdict(card), 'weights_sha256': weights_digest(metric.net),
            'device': torch.device(metric.device).type,
            'versions': {package: metadata.version(package) for package in ('pyiqa', 'pyiqa-rali', 'torch')}}
