"""Read and score many images: decoding in worker processes, batches of equal size, scores in the order of the input."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pyiqa_rali.core.errors import DataError, first_line
from pyiqa_rali.data.image_files import ImageFile
from pyiqa_rali.scoring.entries import ImageEntry, as_entry, chunks, read_entry
from pyiqa_rali.scoring.score_table import ImageScore

PREPARED_TOGETHER = 1 << 24  # pixels; the resizing needs 24 bytes and more for each
WINDOW = 4  # batches in memory together on a GPU, for metrics that take pictures at their own size


def score_files(images: Iterable[ImageEntry | str], metric: Any, batch_size: int, workers: int, window: int | None = None,
                skip: Callable[[str], bool] | None = None) -> Iterator[list[ImageScore]]:
    """Read and score images in their order, holding a few windows of them at a time.

    Windows are cut from all images, also from those to be skipped, so that an interrupted run that goes on makes the same
    batches, and the same scores to the last bit.

    Args:
        images: files, or entries of `ImageSources`; taken one by one.
        metric: a no-reference metric of pyiqa.
        batch_size: how many images are scored in one pass.
        workers: processes; on the CPU they read and score, for a GPU they read.
        window: how many images are held together, and those of equal size among them scored together; None: see
            `window_of`.
        skip: whether an image of this name needs no score; it is not among the results.

    Yields:
        The scores of one window.

    Raises:
        DataError: a worker process died.
    """
    import torch
    from torch.utils.data import DataLoader
    skip = skip or (lambda name: False)
    on_cpu = torch.device(metric.device).type == 'cpu'
    in_workers = workers > 0 and on_cpu
    collate = partial(_score_here, metric, batch_size) if in_workers else Decoded.of
    windows = _windows(images, window or window_of(metric, batch_size), skip)
    loader = DataLoader(Reader(), batch_sampler=windows, num_workers=workers, collate_fn=collate, pin_memory=not on_cpu)
    try:
        for scores in loader if in_workers else _score_ahead(loader, metric, batch_size, ahead=0 if on_cpu else 1):
            yield [score for score in scores if not skip(score.image)]
    except RuntimeError as error:
        if 'DataLoader worker' not in str(error):
            raise
        raise DataError(f'{first_line(error)}. Out of memory, or of shared memory? Lower --batch-size or --workers; with '
                        '--out, --resume goes on.') from error


def window_of(metric: Any, batch_size: int) -> int:
    """Return how many images are held together: more than a batch where it takes equal sizes to fill one on a GPU."""
    import torch
    fixed = getattr(getattr(metric, 'net', None), 'fixed_input', False)
    return batch_size if fixed or torch.device(metric.device).type == 'cpu' else WINDOW * batch_size


def _windows(images: Iterable[ImageEntry | str], size: int, skip: Callable[[str], bool]) -> Iterator[list[ImageEntry]]:
    for window in chunks(map(as_entry, images), size):
        if not all(skip(entry.name) for entry in window):
            yield window


class Reader:
    """Map-style data set from an entry to it and its `ImageFile`, for PyTorch's DataLoader."""

    def __getitem__(self, entry: ImageEntry) -> tuple[ImageEntry, ImageFile]:
        """Read one image."""
        return entry, read_entry(entry)


@dataclass
class Decoded:
    """The images of a window, read: all pixels in one tensor, so that one step hands them over to process and GPU.

    Attributes:
        scores: a result for each image; those that could not be read say why.
        groups: for each size (H, W), the indices of its images, in the order of `pixels`.
        pixels: uint8, the (H, W, 3) pixels of one image after the other.
    """

    scores: list[ImageScore]
    pixels: Any
    groups: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, read: list[tuple[ImageEntry, ImageFile]]) -> 'Decoded':
        """Collect what was read."""
        import numpy as np
        import torch
        groups: dict[tuple[int, int], list[int]] = {}
        for index, (_, file) in enumerate(read):
            if file.pixels is not None:
                groups.setdefault(file.pixels.shape[:2], []).append(index)
        flat = [read[index][1].pixels.reshape(-1) for indices in groups.values() for index in indices]
        pixels = torch.from_numpy(np.concatenate(flat) if flat else np.zeros(0, np.uint8))
        scores = [ImageScore(entry.name, error=file.error, position=entry.position) for entry, file in read]
        return cls(scores, pixels, groups)

    def pin_memory(self) -> 'Decoded':
        """Move the pixels to where a GPU can fetch them by itself; PyTorch's DataLoader calls it."""
        self.pixels = self.pixels.pin_memory()
        return self

    def equal_sizes(self, device: Any) -> Iterator[tuple[list[int], Any]]:
        """Yield indices and uint8 pictures (N, 3, H, W) on the device, for each size."""
        pixels, start = self.pixels.to(device, non_blocking=True), 0
        for (height, width), indices in self.groups.items():
            count = len(indices) * height * width * 3
            pictures = pixels[start:start + count].view(len(indices), height, width, 3)
            yield indices, pictures.permute(0, 3, 1, 2)
            start += count


