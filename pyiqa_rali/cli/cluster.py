"""The arguments of commands that may run on a cluster, and how `score` does."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyiqa_rali.cli.arguments import CommandParser
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.ray_cluster import ClusterOptions, require_ray

if TYPE_CHECKING:
    from pyiqa_rali.data.image_files import ReadingOptions
    from pyiqa_rali.scoring.further import IntervalColumns

ENGINES = PROCESS, RAY = 'process', 'ray'
SPOOLED = '.list'  # after the name of the table
OF_RAY = ('ray_address', 'actors', 'gpus_per_actor', 'dashboard')


def add_cluster(parser: CommandParser, does: str = 'score', engine: str = 'ray shares the images among the processes of a '
                'cluster, and --out is a folder of Parquet files') -> None:
    """Declare the engine and how a cluster is used.

    Args:
        parser: of the command.
        does: what its processes do.
        engine: what the engine of a cluster does.
    """
    group = parser.add_rare_group('on many cores, GPUs or machines')
    group.add_argument('--engine', choices=ENGINES, default=PROCESS,
                       help=f'{engine} (default: %(default)s)')
    group.add_argument('--ray-address', metavar='ADDRESS', help='of a running cluster, such as auto or HOST:6379 (default: '
                                                                'RAY_ADDRESS, or all cores of this machine)')
    group.add_argument('--actors', type=int, metavar='N', help=f'processes that {does} (default: as many as fit)')
    group.add_argument('--gpus-per-actor', type=float, default=0.0, metavar='F',
                       help='GPUs of each; 0.5 lets two share one (default: none)')
    group.add_argument('--dashboard', action='store_true', help="start Ray's dashboard, on this machine alone")


def cluster_options(args: argparse.Namespace) -> ClusterOptions | None:
    """Return how the cluster is used, or None for the engine of one process.

    Raises:
        OptionError: a number cannot be used, Ray is not installed, or options of the cluster stand without it.
    """
    if args.engine == PROCESS:
        for name in OF_RAY:
            if getattr(args, name):
                raise OptionError(f'--{name.replace("_", "-")}: goes with --engine ray. Give both or neither.')
        return None
    require_ray('--engine ray')
    if args.actors is not None and args.actors < 1:
        raise OptionError(f'--actors: {args.actors} must be at least 1.')
    if args.gpus_per_actor < 0:
        raise OptionError(f'--gpus-per-actor: {args.gpus_per_actor:g} must be at least 0.')
    if args.gpus_per_actor > 1 and args.gpus_per_actor % 1:
        raise OptionError(f'--gpus-per-actor: {args.gpus_per_actor:g} must be a whole number above 1.')
    return ClusterOptions(args.ray_address, args.actors, args.gpus_per_actor, args.dashboard)


def check_folder(args: argparse.Namespace) -> None:
    """Raise OptionError for options of `score` that a cluster's table cannot follow."""
    if not args.out:
        raise OptionError('--out: --engine ray needs a folder to write to.')
    if args.format not in (None, 'parquet') or Path(args.out).suffix.lower() in ('.csv', '.jsonl'):
        raise OptionError(f'--out: with --engine ray, {args.out} is a folder of Parquet files. Give the name of a folder, and '
                          'leave --format out.')
    if Path(args.out).is_file():
        raise OptionError(f'--out: {args.out} is a file; with --engine ray it is a folder. Give another name.')
    if args.sheet:
        raise OptionError('--sheet: is not drawn with --engine ray. Score a part of the images without it, or leave it out.')
    if args.prompts is not None:
        raise OptionError('--prompts: is not read with --engine ray. Leave one of the two out.')
    if args.device is None and not args.gpus_per_actor:
        args.device = 'cpu'  # Ray shows no GPU to a process that asked for none


def words_for_cluster(words: list[str], out: Path) -> tuple[list[str], Any]:
    """Return sources that other machines can read, and what remembers their names in a bounded amount of memory.

    Standard input becomes a list beside the table, OUT.list.
    """
    from pyiqa_rali.core.files import atomic_open
    from pyiqa_rali.scoring.cluster.tasks import seen_names
    from pyiqa_rali.scoring.sources import LIST_MARK, STANDARD_INPUT
    if STANDARD_INPUT in words:
        path = Path(f'{out.absolute()}{SPOOLED}')
        with atomic_open(path, 'wb') as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        words = [f'{LIST_MARK}{path}' if word == STANDARD_INPUT else word for word in words]
    return words, seen_names(words)


def interval_columns(args: argparse.Namespace) -> 'IntervalColumns | None':
    """Return the columns that `--interval` asks for, or None.

    Raises:
        OptionError: it is not between 0 and 100.
    """
    from pyiqa_rali.scoring.further import IntervalColumns
    return None if args.interval is None else IntervalColumns(args.interval)


def score_by_cluster(jobs: Sequence[argparse.Namespace], options: Sequence[dict[str, Any]], cluster: ClusterOptions,
                     sources: Any, reading: 'ReadingOptions') -> int:
    """Score, report, and return the exit status of `score`.

    Args:
        jobs: arguments of `score`, for each metric as if it were the only one.
        options: of the architecture of each metric.
        cluster: how the cluster is used.
        sources: the images.
        reading: how pictures are read.
    """
    from pyiqa_rali.scoring.cluster.actors import ClusterSettings, TableSettings
    from pyiqa_rali.scoring.cluster.engine import score_on_cluster
    from pyiqa_rali.scoring.progress import Progress
    args = jobs[0]  # they differ in metric, weights and table alone
    made = tuple(TableSettings(Path(job.out).absolute(), job.metric, job.weights, its)
                 for job, its in zip(jobs, options, strict=True))
    settings = ClusterSettings(made, sources, args.device, batch_size=args.batch_size, workers=args.workers, reading=reading,
                               interval=interval_columns(args), aspects=args.aspects, retry=args.retry_failed)
    with Progress() as progress:
        try:
            results = score_on_cluster(settings, cluster, args.resume, progress.advance)
        except KeyboardInterrupt:
            progress.clear()
            tables = ', '.join(job.out for job in jobs)
            print(f'interrupted after {progress.count} images; --resume continues {tables}', file=sys.stderr)
            raise
    for job, (totals, metric) in zip(jobs, results, strict=True):
        totals.rate = progress.rate
        name = f'{job.metric}: ' if len(jobs) > 1 else ''
        print(name + '\n'.join(totals.lines(metric, job.out)), file=sys.stderr)
    return 1 if any(totals.failed or totals.empty for totals, _ in results) else 0
