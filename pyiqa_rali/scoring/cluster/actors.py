"""What one process of the cluster does: it makes the metrics once, and scores task after task."""

import contextlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.addresses import shown
from pyiqa_rali.data.image_files import READING, ReadingOptions
from pyiqa_rali.scoring.cluster.attempts import Attempts
from pyiqa_rali.scoring.cluster.part_files import PartFacts, growing_part, part_path, read_facts, read_part
from pyiqa_rali.scoring.cluster.tasks import ListingEnd, ScoreTask
from pyiqa_rali.scoring.entries import ImageEntry
from pyiqa_rali.scoring.further import Further, IntervalColumns, columns_of
from pyiqa_rali.scoring.progress import Totals
from pyiqa_rali.scoring.score_table import ImageScore, ScoreRow

LISTED = -1  # number of the row that ends the listing


@dataclass(frozen=True)
class TableSettings:
    """One metric and its table.

    Attributes:
        out: the folder of the table.
        metric: name of a no-reference metric.
        weights: file or folder of an export.
        options: of the metric's architecture.
        label: of the metric, in every row.
        further: what is computed beside the score.
    """

    out: Path
    metric: str
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ''
    further: tuple[Further, ...] = ()


@dataclass(frozen=True)
class ClusterSettings:
    """All that a process needs to know.

    Attributes:
        tables: one for each metric; all of them score the pictures in one pass.
        sources: `ImageSources` or `NamedImages`, to open files with.
        device: of the metrics.
        batch_size: images in one pass.
        workers: processes that read, for metrics on a GPU.
        reading: how pictures are read.
        interval: columns that are asked for, of the metrics that have them.
        aspects: whether their columns are asked for.
        retry: try images without a score again.
        run: name of this run.
        folder: that relative paths start from.
    """

    tables: tuple[TableSettings, ...]
    sources: Any
    device: str | None
    batch_size: int | None = None
    workers: int | None = None
    reading: ReadingOptions = READING
    interval: IntervalColumns | None = None
    aspects: bool = False
    retry: bool = False
    run: str = ''
    folder: str = field(default_factory=os.getcwd)


@dataclass
class TaskResult:
    """What became of a task.

    Attributes:
        number: of the task.
        totals: of its images, for each table; those that an earlier run scored are `finished`.
        replaced: how many files of an earlier run were about other images.
        listing: what the listing found, in place of a task.
    """

    number: int
    totals: list[Totals]
    replaced: int = 0
    listing: ListingEnd | None = None


class TaskScorer:
    """Scores tasks; there is one in each process of the cluster that scores.

    Args:
        settings: what to score with, and where to write.
    """

    def __init__(self, settings: ClusterSettings):
        from pyiqa_rali.scoring.engine import suitable_sizes
        go_to(settings.folder)
        self.settings = settings
        self.metrics = make_metrics(settings)
        self.batch_size, self.workers = suitable_sizes(self.metrics[0], settings.batch_size, settings.workers)

    def __call__(self, task: ScoreTask | ListingEnd) -> TaskResult:
        """Return what became of a task, once its files are there."""
        if isinstance(task, ListingEnd):
            return TaskResult(LISTED, [], listing=task)
        tables = [_TaskTable(table, metric, task, self.settings)
                  for table, metric in zip(self.settings.tables, self.metrics, strict=True)]
        missing = [table for table in tables if table.found is None]
        if missing:
            self._score(task, missing)
        return TaskResult(task.number, [table.totals() for table in tables], sum(table.replaced for table in tables))

    def _score(self, task: ScoreTask, tables: 'list[_TaskTable]') -> None:
        """Write the files of a task that are not there, from one pass over its pictures."""
        counts = Totals()
        with Attempts(self.settings.tables[0].out, task.number) as attempts, contextlib.ExitStack() as files:
            adds = [files.enter_context(table.growing(counts)) for table in tables]
            for window in self._scored(self._images(task, attempts, counts), tables, attempts):
                for table, add, scores in zip(tables, adds, window, strict=True):
                    table.write(add, table.order.add(scores))
            for table, add in zip(tables, adds, strict=True):
                table.write(add, table.order.rest())

    def _images(self, task: ScoreTask, attempts: Attempts, counts: Totals) -> Iterator[ImageEntry]:
        if task.file is None:
            found: Iterable[ImageEntry] = task.images
        else:
            sources = self.settings.sources
            sources.others, sources.empty = Counter(), []
            found = sources.images_of(task.file)
        for image in found:
            reason = attempts.reason(image.name)
            yield replace(image, error=reason) if reason else image
        if task.file is not None:
            counts.others, counts.empty = self.settings.sources.others, self.settings.sources.empty

    def _scored(self, images: Iterator[ImageEntry], tables: 'list[_TaskTable]',
                attempts: Attempts) -> Iterator[list[list[ImageScore]]]:
        from pyiqa_rali.scoring.several import score_with_several

        def is_kept(name: str) -> bool:
            return all(table.order.has(name) for table in tables)

        def named() -> Iterator[ImageEntry]:
            for image in images:
                if attempts.careful and not image.error and not is_kept(image.name):
                    attempts.begin(image.name)
                for table in tables:
                    table.order.expect(image.name)
                yield image
        careful = attempts.careful
        return score_with_several(named(), [table.metric for table in tables], 1 if careful else self.batch_size,
                                  0 if careful else self.workers, window=1 if careful else None, skip=is_kept,
                                  reading=self.settings.reading, further=[table.settings.further for table in tables])


