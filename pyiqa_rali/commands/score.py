"""Score images and folders of images, into a CSV if wanted."""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from pyiqa_rali.errors import DataError, OptionError, did_you_mean
from pyiqa_rali.image_files import ImageFile, ImageFinder, first_line, read_image_file
from pyiqa_rali.score_table import ImageScore, ScoreTable

OWN_WEIGHTS = ('RALI', 'ReasoningScorer')  # the architectures that --weights is for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pyiqa-rali score`."""
    parser.add_argument('images', nargs='+', metavar='IMAGE|FOLDER', help='image files, folders with images below them')
    parser.add_argument('-m', '--metric', help='rali-lite, rali, or any other no-reference metric of pyiqa (default: '
                                               'rali-lite, with --weights rali)')
    parser.add_argument('--weights', metavar='PATH', help='file or folder of an export, for the weights of the metric')
    parser.add_argument('--out', metavar='CSV', help='write the scores to this file instead of the screen')
    parser.add_argument('--resume', action='store_true', help='go on with --out, without the images that stand in it')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if there is one)')
    parser.add_argument('--batch-size', type=int, default=8, metavar='N',
                        help='images in memory together, for each process; those of equal size are scored in one '
                             'pass (default: %(default)s)')
    parser.add_argument('--workers', type=int, default=0, metavar='N',
                        help='processes of one thread each: on the CPU they read and score, for a GPU they read '
                             '(default: 0, all in one process)')


def run(args: argparse.Namespace) -> int:
    """Score, print or write, and report.

    Returns:
        0; 1 when there are images without a score.

    Raises:
        OptionError, DataError, CheckpointError, OSError: nothing can be scored at all; the message says why.
    """
    args.metric = args.metric or ('rali' if args.weights else 'rali-lite')
    _check(args)
    finder = ImageFinder(args.images)
    table = ScoreTable(args.out, metric_label(args), args.resume) if args.out else None
    metric = make_metric(args.metric, args.weights, args.device)
    finished = table.finished if table else set()
    scores = score_files((path for path in finder if path not in finished), metric, args.batch_size, args.workers)
    report = Report(metric, args.out, len(finished), table.failed if table else 0)
    with _progress() as bar, table.open() if table else contextlib.nullcontext() as stream:
        for chunk in scores:
            if table:
                table.write(stream, chunk)
            else:
                _print_scores(chunk, bar)
            report.add(chunk)
            bar.update(len(chunk))
    report.print(finder.other_files)
    return 1 if report.failed else 0


def metric_label(args: argparse.Namespace) -> str:
    """Return how the table names the metric: with the path of the user's weights, if there are any."""
    return f'{args.metric}:{args.weights}' if args.weights else args.metric


def make_metric(name: str, weights: str | None, device: str | None) -> Any:
    """Make a pyiqa metric.

    Raises:
        OptionError: there is no such no-reference metric, it does not take weights, or there is no such device.
        CheckpointError: its weights cannot be loaded.
    """
    import pyiqa
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    known = pyiqa.list_models(metric_mode='NR')
    if name not in known:
        reason = 'compares with a reference image' if name in DEFAULT_CONFIGS else 'is not known to pyiqa'
        raise OptionError(f'--metric: "{name}" {reason}; give a no-reference metric such as rali-lite.'
                          f'{did_you_mean(name, known)} All of them: pyiqa -ls')
    if weights and DEFAULT_CONFIGS[name]['metric_opts']['type'] not in OWN_WEIGHTS:
        raise OptionError(f'--weights: "{name}" is not a metric of pyiqa_rali; only these take weights. Leave -m out.')
    options = {'pretrained_model_path': weights} if weights else {}
    return pyiqa.create_metric(name, device=_device(device), **options)


def score_files(paths: Iterable[str], metric: Any, batch_size: int, workers: int) -> Iterator[list[ImageScore]]:
    """Read and score files in their order, holding a few batches at a time.

    Args:
        paths: the files; taken one by one.
        metric: a no-reference metric of pyiqa.
        batch_size: how many files make a chunk.
        workers: processes, see `add_arguments`.

    Yields:
        The scores of one chunk.

    Raises:
        DataError: a worker process died.
    """
    import torch
    from torch.utils.data import DataLoader
    in_workers = workers > 0 and torch.device(metric.device).type == 'cpu'
    loader = DataLoader(ImageFiles(), batch_sampler=chunks(paths, batch_size), num_workers=workers,
                        collate_fn=partial(score_chunk, metric) if in_workers else list)
    try:
        for chunk in loader:
            yield chunk if in_workers else score_chunk(metric, chunk)
    except RuntimeError as error:
        if 'DataLoader worker' not in str(error):
            raise
        raise DataError(f'{first_line(error)}. Out of memory? Lower --batch-size or --workers; with --out, --resume '
                        'goes on.') from error


