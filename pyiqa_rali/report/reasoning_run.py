"""GRPO, supervised fine-tuning and the whole chain in a report: rewards, validation, and what the model writes."""

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.records import read_record
from pyiqa_rali.figures.scored import curves
from pyiqa_rali.figures.style import svg_and_png
from pyiqa_rali.report.blocks import Block, Commands, Figure, Section, Table, Text, number
from pyiqa_rali.report.scored import overlap_block
from pyiqa_rali.report.training_run import training_section

SAMPLES_SHOWN = 12


def reasoning_section(folder: Path, anchor: str) -> Section:
    """Return the section of one run of GRPO or supervised fine-tuning.

    Args:
        folder: the run's.
        anchor: not used: such runs show no pictures.

    Raises:
        DataError: it was validated on images that it was trained on and that are not to be counted.
    """
    options = yaml.safe_load((folder / 'options.yml').read_text(encoding='utf-8'))
    command = f'python -m pyiqa_rali.train -opt {folder / "options.yml"}'
    kind = options.get('model_type', 'GRPO')
    settings = options.get(kind.lower()) or {}
    rows = [('start', str((options.get('network') or {}).get('pretrained'))), ('seed', str(options.get('manual_seed'))),
            *((name, str(value)) for name, value in settings.items() if not isinstance(value, (dict, list)))]
    section = Section(f'{kind}: {folder.name}', [Table('The run', ('what', 'value'), rows), Commands([command])])
    records = {name: read_record(folder / file) for name, file in (('training', 'log.csv'), ('validation', 'val.csv'))
               if (folder / file).exists()}
    drawn = curves(records)
    if drawn is not None:
        svg, png = svg_and_png(drawn)
        blocks: list[Block] = [Figure('Against the training step; the thick line is a running mean.', svg, png, command)]
        if records.get('validation'):
            blocks.append(_before_and_after(records['validation'], command))
            blocks.append(overlap_block(_overlaps(folder / 'overlap.json'), options, 'val', folder))
        section.sections.append(Section('Rewards and validation', blocks))
    samples = _samples(folder / 'samples.csv')
    if samples:
        section.sections.append(Section('What it wrote while it was trained', [Table(
            'The first and the last samples', ('step', 'image', 'MOS', 'completion'), samples, command)]))
    if not section.sections:
        section.blocks.append(Text('The run has written no step yet.'))
    return section


def _overlaps(path: Path) -> list[dict[str, Any]] | None:
    """Return the validation images that were trained on, by section; None for a run of a version that did not look."""
    found = json.loads(path.read_text(encoding='utf-8')) if path.exists() else None
    return None if found is None else [{'dataset': name, **values} for name, values in found.items()]


def _before_and_after(rows: list[dict[str, float]], command: str) -> Table:
    first, last = rows[0], rows[-1]
    return Table('Validation on held-out images', ('measure', f'step {first["step"]}', f'step {last["step"]}'),
                 [(name, number(first.get(name)), number(last.get(name))) for name in last if name != 'step'], command)


def _samples(path: Path) -> list[tuple[str, str, str, str]]:
    if not path.exists():
        return []
    with open(path, encoding='utf-8', newline='') as stream:
        rows = [(row['step'], row['image'], row['mos'], row['completion']) for row in csv.DictReader(stream)]
    half = SAMPLES_SHOWN // 2
    return rows if len(rows) <= SAMPLES_SHOWN else rows[:half] + rows[-half:]


def chain_section(folder: Path, anchor: str) -> Section:
    """Return the section of a run of the whole chain, with a part for each of its models.

    Args:
        folder: the run's.
        anchor: the beginning of the names of its pictures within the page.

    Raises:
        DataError: it has not finished, or its files cannot be read.
    """
    command = f'python -m pyiqa_rali.train -opt {folder / "options.yml"}'
    section = Section(f'The whole chain: {folder.name}', [Commands([command])])
    if (folder / 'results.json').exists():
        section.blocks.append(_chain_results(json.loads((folder / 'results.json').read_text(encoding='utf-8')), command))
    for seed in sorted(folder.glob('seed_*')):
        for name, make in (('grpo', reasoning_section), ('rali', training_section)):
            if (seed / name / 'options.yml').exists():
                part = make(seed / name, f'{anchor}-{seed.name}')
                section.sections += [Section(f'{seed.name.replace("_", " ")}, {name}: {each.title}', each.blocks)
                                     for each in part.sections]
        sheet = seed / 'figures' / 'texts_and_scores.png'
        if sheet.exists():
            section.sections.append(Section(f'{seed.name.replace("_", " ")}: texts and scores', [Figure(
                'Held-out photographs with what the reasoning model says, and both scores', png=sheet.read_bytes(),
                command=command)]))
    if not section.sections:
        raise DataError(f'{folder}: the chain has finished no step that a report can show.')
    return section


def _chain_results(results: dict[str, Any], command: str) -> Table:
    seeds = results['seeds']
    without = results.get('seeds_without_value') or {}
    rows = [(name, _median(value, len(seeds), len(without.get(name, ()))), *(_shown(seeds[seed].get(name)) for seed in seeds))
            for name, value in results['medians'].items()]
    headers = ('measure', 'median', *(f'seed {seed}' for seed in seeds))
    return Table('Results on photographs that no step before has seen', headers, rows, command)


def _median(value: Any, seeds: int, without: int) -> str:
    return f'{_shown(value)} (of {seeds - without} of {seeds} seeds)' if without else _shown(value)


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) or value is None else str(value)
