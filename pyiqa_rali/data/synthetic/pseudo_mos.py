"""Pseudo-MOS: labels from full-reference metrics and the known level. They are synthetic; no human gave an opinion.

Both pictures are averaged over 2 x 2 pixels (a viewing distance), each metric becomes a rank in [0, 1] by a fixed table,
and the mean rank is averaged with the severity that the level represents.
"""

import json
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE

# names of pyiqa's metrics, and whether a lower value means better quality
METRICS = {'fsim': False, 'vsi': False, 'gmsd': True, 'nlpd': True, 'psnr': False, 'ssim': False, 'vif': False,
           'cw_ssim': False}
DEFAULT_METRICS = ('fsim', 'gmsd', 'nlpd')
MOS_RANGE = (1.0, 5.0)
QUANTILES = 101
METRIC_WEIGHT = 0.5
CHUNK = 16  # pictures at a time, and how many pixels: more do not fit into the processor's cache
CHUNK_PIXELS = 800_000
LEAST_SIZE = {'vif': 66, 'cw_ssim': 128}  # pixels of the shorter side; 32 for the others


def severity_of(levels: Iterable[float]) -> float:
    """Return the severity in [0, 1] of distortions at these levels; several add up as independent losses.

    Example:
        >>> severity_of([]), severity_of([3.0]), round(severity_of([3.0, 3.0]), 2)
        (0.0, 0.5, 0.75)
    """
    low, high = LEVEL_RANGE
    return 1 - math.prod(1 - (level - low) / (high - low) for level in levels)


