"""Several metrics in one pass over the pixels: each picture is read once, and each metric has a table of its own."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from pyiqa_rali.core.errors import OptionError, some
from pyiqa_rali.data.image_files import READING, ReadingOptions
from pyiqa_rali.scoring.decoded import Decoded
from pyiqa_rali.scoring.engine import EntryReader, score_windows, window_of
from pyiqa_rali.scoring.entries import ImageEntry, as_entry, chunks
from pyiqa_rali.scoring.further import Further
from pyiqa_rali.scoring.passes import Passes, Scorer
from pyiqa_rali.scoring.score_table import ImageScore


class SeveralScorers:
    """Scorers that share the decoded pictures of a window; in place of one `Scorer` in the engine.

    Args:
        scorers: of metrics on one device.

    Attributes:
        metric: the first metric, for its device.
    """

    def __init__(self, scorers: Sequence[Scorer]):
        self.scorers = list(scorers)
        self.metric = self.scorers[0].metric

    def start(self, decoded: Decoded) -> list[Passes]:
        """Start all passes of all metrics on a window, whose pixels go to the device once."""
        decoded.pixels = decoded.pixels.to(self.metric.device, non_blocking=True)
        return [scorer.start(decoded) for scorer in self.scorers]

    def finish(self, decoded: Decoded, passes: list[Passes]) -> list[list[ImageScore]]:
        """Return the scores of a window, for each metric those of all its pictures."""
        return [scorer.finish(replace(decoded, scores=[replace(score) for score in decoded.scores]), its)
                for scorer, its in zip(self.scorers, passes, strict=True)]


def score_with_several(images: Iterable[ImageEntry | str], metrics: Sequence[Any], batch_size: int, workers: int,
                       window: int | None = None, skip: Callable[[str], bool] | None = None,
                       reading: ReadingOptions = READING,
                       further: Sequence[Sequence[Further]] = ()) -> Iterator[list[list[ImageScore]]]:
    """Read images once, in their order, and score them with every metric; see `engine.score_files`.

    Args:
        images: files, or entries of `ImageSources`; consumed one by one.
        metrics: no-reference metrics of pyiqa, on one device.
        batch_size: how many images are scored in one pass.
        workers: processes; on the CPU they read and score, for a GPU they read.
        window: how many images are held together; None: see `engine.window_of`.
        skip: whether no metric needs an image of this name; a window of such images is not read.
        reading: how pictures are read.
        further: for each metric, what is computed beside its score; none for all of them by default.

    Yields:
        For each window, the scores of each metric; those of skipped images are among them where others of their window were
        not skipped.

    Raises:
        DataError: a worker process died, or a metric does not return one score per picture.
    """
    size = window or max(window_of(metric, batch_size) for metric in metrics)
    windows = (window for window in chunks(map(as_entry, images), size)
               if skip is None or not all(skip(entry.name) for entry in window))
    scorers: Any = SeveralScorers([Scorer(metric, batch_size, further=its)
                                   for metric, its in zip(metrics, further or [()] * len(metrics), strict=True)])
    yield from cast(Iterator[list[list[ImageScore]]], score_windows(EntryReader(reading), windows, scorers, workers))


def check_names(names: Sequence[str], option: str = '-m') -> None:
    """Raise OptionError if a metric is named twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise OptionError(f'{option}: {some(twice)} is given twice. Name each metric once.')


def own_file(path: str, metric: str) -> str:
    """Return the file of one of several metrics.

    Example:
        >>> own_file('out/scores.csv', 'piqe')
        'out/scores.piqe.csv'
    """
    stem, extension = os.path.splitext(path)
    return f'{stem}.{metric}{extension}'


def own_options(words: Sequence[str], metric: str, metrics: Sequence[str]) -> list[str]:
    """Return the words `KEY=VALUE` of `NAME:KEY=VALUE` that are for one of several metrics.

    Raises:
        OptionError: a word does not say which metric it is for.
    """
    found = []
    for word in words:
        name, colon, rest = word.partition(':')
        if not colon or name not in metrics:
            raise OptionError(f'--metric-opt: "{word}" must say which of {", ".join(metrics)} it is for, such as '
                              f'{metrics[0]}:{word.rpartition(":")[2]}.')
        if name == metric:
            found.append(rest)
    return found
