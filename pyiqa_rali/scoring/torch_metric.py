"""The quality of generated or restored pictures as a metric of torchmetrics, for training loops and Lightning."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.scoring.metrics import make_metric

try:
    from torchmetrics import Metric
except ImportError as missing:
    raise ImportError('ImageQuality needs torchmetrics: pip install pyiqa-rali[torchmetrics]') from missing

REDUCTIONS = ('mean', 'none')


class ImageQuality(Metric):
    """No-reference quality of pictures, averaged over all that were seen since the last reset; nothing is left out.

    The average is taken over pictures, not over batches, and over all processes. A score that is not finite makes the average
    so too.

    Args:
        metric: name of a no-reference metric of pyiqa, or a metric from `pyiqa.create_metric`.
        weights: file or folder of an export, for a metric by name.
        reduction: 'mean', or 'none' for the score of each picture.
        metric_options: of the metric's architecture, such as {'precision': 'bf16'}, for a metric by name.
        kwargs: of `torchmetrics.Metric`, such as `dist_sync_on_step`.

    Raises:
        OptionError: the metric or the reduction cannot be used.
        CheckpointError: the weights cannot be loaded.

    Example:
        >>> quality = ImageQuality('rali-lite')                      # doctest: +SKIP
        >>> quality.update(torch.rand(4, 3, 96, 96))                 # doctest: +SKIP
        >>> quality.compute()                                        # doctest: +SKIP
        tensor(2.31)
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor
    scores: Any  # a list, and after the processes have exchanged theirs a tensor

    def __init__(self, metric: Any = 'rali-lite', weights: str | None = None, reduction: str = 'mean',
                 metric_options: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if reduction not in REDUCTIONS:
            raise OptionError(f'reduction: {reduction!r} is not one of {", ".join(REDUCTIONS)}.')
        if not isinstance(metric, str) and (weights is not None or metric_options):
            raise OptionError('weights, metric_options: go with the name of a metric; this metric is made already.')
        self.metric = make_metric(metric, weights, 'cpu', metric_options) if isinstance(metric, str) else metric
        self.reduction = reduction
        if reduction == 'mean':
            self.add_state('total', torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx='sum')
            self.add_state('count', torch.tensor(0), dist_reduce_fx='sum')
        else:
            self.add_state('scores', [], dist_reduce_fx='cat')

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # theirs is a constant of the class
        """Whether high scores mean good quality."""
        return not self.metric.lower_better

    @property
    def score_range(self) -> str:
        """The range of the scores, as pyiqa writes it."""
        return str(self.metric.score_range)

    def update(self, images: Tensor | Sequence[Tensor]) -> None:
        """Score pictures.

        Args:
            images: (N, 3 or 1, H, W) in [0, 1], or uint8; or several (3 or 1, H, W) of any sizes. Where one of them cannot be
                scored, none counts.

        Raises:
            OptionError: something else.
        """
        batches = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        for batch in batches:
            if batch.ndim != 4 or batch.shape[1] not in (1, 3):
                raise OptionError(f'images: {tuple(batch.shape)} must be (N, 3, H, W), or a list of (3, H, W).')
        for scores in [self._scores(batch) for batch in batches if len(batch)]:
            if self.reduction == 'mean':
                self.total = self.total + scores.double().sum()
                self.count = self.count + len(scores)
            else:
                self.scores.append(scores)

    def compute(self) -> Tensor:
        """Return the average, or with reduction 'none' all scores (n,) in their order."""
        if self.reduction == 'none':
            return self.scores if isinstance(self.scores, Tensor) else torch.cat([torch.zeros(0), *self.scores])
        return (self.total / self.count).float()

    def merge_state(self, incoming_state: Any) -> None:
        """Add what another one has counted; `torchmetrics.Metric.merge_state` would go on returning an earlier average."""
        super().merge_state(incoming_state)
        self._computed = None

    def _scores(self, batch: Tensor) -> Tensor:
        if torch.device(self.metric.device) != batch.device:
            self.metric.to(batch.device)
            self.metric.device = batch.device
        batch = batch.float().div(255) if batch.dtype == torch.uint8 else batch
        with torch.no_grad():
            scores = self.metric(batch).flatten()
        if len(scores) != len(batch):
            raise OptionError(f'metric: returned {len(scores)} scores for {len(batch)} pictures; it must return one for each.')
        return scores
