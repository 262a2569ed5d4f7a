"""The one engine under `score`, `evaluate` and validation: pictures are read, grouped by size and scored, in their order.

Processes read pictures ahead; those of one size share a pass. A picture that cannot be read or scored has a reason in place of
a score, and none is left out.
"""

import math
import os
import random
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError, first_line
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage
from pyiqa_rali.scoring.entries import ImageEntry, as_entry, chunks, read_entry
from pyiqa_rali.scoring.further import Further, columns_of
from pyiqa_rali.scoring.score_table import FAILED, NOT_FINITE, UNREADABLE, ImageScore

PREPARED_TOGETHER = 1 << 24  # pixels; resizing needs at least 24 bytes for each
PREPARED_ON_CPU = 1 << 18  # allocating memory for larger tensors is slow
WINDOW = 4  # batches in GPU memory at once, for metrics that take pictures at their own size
BATCH_SIZE, GPU_BATCH_SIZE, GPU_WORKERS = 8, 32, 8  # unless they are specified
METRIC_SEED = 123  # some metrics look at random crops: every picture gets the same random numbers

Pixels = tuple[np.ndarray, ...]  # (H, W, 3) uint8 or float32: the picture and, for comparisons, its reference
Passes = list[tuple[list[int], Any]]  # indices of pictures, and their results on the device, or why there are none


def score_files(images: Iterable[ImageEntry | str], metric: Any, batch_size: int, workers: int, window: int | None = None,
                skip: Callable[[str], bool] | None = None, reading: ReadingOptions = READING,
                further: Sequence[Further] = ()) -> Iterator[list[ImageScore]]:
    """Read and score images in their order, holding a few windows of them at a time.

    Windows are cut from all images, including those to be skipped, so that a resumed run makes the same batches, and the same
    scores to the last bit.

    Args:
        images: files, or entries of `ImageSources`; consumed one by one.
        metric: a no-reference metric of pyiqa.
        batch_size: how many images are scored in one pass.
        workers: processes; on the CPU they read and score, for a GPU they read.
        window: how many images are held together, and those of equal size among them scored together; None: see
            `window_of`.
        skip: whether an image of this name needs no score; it is not among the results.
        reading: how pictures are read.
        further: what is computed beside the score, by a net of RALI.

    Yields:
        The scores of one window.

    Raises:
        DataError: a worker process died, or the metric does not return one score per picture.
    """
    skip = skip or (lambda name: False)
    windows = _windows(images, window or window_of(metric, batch_size), skip)
    for scores in score_windows(EntryReader(reading), windows, Scorer(metric, batch_size, further=further), workers):
        yield [score for score in scores if not skip(score.image)]


def score_windows(reader: Any, windows: Iterable[list[Any]], scorer: 'Scorer', workers: int,
                  score_in_workers: bool = True) -> Iterator[list[ImageScore]]:
    """Read and score windows of pictures.

    Args:
        reader: a map-style data set: from a key to the picture's `ImageScore`, with the reason if it cannot be read, and its
            `Pixels`, empty then.
        windows: keys whose pictures are held together.
        scorer: the metric.
        workers: processes that read.
        score_in_workers: on the CPU, let them score too.

    Raises:
        DataError: a worker process died, or the metric does not return one score per picture.
    """
    import torch
    from torch.utils.data import DataLoader
    on_cpu = torch.device(scorer.metric.device).type == 'cpu'
    in_workers = score_in_workers and workers > 0 and on_cpu
    with tempfile.TemporaryDirectory(prefix='pyiqa-rali-') as folder:
        collate = _ScoreThere(scorer, Path(folder)) if in_workers else Decoded.of
        loader = DataLoader(reader, batch_sampler=windows, num_workers=workers, collate_fn=collate, pin_memory=not on_cpu)
        try:
            yield from loader if in_workers else _score_ahead(loader, scorer, ahead=0 if on_cpu else 1)
        except WrongCount as error:  # from a worker process it comes with a traceback
            raise WrongCount(str(error).strip().splitlines()[-1].rpartition('WrongCount: ')[2]) from error
        except RuntimeError as error:
            if 'DataLoader worker' not in str(error):
                raise
            raise DataError(f'{first_line(error)}. Out of memory, or of shared memory? Lower --batch-size or --workers; with '
                            '--out, --resume continues.') from error


def suitable_sizes(metric: Any, batch_size: int | None = None, workers: int | None = None) -> tuple[int, int]:
    """Return the batch size and the number of worker processes: those given, or those that suit the metric's device."""
    import torch
    on_cpu = torch.device(metric.device).type == 'cpu'
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        workers = 0 if on_cpu else min(GPU_WORKERS, cores)
    return batch_size or (BATCH_SIZE if on_cpu else GPU_BATCH_SIZE), workers


def window_of(metric: Any, batch_size: int) -> int:
    """Return how many images are held together: more than a batch where a GPU's batches must have one size."""
    import torch
    fixed = getattr(getattr(metric, 'net', None), 'fixed_input', False)
    return batch_size if fixed or torch.device(metric.device).type == 'cpu' else WINDOW * batch_size


def _windows(images: Iterable[ImageEntry | str], size: int, skip: Callable[[str], bool]) -> Iterator[list[ImageEntry]]:
    for window in chunks(map(as_entry, images), size):
        if not all(skip(entry.name) for entry in window):
            yield window


