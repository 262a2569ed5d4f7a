"""A benchmark, section by section: time and memory, scores, the pipeline of `score`, and a language model beside RALI."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.files import write_picture, write_text
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.processor import described_processor
from pyiqa_rali.core.tables import write_csv
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.photographs import bundled_photographs
from pyiqa_rali.figures.benchmark import draw_benchmark
from pyiqa_rali.studies.benchmark.cells import cells_of
from pyiqa_rali.studies.benchmark.options import BenchmarkOptions
from pyiqa_rali.studies.benchmark.pipeline import command_row, write_jpegs
from pyiqa_rali.studies.benchmark.processes import Rows, child_rows, measure_subject
from pyiqa_rali.studies.benchmark.reasoner import REASONER
from pyiqa_rali.studies.benchmark.release import write_random_release
from pyiqa_rali.studies.benchmark.report import COLUMNS, RELEASE_LABEL, footnotes, table_text, with_ratios
from pyiqa_rali.studies.benchmark.subjects import OWN, RALI, RELEASE, Subject, subjects_for

Row = dict[str, Any]
PACKAGES = ('torch', 'transformers', 'pyiqa', 'timm', 'pillow', 'pyiqa-rali')
FEATURE_PICTURES = 6  # that the random weights are standardised on
LARGEST_CHECK = (16, 1024)  # edges of the check pictures, in pixels
REASONER_PICTURE = {'width': 512, 'height': 384}


@dataclass
class BenchmarkResult:
    """What was measured, and where it is saved.

    Attributes:
        root: the folder.
        rows: one for each place in the grid, with ratios to the release's path; a row without a result says why in 'error'.
        text: the tables.
        table: the CSV file.
        figures: the drawings, PNG files.
    """

    root: Path
    rows: list[Row]
    text: str
    table: Path
    figures: list[Path]

    @property
    def failed(self) -> list[Row]:
        """The rows without a result, except those that were left out on purpose."""
        return [row for row in self.rows if not row.get('error', 'left out').startswith('left out')]


class Benchmark:
    """A benchmark and its folder.

    Args:
        options: what is measured.
        out: the folder; its rows are kept as they are measured.
        resume: continue from the rows that exist; axes of the grid may have grown.
        weights_folder: where random weights are kept; None takes a temporary folder.

    Raises:
        OptionError: there are rows and `resume` is not set, or they were measured with other settings.
        DataError: what is there cannot be resumed.
    """

    def __init__(self, options: BenchmarkOptions, out: str | os.PathLike, resume: bool = False,
                 weights_folder: str | os.PathLike | None = None):
        self.options, self.root, self.weights_folder = options, Path(out), weights_folder
        self._rows = Rows(self.root, settings_of(options), resume)

    @property
    def rows(self) -> list[Row]:
        """What has been measured."""
        return self._rows.rows

    def measure(self) -> None:
        """Measure what is missing.

        Raises:
            OptionError, DataError: nothing can be measured; the message says why.
        """
        with tempfile.TemporaryDirectory() as folder, progress_bar(unit='row', disable=None, file=sys.stderr) as bar:
            bench = _Bench(self.options, self._rows, Path(folder), Path(self.weights_folder or folder))
            for row in _all_rows(bench):
                bar.set_description(f'{row["section"]} {row["subject"]}')
                bar.update()

    def report(self) -> BenchmarkResult:
        """Write the tables, the CSV and the drawings of what has been measured, and return them."""
        rows, options = with_ratios(self.rows), self.options
        machine = (f'{described_processor()}, {os.cpu_count()} CPUs; {options.device}; median of {options.repeats} calls at '
                   f'most, after one that is not counted; torch {metadata.version("torch")}, transformers '
                   f'{metadata.version("transformers")}')
        text = f'{table_text(rows)}\n\n{machine}\n{footnotes(options.encoder, rows)}'
        table = self.root / 'benchmark.csv'
        write_csv(table, COLUMNS, rows)
        write_text(self.root / 'benchmark.txt', text + '\n')
        figures = draw_benchmark(rows, self.root / 'figures', RELEASE_LABEL, OWN)
        return BenchmarkResult(self.root, rows, text, table, figures)


def benchmark(options: BenchmarkOptions, out: str | os.PathLike, resume: bool = False,
              weights_folder: str | os.PathLike | None = None) -> BenchmarkResult:
    """Measure what is missing, and report; arguments and errors are those of `Benchmark`."""
    found = Benchmark(options, out, resume, weights_folder)
    found.measure()
    return found.report()


def settings_of(options: BenchmarkOptions) -> dict[str, Any]:
    """Return what all rows of a folder have in common: machine, versions, repetitions and subjects."""
    accelerator = torch.cuda.get_device_name(options.device) if options.device.startswith('cuda') else None
    packages = [*PACKAGES, *(['onnxruntime'] if 'onnx' in options.backends else [])]
    return {'machine': described_processor(), 'cpus': os.cpu_count(), 'accelerator': accelerator, 'encoder': options.encoder,
            'repeats': options.repeats, 'seconds': options.seconds, 'check_images': options.check_images,
            'image': options.image, 'versions': {name: metadata.version(name) for name in packages}}


class _Bench:
    """What all sections share: the options, the rows, and the files that are created when first needed.

    Args:
        options: of the benchmark.
        rows: where rows are kept.
        folder: for pictures.
        weights: for random weights.
    """

    def __init__(self, options: BenchmarkOptions, rows: Rows, folder: Path, weights: Path):
        self.options, self.rows, self.folder, self.weights = options, rows, folder, weights
        self.photographs = [item.path for item in bundled_photographs()]

    @cached_property
    def subjects(self) -> list[Subject]:
        """What is measured; random weights are written if one of them needs these."""
        needed = {RALI, RELEASE} & {*self.options.metrics, *self.options.pipeline_metrics}
        folder, checkpoint = self.random_weights() if needed or self.options.reasoner else ('', '')
        self.checkpoint = checkpoint
        return subjects_for(self.options.metrics, self.options.precisions, folder, checkpoint, self.options.backends)

    def random_weights(self) -> tuple[str, str]:
        """Write random weights in the release's layout and in ours, and return where."""
        from pyiqa_rali.model.checkpoint import save_checkpoint
        from pyiqa_rali.model.release.released import read_released
        folder, checkpoint = self.weights / 'release', self.weights / 'rali.safetensors'
        before = checkpoint.stat().st_mtime if checkpoint.is_file() else 0
        write_random_release(folder, self.options.encoder, self.photographs[:FEATURE_PICTURES])
        if before <= (folder / 'random.json').stat().st_mtime:
            save_checkpoint(checkpoint, *read_released(folder))
        return str(folder), str(checkpoint)

    @cached_property
    def pictures(self) -> dict[str, str]:
        """A PNG file of each size, by 'WIDTHxHEIGHT'."""
        from PIL import Image
        source = self.options.image or next(path for path in self.photographs if path.stem == 'coffee')
        picture, found = Image.fromarray(read_rgb(source)), {}
        for width, height in {*self.options.sizes, *(self.options.peer_sizes or [])}:
            path = self.folder / f'{width}x{height}.png'
            write_picture(path, picture.resize((width, height), Image.Resampling.LANCZOS))
            found[f'{width}x{height}'] = str(path)
        return found

    @cached_property
    def check_files(self) -> list[str]:
        """Photographs of many sizes, some of them as coarse JPEG files, for comparing scores."""
        import numpy as np
        from PIL import Image
        generator, found = np.random.default_rng(0), []
        for index in range(self.options.check_images):
            picture = Image.fromarray(read_rgb(self.photographs[index % len(self.photographs)]))
            shrink = generator.uniform(0.3, 1) * min(1, LARGEST_CHECK[1] / max(picture.size))
            size = [max(LARGEST_CHECK[0], round(edge * shrink)) for edge in picture.size]
            path = self.folder / f'check_{index:03d}.{"jpg" if index % 2 else "png"}'
            coarse = {'quality': 12} if index % 4 == 3 else {}
            write_picture(path, picture.resize(size, Image.Resampling.LANCZOS), **coarse)
            found.append(str(path))
        return found


