"""The metrics of the page: loaded when they are first asked, one picture at a time."""

import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError, first_line
from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.reasoning_texts import PRISTINE
from pyiqa_rali.register import METRICS

if TYPE_CHECKING:
    from torch import Tensor

    from pyiqa_rali.model.rali import RALI

OFFERED = ('rali-lite', 'rali-lite-v1', 'piqe')  # without the network
TEXTS, PARTS = 4, 6  # nearest texts and basis vectors that are shown
Region = tuple[float, float, float, float]  # top, left, bottom, right as shares of height and width
LEAST_SHARE = 0.01  # of a vote that is shown
DIGITS = 5


@dataclass(frozen=True)
class Choice:
    """A metric that the page offers.

    Attributes:
        label: what the page calls it; all are different.
        name: what pyiqa calls it.
        weights: file or folder of an export; None for its own.
    """

    label: str
    name: str
    weights: str | None = None


def choices(names: Sequence[str], weights: str | None) -> list[Choice]:
    """Return the metrics of the page, the first one first.

    Args:
        names: metrics of pyiqa; none means those that need no network.
        weights: file or folder of an export, for the first one.

    Raises:
        OptionError: there is no such metric, or one is named twice.
    """
    given = list(names) or (['rali', *OFFERED] if weights else list(OFFERED))
    if repeated := {name for name in given if given.count(name) > 1}:
        raise OptionError(f'--metric: "{repeated.pop()}" is given twice.')
    if any(name not in METRICS for name in names):
        from pyiqa_rali.scoring.metrics import check_no_reference
        for name in names:
            check_no_reference(name)
    first = Choice(f'{given[0]} ({Path(weights).name})', given[0], weights) if weights else Choice(given[0], given[0])
    return [first, *(Choice(name, name) for name in given[1:])]


class PageMetrics:
    """The metrics of the page. Any thread may ask it; one picture is scored at a time.

    Args:
        offered: of `choices`.
        device: torch's name of the device; None takes a GPU if there is one.
    """

    def __init__(self, offered: Sequence[Choice], device: str | None = None):
        self.offered = {choice.label: choice for choice in offered}
        self.device = device
        self._loaded: dict[str, PageMetric] = {}
        self._lock = threading.RLock()

    @property
    def labels(self) -> list[str]:
        """What the page calls them."""
        return list(self.offered)

    def load(self, label: str) -> 'PageMetric':
        """Return a metric, loaded.

        Raises:
            OptionError, CheckpointError: it is not offered, or cannot be loaded; the message says why.
        """
        if label not in self.offered:
            raise OptionError(f'"{label}" is not one of the metrics {", ".join(self.offered)}.')
        with self._lock:
            if label not in self._loaded:
                self._loaded[label] = load_metric(self.offered[label], self.device)
            return self._loaded[label]

    def verdict(self, label: str, pixels: np.ndarray) -> dict[str, Any]:
        """Return what a metric says about a picture (see `PageMetric.verdict`); `error` says why there is nothing."""
        try:
            with self._lock:
                found = self.load(label).verdict(pixels)
            return found if math.isfinite(found['score']) else {'error': f'the score is {found["score"]}'}
        except (ValueError, RuntimeError, ConnectionError) as error:  # such as a picture that is too small
            return {'error': first_line(error)}


class PageMetric:
    """A metric that says what it can about a picture.

    Args:
        label: what the page calls it.
        score_range: as pyiqa writes it, such as '~1, ~5'.
        lower_better: whether low scores mean good quality.
    """

    def __init__(self, label: str, score_range: Any, lower_better: bool):
        self.label, self.lower_better = label, bool(lower_better)
        ends = [float(number) for number in re.findall(r'-?\d+(?:\.\d+)?', str(score_range))]
        self.ends = ends if len(ends) == 2 and ends[0] < ends[1] else None

    def facts(self) -> dict[str, Any]:
        """Return what the page needs to draw its scores: the ends of the scale, None where they are not known, and more."""
        return {'label': self.label, 'ends': self.ends, 'lower_better': self.lower_better, 'map': False}

    def verdict(self, pixels: np.ndarray) -> dict[str, Any]:
        """Return what it says about uint8 pixels (H, W, 3): `score` at least."""
        raise NotImplementedError

    def where(self, pixels: np.ndarray) -> tuple[np.ndarray, Region]:
        """Return (h, w), how good uint8 pixels (H, W, 3) are where, and the part of the picture that it covers.

        Raises:
            DataError: this metric has no map.
        """
        raise DataError(f'{self.label} has no map')


