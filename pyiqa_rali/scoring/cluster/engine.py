"""Scoring on a cluster with Ray Data: a stream of tasks from the listing to processes that score them and write the table.

No name of an image passes through the process that starts the job: one process of the cluster lists the sources and cuts tasks
off the list as long as others have room for them, and these report counts.
"""

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.ray_cluster import ClusterOptions, connected, number_of_actors, own_error, streamed
from pyiqa_rali.core.runs import read_claim
from pyiqa_rali.scoring.cluster.actors import (
    LISTED,
    ClusterSettings,
    TableSettings,
    TaskResult,
    TaskScorer,
    go_to,
    make_metrics,
)
from pyiqa_rali.scoring.cluster.part_files import RECORD, claim_table, refuse_begun, tidy
from pyiqa_rali.scoring.cluster.tasks import ListingEnd, ScoreTask, tasks_of
from pyiqa_rali.scoring.further import Further, further_of_several, with_labels
from pyiqa_rali.scoring.progress import Totals

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetricFacts:
    """What a metric says about itself, asked once in a process of the cluster.

    Attributes:
        label: how the table names it.
        options: of its architecture, with the backend that scores.
        lower_better: the direction of its scores.
        score_range: in words.
        further: what is computed beside the score.
    """

    label: str
    options: dict[str, Any]
    lower_better: bool
    score_range: str
    further: tuple[Further, ...] = ()


def score_on_cluster(settings: ClusterSettings, cluster: ClusterOptions, resume: bool,
                     progress: Callable[[int, int], None] = lambda images, failed: None) -> list[tuple[Totals, MetricFacts]]:
    """Score all images of the sources into a folder of Parquet files, or into one for each of several metrics.

    Args:
        settings: what is scored with what; run, and of the tables label, options and further, are completed here.
        cluster: how the cluster is used.
        resume: continue the folders.
        progress: is told of images that are done, and how many of them have no score.

    Returns:
        For each table, the counts, and what the metric says about itself.

    Raises:
        OptionError: a folder, a metric or the cluster cannot be used.
        CheckpointError: the weights cannot be loaded.
        DataError: a metric does not return one score per picture.
    """
    with connected(cluster.address, cluster.dashboard):
        try:
            for table in settings.tables:
                refuse_begun(table.out, resume)  # before anything is made
            facts, told = _metric_facts(settings, cluster)
            for each in told:
                logger.warning('%s', each)
            settings = replace(settings, run=uuid.uuid4().hex, tables=tuple(
                replace(table, label=each.label, options=each.options, further=each.further)
                for table, each in zip(settings.tables, facts, strict=True)))
            for table in settings.tables:
                claim_table(table.out, {'metric': table.label}, resume)
            results = streamed(partial(_tasks, settings), TaskScorer, (settings,), cluster)
            totals, numbers = _gathered(results, progress, len(facts))
        except Exception as error:
            found = own_error(error)
            if found is error:
                raise
            raise found from None  # with the line of the process that raised it, not with Ray's pages
    gone = max(tidy(table.out, numbers) for table in settings.tables)
    if gone:
        logger.warning('%d rows of earlier runs are of images that the sources no longer have; they are removed.', gone)
    return list(zip(totals, facts, strict=True))


def _metric_facts(settings: ClusterSettings, cluster: ClusterOptions) -> tuple[list[MetricFacts], list[str]]:
    """Make the metrics once, in a process that ends then: a driver without PyTorch stays small."""
    import ray
    number_of_actors(cluster.actors, cluster.gpus_per_actor)  # a task that asks for what is not there waits for ever
    task = ray.remote(num_cpus=1, num_gpus=cluster.gpus_per_actor, max_calls=1)(describe_metrics)
    return ray.get(task.remote(settings))


def describe_metrics(settings: ClusterSettings) -> tuple[list[MetricFacts], list[str]]:
    """Return what the metric of each table says about itself, and what is to be told of columns that some do not have.

    Raises:
        OptionError, CheckpointError: a metric cannot be made, or columns that are asked for cannot be had.
    """
    go_to(settings.folder)
    metrics = make_metrics(settings)
    names = [table.weights or table.metric for table in settings.tables]
    further, told = further_of_several(metrics, names, settings.interval, settings.aspects)
    return [_facts_of(metric, table, tuple(its), settings.reading.upright)
            for metric, table, its in zip(metrics, settings.tables, further, strict=True)], told


def _facts_of(metric: Any, table: TableSettings, further: tuple[Further, ...], upright: bool) -> MetricFacts:
    from pyiqa_rali.scoring.metrics import metric_label, with_fastest_backend

    def label(options: dict[str, Any]) -> str:
        as_stored = '' if upright else ' as-stored'
        return with_labels(metric_label(table.metric, table.weights, options, metric) + as_stored, further)
    options, before = dict(table.options), read_claim(table.out / RECORD)
    if before is None or before.get('metric') != label(options):  # a table continues with the backend that it was begun with
        options = with_fastest_backend(metric, options, may_export=True)
    return MetricFacts(label(options), options, bool(metric.lower_better), str(metric.score_range), further)


def _tasks(settings: ClusterSettings) -> Iterator[ScoreTask | ListingEnd]:
    go_to(settings.folder)
    return tasks_of(settings.sources)


def _gathered(results: Iterator[TaskResult], progress: Callable[[int, int], None],
              tables: int = 1) -> tuple[list[Totals], list[int]]:
    """Add up the results for each of so many tables, and check that there is one of each task.

    Raises:
        DataError: Ray has lost or doubled a task.
    """
    totals, numbers, replaced = [Totals() for _ in range(tables)], [], 0
    listing: ListingEnd | None = None
    for result in results:
        if result.number == LISTED:
            listing = result.listing
            continue
        numbers.append(result.number)
        replaced += result.replaced
        for whole, part in zip(totals, result.totals, strict=True):
            whole += part
        progress(max(part.count + part.failed for part in result.totals), max(part.failed for part in result.totals))
    if listing is None or sorted(numbers) != list(range(listing.tasks)):
        raise DataError(f'--engine ray: {len(numbers)} results came for {listing.tasks if listing else "an unknown number of"} '
                        'tasks. Continue with --resume, which scores only what is missing.')
    for whole in totals:
        whole.repeated, whole.others = listing.repeated, whole.others + listing.others
        whole.empty = sorted({*whole.empty, *listing.empty})
    if replaced:
        logger.warning('The sources name other images than the run that began this table: %d of its files were written anew, '
                       'with the scores that they held.', replaced)
    return totals, numbers
