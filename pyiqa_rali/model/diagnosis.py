"""What is wrong with a picture, read from its features: shares of distortions, their levels, and how good each aspect is.

With x the image features and v = (x / |x| - m) / s their standardised direction, a *diagnosis* is three linear readings:

- shares of the distortions, softmax(A v + a);
- the level of each, B v + b, within the range of levels;
- for each fault f of a photograph how clear it is, sigmoid(c_f . v + d_f); an aspect of quality is 1 less its clearest fault.

Images and texts share a space, so A starts at the directions of the texts that name each distortion (see
`pyiqa_rali.training.rali.diagnosis`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE

DIAGNOSIS_KEY = 'diagnosis'
NO_ASPECTS = ('the checkpoint has no diagnosis, which aspects are read by. Add one with python -m pyiqa_rali add-diagnosis '
              'CHECKPOINT -opt FILE --out NEW, or train with a section "diagnosis:" in the option file.')


@dataclass(frozen=True)
class Aspects:
    """How good each aspect of N pictures is, and how clear each fault.

    Attributes:
        names: of the aspects.
        values: (N, number of aspects) in [0, 1]: 1 where no fault of the aspect is seen.
        faults: names of the faults.
        clearness: (N, number of faults) in [0, 1].
    """

    names: tuple[str, ...]
    values: Tensor
    faults: tuple[str, ...]
    clearness: Tensor

    def of(self, row: int) -> dict[str, float]:
        """Return the aspects of one picture by name."""
        return dict(zip(self.names, self.values[row].tolist(), strict=True))

    def faults_of(self, row: int) -> dict[str, float]:
        """Return the faults of one picture by name."""
        return dict(zip(self.faults, self.clearness[row].tolist(), strict=True))


class Diagnosis(nn.Module):
    """The linear readings of a checkpoint.

    Args:
        values: the section `diagnosis` of the metadata: `classes`, T names of distortions, 'pristine' among them; `faults`, the
            aspect of each of the F faults by its name.
        feature_dim: width C of the image features.

    Attributes:
        classes: names of the T classes of distortions.
        faults: the aspect of each fault.
        aspects: names of the aspects, each once, in the order of the faults.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    class_weights: Tensor
    class_bias: Tensor
    level_weights: Tensor
    level_bias: Tensor
    fault_weights: Tensor
    fault_bias: Tensor

    def __init__(self, values: Mapping[str, Any], feature_dim: int):
        super().__init__()
        self.classes: list[str] = list(values['classes'])
        self.faults: dict[str, str] = dict(values['faults'])
        self.aspects = tuple(dict.fromkeys(self.faults.values()))
        for name, shape in shapes_of(len(self.classes), len(self.faults), feature_dim).items():
            self.register_buffer(name, torch.zeros(shape))

    def inputs(self, image_features: Tensor) -> Tensor:
        """Return v (N, C), the standardised direction, for image features (N, C)."""
        direction = F.normalize(image_features.float(), dim=-1)
        return (direction - self.feature_mean.float()) / self.feature_scale.float()

    def vote(self, image_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return shares (N, T), rows summing to 1, and levels (N, T) of the distortions for image features (N, C)."""
        inputs = self.inputs(image_features)
        shares = torch.softmax(inputs @ self.class_weights.float().T + self.class_bias.float(), dim=-1)
        levels = inputs @ self.level_weights.float().T + self.level_bias.float()
        return shares, levels.clamp(*LEVEL_RANGE)

    def read(self, image_features: Tensor) -> Aspects:
        """Return the aspects of pictures with image features (N, C)."""
        clearness = torch.sigmoid(self.inputs(image_features) @ self.fault_weights.float().T + self.fault_bias.float())
        columns = list(self.faults.values())
        # the worst fault decides: a picture in focus that someone shook is not half sharp
        worst = [clearness[:, [place for place, own in enumerate(columns) if own == aspect]].amax(dim=1)
                 for aspect in self.aspects]
        return Aspects(self.aspects, 1 - torch.stack(worst, dim=1), tuple(self.faults), clearness)


def shapes_of(classes: int, faults: int, feature_dim: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a diagnosis by its name."""
    return {'feature_mean': (feature_dim,), 'feature_scale': (feature_dim,), 'class_weights': (classes, feature_dim),
            'class_bias': (classes,), 'level_weights': (classes, feature_dim), 'level_bias': (classes,),
            'fault_weights': (faults, feature_dim), 'fault_bias': (faults,)}


def build_diagnosis(metadata: Mapping[str, Any], feature_dim: int) -> Diagnosis | None:
    """Return an empty diagnosis of the size that the metadata names; None when there is none."""
    values = metadata.get(DIAGNOSIS_KEY)
    return None if values is None else Diagnosis(values, feature_dim)


def aspects_of(diagnosis: Diagnosis | None, image_features: Tensor) -> Aspects:
    """Return the aspects of pictures with image features (N, C).

    Raises:
        CheckpointError: the checkpoint has no diagnosis; the message says how to add one.
    """
    if diagnosis is None:
        raise CheckpointError(NO_ASPECTS)
    return diagnosis.read(image_features)