class PyiqaMetric(PageMetric):
    """Any no-reference metric of pyiqa: a score and nothing else.

    Args:
        label: what the page calls it.
        metric: of pyiqa.
    """

    def __init__(self, label: str, metric: Any):
        super().__init__(label, getattr(metric, 'score_range', ''), metric.lower_better)
        self.metric = metric

    def verdict(self, pixels: np.ndarray) -> dict[str, Any]:
        """Return the score of uint8 pixels (H, W, 3)."""
        import torch
        with torch.no_grad():
            return {'score': float(self.metric(_tensor(pixels).to(self.metric.device)))}


class RaliMetric(PageMetric):
    """A RALI: score and interval, votes, texts, basis and a map, as far as its checkpoint has them.

    Args:
        label: what the page calls it.
        net: the architecture, with weights, on its device.
    """

    def __init__(self, label: str, net: 'RALI'):
        super().__init__(label, net.score_range, net.lower_better)
        self.net = net

    def verdict(self, pixels: np.ndarray) -> dict[str, Any]:
        """Return the score of uint8 pixels (H, W, 3), and why."""
        import torch
        with torch.no_grad():
            images = _tensor(pixels).to(self.net.scorer.basis_vectors.device)
            scores, features = self.net.scores_and_features(self.net.prepare(images))
            return {'score': float(scores), **self._interval(features, scores), **self._why(features)}

    def _interval(self, features: 'Tensor', scores: 'Tensor') -> dict[str, Any]:
        if self.net.interval is None:
            return {}
        found = self.net.intervals_of(features, scores)
        return {'low': float(found.low), 'high': float(found.high), 'unlike': bool(found.unlike), 'coverage': found.coverage}

    def facts(self) -> dict[str, Any]:
        """Return what the page needs to draw its scores."""
        return {**super().facts(), 'map': True}

    def where(self, pixels: np.ndarray) -> tuple[np.ndarray, Region]:
        """Return the map of uint8 pixels (H, W, 3), and the part of the picture that it covers, as shares of its sides.

        Raises:
            OptionError: the encoder has no positions.
        """
        height, width = pixels.shape[:2]
        images = _tensor(pixels).to(self.net.scorer.basis_vectors.device)
        top, left, bottom, right = self.net.map_region(height, width)
        return self.net.quality_map(images)[0].cpu().numpy(), (top / height, left / width, bottom / height, right / width)

    def _why(self, features: 'Tensor') -> dict[str, Any]:
        from pyiqa_rali.model.explanation import explain_features
        if self.net.bank is None:
            return {}
        found = explain_features(features, self.net.scorer, self.net.bank, TEXTS, PARTS, self.net.diagnosis)[0]
        why = {
            'spread': _short(found.uncertainty),
            'votes': [{'label': label_of(vote.distortion), 'share': _short(vote.share), 'level': _short(vote.level)}
                      for vote in found.votes if vote.share >= LEAST_SHARE],
            'texts': [{'text': near.text, 'cosine': _short(near.cosine)} for near in found.texts],
            'basis': {'weights': [_short(weight) for weight in found.weights],
                      'scores': [_short(score) for score in found.basis_scores],
                      'parts': [{'weight': _short(part.weight), 'score': _short(part.basis_score), 'text': part.text}
                                for part in found.basis]}}
        if found.aspects:
            why['aspects'] = [{'label': name.replace('_', ' '), 'value': _short(value)}
                              for name, value in found.aspects.items()]
        return why


def load_metric(choice: Choice, device: str | None) -> PageMetric:
    """Load a metric.

    Metrics of this package are made without pyiqa, whose import takes longer than the first score.

    Raises:
        OptionError, CheckpointError: it cannot be loaded; the message says why.
    """
    options = dict(METRICS.get(choice.name, {}).get('metric_opts', {}))
    if options.pop('type', '') != 'RALI':
        from pyiqa_rali.scoring.metrics import make_metric
        try:
            return PyiqaMetric(choice.label, make_metric(choice.name, choice.weights, device))
        except (OSError, RuntimeError) as error:  # such as weights that pyiqa would have to download
            raise CheckpointError(f'{choice.name} cannot be loaded: {first_line(error)}') from error
    import torch

    from pyiqa_rali.core.processes import torch_device
    from pyiqa_rali.model.rali import RALI
    net = RALI(**options, pretrained_model_path=choice.weights)
    return RaliMetric(choice.label, net.to(torch_device(device) or _usual_device(torch)))


def _usual_device(torch: Any) -> Any:
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def label_of(distortion: str) -> str:
    """Return what people call a class of the votes."""
    if distortion == PRISTINE:
        return 'no distortion'
    return DISTORTIONS[distortion].phrase if distortion in DISTORTIONS else distortion.replace('_', ' ')


def _tensor(pixels: np.ndarray) -> 'Tensor':
    import torch
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float().div(255)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
