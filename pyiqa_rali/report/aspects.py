"""How good each aspect of a shown picture is, by the diagnosis of the model that scored it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.data.image_files import UnreadableImage
from pyiqa_rali.evaluation.metrics import make_metric, metric_section
from pyiqa_rali.figures.explanations import WRONG
from pyiqa_rali.model.checkpoint import load_checkpoint
from pyiqa_rali.model.checkpoint_diagnosis import PREFIX
from pyiqa_rali.model.diagnosis import Aspects, build_diagnosis
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.report.blocks import Aspect
from pyiqa_rali.training.rali.features import load_features
from pyiqa_rali.training.rali.run_folder import RunFolder

AspectsOf = Callable[[int], Sequence[Aspect]]  # from the position of a picture


def aspects_of_run(run: RunFolder, section: str) -> AspectsOf | None:
    """Return the aspects of a validation set's pictures, from the features that training kept.

    Args:
        run: its files.
        section: of the validation set.

    Returns:
        From a position in the set to the aspects; None for a run whose export has no diagnosis.
    """
    if not run.export.exists() or not run.features(section).exists():
        return None
    tensors, metadata = load_checkpoint(run.export)
    diagnosis = build_diagnosis(metadata, tensors['scorer.pca_components'].shape[1])
    if diagnosis is None:
        return None
    diagnosis.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()
                               if name.startswith(PREFIX)})
    with torch.no_grad():
        found = diagnosis.read(load_features(run.features(section)).image_features)
    return lambda position: shown_aspects(found, diagnosis.faults, position)


class MetricAspects:
    """The aspects of pictures by a metric of an evaluation, for as long as its weights are those that scored.

    Args:
        label: of the metric in the evaluation.
        metrics: the section `metrics` of its options.
        described: what its results say of the metric.

    Attributes:
        remark: why there are none although the metric is a RALI; empty for metrics that never have any.
    """

    def __init__(self, label: str, metrics: Mapping[str, Any], described: Mapping[str, Any]):
        self.remark = ''
        self._net: RALI | None = None
        if label not in metrics or not described.get('weights_sha256'):
            return
        try:
            section = metric_section(label, metrics[label] or {})
            if not is_rali(section.name):
                return
            net = make_metric(section, torch.device('cpu')).net
        except (OptionError, CheckpointError, DataError) as error:
            self.remark = f'Aspects are not shown: {error}'
            return
        if weights_digest(net) != described['weights_sha256']:
            self.remark = f'Aspects are not shown: the weights of {label} have changed since the evaluation.'
        elif net.diagnosis is not None:
            self._net = net

    def of(self, images: Sequence[str]) -> AspectsOf | None:
        """Return the aspects of images by their position; None where the metric has none."""
        net = self._net
        return None if net is None else lambda position: self._read(net, images[position])

    def _read(self, net: RALI, image: str) -> list[Aspect]:
        try:
            return shown_aspects(net.aspects(image), net.diagnosis.faults if net.diagnosis else {}, 0)
        except UnreadableImage:  # its card says why
            return []


def is_rali(name: str) -> bool:
    """Whether pyiqa's metric of this name is a `RALI`."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    return bool(DEFAULT_CONFIGS[name]['metric_opts']['type'] == 'RALI')


def shown_aspects(found: Aspects, faults: Mapping[str, str], row: int) -> list[Aspect]:
    """Return the aspects of one picture, each that is wrong with its clearest fault.

    Args:
        found: of N pictures.
        faults: the aspect of each fault.
        row: which picture.
    """
    clear = found.faults_of(row)
    shown = []
    for name, value in found.of(row).items():
        own = [fault for fault, aspect in faults.items() if aspect == name]
        shown.append(Aspect(name, value, max(own, key=lambda fault: clear[fault]) if value < WRONG else ''))
    return shown
