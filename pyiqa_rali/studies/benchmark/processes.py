"""The parent of the measuring processes: it starts one for each subject, and stores every row as soon as it is measured."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.processor import described_processor
from pyiqa_rali.core.runs import KeyedRows, claim_folder
from pyiqa_rali.data.image_files import read_size
from pyiqa_rali.studies.benchmark.cells import Cell, row_key
from pyiqa_rali.studies.benchmark.subjects import OWN, Subject

MODULES = 'pyiqa_rali.studies.benchmark'


class Rows:
    """The rows of a benchmark, one JSON line each, in a file that grows by whole lines.

    Args:
        folder: where; made if needed.
        settings: what all rows must have in common.
        resume: continue from the rows that exist.

    Raises:
        OptionError: there are rows and `resume` is not set, or they were measured with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], resume: bool):
        self.path, record = folder / 'rows.jsonl', folder / 'settings.json'
        if self.path.exists() and self.path.stat().st_size:
            if not resume:
                raise OptionError(f'--out: {folder} holds a benchmark already. Give --resume to continue it, or another '
                                  'folder.')
            if not record.is_file():
                raise DataError(f'--out: {folder} cannot be resumed: {record.name}, which says how its rows were measured, is '
                                'gone. Give another folder.')
            claim_folder(record, settings, '--out', remedy='Ratios hold within one run: give another folder.')
        else:
            write_json(record, settings)
        self._rows = KeyedRows(self.path, row_key)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, in the order of measuring."""
        return list(self._rows.done.values())

    def has(self, key: dict[str, Any]) -> bool:
        """Whether a row is there."""
        return row_key(key) in self._rows.done

    def add(self, row: dict[str, Any]) -> None:
        """Store a row, with the processor that it was measured on."""
        self._rows.add([{**row, 'processor': described_processor()}])


def measure_subject(rows: Rows, request: dict[str, Any], label: str) -> Iterator[dict[str, Any]]:
    """Measure what is missing of a subject, and yield each new row.

    A cell at which the process dies, for lack of memory for example, gets a row with 'error', and a new process continues after
    it.

    Args:
        rows: where rows are kept.
        request: see `measure.main`; and 'starts', how many processes give the median of the start.
        label: the subject's name in the rows.
    """
    common = {'subject': label, 'device': request['device'], 'threads': request['threads']}
    warm_cache(request['subject']['options'])
    while wanted := _missing(rows, request, common):
        try:
            starts = [] if rows.has({**common, 'section': 'start'}) else [*first_use(request), *further_starts(request)]
            for row in child_rows('measure', {**request, **_left(wanted, request), 'started': time.time()}, request['threads']):
                if not rows.has({**common, **row}):
                    if row['section'] == 'start':
                        row['start_s'] = statistics.median([*starts, row['start_s']])
                    rows.add({**common, **row})
                    yield rows.rows[-1]
        except DataError as error:
            left = _missing(rows, request, common)
            started = rows.has({**common, 'section': 'start'})
            for key in left[:1] if started else left:  # without a first score there is nothing to continue
                rows.add({**key, 'error': str(error)})
                yield rows.rows[-1]


def first_use(request: dict[str, Any]) -> tuple[()]:
    """Let one of our metrics do its one-time work on this machine, such as an export, whose time does not count."""
    if request['subject']['name'] in OWN and request['device'] == 'cpu':
        next(child_rows('measure', {**request, 'cells': [], 'check': [], 'started': time.time()}, request['threads']))
    return ()


def further_starts(request: dict[str, Any]) -> list[float]:
    """Return the seconds from the start of a process to its first score, for all of the 'starts' but the last."""
    return [next(child_rows('measure', {**request, 'cells': [], 'check': [], 'started': time.time()},
                            request['threads']))['start_s'] for _ in range(request['starts'] - 1)]


def warm_cache(options: dict[str, Any]) -> None:
    """Read the files and folders that are named in a subject's options, so that loading does not wait for the disk."""
    for value in options.values():
        path = Path(value) if isinstance(value, str) and value else None
        files = [] if path is None else [path, *(path.rglob('*') if path.is_dir() else [])]
        for file in files:
            if file.is_file():
                with open(file, 'rb') as stream:
                    while stream.read(1 << 24):
                        pass


def _missing(rows: Rows, request: dict[str, Any], common: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the keys of the rows that are still to be measured, in the order of measuring."""
    keys = [{'section': 'start'}, *({'section': 'speed', **cell} for cell in request['cells'])]
    keys += [{'section': 'scores'}] if request['check'] else []
    return [key for key in ({**common, **key} for key in keys) if not rows.has(key)]


def _left(wanted: list[dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    cells = [cell for cell in request['cells'] if any(all(key.get(name) == value for name, value in cell.items())
                                                       for key in wanted if key['section'] == 'speed')]
    return {'cells': cells, 'check': request['check'] if any(key['section'] == 'scores' for key in wanted) else []}


def child_rows(module: str, request: dict[str, Any], threads: int) -> Iterator[dict[str, Any]]:
    """Run a module of this package in a separate process, and yield the rows that it prints.

    Raises:
        DataError: the process failed; the message is its last line.
    """
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}
    with tempfile.TemporaryFile('w+', encoding='utf-8', errors='replace') as errors:
        process = subprocess.Popen([sys.executable, '-m', f'{MODULES}.{module}', json.dumps(request)], env=environment,
                                   stdout=subprocess.PIPE, stderr=errors, text=True)
        output = cast(IO[str], process.stdout)  # not None, because a pipe was requested
        try:
            for line in output:
                if line.startswith('{"section"'):
                    yield json.loads(line)
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            output.close()
        if status:
            errors.seek(0)
            lines = errors.read().strip().splitlines()
            raise DataError(lines[-1] if lines and status > 0 else f'the process ended with status {status}')


def measure_metric(name: str, image: str, repeats: int, threads: int, device: str,
                   options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what one metric costs.

    Args:
        name: a no-reference metric of pyiqa.
        image: an image file; reading it is part of the time.
        repeats: timed calls, after one that is not.
        threads: of torch.
        device: torch's name of the device.
        options: keywords for `create_metric`, such as 'pretrained_model_path'.

    Returns:
        'metric', 'median_ms', 'min_ms', 'max_ms', 'start_s' (from the start of the process to the first score), 'load_s'
        (making the metric), 'parameters', 'peak_mb' (largest resident memory of the process), and on a GPU 'peak_gpu_mb'.

    Raises:
        DataError: the metric cannot be made or fails on the image; the message says why.
    """
    height, width = read_size(image)
    request = {'subject': Subject(name, options=options or {}).to_dict(), 'device': device, 'threads': threads, 'first': image,
               'pictures': {f'{width}x{height}': image}, 'cells': [Cell('file', width, height, 1).to_dict()], 'check': [],
               'repeats': repeats, 'seconds': float('inf'), 'call_limit': float('inf'), 'started': time.time()}
    try:
        start, timed = child_rows('measure', request, threads)
    except DataError as error:
        raise DataError(f'benchmark: {name} failed: {error}') from error
    if 'error' in timed:
        raise DataError(f'benchmark: {name} failed: {timed["error"]}')
    return {'metric': name, **start, **timed}