class ImageFiles:
    """Map-style data set from path to `ImageFile`, for PyTorch's DataLoader."""

    def __getitem__(self, path: str) -> ImageFile:
        """Read one file."""
        return read_image_file(path)


def chunks(paths: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield lists of `size` paths, the last one shorter."""
    paths = iter(paths)
    while chunk := list(islice(paths, size)):
        yield chunk


def score_chunk(metric: Any, files: list[ImageFile]) -> list[ImageScore]:
    """Score the files of a chunk, those of equal size in one pass; return the results in the files' order."""
    scores = {index: ImageScore(file.path, error=file.error) for index, file in enumerate(files) if file.pixels is None}
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, file in enumerate(files):
        if file.pixels is not None:
            shapes.setdefault(file.pixels.shape, []).append(index)
    for indices in shapes.values():
        found = score_equal_sizes(metric, [files[index] for index in indices])
        scores.update(zip(indices, found, strict=True))
    return [scores[index] for index in range(len(files))]


def score_equal_sizes(metric: Any, files: list[ImageFile]) -> list[ImageScore]:
    """Score images of one size together, and one by one when that fails, so that one image fails alone.

    Raises:
        torch.AcceleratorError: the device is broken; every further image would fail.
    """
    import numpy as np
    import torch
    images = torch.from_numpy(np.stack([file.pixels for file in files])).permute(0, 3, 1, 2).float().div(255)
    try:
        values = metric(images).flatten().tolist()
    except (RuntimeError, ValueError, AssertionError) as error:
        if isinstance(error, getattr(torch, 'AcceleratorError', ())):
            raise
        if len(files) > 1:
            return [score for file in files for score in score_equal_sizes(metric, [file])]
        return [ImageScore(files[0].path, error=first_line(error))]
    return [_finite(file.path, value) for file, value in zip(files, values, strict=True)]


def _finite(path: str, value: float) -> ImageScore:
    return ImageScore(path, value) if math.isfinite(value) else ImageScore(path, error=f'the score is {value}')


class Report:
    """Counts over a run, and the lines on stderr at its end.

    Args:
        metric: the metric.
        out: the CSV, or None for the screen.
        finished: images that an earlier run had done.
        failed: how many of these have no score.
    """

    def __init__(self, metric: Any, out: str | None, finished: int, failed: int):
        self.metric, self.out, self.finished, self.failed = metric, out, finished, failed
        self.count, self.total = 0, 0.0

    def add(self, scores: list[ImageScore]) -> None:
        """Count the scores of a chunk."""
        values = [each.score for each in scores if each.score is not None]
        self.count += len(values)
        self.total += sum(values)
        self.failed += len(scores) - len(values)

    def print(self, other_files: int) -> None:
        """Tell what was scored, what was not, and what was left out."""
        better = 'lower' if self.metric.lower_better else 'higher'
        mean = f', mean {self.total / self.count:.3f}' if self.count else ''
        lines = [f'{self.count} images scored{mean} ({self.metric.score_range}; {better} is better)'
                 + (f', {self.finished} were already in {self.out}' if self.finished else '')]
        if other_files:
            lines.append(f'{other_files} other files in the folders are no images by their extension')
        if self.failed:
            where = f'column "error" of {self.out}' if self.out else 'lines with "error"'
            lines.append(f'{self.failed} images have NO SCORE: see the {where}')
        print('\n'.join(lines), file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    for name, least in (('batch_size', 1), ('workers', 0)):
        if getattr(args, name) < least:
            raise OptionError(f'--{name.replace("_", "-")}: {getattr(args, name)} must be at least {least}.')
    if args.resume and not args.out:
        raise OptionError('--resume: needs --out, the table to go on with.')


def _device(name: str | None) -> Any:
    """Return the torch device, None for pyiqa's choice."""
    import torch
    if name is None:
        return None
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f'--device: "{name}" cannot be used: {first_line(error)}. '
                          'Give cpu, cuda or cuda:N.') from error


def _progress() -> Any:
    from tqdm import tqdm
    return tqdm(unit='image', disable=None, file=sys.stderr)


def _print_scores(scores: list[ImageScore], bar: Any) -> None:
    bar.clear()
    for each in scores:
        print(f'{each.image}\t{each.score:.4f}' if not each.error else f'{each.image}\terror: {each.error}', flush=True)
