"""What pyiqa's metric asks a net of this package, whatever the net computes."""

from typing import Any

from torch import Tensor, nn

from pyiqa_rali.model.preprocessing import as_unit_float


class MetricNet(nn.Module):
    """Base of the architectures that are registered with pyiqa (see `pyiqa_rali.register`)."""

    @property
    def score_range(self) -> str:
        """The range of the scores as pyiqa writes it, such as '1, 5'."""
        raise NotImplementedError

    @property
    def lower_better(self) -> bool:
        """Whether low scores mean good quality."""
        raise NotImplementedError

    @property
    def metric_facts(self) -> dict[str, Any]:
        """What pyiqa's metric says about itself, from the weights that are loaded."""
        return {'score_range': self.score_range, 'lower_better': self.lower_better}

    @staticmethod
    def as_checked(images: Tensor) -> Tensor:
        """Return pictures as pyiqa's metric checks their range: float32, whole numbers scaled."""
        return as_unit_float(images)
