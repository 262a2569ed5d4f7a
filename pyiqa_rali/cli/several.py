"""`pyiqa-rali score` with several metrics: one pass over the pictures, and a table for each metric."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiqa_rali.cli import score
from pyiqa_rali.cli.arguments import data_set_of, reading_settings
from pyiqa_rali.cli.cluster import check_folder, interval_columns, score_by_cluster, words_for_cluster
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.ray_cluster import ClusterOptions
from pyiqa_rali.data.image_files import ReadingOptions
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.scoring.engine import suitable_sizes
from pyiqa_rali.scoring.further import Further, columns_of, further_of_several
from pyiqa_rali.scoring.metrics import OWN_WEIGHTS, parse_options
from pyiqa_rali.scoring.progress import Progress, Totals
from pyiqa_rali.scoring.score_table import ImageScore, refuse_overwriting
from pyiqa_rali.scoring.several import check_names, own_file, own_options, score_with_several
from pyiqa_rali.scoring.sources import LIST_MARK, STANDARD_INPUT, ImageSources, NamedImages, count_ahead
from pyiqa_rali.scoring.tables import open_table

logger = logging.getLogger(__name__)


@dataclass
class Job:
    """One of the metrics.

    Attributes:
        args: the arguments as if it were the only one.
        metric: of pyiqa.
        table: None for the screen.
        totals: of its scores.
        further: what is computed beside them.
    """

    args: argparse.Namespace
    metric: Any
    table: Any
    totals: Totals
    further: Sequence[Further] = ()


def score_several(args: argparse.Namespace, cluster: ClusterOptions | None = None) -> int:
    """Score with every metric of `args.metric`, print or write, and report.

    Args:
        args: of `score`.
        cluster: how a cluster is used; None scores in this process.

    Returns:
        0; 1 when a metric has images without a score, or there is a folder, list, glob or shard without an image.

    Raises:
        OptionError, DataError, CheckpointError, OSError: nothing can be scored at all; the message says why.
    """
    names = args.metric
    check_names(names)
    _refuse_shared_weights(args)
    if args.prompts is not None:
        raise OptionError('--prompts: adds a column for one metric; give one -m with it.')
    reading, known, interval = reading_settings(args), None, interval_columns(args)
    if args.opt:
        section, values, reading = data_set_of(args.opt, args.dataset)
        known = build_table(section, values, 0)
        sources: ImageSources | NamedImages = NamedImages(known.image_names())
    else:
        words = [*args.images, *(name if name == STANDARD_INPUT else LIST_MARK + name for name in args.lists)]
        words, seen = words_for_cluster(words, Path(args.out)) if cluster else (words, None)
        sources = ImageSources(words, seen=seen, image_column=args.image_column, fetching=reading.fetching)
    own = [_own_arguments(args, name) for name in names]
    options = [parse_options(own_options(args.metric_options, name, names)) for name in names]
    if cluster:
        for each in own:
            check_folder(each)
        return score_by_cluster(own, options, cluster, sources, reading)
    for each in own:
        if each.out:
            refuse_overwriting(Path(each.out), each.resume)  # before anything is loaded
    metrics = [score.make_metric(each.metric, each.weights, each.device, its)
               for each, its in zip(own, options, strict=True)]
    further, told = further_of_several(metrics, [each.weights or each.metric for each in own], interval, args.aspects)
    for message in told:
        logger.warning('%s', message)
    images, many = score._peeked(sources, args)
    jobs = [_job(*each, many, reading) for each in zip(own, metrics, options, further, strict=True)]
    _score(args, images, jobs, reading, count_ahead(sources))
    for job in jobs:
        job.totals.repeated, job.totals.others, job.totals.empty = sources.repeated, sources.others, sources.empty
        left = job.table.finish() if job.table else None
        job.totals.failed = job.totals.failed if left is None else left
        print(f'{job.args.metric}: ' + '\n'.join(job.totals.lines(job.metric, job.args.out)), file=sys.stderr)
        if job.args.sheet:
            print(score._sheet(job.args, job.metric, known, reading, job.further))
    return 1 if any(job.totals.failed or job.totals.empty for job in jobs) else 0


def _refuse_shared_weights(args: argparse.Namespace) -> None:
    taking = [name for name in args.metric if _takes_weights(name)]
    if args.weights and len(taking) != 1:
        raise OptionError(f'--weights: {len(taking)} of these metrics take weights ({", ".join(taking) or "none"}); it must be '
                          'one. Give one -m with it.')


def _takes_weights(name: str) -> bool:
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    return DEFAULT_CONFIGS.get(name, {}).get('metric_opts', {}).get('type') in OWN_WEIGHTS


def _own_arguments(args: argparse.Namespace, name: str) -> argparse.Namespace:
    files = {option: own_file(path, name) if (path := getattr(args, option)) else None for option in ('out', 'sheet')}
    weights = args.weights if _takes_weights(name) else None
    return argparse.Namespace(**{**vars(args), **files, 'metric': name, 'weights': weights})


def _job(args: argparse.Namespace, metric: Any, options: dict[str, Any], further: Sequence[Further], many: bool,
         reading: ReadingOptions) -> Job:
    options = score._with_backend(args, metric, options, many, further)
    label = score._label(args, metric, options, reading, further)
    table = open_table(args.out, args.format, label, args.resume, args.retry_failed, columns_of(further)) if args.out else None
    return Job(args, metric, table, Totals(len(table.finished), table.failed) if table else Totals(), further)


def _score(args: argparse.Namespace, images: Any, jobs: Sequence[Job], reading: ReadingOptions,
           total: Callable[[], int | None]) -> None:
    metrics, tables = [job.metric for job in jobs], [job.table for job in jobs]
    sizes = suitable_sizes(metrics[0], args.batch_size, args.workers)
    skip = (lambda name: all(table.has(name) for table in tables)) if args.out else None
    windows = score_with_several(images, metrics, *sizes, skip=skip, reading=reading, further=[job.further for job in jobs])
    done = min((len(table.finished) for table in tables if table), default=0)
    with Progress(total=total, done=done) as progress, contextlib.ExitStack() as opened:
        streams = [opened.enter_context(table.open()) if table else None for table in tables]
        try:
            for window in windows:
                if not args.out:
                    _print_scores(window, jobs, progress)
                for job, stream, scores in zip(jobs, streams, window, strict=True):
                    if job.table:
                        scores = [each for each in scores if not job.table.has(each.image)]
                        job.table.write(stream, scores)
                    job.totals.add(scores)
                progress.add([next((each for each in same if each.error), same[0]) for same in zip(*window, strict=True)
                              if skip is None or not skip(same[0].image)])
        except KeyboardInterrupt:
            progress.clear()
            goes_on = '; --resume continues' if args.out else ''
            print(f'interrupted after {progress.count} images{goes_on}', file=sys.stderr)
            raise
    for job in jobs:
        job.totals.rate = progress.rate


def _print_scores(window: list[list[ImageScore]], jobs: Sequence[Job], progress: Progress) -> None:
    progress.clear()
    for same in zip(*window, strict=True):
        told = [f'{job.args.metric} ' + (f'error: {each.error}' if each.error else score._numbers(each))
                for job, each in zip(jobs, same, strict=True)]
        print('\t'.join([same[0].image, *told]), flush=True)
