"""A metric on windows of pictures: which of them share a pass, and what becomes of pictures that it cannot score."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError, first_line
from pyiqa_rali.scoring.decoded import Decoded
from pyiqa_rali.scoring.entries import chunks
from pyiqa_rali.scoring.further import Further, columns_of
from pyiqa_rali.scoring.score_table import FAILED, NOT_FINITE, ImageScore

PREPARED_TOGETHER = 1 << 24  # pixels; resizing needs at least 24 bytes for each
PREPARED_ON_CPU = 1 << 18  # allocating memory for larger tensors is slow
METRIC_SEED = 123  # some metrics look at random crops: every picture gets the same random numbers
Passes = list[tuple[list[int], Any]]  # indices of pictures, and their results on the device, or why there are none


class Scorer:
    """A metric on windows of pictures: those of one size together, unless it turns out to draw random numbers.

    From then on they are scored one by one, with the same random numbers each, so that no score depends on the pictures that
    happen to share a batch.

    Args:
        metric: pyiqa's.
        batch_size: how many pictures are scored in one pass.
        factor: what pictures in [0, 1] are multiplied by.
        further: what is computed beside the score.
    """

    def __init__(self, metric: Any, batch_size: int, factor: float = 1.0, further: Sequence[Further] = ()):
        self.metric, self.batch_size, self.factor, self.further = metric, batch_size, factor, tuple(further)
        self.columns = columns_of(self.further)
        if self.further and getattr(getattr(metric, 'net', None), 'windows', False):
            raise OptionError('windows: true has no further columns, such as those of --interval: they belong to the score of '
                              'the whole picture. Leave one of the two out.')
        self.draws = False

    def start(self, decoded: Decoded) -> Passes:
        """Start all passes of a window.

        Returns:
            For each pass, the indices of its pictures and their scores (N,) on the device, with further columns (N, 1 + n), or
            why there are none.

        Raises:
            torch.AcceleratorError: the device is broken; every further picture would fail.
            DataError: the metric does not return one score per picture.
        """
        net = getattr(self.metric, 'net', None)
        if hasattr(net, 'score_prepared') and not getattr(net, 'windows', False) and self.factor == 1:
            return self._with_preparation(decoded)
        results: Passes = []
        for indices, inputs in decoded.equal_sizes(self.metric.device):
            results += _passes(self._ask, indices, inputs, 1 if self.draws else self.batch_size)
        return results

    def finish(self, decoded: Decoded, passes: Passes) -> list[ImageScore]:
        """Wait for the passes of a window, and return its scores in the order of the pictures."""
        for indices, made in passes:
            values = [made] if isinstance(made, str) else made.tolist()
            for index, value in zip(indices, values, strict=True):
                _set(decoded.scores[index], value, self.columns)
        return decoded.scores

    def _with_preparation(self, decoded: Decoded) -> Passes:
        """Prepare pictures size by size, then score them together, whatever sizes they had, if the encoder takes one size."""
        import torch
        net = self.metric.net
        results: Passes = []
        prepared: dict[tuple[int, ...], list[tuple[int, Any]]] = {}
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            limit = PREPARED_ON_CPU if torch.device(self.metric.device).type == 'cpu' else PREPARED_TOGETHER
            for indices, (pictures,) in decoded.equal_sizes(self.metric.device):
                together = max(1, limit // (pictures.shape[-2] * pictures.shape[-1]))
                for done, made in _passes(net.prepare, indices, [pictures], together):
                    if isinstance(made, str):
                        results.append((done, made))
                    else:
                        prepared.setdefault(made.shape[1:], []).extend(zip(done, made, strict=True))
            for same in prepared.values():
                for batch in chunks(sorted(same, key=lambda pair: pair[0]), self.batch_size):
                    names = [decoded.scores[index].image for index, _ in batch]
                    results += _passes(self._of_prepared, [index for index, _ in batch],
                                       [torch.stack([picture for _, picture in batch]), names], self.batch_size)
        return results

    def _of_prepared(self, prepared: Any, images: Sequence[str]) -> Any:
        """Return the scores (N,) of prepared pictures with these names; with further columns, (N, 1 + n)."""
        import torch
        net = self.metric.net
        if not self.further:
            return net.score_prepared(prepared).flatten()
        scores, features = net.scores_and_features(prepared)
        return torch.cat([scores, *(each(net, features, scores, images) for each in self.further)], dim=1)

    def _ask(self, *inputs: Any) -> Any:
        """Return the scores (N,) of pictures of one size, with the same random numbers for each of them.

        Raises:
            DataError: the metric returns another number of scores.
            _Drew: it drew random numbers for several pictures at once.
        """
        import torch

        from pyiqa_rali.data.tables import seeded
        with seeded(METRIC_SEED, 0):
            before = _random_states()
            found = torch.as_tensor(self.metric(*(self._in_range(each) for each in inputs))).flatten()
            self.draws = self.draws or before != _random_states()
        count = len(inputs[0])
        if len(found) != count:
            name = getattr(self.metric, 'metric_name', type(self.metric).__name__)
            told = f'metric {name}: returned {len(found)} scores for {count if count > 1 else "one"} picture{"s"[:count - 1]}.'
            raise WrongCount(f'{told} It does not score single pictures in a batch; give a batch size of 1 (--batch-size, '
                             'batch_size_per_gpu).' if count > 1 else f'{told} Leave it out.')
        if self.draws and count > 1:
            raise _Drew
        if self.further:
            scores = found.unsqueeze(1)
            return torch.cat([scores, *(each(self.metric.net, scores, scores, ()) for each in self.further)], dim=1)
        return found

    def _in_range(self, pictures: Any) -> Any:
        import torch
        pictures = pictures.float().div(255) if pictures.dtype == torch.uint8 else pictures
        return pictures if self.factor == 1 else pictures * self.factor


class WrongCount(DataError):
    """A metric does not return one score for each picture, which is not the fault of the pictures."""


class _Drew(Exception):
    """Pictures were scored together by a metric that draws random numbers: each has to be scored by itself."""


def _passes(work: Callable[..., Any], indices: list[int], inputs: list[Any], size: int) -> Passes:
    """Do the work on `size` pictures at a time, and one by one where that fails, so that a faulty picture fails alone."""
    import torch
    results: Passes = []
    for start in range(0, len(indices), size):
        part, batch = indices[start:start + size], [each[start:start + size] for each in inputs]
        try:
            results.append((part, work(*batch)))
        except (WrongCount, getattr(torch, 'AcceleratorError', WrongCount)):
            raise
        except Exception as error:  # a metric may reject a picture in any way; the picture is counted and reported
            if len(part) > 1:
                results += _passes(work, part, batch, 1)
            else:
                named = isinstance(error, RuntimeError | ValueError | AssertionError)
                results.append((part, first_line(error) if named else f'{type(error).__name__}: {first_line(error)}'))
    return results


def _set(score: ImageScore, found: float | str | list[float], columns: Sequence[str]) -> None:
    if isinstance(found, str):
        score.error, score.reason = found, FAILED
        return
    value, *further = found if isinstance(found, list) else [found]
    if math.isfinite(value):
        score.score, score.further = value, dict(zip(columns, further, strict=True))
    else:
        score.error, score.reason = f'the score is {value}', NOT_FINITE


def _random_states() -> tuple[Any, ...]:
    """Return the states of Python's, NumPy's and torch's generators, to be compared."""
    import torch
    numpy_state: Any = np.random.get_state()
    _, words, *places = numpy_state
    on_gpu = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return random.getstate(), words.tobytes(), places, torch.get_rng_state().numpy().tobytes(), on_gpu