def _score_here(metric: Any, batch_size: int, read: list[tuple[ImageEntry, ImageFile]]) -> list[ImageScore]:
    decoded = Decoded.of(read)
    return finished_scores(decoded, start_scoring(metric, decoded, batch_size))


def _score_ahead(windows: Iterable[Decoded], metric: Any, batch_size: int, ahead: int) -> Iterator[list[ImageScore]]:
    """Start a window's passes before the scores of the one before are waited for, which keeps a GPU busy."""
    started: deque[tuple[Decoded, list[tuple[list[int], Any]]]] = deque()
    for decoded in windows:
        started.append((decoded, start_scoring(metric, decoded, batch_size)))
        if len(started) > ahead:
            yield finished_scores(*started.popleft())
    while started:
        yield finished_scores(*started.popleft())


def start_scoring(metric: Any, decoded: Decoded, batch_size: int) -> list[tuple[list[int], Any]]:
    """Start all passes of a window.

    Returns:
        For each pass the indices of its images, and their scores (N,) on the device, or why there are none.

    Raises:
        torch.AcceleratorError: the device is broken; every further image would fail.
    """
    net = getattr(metric, 'net', None)
    if hasattr(net, 'score_prepared'):
        return _with_preparation(metric, decoded, batch_size)
    results = []
    for indices, pictures in decoded.equal_sizes(metric.device):
        results += _passes(lambda batch: metric(batch.float().div(255)), indices, pictures, batch_size)
    return results


def _with_preparation(metric: Any, decoded: Decoded, batch_size: int) -> list[tuple[list[int], Any]]:
    """Prepare pictures size by size, then score them together, whatever sizes they had, if the encoder takes one size."""
    import torch
    results: list[tuple[list[int], Any]] = []
    prepared: dict[tuple[int, ...], list[tuple[int, Any]]] = {}
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for indices, pictures in decoded.equal_sizes(metric.device):
            together = max(1, PREPARED_TOGETHER // (pictures.shape[-2] * pictures.shape[-1]))
            for done, made in _passes(metric.net.prepare, indices, pictures, together, flat=False):
                if isinstance(made, str):
                    results.append((done, made))
                else:
                    prepared.setdefault(made.shape[1:], []).extend(zip(done, made, strict=True))
        for same in prepared.values():
            for batch in chunks(sorted(same, key=lambda pair: pair[0]), batch_size):
                indices, inputs = zip(*batch, strict=True)
                results += _passes(metric.net.score_prepared, list(indices), torch.stack(inputs), batch_size)
    return results


def _passes(work: Callable[[Any], Any], indices: list[int], pictures: Any, size: int,
            flat: bool = True) -> list[tuple[list[int], Any]]:
    """Do the work on `size` pictures at a time, and one by one where that fails, so that one picture fails alone."""
    import torch
    results = []
    for start in range(0, len(indices), size):
        part, batch = indices[start:start + size], pictures[start:start + size]
        try:
            made = work(batch)
            results.append((part, made.flatten() if flat else made))
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, getattr(torch, 'AcceleratorError', ())):
                raise
            if len(part) > 1:
                results += _passes(work, part, batch, 1, flat)
            else:
                results.append((part, first_line(error)))
    return results


def finished_scores(decoded: Decoded, results: list[tuple[list[int], Any]]) -> list[ImageScore]:
    """Wait for the passes of a window, and return its scores in the order of the images."""
    for indices, made in results:
        values = [made] if isinstance(made, str) else made.tolist()
        for index, value in zip(indices, values, strict=True):
            _set(decoded.scores[index], value)
    return decoded.scores


def _set(score: ImageScore, value: float | str) -> None:
    if isinstance(value, str):
        score.error = value
    elif math.isfinite(value):
        score.score = value
    else:
        score.error = f'the score is {value}'