def _all_rows(bench: _Bench) -> Iterator[Row]:
    """Measure every row that does not exist yet, and yield it."""
    yield from _speed_rows(bench)
    if bench.options.pipeline_images:
        yield from _pipeline_rows(bench)
    if bench.options.reasoner:
        yield from _reasoner_rows(bench)


def _speed_rows(bench: _Bench) -> Iterator[Row]:
    """Start, time, memory, and the scores of the check pictures (once, with the last number of threads)."""
    options = bench.options
    for threads in options.threads:
        for subject in bench.subjects:
            checked = threads == options.threads[-1] and subject.name in (RELEASE, RALI)
            cells = cells_of(subject, options.inputs, options.sizes, options.peer_sizes, options.batches, options.device)
            yield from measure_subject(bench.rows, {
                'subject': subject.to_dict(), 'device': options.device, 'threads': threads, 'pictures': bench.pictures,
                'first': _smallest_picture(bench), 'cells': [cell.to_dict() for cell in cells], 'repeats': options.repeats,
                'starts': options.starts, 'seconds': options.seconds, 'call_limit': options.call_limit,
                'check': bench.check_files if checked else []}, subject.label)
    if RALI in options.metrics and options.check_images:
        yield from _exact_scores(bench)


def _smallest_picture(bench: _Bench) -> str:
    """Return the picture that every start is timed with."""
    return bench.pictures[min(bench.pictures, key=lambda size: int(size.split('x')[0]) * int(size.split('x')[1]))]


