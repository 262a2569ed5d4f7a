"""From run folders to a report: the files in a folder show what it contains."""

import platform
from collections.abc import Callable
from pathlib import Path

import yaml

import pyiqa_rali
from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.files import write_text
from pyiqa_rali.report.blocks import Report, Section, Table
from pyiqa_rali.report.evaluation_run import evaluation_section
from pyiqa_rali.report.files_run import ablation_section, analysis_section, cascade_section, files_section
from pyiqa_rali.report.markdown import write_markdown
from pyiqa_rali.report.page import page
from pyiqa_rali.report.reasoning_run import chain_section, reasoning_section
from pyiqa_rali.report.training_run import training_section

LEFT_OUT = 'Left out'
KINDS: dict[str, Callable[[Path, str], Section]] = {
    'RALI': training_section, 'GRPO': reasoning_section, 'SFT': reasoning_section, 'CHAIN': chain_section,
    'EVALUATE': evaluation_section, 'ABLATION': ablation_section, 'ANALYSIS': analysis_section, 'CASCADE': cascade_section}


def write_report(folders: list[Path], out: Path, title: str) -> Report:
    """Write `out` (HTML) and the same as Markdown beside it.

    Args:
        folders: of runs.
        out: the page.
        title: of the page.

    Raises:
        DataError: no folder contains anything that a report can show. If only some do, the others are named under `LEFT_OUT`.
    """
    sections, left_out = [], []
    for position, folder in enumerate(folders, start=1):
        try:
            sections.append(section_of(folder, f'r{position}'))
        except DataError as error:
            left_out.append((str(folder), str(error)))
    if not sections:
        raise DataError(left_out[0][1])
    if left_out:
        sections.append(Section(LEFT_OUT, [Table('These hold nothing that a report can show', ('folder', 'why'), left_out)]))
    report = Report(title, sections, (f'Made by pyiqa-rali {pyiqa_rali.__version__} with Python {platform.python_version()}.',))
    write_text(out, page(report))
    write_markdown(report, out.with_suffix('.md'))
    return report


def section_of(folder: Path, anchor: str) -> Section:
    """Return the section of one folder.

    Args:
        folder: a run's, or one of tables and pictures.
        anchor: the beginning of the names of its pictures within the page.

    Raises:
        DataError: there is no such folder, or it contains nothing to show.
    """
    if not folder.is_dir():
        raise DataError(f'RUN: {folder} is not a folder. Give the folder of a run, such as experiments/RALI_demo.')
    if any(folder.glob('*/metric.json')):
        raise DataError(f'{folder}: is where evaluate keeps scores of single images; give the folder of the evaluation.')
    kind = kind_of(folder)
    if kind in KINDS:
        return KINDS[kind](folder, anchor)
    return files_section(f'{kind.capitalize() or "Files"}: {folder.name}', folder, '', sorted(folder.rglob('*.csv')),
                         sorted(folder.rglob('*.png')))


def kind_of(folder: Path) -> str:
    """Return the `model_type` of the options in a folder, 'ANALYSIS' for those of `analyse`, '' where there are none."""
    if (folder / 'options.json').is_file():
        return 'ANALYSIS'
    path = folder / 'options.yml'
    if not path.is_file():
        return ''
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        raise DataError(f'{path}: is not valid YAML: {error}') from error
    return str(values.get('model_type', 'RALI')) if isinstance(values, dict) else ''
