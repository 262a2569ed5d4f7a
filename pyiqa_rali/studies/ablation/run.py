"""Ablations and sweeps: variants of one option file, each trained for several seeds and splits, in parallel processes.

Every cell of the table is an ordinary training run in a folder named by the digest of everything that its result depends on. So
a cell that several variants share runs once, a finished one is kept, and an interrupted one is resumed. Cells that differ only
after stage 1 share the aligned encoder and its features through files.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.files import atomic_path, write_json, write_text, write_yaml
from pyiqa_rali.core.jobs import Job, end_with_parent, last_line, run_jobs
from pyiqa_rali.core.messages import messages_shown, progress_bar
from pyiqa_rali.core.runs import claim_run
from pyiqa_rali.figures.ablation import Repeats, draw_ablation, draw_sweeps
from pyiqa_rali.studies.ablation.plan import AblationOptions, Cell, plan
from pyiqa_rali.studies.ablation.table import PAPER, TableRow, fill, markdown, write_cells, write_table
from pyiqa_rali.training.rali.options import train_options
from pyiqa_rali.training.rali.run import train
from pyiqa_rali.training.rali.run_folder import RunFolder

CELL = 'cell.json'
THREAD_VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')


@dataclass
class AblationResult:
    """The table of an ablation.

    Attributes:
        root: its folder.
        rows: one for each variant and each value of a sweep; the first is what the others are compared with.
        sections: the data sets that correlations are averaged over.
        markdown: the table as text.
        figures: the drawings, PNG files.
    """

    root: Path
    rows: list[TableRow]
    sections: list[str]
    markdown: str
    figures: list[Path]


class Ablation:
    """A planned ablation and its folder, `path: experiments_root` / `name`.

    Args:
        options: variants, sweeps and repeats.

    Attributes:
        places: (variant, repeat, cell's key) of every place in the table.
        cells: the different trainings, by key.

    Raises:
        OptionError, DataError: the options of a cell cannot be used; the message names its variant.
    """

    def __init__(self, options: AblationOptions):
        self.options = options
        self.places, self.cells = plan(options)
        self.root = Path(options.path.experiments_root) / options.name

    @property
    def left(self) -> list[Cell]:
        """The cells that have not been trained yet."""
        return [cell for cell in self.cells.values() if not self._result(cell).exists()]

    def summary(self) -> str:
        """Return how much there is to do, in one line."""
        encoders = len({cell.encoder for cell in self.cells.values()})
        return (f'{len(self.places)} places in the table, {len(self.cells)} different trainings with {encoders} image '
                f'encoders; {len(self.left)} trainings are left.')

    def run(self, processes: int = 1, threads: int = 1) -> AblationResult:
        """Train what is missing, then write cells.csv, table.csv, table.md and draw.

        Args:
            processes: trainings at the same time.
            threads: of each.

        Raises:
            OptionError: a number is below 1.
            DataError: trainings failed; the message names the log.
        """
        for name, value in (('processes', processes), ('threads', threads)):
            if value < 1:
                raise OptionError(f'{name}: {value} must be at least 1.')
        # any option may change: each cell records what it depends on
        claim_run(self.root, self.options, continues=True, free=[each.name for each in fields(self.options)])
        if self.left:
            self._train(self.left, processes, threads)
        return self._report()

    def _result(self, cell: Cell) -> Path:
        """Return the file that marks a cell as finished and holds its result."""
        return self.root / 'cells' / cell.key / CELL

    def _train(self, cells: Sequence[Cell], processes: int, threads: int) -> None:
        """Train cells in separate processes; those with the same encoder follow one another in one process."""
        jobs = []
        for encoder in dict.fromkeys(cell.encoder for cell in cells):
            request = self.root / 'logs' / f'{encoder}.json'
            write_json(request, {
                'cells': str(self.root / 'cells'), 'encoders': str(self.root / 'encoders'),
                'keep_models': self.options.keep_models,
                'wanted': [{each.name: getattr(cell, each.name) for each in fields(Cell)} for cell in cells
                           if cell.encoder == encoder]})
            jobs.append(Job([sys.executable, '-m', __name__, str(request)], request.with_suffix('.log')))
        with progress_bar(total=len(cells), desc='ablate', unit='training') as bar:
            def look() -> None:
                finished = sum(self._result(cell).exists() for cell in cells)
                if finished > bar.n:
                    bar.update(finished - bar.n)
            failed = run_jobs(jobs, processes, dict.fromkeys(THREAD_VARIABLES, str(threads)), look)
        if failed:
            left = sum(not self._result(cell).exists() for cell in cells)
            raise DataError(f'{left} of {len(cells)} trainings failed. The first one says: {last_line(failed[0].log)} See '
                            f'{failed[0].log}. Fix it and run the same command again: finished trainings are kept.')

    def _report(self) -> AblationResult:
        """Write the tables and the drawings."""
        options = self.options
        rows: dict[str, TableRow] = {}
        for variant, _, key in self.places:
            row = rows.setdefault(variant.name, TableRow(variant.name, variant.group, variant.value, [],
                                                         options.paper.get(variant.name)))
            row.results.append(json.loads(self._result(self.cells[key]).read_text(encoding='utf-8'))['best'])
        table = list(rows.values())
        write_cells(self.root / 'cells.csv', self.places, table)
        sections = fill(table, options.sections, options.metrics)
        write_table(self.root / 'table.csv', table)
        text = markdown(table, sections)
        write_text(self.root / 'table.md', text)
        figures, metric = self.root / 'figures', options.metrics[0]
        ablation, sweeps = figures / 'ablation.png', figures / 'sweeps.png'
        drawn = [Repeats(row.name, row.group, row.value, row.means[metric], row.paper) for row in table]
        draw_ablation([row for row in drawn if row.group == drawn[0].group], ablation, metric, PAPER)
        draw_sweeps(drawn, sweeps, metric)
        return AblationResult(self.root, table, sections, text, [ablation, *([sweeps] if options.sweeps else [])])


def ablate(options: AblationOptions, processes: int = 1, threads: int = 1) -> AblationResult:
    """Train the variants of an ablation that are not trained yet, and return its table; see `Ablation`."""
    return Ablation(options).run(processes, threads)


def run_cell(folder: Path, encoders: Path, cell: Cell, keep_models: bool) -> None:
    """Train one cell, resume it, or leave it alone when it is finished.

    Args:
        folder: of all cells.
        encoders: folder of what cells share.
        cell: what to train.
        keep_models: keep its exports and resumable state.
    """
    done = folder / cell.key / CELL
    if done.exists():
        return
    values = {**cell.values, 'name': cell.key, 'stages': ['align', 'compress', 'score'],
              'path': {**(cell.values.get('path') or {}), 'experiments_root': str(folder)}}
    run = RunFolder(train_options(values))
    share(encoders / cell.encoder, run.root)
    option_file = folder / f'{cell.key}.yml'
    write_yaml(option_file, values)
    results = train(str(option_file), auto_resume=True)
    share(run.root, encoders / cell.encoder)
    if not keep_models:
        shutil.rmtree(run.models)
        (run.align / 'state.pt').unlink(missing_ok=True)
    write_json(done, {'key': cell.key, 'encoder': cell.encoder, 'best': results.best, 'keep_models': keep_models})


def share(source: Path, target: Path) -> None:
    """Link a finished encoder, its record, bank and features to another folder; the encoder comes last, as a sign of all."""
    align = source / 'align'
    encoder = align / 'image_encoder.safetensors'
    if not encoder.exists():
        return
    for path in [*source.glob('compress/features_*.safetensors'), align / 'log.csv', align / 'bank.safetensors', encoder]:
        copied = target / path.relative_to(source)
        if not path.exists() or copied.exists():
            continue
        copied.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copied)
        except OSError:  # no hard links on this file system
            with atomic_path(copied) as temporary:
                shutil.copyfile(path, temporary)


def train_request(path: Path) -> None:
    """Train the cells of a request one after the other."""
    request = json.loads(path.read_text(encoding='utf-8'))
    for values in request['wanted']:
        run_cell(Path(request['cells']), Path(request['encoders']), Cell(**values), request['keep_models'])


if __name__ == '__main__':
    end_with_parent()
    with messages_shown(on_stdout=True):
        train_request(Path(sys.argv[1]))
