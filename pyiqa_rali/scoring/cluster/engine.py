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
from pyiqa_rali.scoring.cluster.actors import LISTED, ClusterSettings, TaskResult, TaskScorer, go_to
from pyiqa_rali.scoring.cluster.part_files import RECORD, claim_table, tidy
from pyiqa_rali.scoring.cluster.tasks import ListingEnd, ScoreTask, tasks_of
from pyiqa_rali.scoring.further import AspectColumns, Further, IntervalColumns, with_labels
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
                     progress: Callable[[int, int], None] = lambda images, failed: None) -> tuple[Totals, MetricFacts]:
    """Score all images of the sources into a folder of Parquet files.

    Args:
        settings: what is scored with what; label, options and run are completed here.
        cluster: how the cluster is used.
        resume: continue the folder.
        progress: is told of images that are done, and how many of them have no score.

    Returns:
        The counts, and what the metric says about itself.

    Raises:
        OptionError: the folder, the metric or the cluster cannot be used.
        CheckpointError: the weights cannot be loaded.
        DataError: the metric does not return one score per picture.
    """
    with connected(cluster.address, cluster.dashboard):
        try:
            facts = _metric_facts(settings, cluster)
            settings = replace(settings, label=facts.label, options=facts.options, further=facts.further, run=uuid.uuid4().hex)
            claim_table(settings.out, {'metric': facts.label}, resume)
            totals, numbers = _gathered(streamed(partial(_tasks, settings), TaskScorer, (settings,), cluster), progress)
        except Exception as error:
            found = own_error(error)
            if found is error:
                raise
            raise found from None  # with the line of the process that raised it, not with Ray's pages
    gone = tidy(settings.out, numbers)
    if gone:
        logger.warning('%d rows of earlier runs are of images that the sources no longer have; they are removed.', gone)
    return totals, facts


def _metric_facts(settings: ClusterSettings, cluster: ClusterOptions) -> MetricFacts:
    """Make the metric once, in a process that ends then: a driver without PyTorch stays small."""
    import ray
    number_of_actors(cluster.actors, cluster.gpus_per_actor)  # a task that asks for what is not there waits for ever
    task = ray.remote(num_cpus=1, num_gpus=cluster.gpus_per_actor, max_calls=1)(describe_metric)
    return ray.get(task.remote(settings))


def describe_metric(settings: ClusterSettings) -> MetricFacts:
    """Return what a metric says about itself."""
    from pyiqa_rali.scoring.metrics import make_metric, metric_label, with_fastest_backend
    go_to(settings.folder)
    metric = make_metric(settings.metric, settings.weights, settings.device, settings.options)
    name, further = settings.weights or settings.metric, settings.further
    for each in further:
        if isinstance(each, IntervalColumns):
            each.check(metric, name)
    if settings.aspects:
        further = (*further, AspectColumns(metric, name))

    def label(options: dict[str, Any]) -> str:
        as_stored = '' if settings.reading.upright else ' as-stored'
        return with_labels(metric_label(settings.metric, settings.weights, options, metric) + as_stored, further)
    options, before = settings.options, read_claim(settings.out / RECORD)
    if before is None or before.get('metric') != label(options):  # a table continues with the backend that it was begun with
        options = with_fastest_backend(metric, options, may_export=True)
    return MetricFacts(label(options), options, bool(metric.lower_better), str(metric.score_range), further)


def _tasks(settings: ClusterSettings) -> Iterator[ScoreTask | ListingEnd]:
    go_to(settings.folder)
    return tasks_of(settings.sources)


def _gathered(results: Iterator[TaskResult], progress: Callable[[int, int], None]) -> tuple[Totals, list[int]]:
    """Add up the results, and check that there is one of each task.

    Raises:
        DataError: Ray has lost or doubled a task.
    """
    totals, numbers, replaced = Totals(), [], 0
    listing: ListingEnd | None = None
    for result in results:
        if result.number == LISTED:
            listing = result.listing
            continue
        numbers.append(result.number)
        replaced += result.replaced
        totals += result.totals
        progress(result.totals.count + result.totals.failed, result.totals.failed)
    if listing is None or sorted(numbers) != list(range(listing.tasks)):
        raise DataError(f'--engine ray: {len(numbers)} results came for {listing.tasks if listing else "an unknown number of"} '
                        'tasks. Continue with --resume, which scores only what is missing.')
    totals.repeated, totals.others = listing.repeated, totals.others + listing.others
    totals.empty = sorted({*totals.empty, *listing.empty})
    if replaced:
        logger.warning('The sources name other images than the run that began this table: %d of its files were written anew, '
                       'with the scores that they held.', replaced)
    return totals, numbers
