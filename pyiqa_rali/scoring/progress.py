"""What a large job reports while it runs and at its end: counts, speed, and every image without a score."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pyiqa_rali.core.errors import some
from pyiqa_rali.core.messages import log_progress, progress_bar
from pyiqa_rali.scoring.further import HANDED_ON, UNLIKE
from pyiqa_rali.scoring.score_table import ImageScore
from pyiqa_rali.scoring.shards import is_shard

SECONDS_BETWEEN_LINES = 30.0
SHARDS = ('.tar', '.tgz', '.gz', '.parquet', '.arrow')

logger = logging.getLogger(__name__)


class Progress:
    """Images, images per second and failures: a bar on a terminal, a line at intervals in a log file.

    Args:
        name: of what is going on.
        total: returns how many images there are in all, once that is known; None before, or never.
        done: how many of them an earlier run has done.
    """

    def __init__(self, name: str = 'score', total: Callable[[], int | None] = lambda: None, done: int = 0):
        self._name, self._total, self._done = name, total, done
        self._on_terminal = sys.stderr.isatty()
        self._bar = progress_bar(unit=' images', desc=name, disable=not self._on_terminal, file=sys.stderr)
        self._start = self._told = time.monotonic()
        self.count = self.failed = 0

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()

    @property
    def rate(self) -> float:
        """Images per second since the start."""
        return self.count / max(time.monotonic() - self._start, 1e-9)

    @property
    def in_all(self) -> int | None:
        """How many images this run has to do, from its beginning to its end; None where that is not known (yet)."""
        total = self._total()
        return None if total is None else max(total - self._done, self.count)

    def add(self, scores: list[ImageScore]) -> None:
        """Show that these images are done."""
        self.advance(len(scores), sum(bool(each.error) for each in scores))

    def advance(self, images: int, failed: int) -> None:
        """Show that so many images are done, and how many of them have no score."""
        self.count += images
        self.failed += failed
        if self._bar.total is None and (total := self.in_all) is not None:
            self._bar.total = total  # from now on the bar shows the time left
        if self.failed and self._on_terminal:
            self._bar.set_postfix_str(f'{self.failed} without a score', refresh=False)
        self._bar.update(images)
        if not self._on_terminal and time.monotonic() - self._told > SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            log_progress(logger, self._name, self.count, self.in_all, self._told - self._start, 'image',
                         told=f'{self.failed} without a score')

    def clear(self) -> None:
        """Make room for a line on the screen."""
        self._bar.clear()


class Totals:
    """Counts over a run; those of its parts can be added.

    Attributes:
        count: images scored.
        total: sum of their scores.
        failed: images without a score, with those of earlier runs.
        damaged: shards that could not be read to their end, which `failed` counts too.
        handed_on: scored images that a cascade has handed on, of `cascaded` that it has scored.
        unlike: scored images that are unlike those that intervals were calibrated on.
        finished: images that earlier runs had done.
        repeated: images that were named again.
        others: files that are not images, for each extension.
        empty: folders, lists, globs and shards that hold no image.
        rate: images per second.
    """

    def __init__(self, finished: int = 0, failed: int = 0):
        self.finished, self.failed = finished, failed
        self.count, self.total, self.rate, self.repeated, self.damaged = 0, 0.0, 0.0, 0, 0
        self.unlike, self.handed_on, self.cascaded = 0, 0, 0
        self.others: Counter[str] = Counter()
        self.empty: list[str] = []

    def add(self, scores: list[ImageScore]) -> None:
        """Count the scores of a window."""
        values = [each.score for each in scores if each.score is not None]
        self.count += len(values)
        self.total += sum(values)
        self.failed += len(scores) - len(values)
        self.handed_on += sum(each.further.get(HANDED_ON) == 1 for each in scores)
        self.cascaded += sum(HANDED_ON in each.further for each in scores)
        self.unlike += sum(each.further.get(UNLIKE) == 1 for each in scores)
        self.damaged += sum(bool(each.error) and is_shard(each.image) for each in scores)

    def __iadd__(self, other: 'Totals') -> 'Totals':
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def lines(self, metric: Any, out: str | None) -> Iterator[str]:
        """Yield the lines that are shown at the end of a run.

        Args:
            metric: the metric.
            out: the table, or None for the screen.
        """
        better = 'lower' if metric.lower_better else 'higher'
        mean = f', mean {self.total / self.count:.3f}' if self.count else ''
        yield (f'{self.count} images scored{mean} ({metric.score_range}; {better} is better), {self.rate:.1f} images/s'
               + (f', {self.finished} were already in {out}' if self.finished else ''))
        if self.cascaded:
            yield f'{self.handed_on} of {self.cascaded} images were handed on to the slow metric'
        if self.unlike:
            yield (f'{self.unlike} images are UNLIKE those that the intervals were calibrated on: how many of their MOS lie '
                   'within is not known')
        if self.others:
            kinds = ', '.join(f'{extension or "without extension"} {count}' for extension, count in self.others.most_common(5))
            yield f'{self.others.total()} other files are not images by their extension: {kinds}'
            shards = sum(count for extension, count in self.others.items() if extension in SHARDS)
            if shards:
                yield f'{shards} of them may be shards: name them, or give a glob such as "FOLDER/*.tar"'
        if self.repeated:
            yield f'{self.repeated} images were named more than once and scored once'
        if self.empty:
            yield f'NO IMAGE in {some(self.empty)}'
        if self.failed:
            where = f'column "error" of {out}' if out else 'lines with "error"'
            yield f'{self.failed} images have NO SCORE: see the {where}'
        if self.damaged:
            yield f'{self.damaged} of these are damaged SHARDS: images in the damaged places were not found'
