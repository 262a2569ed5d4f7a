"""Train variants of one option file for several seeds and splits, and put them into a table."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from pyiqa_rali.core.errors import DataError, OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('-opt', metavar='FILE', required=True, help='option file, such as options/ablation.yml')
    parser.add_argument('--processes', type=int, default=1, metavar='N', help='trainings at the same time (default: 1)')
    parser.add_argument('--threads', type=int, default=1, metavar='N', help='threads of each (default: 1)')
    parser.add_argument('--plan', action='store_true', help='say what would be trained, and leave')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='SECTION:KEY=VALUE',
                        help='change options of the file')
    parser.epilog = ('A run that was stopped goes on when it is started again: finished cells are kept as long as their '
                     'options, tables, texts, weights and package versions are the same.')


def run(args: argparse.Namespace) -> int:
    """Train what is missing, then write the table and draw it.

    Raises:
        OptionError: an option or argument cannot be used.
        DataError: cells failed; the message names the log.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.core.runs import claim_run
    from pyiqa_rali.studies.ablation.run import AblationFolder, ablation_options, plan
    for name in ('processes', 'threads'):
        if getattr(args, name) < 1:
            raise OptionError(f'--{name}: {getattr(args, name)} must be 1 at least.')
    options = ablation_options(override(read_yaml(args.opt), args.force_yml))
    places, cells = plan(options)
    folder = AblationFolder(options)
    missing = [cell for cell in cells.values() if not folder.result(cell.key).exists()]
    print(f'{len(places)} places in the table, {len(cells)} different trainings with '
          f'{len({cell.encoder for cell in cells.values()})} image encoders; {len(missing)} trainings are left.')
    if args.plan:
        return 0
    # any option may change: cells know by themselves what they depend on
    claim_run(folder.root, asdict(options), continues=True, free=tuple(asdict(options)))
    if missing:
        train_cells(folder, missing, options.keep_models, args.processes, args.threads)
    report(options, folder, places)
    return 0


def train_cells(folder, cells: list, keep_models: bool, processes: int, threads: int) -> None:
    """Train cells in processes; those with one encoder follow each other in one process."""
    from tqdm import tqdm

    from pyiqa_rali.core.jobs import Job, last_line, run_jobs
    from pyiqa_rali.studies.ablation.run import write_request
    jobs = []
    for encoder in dict.fromkeys(cell.encoder for cell in cells):
        request = folder.logs / f'{encoder}.json'
        write_request(request, folder, [cell for cell in cells if cell.encoder == encoder], keep_models)
        jobs.append(Job([sys.executable, '-m', 'pyiqa_rali.studies.ablation.run', str(request)], request.with_suffix('.log')))
    environment = {name: str(threads) for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')}
    with tqdm(total=len(cells), desc='ablate', unit='training') as bar:
        def look() -> None:
            finished = sum(folder.result(cell.key).exists() for cell in cells)
            if finished > bar.n:
                bar.update(finished - bar.n)
        failed = run_jobs(jobs, processes, environment, look)
    if failed:
        left = sum(not folder.result(cell.key).exists() for cell in cells)
        raise DataError(f'{left} of {len(cells)} trainings failed. The first says: {last_line(failed[0].log)} See '
                        f'{failed[0].log}. Mend it and start the same command again: finished trainings are kept.')


def report(options, folder, places: list) -> None:
    """Write cells.csv, table.csv, table.md and the pictures."""
    from pyiqa_rali.core.files import write_text
    from pyiqa_rali.studies.ablation.figures import draw_ablation, draw_sweeps
    from pyiqa_rali.studies.ablation.table import PAPER, TableRow, fill, markdown, write_table
    rows: dict[str, TableRow] = {}
    for variant, _, key in places:
        row = rows.setdefault(variant.name, TableRow(variant.name, variant.group, variant.value, [],
                                                     options.paper.get(variant.name)))
        row.results.append(json.loads(folder.result(key).read_text(encoding='utf-8'))['best'])
    table = list(rows.values())
    write_cells(folder.root / 'cells.csv', places, table)
    sections = fill(table, options.sections, options.metrics)
    write_table(folder.root / 'table.csv', table)
    text = markdown(table, sections)
    write_text(folder.root / 'table.md', text)
    metric = options.metrics[0]
    draw_ablation([row for row in table if row.group == table[0].group], folder.figures / 'ablation.png', metric, PAPER)
    draw_sweeps(table, folder.figures / 'sweeps.png', metric)
    print(text)
    print(f'{folder.root}: table.csv, table.md, cells.csv, figures/')


def write_cells(path: Path, places: list, table: list) -> None:
    """Write one line for each variant and repeat, with all correlations of its training."""
    from pyiqa_rali.core.tables import write_csv
    results = {row.name: row.results for row in table}
    columns = list(table[0].results[0])
    write_csv(path, ['variant', 'group', 'value', 'repeat', 'key', *columns], (
        [variant.name, variant.group, variant.value, repeat, key,
         *(results[variant.name][repeat][column] for column in columns)] for variant, repeat, key in places))