class FullReferenceMetrics:
    """pyiqa's full-reference metrics that need no download, run at half size: a viewing distance.

    Args:
        names: which of `METRICS`.

    Raises:
        OptionError: an unknown metric, or none.
    """

    def __init__(self, names: Sequence[str] = DEFAULT_METRICS):
        for name in names:
            if name not in METRICS:
                raise OptionError(f'metrics: "{name}" is not one of {", ".join(METRICS)}.{did_you_mean(name, METRICS)}')
        if not names:
            raise OptionError(f'metrics: the list is empty; name at least one of {", ".join(METRICS)}.')
        self.names = tuple(dict.fromkeys(names))
        self._networks: dict[str, torch.nn.Module] = {}

    def __call__(self, reference: Tensor, distorted: Tensor) -> dict[str, np.ndarray]:
        """Return each metric's values (N,) for (N, 3, H, W) pictures in [0, 1], at least 32 x 32.

        Raises:
            OptionError: the pictures are too small for a metric.
        """
        self.check_size(reference.shape[-2:])
        if not self._networks:
            self._networks = _build_metrics(self.names)
        count = min(CHUNK, max(1, CHUNK_PIXELS // reference[0, 0].numel()))
        chunks = [self._chunk(*pair) for pair in zip(reference.split(count), distorted.split(count), strict=True)]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in self.names}

    def check_size(self, size: Sequence[int]) -> None:
        """Raise OptionError when pictures of this height and width are too small for a metric."""
        for name in self.names:
            if min(size) < LEAST_SIZE.get(name, 32):
                raise OptionError(f'metrics: {name} needs {LEAST_SIZE.get(name, 32)} pixels on the shorter side, and the '
                                  f'pictures have {min(size)}. Choose larger pictures or other metrics.')

    @torch.no_grad()
    def _chunk(self, reference: Tensor, distorted: Tensor) -> dict[str, np.ndarray]:
        reference, distorted = F.avg_pool2d(reference, 2), F.avg_pool2d(distorted, 2)
        return {name: network(distorted, reference).reshape(-1).double().numpy() for name, network in self._networks.items()}


def _build_metrics(names: Sequence[str]) -> dict[str, torch.nn.Module]:
    import pyiqa
    return {name: pyiqa.create_metric(name, device=torch.device('cpu')) for name in names}


class PseudoMos:
    """Labels for pairs of reference and distorted pictures.

    Args:
        metrics: names of full-reference metrics (see `FullReferenceMetrics`).
        calibration: quantiles of each metric's values; None takes the table that the package brings.
        noise: standard deviation of what is added to the quality in [0, 1], as if few people had been asked.

    Raises:
        OptionError: an unknown metric, or one that the calibration lacks.
    """

    def __init__(self, metrics: Sequence[str] = DEFAULT_METRICS, calibration: dict[str, list[float]] | None = None,
                 noise: float = 0.0):
        self.measure = FullReferenceMetrics(metrics)
        self.calibration = load_calibration() if calibration is None else calibration
        self.noise = noise
        missing = [name for name in self.measure.names if name not in self.calibration]
        if missing:
            raise OptionError(f'metrics: {", ".join(missing)} not in the calibration, which has '
                              f'{", ".join(self.calibration)}. Make one with make-dataset --calibrate.')

    def label(self, reference: Tensor, distorted: Tensor, severity: Sequence[float],
              rngs: Sequence[np.random.Generator] = ()) -> np.ndarray:
        """Return MOS labels (N,) in [1, 5], higher better.

        Args:
            reference: (N, 3, H, W) in [0, 1].
            distorted: (N, 3, H, W) in [0, 1].
            severity: (N,) in [0, 1], see `severity_of`.
            rngs: one generator a picture, for the noise; not needed without.
        """
        return self.label_measured(self.measure(reference, distorted), severity, rngs)

    def label_measured(self, measured: dict[str, np.ndarray], severity: Sequence[float],
                       rngs: Sequence[np.random.Generator] = ()) -> np.ndarray:
        """Return MOS labels (N,) in [1, 5] from metric values (N,) each and severities (N,)."""
        *ranks, by_level = self.opinions(measured, severity).T
        quality = METRIC_WEIGHT * np.mean(ranks, axis=0) + (1 - METRIC_WEIGHT) * by_level
        if self.noise:
            quality = np.clip(quality + self.noise * np.array([rng.standard_normal() for rng in rngs]), 0, 1)
        return MOS_RANGE[0] + quality * (MOS_RANGE[1] - MOS_RANGE[0])

    def opinions(self, measured: dict[str, np.ndarray], severity: Sequence[float]) -> np.ndarray:
        """Return what labels are the mean of: (N, M + 1) in [0, 1], higher better, without noise.

        Columns are the quality rank by each of the M metrics, in the order of `measure.names`, and 1 - severity. Where all
        columns of two pictures are in the same order, that order can be trusted more than the labels themselves.
        """
        ranks = [self.rank(name, measured[name]) for name in self.measure.names]
        return np.stack([*ranks, 1 - np.asarray(severity, dtype=np.float64)], axis=1)

    def rank(self, name: str, values: np.ndarray) -> np.ndarray:
        """Return the quality rank in [0, 1] of metric values, 1 for the best."""
        quantiles = np.asarray(self.calibration[name])
        rank = np.interp(values, quantiles, np.linspace(0, 1, len(quantiles)))
        return 1 - rank if METRICS[name] else rank


def quantile_table(measured: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Return the quantiles of each metric's values over a sample of distorted pictures, strictly rising."""
    positions = np.linspace(0, 1, QUANTILES)
    table = {}
    for name, values in measured.items():
        quantiles = np.quantile(values[np.isfinite(values)], positions)
        rising = np.maximum.accumulate(quantiles) + np.arange(QUANTILES) * 1e-12
        table[name] = [float(f'{value:.6g}') for value in rising]
    return table


def load_calibration(path: str | Path | None = None) -> dict[str, list[float]]:
    """Return the quantiles of each metric from a file, or from the one that the package brings.

    Raises:
        OptionError: the file is missing or not a calibration.
    """
    source = Path(path) if path else resources.files('pyiqa_rali.data.synthetic') / 'calibration.json'
    try:
        table = json.loads(source.read_text(encoding='utf-8'))['quantiles']
        for name, values in table.items():
            if len(values) < 2 or not np.all(np.diff(np.asarray(values, dtype=np.float64)) >= 0):
                raise ValueError(f'the quantiles of {name} do not increase')
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise OptionError(f'calibration: {source} is not a calibration file ({type(error).__name__}: {error}). Make one '
                          'with make-dataset --calibrate.') from error
    return table
