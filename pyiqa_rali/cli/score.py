"""Score images: files, folders, globs, lists and tar shards."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pyiqa_rali.cli.arguments import CommandParser, add_reading_settings, data_set_of, reading_settings
from pyiqa_rali.cli.cluster import (
    RAY,
    add_cluster,
    check_folder,
    cluster_options,
    interval_columns,
    score_by_cluster,
    words_for_cluster,
)
from pyiqa_rali.core import processes
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.image_files import ReadingOptions
from pyiqa_rali.data.prompted import GivenPrompts, PromptFile, prompts_in
from pyiqa_rali.data.sections import dataset_section
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.scoring.engine import BATCH_SIZE, GPU_BATCH_SIZE, GPU_WORKERS, score_files, suitable_sizes
from pyiqa_rali.scoring.entries import ImageEntry
from pyiqa_rali.scoring.further import Further, Prompts, columns_of, further_of, with_labels
from pyiqa_rali.scoring.metrics import MANY, make_metric, metric_label, parse_options, with_fastest_backend
from pyiqa_rali.scoring.progress import Progress, Totals
from pyiqa_rali.scoring.score_table import ImageScore, refuse_overwriting
from pyiqa_rali.scoring.sources import LIST_MARK, STANDARD_INPUT, ImageSources, NamedImages, count_ahead
from pyiqa_rali.scoring.tables import FORMATS, file_format, holds_metric, open_table, read_table

OF_DATA_SET = ''  # --prompts without a file


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('images', nargs='*', metavar='PATH', help='image, folder (all images below it), quoted glob, tar '
                        'shard, Parquet or Arrow file, address of these, @FILE (a list), - (a list from stdin)')
    parser.add_argument('--opt', metavar='FILE', help="score the images of an option file's data set")
    parser.add_argument('--dataset', default='test', metavar='SECTION', help='which of its data sets (default: test)')
    parser.add_argument('-m', '--metric', action='append', metavar='NAME', help='rali-lite, rali, or any other no-reference '
                        'metric of pyiqa (default: rali-lite, with --weights rali); several: one pass, a table each')
    parser.add_argument('--weights', metavar='PATH', help='file or folder of an export, for the weights of the metric')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')
    group = parser.add_argument_group('table')
    group.add_argument('--out', metavar='FILE', help='write the scores to this file instead of the screen')
    group.add_argument('--interval', type=float, metavar='PERCENT', help='columns low and high: an interval that holds the MOS '
                       'of 90 images in 100 with 90; unlike: 1 if unlike the calibration')
    group.add_argument('--aspects', action='store_true', help='columns focus, noise, exposure and more, 0 to 1')
    group.add_argument('--sheet', metavar='PNG', help='draw pictures from the worst score to the best')
    group.add_argument('--resume', action='store_true', help='continue --out, skipping the images already in it')
    group.add_argument('--retry-failed', action='store_true', help='like --resume, and try those again that have no score')
    group = parser.add_rare_group('speed')
    group.add_argument('--batch-size', type=int, metavar='N',
                       help=f'images in one pass, in each process (default: {BATCH_SIZE}, on a GPU {GPU_BATCH_SIZE})')
    group.add_argument('--workers', type=int, metavar='N', help='processes that read and, on the CPU, score (default: 0 on the '
                       f'CPU, all in one process; on a GPU as many as cores, {GPU_WORKERS} at most)')
    group = parser.add_rare_group('lists, formats, and options of the metric')
    group.add_argument('--list', action='append', default=[], metavar='FILE', dest='lists',
                       help='images, shards or folders, one per line, relative to the working folder; as @FILE')
    group.add_argument('--format', choices=FORMATS, help='of --out (default: by its extension)')
    group.add_argument('--metric-opt', action='append', default=[], metavar='KEY=VALUE', dest='metric_options',
                       help='an option of the metric, such as precision=bf16; may be given several times; for one of several '
                            'metrics NAME:KEY=VALUE')
    group.add_argument('--prompts', nargs='?', const=OF_DATA_SET, metavar='FILE', help='column alignment: how well generated '
                       'pictures agree with their prompts, which are in a table: names in its first column, and a column '
                       'prompt; with --opt and without FILE those of the data set')
    group.add_argument('--image-column', metavar='NAME', help='of Parquet and Arrow files, the column with the pictures '
                       '(default: the only one that can hold them)')
    add_reading_settings(parser)
    add_cluster(parser)
    parser.add_examples(
        ('pyiqa-rali score photo.jpg folder/', 'scores on the screen'),
        ('pyiqa-rali score folder/ --out scores.csv', 'a table; --resume continues it'),
        ('pyiqa-rali score folder/ --interval 90 --aspects --out s.csv', 'with further columns'),
        ('pyiqa-rali score "data/**/*.jpg" --out scores.parquet', 'quoted; ** goes into folders'),
        ('pyiqa-rali score "s3://bucket/{000..099}.tar" --out s.csv', 'images are named 000.tar::member'),
        ('pyiqa-rali score folder/ -m rali-lite -m piqe --out s.csv', 's.rali-lite.csv and s.piqe.csv'),
        ('pyiqa-rali score --opt options/demo.yml --out s.csv --sheet s.png', ''),
        ('pyiqa-rali score folder/ --engine ray --out scores/', 'all cores, GPUs or machines'),
        notes='An image without a score has a line with the reason; then the exit status is 1.')


def run(args: argparse.Namespace) -> int:
    """Score, print or write, and report.

    Returns:
        0; 1 when there are images without a score, or a folder, list, glob or shard without an image.

    Raises:
        OptionError, DataError, CheckpointError, OSError: nothing can be scored at all; the message says why.
    """
    cluster = cluster_options(args)
    args.metric = args.metric or ['rali' if args.weights else 'rali-lite']
    if len(args.metric) > 1:
        from pyiqa_rali.cli.several import score_several
        _check(args)
        return score_several(args, cluster)
    args.metric, = args.metric
    _check(args)
    options, reading = parse_options(args.metric_options), reading_settings(args)
    interval = interval_columns(args)
    known: QualityTable | None = None
    prompts: Prompts | None = PromptFile(args.prompts) if args.prompts else None
    if args.opt:
        section, values, reading = data_set_of(args.opt, args.dataset)
        known = build_table(section, values, 0)
        if args.prompts == OF_DATA_SET:
            found = prompts_in(known, dataset_section(section, values))
            prompts = GivenPrompts(dict(zip(known.image_names(), found, strict=True)))
        sources: ImageSources | NamedImages = NamedImages(known.image_names())
    else:
        words = [*args.images, *(name if name == STANDARD_INPUT else LIST_MARK + name for name in args.lists)]
        words, seen = words_for_cluster(words, Path(args.out)) if cluster else (words, None)
        sources = ImageSources(words, seen=seen, image_column=args.image_column, fetching=reading.fetching)
    if cluster:
        return score_by_cluster([args], [options], cluster, sources, reading)
    if args.out:
        refuse_overwriting(Path(args.out), args.resume)  # before anything is loaded
    metric = make_metric(args.metric, args.weights, args.device, options)
    further = further_of(metric, args.weights or args.metric, interval, args.aspects, prompts)
    images, many = _peeked(sources, args)
    options = _with_backend(args, metric, options, many, further)
    label = _label(args, metric, options, reading, further)
    columns = columns_of(further)
    table = open_table(args.out, args.format, label, args.resume, args.retry_failed, columns) if args.out else None
    totals = _score(args, images, table, metric, reading, further, count_ahead(sources))
    totals.repeated, totals.others, totals.empty = sources.repeated, sources.others, sources.empty
    left = table.finish() if table else None
    totals.failed = totals.failed if left is None else left
    print('\n'.join(totals.lines(metric, args.out)), file=sys.stderr)
    if args.sheet:
        print(_sheet(args, metric, known, reading, further))
    return 1 if totals.failed or totals.empty else 0


def _sheet(args: argparse.Namespace, metric: Any, known: QualityTable | None, reading: ReadingOptions,
           further: Sequence[Further]) -> Path:
    """Draw the sheet of a finished table, and return the file."""
    from pyiqa_rali.scoring.sheet import draw_sheet, known_images
    name, facts = (args.metric, None) if known is None else (known.name, known_images(known))
    rows = read_table(args.out, args.format, columns_of(further))
    return draw_sheet(rows, Path(args.sheet), metric, name, facts, reading)


def _peeked(sources: ImageSources | NamedImages, args: argparse.Namespace) -> tuple[Iterator[ImageEntry], bool]:
    """Return the images, and whether there are enough to prepare for.

    Standard input and compressed shards are not waited for.
    """
    images, first = iter(sources), []
    if STANDARD_INPUT not in [*args.images, *args.lists]:
        for entry in images:
            first.append(entry)
            if len(first) == MANY or entry.content is not None:
                break
    return chain(first, images), len(first) == MANY


def _label(args: argparse.Namespace, metric: Any, options: dict[str, Any], reading: ReadingOptions,
           further: Sequence[Further]) -> str:
    label = metric_label(args.metric, args.weights, options, metric) + ('' if reading.upright else ' as-stored')
    return with_labels(label, further)


def _with_backend(args: argparse.Namespace, metric: Any, options: dict[str, Any], many: bool,
                  further: Sequence[Further]) -> dict[str, Any]:
    """Return the options with the backend that scores: a resumed table continues with the one that it was begun with."""
    if args.resume:
        reading = reading_settings(args)
        held = [holds_metric(args.out, args.format, _label(args, metric, each, reading, further), columns_of(further))
                for each in (options, {**options, 'backend': 'onnx'})]
        if any(held):
            return with_fastest_backend(metric, options, may_export=True) if held[1] else options
    return with_fastest_backend(metric, options, may_export=many)


def _score(args: argparse.Namespace, images: Iterable[ImageEntry], table: Any, metric: Any, reading: ReadingOptions,
           further: Sequence[Further], total: Callable[[], int | None]) -> Totals:
    totals = Totals(len(table.finished), table.failed) if table else Totals()
    sizes = suitable_sizes(metric, args.batch_size, args.workers)
    scores = score_files(images, metric, *sizes, skip=table.has if table else None, reading=reading, further=further)
    done = len(table.finished) if table else 0
    with Progress(total=total, done=done) as progress, table.open() if table else contextlib.nullcontext() as stream:
        try:
            for window in scores:
                if table:
                    table.write(stream, window)
                else:
                    _print_scores(window, progress)
                totals.add(window)
                progress.add(window)
        except KeyboardInterrupt:
            progress.clear()
            goes_on = f'; --resume continues {args.out}' if table else ''
            print(f'interrupted after {progress.count} images{goes_on}', file=sys.stderr)
            raise
    totals.rate = progress.rate
    return totals


def _check(args: argparse.Namespace) -> None:
    world = processes.world_size()
    if world > 1:
        raise OptionError(f'{world} processes would each score all images. Start score without torchrun or accelerate; '
                          '--engine ray shares the images among processes, GPUs and machines.')
    for name, least in (('batch_size', 1), ('workers', 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise OptionError(f'--{name.replace("_", "-")}: {value} must be at least {least}.')
    if not args.images and not args.lists and not args.opt:
        raise OptionError('PATH: give image files, folders, globs, tar shards, --list FILE, or --opt FILE.')
    if args.opt and (args.images or args.lists):
        raise OptionError('--opt: takes the images of a data set; give no others with it.')
    if args.prompts == OF_DATA_SET and not args.opt:
        raise OptionError('--prompts: give the table of prompts, with names of pictures in its first column and a column '
                          '"prompt"; only with --opt the data set has them.')
    for option, purpose in (('resume', 'continue'), ('retry_failed', 'continue'), ('format', 'write'), ('sheet', 'draw')):
        if getattr(args, option) and not args.out:
            raise OptionError(f'--{option.replace("_", "-")}: needs --out, the table to {purpose}.')
    args.resume |= args.retry_failed
    if args.engine == RAY:
        check_folder(args)
    elif args.out:
        file_format(args.out, args.format)


def _print_scores(scores: list[ImageScore], progress: Progress) -> None:
    progress.clear()
    for each in scores:
        print(f'{each.image}\t' + (f'error: {each.error}' if each.error else _numbers(each)), flush=True)


def _numbers(score: ImageScore) -> str:
    """Return a score and what was computed beside it, for the screen."""
    return f'{score.score:.4f}' + ''.join(f'\t{name} {value:.6g}' for name, value in score.further.items())
