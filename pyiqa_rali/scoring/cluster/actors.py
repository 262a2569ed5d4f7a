"""What one process of the cluster does: it makes the metric once, and scores task after task."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.addresses import shown
from pyiqa_rali.data.image_files import READING, ReadingOptions
from pyiqa_rali.scoring.cluster.attempts import Attempts
from pyiqa_rali.scoring.cluster.part_files import PartFacts, part_path, read_facts, read_part, write_part
from pyiqa_rali.scoring.cluster.tasks import ListingEnd, ScoreTask
from pyiqa_rali.scoring.entries import ImageEntry
from pyiqa_rali.scoring.further import Further, columns_of
from pyiqa_rali.scoring.progress import Totals
from pyiqa_rali.scoring.score_table import ImageScore, ScoreRow

LISTED = -1  # number of the row that ends the listing


@dataclass(frozen=True)
class ClusterSettings:
    """All that a process needs to know.

    Attributes:
        out: the folder of the table.
        sources: `ImageSources` or `NamedImages`, to open files with.
        metric: name of a no-reference metric.
        weights: file or folder of an export.
        device: of the metric.
        options: of the metric's architecture.
        label: of the metric, in every row.
        batch_size: images in one pass.
        workers: processes that read, for a metric on a GPU.
        reading: how pictures are read.
        further: what is computed beside the score.
        aspects: add the columns of aspects that the metric has.
        retry: try images without a score again.
        run: name of this run.
        folder: that relative paths start from.
    """

    out: Path
    sources: Any
    metric: str
    weights: str | None
    device: str | None
    options: dict[str, Any]
    label: str = ''
    batch_size: int | None = None
    workers: int | None = None
    reading: ReadingOptions = READING
    further: tuple[Further, ...] = ()
    aspects: bool = False
    retry: bool = False
    run: str = ''
    folder: str = field(default_factory=os.getcwd)


@dataclass
class TaskResult:
    """What became of a task.

    Attributes:
        number: of the task.
        totals: of its images; those that an earlier run scored are `finished`.
        replaced: whether an earlier run's file was about other images.
        listing: what the listing found, in place of a task.
    """

    number: int
    totals: Totals
    replaced: bool = False
    listing: ListingEnd | None = None


class TaskScorer:
    """Scores tasks; there is one in each process of the cluster that scores.

    Args:
        settings: what to score with, and where to write.
    """

    def __init__(self, settings: ClusterSettings):
        from pyiqa_rali.scoring.engine import suitable_sizes
        from pyiqa_rali.scoring.metrics import make_metric
        go_to(settings.folder)
        self.settings = settings
        self.metric = make_metric(settings.metric, settings.weights, settings.device, settings.options)
        self.batch_size, self.workers = suitable_sizes(self.metric, settings.batch_size, settings.workers)

    def __call__(self, task: ScoreTask | ListingEnd) -> TaskResult:
        """Return what became of a task, once its file is there."""
        if isinstance(task, ListingEnd):
            return TaskResult(LISTED, Totals(), listing=task)
        path, identity = part_path(self.settings.out, task.number), task.identity()
        before = read_facts(path)
        if before is not None and before.identity == identity:
            again = self.settings.retry and before.failed and before.run != self.settings.run
            if not again:
                return TaskResult(task.number, _totals(task, before, before.run != self.settings.run))
        kept = {} if before is None else self._kept(path)
        whole, fresh = Totals(), Totals()
        with Attempts(self.settings.out, task.number) as attempts:
            images = self._images(task, attempts, whole)
            scores = in_order(images, kept, lambda rest: self._scored(rest, kept, attempts))
            rows = (ScoreRow(score, self.settings.label) for score in _counted(scores, kept, whole, fresh))
            write_part(path, rows, lambda: _facts(identity, self.settings.run, whole), columns_of(self.settings.further))
        fresh.damaged, fresh.others, fresh.empty = whole.damaged, whole.others, whole.empty
        return TaskResult(task.number, fresh, before is not None and before.identity != identity)

    def _kept(self, path: Path) -> dict[str, ImageScore]:
        """Return the rows of an earlier run that need no new ones, by the names as they are stored."""
        rows = (row.score for row in read_part(path, columns_of(self.settings.further)))
        return {score.image: score for score in rows if not (score.error and self.settings.retry)}

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

    def _scored(self, images: Iterator[ImageEntry], kept: dict[str, ImageScore],
                attempts: Attempts) -> Iterator[list[ImageScore]]:
        from pyiqa_rali.scoring.engine import score_files

        def named() -> Iterator[ImageEntry]:
            for image in images:
                if attempts.careful and not image.error and stored(image.name) not in kept:
                    attempts.begin(image.name)
                yield image
        careful = attempts.careful
        return score_files(named(), self.metric, 1 if careful else self.batch_size, 0 if careful else self.workers,
                           window=1 if careful else None, skip=lambda name: stored(name) in kept,
                           reading=self.settings.reading, further=self.settings.further)


def in_order(images: Iterable[ImageEntry], kept: dict[str, ImageScore],
             score: Callable[[Iterator[ImageEntry]], Iterable[list[ImageScore]]]) -> Iterator[ImageScore]:
    """Yield one row for each image, in their order: an earlier run's where there is one, otherwise what `score` finds.

    Args:
        images: consumed one by one.
        kept: rows of an earlier run, by name as it is stored.
        score: scores the images that have no such row, in their order.
    """
    passed: deque[str] = deque()

    def passing() -> Iterator[ImageEntry]:
        for image in images:
            passed.append(image.name)
            yield image
    for window in score(passing()):
        for found in window:
            while passed[0] != found.image:
                yield kept[stored(passed.popleft())]
            passed.popleft()
            yield found
    while passed:
        yield kept[stored(passed.popleft())]


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


def _counted(scores: Iterable[ImageScore], kept: dict[str, ImageScore], whole: Totals,
             fresh: Totals) -> Iterator[ImageScore]:
    """Count rows as they pass: all of a file, and apart from an earlier run's."""
    for score in scores:
        whole.add([score])
        if stored(score.image) in kept:
            fresh.finished += 1
            fresh.failed += bool(score.error)
        else:
            fresh.add([score])
        yield score


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