def make_metrics(settings: ClusterSettings) -> list[Any]:
    """Return the metrics of all tables, in their order."""
    from pyiqa_rali.scoring.metrics import make_metric
    return [make_metric(table.metric, table.weights, settings.device, table.options) for table in settings.tables]


class _TaskTable:
    """What a task has to do for one table.

    Args:
        settings: of the table.
        metric: of pyiqa.
        task: the task.
        run: settings of the run.

    Attributes:
        found: counts of a file that is there and stays; None where there is none.
        replaced: whether the file that was there is about other images.
        order: the rows, those of an earlier run among them.
    """

    def __init__(self, settings: TableSettings, metric: Any, task: ScoreTask, run: ClusterSettings):
        self.settings, self.metric, self.run = settings, metric, run.run
        self.path, self.identity = part_path(settings.out, task.number), task.identity()
        before = read_facts(self.path)
        same = before is not None and before.identity == self.identity
        self.replaced = before is not None and not same
        again = before is not None and run.retry and before.failed and before.run != run.run
        self.found = _totals(task, before, before.run != run.run) if before is not None and same and not again else None
        self.order = RowsInOrder(self._kept(run.retry) if self.found is None and before is not None else {})
        self._whole, self._fresh = Totals(), Totals()

    def totals(self) -> Totals:
        """Return the counts of this table: of images that an earlier run scored, and of those that this one did."""
        if self.found is not None:
            return self.found
        self._fresh.damaged, self._fresh.others, self._fresh.empty = self._whole.damaged, self._whole.others, self._whole.empty
        return self._fresh

    @contextlib.contextmanager
    def growing(self, counts: Totals) -> Iterator[Callable[[ScoreRow], None]]:
        """Write the file, of the rows that the yielded function is called with.

        Args:
            counts: of what the task's file holds beside images; complete at the end of the block.
        """
        def facts() -> PartFacts:
            self._whole.others, self._whole.empty = counts.others, counts.empty
            return _facts(self.identity, self.run, self._whole)
        with growing_part(self.path, facts, columns_of(self.settings.further)) as add:
            yield add

    def write(self, add: Callable[[ScoreRow], None], scores: Iterable[ImageScore]) -> None:
        """Write rows, and count them: all of the file, and apart from an earlier run's."""
        for score in scores:
            self._whole.add([score])
            if self.order.has(score.image):
                self._fresh.finished += 1
                self._fresh.failed += bool(score.error)
            else:
                self._fresh.add([score])
            add(ScoreRow(score, self.settings.label))

    def _kept(self, retry: bool) -> dict[str, ImageScore]:
        """Return the rows of an earlier run that need no new ones, by the names as they are stored."""
        rows = (row.score for row in read_part(self.path, columns_of(self.settings.further)))
        return {score.image: score for score in rows if not (score.error and retry)}


class RowsInOrder:
    """The rows of a file in the order of its images: an earlier run's where there is one, otherwise new ones.

    Args:
        kept: rows of an earlier run, by the names as they are stored.
    """

    def __init__(self, kept: Mapping[str, ImageScore]):
        self._kept = kept
        self._expected: deque[str] = deque()

    def has(self, name: str) -> bool:
        """Whether there is an earlier run's row of an image."""
        return bool(self._kept) and stored(name) in self._kept

    def expect(self, name: str) -> None:
        """Note the next image of the file."""
        self._expected.append(name)

    def add(self, scores: Iterable[ImageScore]) -> Iterator[ImageScore]:
        """Yield the rows up to the last of some new ones; new ones of images that have an earlier row are left out."""
        for found in scores:
            if self.has(found.image):
                continue
            while self._expected[0] != found.image:
                yield self._kept[stored(self._expected.popleft())]
            self._expected.popleft()
            yield found

    def rest(self) -> Iterator[ImageScore]:
        """Yield the rows after the last new one."""
        while self._expected:
            yield self._kept[stored(self._expected.popleft())]


def stored(name: str) -> str:
    """Return a name as the table holds it."""
    from pyiqa_rali.scoring.parts import Parquet
    return Parquet.stored(name)


def go_to(folder: str) -> None:
    """Make relative paths mean what they mean where the command was started.

    Raises:
        OptionError: this machine does not have that folder.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise OptionError(f'--engine: the machine {os.uname().nodename} of the cluster has no folder {folder}, where the '
                          'command was started. All machines must see the same files; start from a folder that they '
                          'share.') from error


def _facts(identity: str, run: str, counts: Totals) -> PartFacts:
    return PartFacts(identity, run, counts.count + counts.failed, counts.failed, counts.damaged, counts.total,
                     dict(counts.others), bool(counts.empty))


def _totals(task: ScoreTask, facts: PartFacts, earlier: bool) -> Totals:
    """Return a file's counts as those of this run, or of an earlier one."""
    totals = Totals(facts.images if earlier else 0, facts.failed)
    totals.count, totals.total = (0, 0.0) if earlier else (facts.images - facts.failed, facts.total)
    totals.damaged, totals.others = facts.damaged, Counter(facts.others)
    totals.empty = [shown(task.file.path)] if facts.empty and task.file is not None else []
    return totals
