"""The sections of a benchmark, one after the other: time and memory, scores, pipeline, language model."""

import argparse
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.photographs import bundled_photographs
from pyiqa_rali.studies.benchmark.cells import cells_of
from pyiqa_rali.studies.benchmark.pipeline import command_row, write_jpegs
from pyiqa_rali.studies.benchmark.random_release import write_random_release
from pyiqa_rali.studies.benchmark.reasoner import REASONER
from pyiqa_rali.studies.benchmark.run import Rows, child_rows, measure_subject
from pyiqa_rali.studies.benchmark.subjects import RALI, RELEASE, Subject, subjects_for

Row = dict[str, Any]
FEATURE_PICTURES = 6  # that the random weights are standardised on
LARGEST_CHECK = (16, 1024)  # edges of the check pictures, in pixels
REASONER_PICTURE = {'width': 512, 'height': 384}


class Bench:
    """What all sections share: the options, the rows, and the files that are made when they are first needed.

    Args:
        args: the command's arguments.
        rows: where rows are kept.
        folder: for pictures.
        weights: for random weights.
    """

    def __init__(self, args: argparse.Namespace, rows: Rows, folder: Path, weights: Path):
        self.args, self.rows, self.folder, self.weights = args, rows, folder, weights
        self.photographs = [item.path for item in bundled_photographs()]

    @cached_property
    def subjects(self) -> list[Subject]:
        """What is measured; random weights are written if one of them needs these."""
        needed = {RALI, RELEASE} & {*self.args.metrics, *self.args.pipeline_metrics}
        folder, checkpoint = self.random_weights() if needed or self.args.reasoner else ('', '')
        self.checkpoint = checkpoint
        return subjects_for(self.args.metrics, self.args.precisions, folder, checkpoint)

    def random_weights(self) -> tuple[str, str]:
        """Write random weights in the release's layout and in ours, and return where."""
        from pyiqa_rali.model.checkpoint import save_checkpoint
        from pyiqa_rali.model.release.released import read_released
        folder, checkpoint = self.weights / 'release', self.weights / 'rali.safetensors'
        before = checkpoint.stat().st_mtime if checkpoint.is_file() else 0
        write_random_release(folder, self.args.encoder, self.photographs[:FEATURE_PICTURES])
        if before <= (folder / 'random.json').stat().st_mtime:
            save_checkpoint(checkpoint, *read_released(folder))
        return str(folder), str(checkpoint)

    @cached_property
    def pictures(self) -> dict[str, str]:
        """A PNG file of each size, by 'WIDTHxHEIGHT'."""
        from PIL import Image
        source = self.args.image or next(path for path in self.photographs if path.stem == 'coffee')
        picture, found = Image.fromarray(read_rgb(source)), {}
        for width, height in {*self.args.sizes, *(self.args.peer_sizes or [])}:
            path = self.folder / f'{width}x{height}.png'
            picture.resize((width, height), Image.Resampling.LANCZOS).save(path)
            found[f'{width}x{height}'] = str(path)
        return found

    @cached_property
    def check_files(self) -> list[str]:
        """Photographs of many sizes, some of them as coarse JPEG files, for comparing scores."""
        import numpy as np
        from PIL import Image
        generator, found = np.random.default_rng(0), []
        for index in range(self.args.check_images):
            picture = Image.fromarray(read_rgb(self.photographs[index % len(self.photographs)]))
            shrink = generator.uniform(0.3, 1) * min(1, LARGEST_CHECK[1] / max(picture.size))
            size = [max(LARGEST_CHECK[0], round(edge * shrink)) for edge in picture.size]
            path = self.folder / f'check_{index:03d}.{"jpg" if index % 2 else "png"}'
            picture.resize(size, Image.Resampling.LANCZOS).save(path, **({'quality': 12} if index % 4 == 3 else {}))
            found.append(str(path))
        return found


def all_rows(args: argparse.Namespace, rows: Rows, folder: Path, weights: Path) -> Iterator[Row]:
    """Measure every row that is not there yet, and yield it."""
    bench = Bench(args, rows, folder, weights)
    yield from speed_rows(bench)
    if args.pipeline_images:
        yield from pipeline_rows(bench)
    if args.reasoner:
        yield from reasoner_rows(bench)


