"""What one core and one cluster of this machine can do: listing, sending, writing, scoring, and what Ray adds to a plain loop.

Seconds are those of the processor, where one process works, so that other programs on the machine change little.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.ray_cluster import ClusterOptions, connected, streamed
from pyiqa_rali.scoring.cluster.part_files import PartFacts, part_path, write_part
from pyiqa_rali.scoring.cluster.tasks import LARGEST, SMALLEST, ScoreTask, seen_names, tasks_of
from pyiqa_rali.scoring.entries import ImageEntry
from pyiqa_rali.scoring.score_table import ImageScore, ScoreRow
from pyiqa_rali.scoring.sources import ImageSources


@dataclass(frozen=True)
class Listing:
    """How fast names are listed.

    Attributes:
        names: how many there were.
        list_per_s: names per second of a list, with a memory of names that may be named again.
        folder_per_s: names per second of a folder.
        peak_mb: largest memory of the process, in MB, from its start on.
    """

    names: int
    list_per_s: float
    folder_per_s: float
    peak_mb: float


def measure_listing(names: int) -> Listing:
    """List so many names, from a list and from a folder of empty files, and cut them into tasks."""
    with tempfile.TemporaryDirectory(prefix='pyiqa-rali-') as folder:
        listed = Path(folder) / 'list.txt'
        with open(listed, 'w', encoding='utf-8') as stream:
            stream.writelines(f'pictures/of/some/folder/{number:09d}.jpg\n' for number in range(names))
        of_list = _per_second(names, lambda: _exhaust([f'@{listed}']))
        files = Path(folder) / 'files'
        files.mkdir()
        count = min(names, 100_000)  # empty files, in folders of a thousand
        for number in range(count):
            if number % 1000 == 0:
                (files / f'{number // 1000:05d}').mkdir()
            (files / f'{number // 1000:05d}' / f'{number:09d}.jpg').touch()
        of_folder = _per_second(count, lambda: _exhaust([str(files)]))
    return Listing(names, of_list, of_folder, peak_mb())


def _exhaust(words: list[str]) -> None:
    for _ in tasks_of(ImageSources(words, seen=seen_names(words))):
        pass


def measure_writing(files: int = 50, rows: int = LARGEST) -> float:
    """Return how many files of a table a core writes in a second."""
    scores = [ScoreRow(ImageScore(f'pictures/of/some/folder/{number:09d}.jpg', number / 1000), 'rali-lite')
              for number in range(rows)]
    with tempfile.TemporaryDirectory(prefix='pyiqa-rali-') as folder:
        facts = PartFacts('', '', rows, 0, 0, 0.0, {})

        def write() -> None:
            for number in range(files):
                write_part(part_path(Path(folder), number), iter(scores), lambda: facts)
        return _per_second(files, write)


def measure_sending(tasks: int = 500, cluster: ClusterOptions | None = None) -> float:
    """Return how many tasks of 64 images the process that was started sends and takes back in a second of the processor."""
    cluster = cluster or ClusterOptions(actors=1)
    with connected(cluster.address):
        start = 0.0
        for count, _ in enumerate(streamed(partial(_small_tasks, tasks), _Nothing, (), cluster)):
            if count == 0:  # the cluster has started
                start = time.process_time()
        return (tasks - 1) / (time.process_time() - start)


def _small_tasks(count: int) -> Iterator[ScoreTask]:
    for number in range(count):
        yield ScoreTask(number, tuple(ImageEntry(f'{number * SMALLEST + each:09d}.jpg', '') for each in range(SMALLEST)))


class _Nothing:
    """Takes tasks, and does nothing with them."""

    def __call__(self, task: ScoreTask) -> int:
        return task.number


def measure_scoring(pictures: Sequence[str | os.PathLike], options: dict[str, Any], seconds: float = 20.0) -> dict[str, float]:
    """Return how many images a core scores in a second of the processor: reading, decoding, preparing and the network.

    Args:
        pictures: files; all of them, or as many as can be scored in the time, after a first batch that warms up.
        options: of rali-lite.
        seconds: of the processor, at most.

    Returns:
        'images', 'images_per_s', and 'image_mb', the mean size of a file.
    """
    import torch

    from pyiqa_rali.scoring.engine import score_files, suitable_sizes
    from pyiqa_rali.scoring.metrics import make_metric
    torch.set_num_threads(1)
    metric = make_metric('rali-lite', None, 'cpu', options)
    batch, _ = suitable_sizes(metric)
    warm = next(score_files((os.fspath(each) for each in pictures), metric, batch, 0))
    count, start = 0, time.process_time()
    for window in score_files((os.fspath(each) for each in pictures[len(warm):] or pictures), metric, batch, 0):
        count += len(window)
        if time.process_time() - start > seconds:
            break
    sizes = [os.path.getsize(each) for each in pictures]
    return {'images': count, 'images_per_s': count / (time.process_time() - start), 'image_mb': sum(sizes) / len(sizes) / 1e6}


@dataclass(frozen=True)
class Overhead:
    """A plain loop and Ray, on the same pictures in one process each.

    Attributes:
        images: how many, in tasks of 64.
        plain: seconds of the processor for an image in a loop over batches.
        ray: the same in a process of the cluster, reading tasks, writing files and all else included.
        plain_wall: seconds for an image in the loop, as the clock tells them.
        ray_wall: the same in the cluster, from the first task to the last.
    """

    images: int
    plain: float
    ray: float
    plain_wall: float
    ray_wall: float

    @property
    def share(self) -> float:
        """How much more time of the processor Ray takes: 0.1 is 10 %."""
        return self.ray / self.plain - 1


def measure_overhead(pictures: Sequence[str | os.PathLike], options: dict[str, Any], repeats: int = 8,
                     out: Path | None = None) -> Overhead:
    """Score pictures in a plain loop, then by the engine of a cluster with one process, in tasks of 64.

    Both run in a process of the cluster, with the same threads. The first task of each is left out: it warms up.

    Args:
        pictures: at least 64 files, or as many as there are, repeated.
        options: of rali-lite, such as backend='onnx'.
        repeats: tasks of each.
        out: keeps the table; None drops it.

    Raises:
        OptionError: there is no picture, or `repeats` is below 2.
    """
    if not pictures or repeats < 2:
        raise OptionError(f'pictures: {len(pictures)} and repeats: {repeats} must be at least 1 and 2.')
    names = [os.fspath(Path(each).absolute()) for each in itertools.islice(itertools.cycle(pictures), SMALLEST)]
    cluster = ClusterOptions(actors=1)
    with tempfile.TemporaryDirectory(prefix='pyiqa-rali-') as folder, connected(None):
        found = list(streamed(partial(_timed_tasks, names, repeats), _Timed, (options, str(out or folder)), cluster))
    plain = [each for each in found if each['kind'] == 'plain'][1:]
    ray = sorted((each for each in found if each['kind'] == 'ray'), key=lambda each: each['number'])
    images = SMALLEST * (len(ray) - 1)
    return Overhead(images, sum(each['cpu'] for each in plain) / (SMALLEST * len(plain)),
                    (ray[-1]['cpu_end'] - ray[0]['cpu_end']) / images,
                    sum(each['wall'] for each in plain) / (SMALLEST * len(plain)),
                    (ray[-1]['wall_end'] - ray[0]['wall_end']) / images)


def _timed_tasks(names: list[str], repeats: int) -> Iterator[tuple[str, ScoreTask]]:
    for number in range(2 * repeats):
        kind = 'plain' if number < repeats else 'ray'
        yield kind, ScoreTask(number, tuple(ImageEntry(name, name, (place, 0)) for place, name in enumerate(names)))


class _Timed:
    """Scores tasks as the engine does, or in a plain loop, and tells the seconds."""

    def __init__(self, options: dict[str, Any], out: str):
        from pyiqa_rali.scoring.cluster.actors import ClusterSettings, TableSettings, TaskScorer
        table = TableSettings(Path(out), 'rali-lite', None, options, 'rali-lite')
        self.scorer = TaskScorer(ClusterSettings((table,), None, 'cpu', run='measured'))

    def __call__(self, given: tuple[str, ScoreTask]) -> dict[str, Any]:
        from pyiqa_rali.scoring.engine import score_files
        kind, task = given
        cpu, wall = time.process_time(), time.perf_counter()
        if kind == 'plain':
            scored = sum(len(window) for window in score_files(task.images, self.scorer.metrics[0], self.scorer.batch_size, 0))
            if scored != len(task.images):
                raise DataError(f'{scored} of {len(task.images)} images were scored; their times cannot be compared.')
        else:
            self.scorer(task)
        cpu_end, wall_end = time.process_time(), time.perf_counter()
        return {'kind': kind, 'number': task.number, 'cpu': cpu_end - cpu, 'wall': wall_end - wall, 'cpu_end': cpu_end,
                'wall_end': wall_end}


def peak_mb() -> float:
    """Return the largest memory that this process has had, in MB."""
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _per_second(count: int, work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return count / (time.process_time() - start)


def driver_memory(names: int, cluster: ClusterOptions | None = None) -> dict[str, float]:
    """Send the tasks of a list of so many names through a cluster, and return what the process that was started took.

    The processes of the cluster do nothing with them, so that the rest is what a job of so many images takes: listing, cutting,
    sending and counting.

    Returns:
        'names', 'peak_mb' (of this process, Ray's client included), 'start_mb' (before the first task), and 'seconds'.
    """
    cluster = cluster or ClusterOptions(actors=1)
    with tempfile.TemporaryDirectory(prefix='pyiqa-rali-') as folder, connected(cluster.address):
        listed = Path(folder) / 'list.txt'
        with open(listed, 'w', encoding='utf-8') as stream:
            stream.writelines(f'pictures/of/some/folder/{number:09d}.jpg\n' for number in range(names))
        words = [f'@{listed}']
        sources = ImageSources(words, seen=seen_names(words))
        start, begun, tasks = peak_mb(), time.perf_counter(), 0
        for _ in streamed(partial(tasks_of, sources), _Counted, (), cluster):
            tasks += 1
        return {'names': names, 'tasks': tasks, 'start_mb': start, 'peak_mb': peak_mb(), 'seconds': time.perf_counter() - begun}


class _Counted:
    """Takes tasks and returns how many images they have."""

    def __call__(self, task: Any) -> int:
        return len(getattr(task, 'images', ()))
