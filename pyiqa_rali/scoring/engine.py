"""The one engine under `score`, `evaluate` and validation: pictures are read, grouped by size and scored, in their order.

Processes read pictures ahead; those of one size share a pass. A picture that cannot be read or scored has a reason in place of
a score, and none is left out.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, first_line
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage
from pyiqa_rali.scoring.decoded import Decoded, Pixels
from pyiqa_rali.scoring.entries import ImageEntry, as_entry, chunks, read_entry
from pyiqa_rali.scoring.further import Further
from pyiqa_rali.scoring.passes import Passes, Scorer, WrongCount
from pyiqa_rali.scoring.score_table import UNREADABLE, ImageScore

WINDOW = 4  # batches in GPU memory at once, for metrics that take pictures at their own size
BATCH_SIZE, GPU_BATCH_SIZE, GPU_WORKERS = 8, 32, 8  # unless they are specified


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


def score_windows(reader: Any, windows: Iterable[list[Any]], scorer: Scorer, workers: int,
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


class _ScoreThere:
    """Scores what worker processes have read, in these processes.

    Forked processes have the metric already. Others get it through a file that all of them map into memory: passed directly,
    each of its tensors would take a file descriptor, of which there are too few.

    Args:
        scorer: the metric.
        folder: where the file is written, if one is needed.
    """

    def __init__(self, scorer: Scorer, folder: Path):
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


def _score_ahead(windows: Iterable[Decoded], scorer: Scorer, ahead: int) -> Iterator[list[ImageScore]]:
    """Start a window's passes before waiting for the scores of the previous one, which keeps a GPU busy."""
    started: deque[tuple[Decoded, Passes]] = deque()
    for decoded in windows:
        started.append((decoded, scorer.start(decoded)))
        if len(started) > ahead:
            yield scorer.finish(*started.popleft())
    while started:
        yield scorer.finish(*started.popleft())
