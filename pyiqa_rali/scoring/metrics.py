"""Create the metric that a command line names, with clear errors."""

import inspect
from typing import Any

from pyiqa_rali.core.errors import CheckpointError, OptionError, did_you_mean, first_line
from pyiqa_rali.core.memory import bound_primitive_cache
from pyiqa_rali.core.processes import torch_device

MANY = 300  # images: from here on an export for onnxruntime, which takes about ten seconds, soon pays off
OWN_WEIGHTS = ('RALI', 'ReasoningScorer')  # the architectures that --weights applies to
BY_OTHER_OPTIONS = {'pretrained_model_path': '--weights', 'device': '--device'}


def make_metric(name: str, weights: str | None, device: str | None, options: dict[str, Any] | None = None) -> Any:
    """Make a pyiqa metric.

    Args:
        name: a no-reference metric.
        weights: file or folder of an export.
        device: a torch device; under torchrun "cuda" and None mean the GPU of this process.
        options: further arguments of the metric's architecture.

    Raises:
        OptionError: there is no such no-reference metric, it does not take weights or an option, or there is no such
            device.
        CheckpointError: its weights cannot be loaded.
    """
    import pyiqa
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    bound_primitive_cache()
    check_no_reference(name)
    arch = DEFAULT_CONFIGS[name]['metric_opts']['type']
    if weights and arch not in OWN_WEIGHTS:
        raise OptionError(f'--weights: "{name}" is not a metric of pyiqa_rali; only these take weights. Leave -m out.')
    options = dict(options or {})
    given_weights = {'pretrained_model_path': weights} if weights else {}
    chosen = torch_device(device)
    if arch == 'RALI':
        _check_precision(options.get('precision', 'fp32'), chosen)
    try:
        return pyiqa.create_metric(name, device=chosen, **options, **given_weights)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        if not options or isinstance(error, (OptionError, CheckpointError)):
            raise
        _refuse_unknown_options(name, arch, options)
        raise OptionError(f'--metric-opt: {name} cannot be made with {_text(options)}: {first_line(error)}') from error


def check_no_reference(name: str) -> None:
    """Raise OptionError for what is not the name of a no-reference metric that pyiqa knows."""
    import pyiqa
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    known = pyiqa.list_models(metric_mode='NR')
    if name not in known:
        reason = 'compares with a reference image' if name in DEFAULT_CONFIGS else 'is not known to pyiqa'
        raise OptionError(f'--metric: "{name}" {reason}; give a no-reference metric such as rali-lite.'
                          f'{did_you_mean(name, known)} All of them: pyiqa -ls')


def with_fastest_backend(metric: Any, options: dict[str, Any], may_export: bool) -> dict[str, Any]:
    """Let onnxruntime compute where it is installed and faster, and return the options with the chosen backend.

    That is a RALI with a convolutional encoder in float32 on a CPU, unless the options name a backend.

    Args:
        metric: of pyiqa.
        options: as they were given.
        may_export: whether there are enough images for a new export, which takes about ten seconds.
    """
    import torch

    from pyiqa_rali.core.messages import LOGGER
    from pyiqa_rali.model.onnx.backend import can_score, is_convolutional
    from pyiqa_rali.model.rali import RALI
    net = getattr(metric, 'net', None)
    if not isinstance(net, RALI) or 'backend' in options or torch.device(metric.device).type != 'cpu':
        return options
    fits = net.precision == 'fp32' and not net.trainable and is_convolutional(net)
    if not fits or not can_score(net, may_export):
        return options
    try:
        net.use_backend('onnx')
    except (CheckpointError, OptionError) as error:
        LOGGER.warning('onnxruntime is not used: %s', error)
        return options
    return {**options, 'backend': 'onnx'}


def _check_precision(precision: str, device: Any) -> None:
    """Reject a precision that the device does not have once, and not as the error of every image."""
    import torch

    from pyiqa_rali.model.precision import check_device, check_precision
    check_precision(precision)
    check_device(precision, device or torch.device('cuda' if torch.cuda.is_available() else 'cpu'))


def parse_options(words: list[str]) -> dict[str, Any]:
    """Return the values of `key=value` words; a value is read as YAML: 4 is a number, true a Boolean.

    Raises:
        OptionError: a word has another form, or a key is given twice.
    """
    import yaml
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition('=')
        if not equals or not key.isidentifier():
            raise OptionError(f'--metric-opt: "{word}" must be KEY=VALUE, such as precision=bf16.')
        if key in options:
            raise OptionError(f'--metric-opt: {key} is given twice.')
        if key in BY_OTHER_OPTIONS:
            raise OptionError(f'--metric-opt: {key} is what {BY_OTHER_OPTIONS[key]} is for.')
        try:
            options[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise OptionError(f'--metric-opt: the value of "{word}" cannot be read: {first_line(error)}') from error
    return options


def metric_label(name: str, weights: str | None, options: dict[str, Any], metric: Any) -> str:
    """Return how the table names the metric: with the user's weights and options, if there are any.

    Metrics whose weights can change under one name carry a digest of them, so that a table never holds scores of two.
    """
    from pyiqa_rali.model.digest import weights_digest
    changeable = isinstance(getattr(metric, 'net', None), _own_architectures()) and name != 'rali-lite'
    digest = f'@{weights_digest(metric.net)[:8]}' if changeable else ''
    return name + (f':{weights}' if weights else '') + digest + (f' {_text(options)}' if options else '')


def _own_architectures() -> tuple[type, ...]:
    from pyiqa_rali.model.rali import RALI
    from pyiqa_rali.scoring.cascade import Cascade
    from pyiqa_rali.vlm.scorer import ReasoningScorer
    return RALI, ReasoningScorer, Cascade


def _text(options: dict[str, Any]) -> str:
    return ' '.join(f'{key}={value}' for key, value in sorted(options.items()))


def _refuse_unknown_options(metric: str, arch: str, options: dict[str, Any]) -> None:
    """Raise OptionError for an option that the architecture's constructor does not have."""
    from pyiqa.utils.registry import ARCH_REGISTRY
    parameters = inspect.signature(ARCH_REGISTRY.get(arch)).parameters.values()
    allowed = [each.name for each in parameters if each.name not in BY_OTHER_OPTIONS
               and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    for key in options:
        if key not in allowed:
            raise OptionError(f'--metric-opt: {metric} has no option "{key}"; it takes {", ".join(allowed) or "none"}.'
                              f'{did_you_mean(key, allowed)}')