def speed_rows(bench: Bench) -> Iterator[Row]:
    """Start, time, memory, and the scores of the check pictures (once, with the last number of threads)."""
    args = bench.args
    for threads in args.threads:
        for subject in bench.subjects:
            checked = threads == args.threads[-1] and subject.name in (RELEASE, RALI)
            cells = cells_of(subject, args.inputs, args.sizes, args.peer_sizes, args.batches, args.device)
            yield from measure_subject(bench.rows, {
                'subject': subject.to_dict(), 'device': args.device, 'threads': threads, 'pictures': bench.pictures,
                'first': smallest_picture(bench), 'cells': [cell.to_dict() for cell in cells], 'repeats': args.repeats,
                'starts': args.starts, 'seconds': args.seconds, 'call_limit': args.call_limit,
                'check': bench.check_files if checked else []}, subject.label)
    if RALI in args.metrics and args.check_images:
        yield from _exact_scores(bench)


def smallest_picture(bench: Bench) -> str:
    """Return the picture that every start is timed with."""
    return bench.pictures[min(bench.pictures, key=lambda size: int(size.split('x')[0]) * int(size.split('x')[1]))]


def _exact_scores(bench: Bench) -> Iterator[Row]:
    subject = Subject(RALI, options={'pretrained_model_path': bench.checkpoint}, exact=True)
    args = bench.args
    yield from measure_subject(bench.rows, {
        'subject': subject.to_dict(), 'device': args.device, 'threads': args.threads[-1], 'pictures': bench.pictures,
        'first': smallest_picture(bench), 'cells': [], 'repeats': 1, 'starts': 1, 'seconds': 0, 'call_limit': 0,
        'check': bench.check_files}, subject.label)


def pipeline_rows(bench: Bench) -> Iterator[Row]:
    """Decoding alone, the model alone, and the command with each number of workers, for each size of JPEG files."""
    args, threads = bench.args, bench.args.threads[-1]
    for width, height in args.pipeline_sizes:
        folder = write_jpegs(bench.folder / f'jpeg_{width}x{height}', bench.photographs, (width, height), args.pipeline_images)
        for subject in subjects_for(args.pipeline_metrics, ['fp32'], '', getattr(bench, 'checkpoint', '')):
            key = {'section': 'pipeline', 'subject': subject.label, 'device': args.device, 'threads': threads, 'width': width,
                   'height': height}
            request = {'folder': str(folder), 'subject': subject.to_dict(), 'device': args.device, 'threads': threads,
                       'batch': 8 if args.device == 'cpu' else 64}
            for kind in ('decode', 'model'):
                asked = {**request, 'input': kind}
                yield from _kept(bench.rows, {**key, 'input': kind},
                                 lambda asked=asked: next(child_rows('pipeline', asked, threads)))
            for workers in args.workers:
                yield from _kept(bench.rows, {**key, 'input': f'score, {workers} workers', 'workers': workers},
                                 lambda subject=subject, folder=folder, workers=workers, batch=request['batch']: command_row(
                                     subject, folder, bench.folder / 'scores.csv', workers, args.device, batch))


def reasoner_rows(bench: Bench) -> Iterator[Row]:
    """A vision-language model that writes, and RALI in each precision, for the same batch of pictures."""
    args, threads = bench.args, bench.args.threads[-1]
    request = {'device': args.device, 'threads': threads, 'batch': args.reasoner_batch, 'tokens': args.reasoner_tokens,
               'repeats': min(3, args.repeats), 'seconds': args.seconds, **REASONER_PICTURE}
    own = subjects_for([RALI], args.precisions, '', bench.checkpoint)
    for subject in [None, *own]:
        label = subject.label if subject else f'{REASONER} {args.reasoner} bf16'
        key = {'section': 'reasoner', 'subject': label, 'device': args.device, 'threads': threads, **REASONER_PICTURE,
               'input': 'scores' if subject else 'reasoner', 'batch': args.reasoner_batch}
        asked = {**request, 'size': None if subject else args.reasoner, 'subject': subject and subject.to_dict()}
        yield from _kept(bench.rows, key, lambda asked=asked: next(child_rows('reasoner', asked, threads)))


def _kept(rows: Rows, key: Row, measured: Any) -> Iterator[Row]:
    """Measure a row that is not there yet, keep it, and yield it; a failure is kept as its 'error'."""
    if rows.has(key):
        return
    try:
        row = measured()
    except DataError as error:
        row = {'error': str(error)}
    rows.add({**row, **key})
    yield rows.rows[-1]