class EntryReader:
    """Map-style data set from an entry to its picture, for PyTorch's DataLoader.

    Args:
        reading: how pictures are read.
    """

    def __init__(self, reading: ReadingOptions = READING):
        self.reading = reading

    def __getitem__(self, entry: ImageEntry) -> tuple[ImageScore, Pixels]:
        """Read one image."""
        try:
            return ImageScore(entry.name, position=entry.position), (read_entry(entry, self.reading),)
        except UnreadableImage as error:
            return ImageScore(entry.name, None, error.reason, entry.position, UNREADABLE), ()


@dataclass
class Decoded:
    """The pictures of a window after reading: all pixels in one tensor, so that one step passes them to a process or GPU.

    Attributes:
        scores: a result for each picture, without a score; those that could not be read say why.
        pixels: the bytes of one picture after the other, those of one size and type together.
        groups: for each size and type (of the picture and its reference), the indices of its pictures in the order of
            `pixels`.
    """

    scores: list[ImageScore]
    pixels: Any
    groups: dict[tuple[tuple[tuple[int, ...], Any], ...], list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, read: Sequence[tuple[ImageScore, Pixels]]) -> 'Decoded':
        """Collect what was read."""
        import torch
        groups: dict[tuple[tuple[tuple[int, ...], Any], ...], list[int]] = {}
        for index, (_, pictures) in enumerate(read):
            if pictures:
                groups.setdefault(tuple((picture.shape, picture.dtype) for picture in pictures), []).append(index)
        blocks = list(_blocks(groups))
        pixels = np.zeros(blocks[-1].end if blocks else 0, np.uint8)
        for block in blocks:
            start = block.start
            for index in block.indices:
                values = read[index][1][block.place].reshape(-1).view(np.uint8)
                pixels[start:start + len(values)] = values
                start += len(values)
        return cls([score for score, _ in read], torch.from_numpy(pixels), groups)

    def pin_memory(self) -> 'Decoded':
        """Move the pixels to pinned memory, from which a GPU can fetch them; PyTorch's DataLoader calls this."""
        self.pixels = self.pixels.pin_memory()
        return self

    def equal_sizes(self, device: Any) -> Iterator[tuple[list[int], list[Any]]]:
        """Yield indices and pictures on the device, for each size: (N, 3, H, W), the pictures and then their references."""
        import torch
        pixels = self.pixels.to(device, non_blocking=True)
        inputs: list[Any] = []
        for block in _blocks(self.groups):
            kind = torch.from_numpy(np.zeros(0, block.dtype)).dtype
            pictures = pixels[block.start:block.end].view(kind).view(len(block.indices), *block.shape)
            inputs = [*(inputs if block.place else []), pictures.permute(0, 3, 1, 2)]
            if block.last:
                yield block.indices, inputs


class _Block(NamedTuple):
    """Where the pictures of one size and type, or their references, are among the bytes of a window."""

    indices: list[int]
    place: int
    shape: tuple[int, ...]
    dtype: Any
    start: int
    end: int
    last: bool


def _blocks(groups: Mapping[tuple[tuple[tuple[int, ...], Any], ...], list[int]]) -> Iterator[_Block]:
    """Yield the blocks of a window, in their order; numbers of several bytes begin at multiples of their size."""
    end = 0
    for kinds, indices in groups.items():
        for place, (shape, dtype) in enumerate(kinds):
            start = -(-end // dtype.itemsize) * dtype.itemsize
            end = start + len(indices) * math.prod(shape) * dtype.itemsize
            yield _Block(indices, place, shape, dtype, start, end, place == len(kinds) - 1)


class _ScoreThere:
    """Scores what worker processes have read, in these processes.

    Forked processes have the metric already. Others get it through a file that all of them map into memory: passed directly,
    each of its tensors would take a file descriptor, of which there are too few.

    Args:
        scorer: the metric.
        folder: where the file is written, if one is needed.
    """

    def __init__(self, scorer: 'Scorer', folder: Path):
        self.scorer, self.folder = scorer, folder

    def __call__(self, read: list[tuple[ImageScore, Pixels]]) -> list[ImageScore]:
        """Score the pictures of one window."""
        decoded = Decoded.of(read)
        return self.scorer.finish(decoded, self.scorer.start(decoded))

    def __getstate__(self) -> dict[str, Any]:
        import torch
        path = self.folder / 'scorer.pt'
        if not path.exists():
            try:
                torch.save(self.scorer, path)
            except Exception as error:  # pickle raises TypeError, AttributeError and its own
                raise DataError(f'--workers: this metric cannot be handed to other processes ({first_line(error)}). Give '
                                '--workers 0.') from error
        return {'path': path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import torch
        self.folder = state['path'].parent
        self.scorer = torch.load(state['path'], map_location='cpu', mmap=True, weights_only=False)  # written by our own process


def _score_ahead(windows: Iterable[Decoded], scorer: 'Scorer', ahead: int) -> Iterator[list[ImageScore]]:
    """Start a window's passes before waiting for the scores of the previous one, which keeps a GPU busy."""
    started: deque[tuple[Decoded, Passes]] = deque()
    for decoded in windows:
        started.append((decoded, scorer.start(decoded)))
        if len(started) > ahead:
            yield scorer.finish(*started.popleft())
    while started:
        yield scorer.finish(*started.popleft())


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