def _exact_scores(bench: _Bench) -> Iterator[Row]:
    subject = Subject(RALI, options={'pretrained_model_path': bench.checkpoint}, exact=True)
    options = bench.options
    yield from measure_subject(bench.rows, {
        'subject': subject.to_dict(), 'device': options.device, 'threads': options.threads[-1], 'pictures': bench.pictures,
        'first': _smallest_picture(bench), 'cells': [], 'repeats': 1, 'starts': 1, 'seconds': 0, 'call_limit': 0,
        'check': bench.check_files}, subject.label)


def _pipeline_rows(bench: _Bench) -> Iterator[Row]:
    """Decoding alone, the model alone, and the command with each number of workers, for each size of JPEG files."""
    options, threads = bench.options, bench.options.threads[-1]
    for width, height in options.pipeline_sizes:
        folder = write_jpegs(bench.folder / f'jpeg_{width}x{height}', bench.photographs, (width, height),
                             options.pipeline_images)
        for subject in subjects_for(options.pipeline_metrics, ['fp32'], '', getattr(bench, 'checkpoint', ''), options.backends):
            key = {'section': 'pipeline', 'subject': subject.label, 'device': options.device, 'threads': threads,
                   'width': width, 'height': height}
            batch = 8 if options.device == 'cpu' else 64
            request = {'folder': str(folder), 'subject': subject.to_dict(), 'device': options.device, 'threads': threads,
                       'batch': batch}
            for kind in ('decode', 'model'):
                asked = {**request, 'input': kind}
                yield from _kept(bench.rows, {**key, 'input': kind}, partial(_first_row, 'pipeline', asked, threads))
            for workers in options.workers:
                yield from _kept(bench.rows, {**key, 'input': f'score, {workers} workers', 'workers': workers},
                                 partial(command_row, subject, folder, bench.folder / 'scores.csv', workers, options.device,
                                         batch))


def _reasoner_rows(bench: _Bench) -> Iterator[Row]:
    """A vision-language model that writes, and RALI in each precision, for the same batch of pictures."""
    options, threads = bench.options, bench.options.threads[-1]
    request = {'device': options.device, 'threads': threads, 'batch': options.reasoner_batch, 'tokens': options.reasoner_tokens,
               'repeats': min(3, options.repeats), 'seconds': options.seconds, **REASONER_PICTURE}
    own = subjects_for([RALI], options.precisions, '', bench.checkpoint)
    for subject in [None, *own]:
        label = subject.label if subject else f'{REASONER} {options.reasoner} bf16'
        key = {'section': 'reasoner', 'subject': label, 'device': options.device, 'threads': threads, **REASONER_PICTURE,
               'input': 'scores' if subject else 'reasoner', 'batch': options.reasoner_batch}
        asked = {**request, 'size': None if subject else options.reasoner, 'subject': subject and subject.to_dict()}
        yield from _kept(bench.rows, key, partial(_first_row, 'reasoner', asked, threads))


def _first_row(module: str, request: dict[str, Any], threads: int) -> Row:
    return next(child_rows(module, request, threads))


def _kept(rows: Rows, key: Row, measured: Callable[[], Row]) -> Iterator[Row]:
    """Measure a row that does not exist yet, store it, and yield it; a failure is stored as its 'error'."""
    if rows.has(key):
        return
    try:
        row = measured()
    except DataError as error:
        row = {'error': str(error)}
    rows.add({**row, **key})
    yield rows.rows[-1]
