"""A training run of RALI in a report: what came out, the curves, and where the scores come from."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.options import plain
from pyiqa_rali.core.records import read_record
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.prompted import prompts_in
from pyiqa_rali.data.sections import DatasetOptions, dataset_section
from pyiqa_rali.data.synthetic.options import SyntheticOptions
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.figures.scored import curves
from pyiqa_rali.figures.style import svg_and_png
from pyiqa_rali.report.aspects import aspects_of_run
from pyiqa_rali.report.basis import basis_section
from pyiqa_rali.report.blocks import Block, Case, Commands, Figure, Section, Table, Text
from pyiqa_rali.report.intervals import intervals_section
from pyiqa_rali.report.maps import maps_section
from pyiqa_rali.report.scored import ScoredSet, case, overlap_block, scored_section, thumbnail
from pyiqa_rali.training.rali.options import TrainOptions, train_options
from pyiqa_rali.training.rali.run_folder import RunFolder, read_alignment, read_scores
from pyiqa_rali.training.rali.run_prompts import RunPrompts


def training_section(folder: Path, anchor: str) -> Section:
    """Return the section of one run.

    Args:
        folder: the run's.
        anchor: the beginning of the names of its pictures within the page.

    Raises:
        DataError: its files are not those of a run of this version, or it was validated on images that it was trained on and
            that are not to be counted.
    """
    options = run_options(folder)
    run = RunFolder(options)
    command = f'python -m pyiqa_rali.train -opt {folder / "options.yml"}'
    section = Section(f'RALI: {options.name}', [_facts(options, run), Commands([command])])
    scored = {path.stem: read_scores(path, options) for path in sorted(run.score.glob('*.csv'))
              if path.stem in options.datasets}
    if not scored:
        section.blocks.append(Text('The run has no scores yet: its last stage has not run, or has no validation set.'))
    if scored:
        section.blocks.append(overlap_block(_overlaps(run), {'val': vars(options.val)}, 'val', folder))
    for name, (images, mos, scores) in scored.items():
        found = ScoredSet(f'{name}: scores and MOS', f'{anchor}-{name}', images, mos, scores, True, command=command)
        section.sections.append(scored_section(found, functools.partial(_case, options, name, images),
                                               aspects_of_run(run, name)))
        prompts = _alignment(options, run, name, images, f'{anchor}-{name}', command)
        section.sections += [prompts] if prompts is not None else []
    maps = maps_section(run.export, {name: (images, scores) for name, (images, _, scores) in scored.items()},
                        functools.partial(_pixels, options, scored), command)
    section.sections += [part for part in (_curves(run, command), maps, intervals_section(run, options, list(scored), command),
                                           basis_section(run, options, anchor, list(scored), command)) if part is not None]
    return section


def _alignment(options: TrainOptions, run: RunFolder, name: str, images: list[str], anchor: str,
               command: str) -> Section | None:
    """Return the section on the alignment of a validation set's pictures with their prompts; None where it has none."""
    read = read_alignment(run.scores(name))
    if read is None:
        return None
    mos, scores = read
    sections = {each: dataset_section(each, values) for each, values in options.datasets.items()}
    mos = sections[name].scale.on(RunPrompts(options, run, sections).scale, mos)
    prompts = prompts_in(build_table(name, options.datasets[name], options.manual_seed), sections[name])

    def with_prompt(anchor: str, kind: str, position: int, lines: list[str]) -> Case:
        return _case(options, name, images, anchor, kind, position, [f'\N{LEFT DOUBLE QUOTATION MARK}{prompts[position]}'
                                                                     '\N{RIGHT DOUBLE QUOTATION MARK}', *lines])

    found = ScoredSet(f'{name}: alignment with prompts', f'{anchor}-alignment', images, mos, scores, True, command=command)
    return scored_section(found, with_prompt)


def _overlaps(run: RunFolder) -> list[dict[str, Any]] | None:
    """Return the validation images that were trained on, by section; None for a run of a version that did not look."""
    found = json.loads(run.results.read_text(encoding='utf-8')).get('overlap') if run.results.exists() else None
    return None if found is None else [{'dataset': name, **values} for name, values in found.items()]


def run_options(folder: Path) -> TrainOptions:
    """Return the options that a run was started with, for the folder where it is now.

    Raises:
        DataError: they cannot be read.
    """
    try:
        values = yaml.safe_load((folder / 'options.yml').read_text(encoding='utf-8'))
        options = train_options(values)
    except (OSError, yaml.YAMLError, OptionError, TypeError) as error:
        raise DataError(f'{folder / "options.yml"}: cannot be read as the options of a run ({error}).') from error
    options.path.experiments_root, options.name = str(folder.parent), folder.name
    return options


def _facts(options: TrainOptions, run: RunFolder) -> Table:
    encoder = options.network.get('image_encoder', {})
    rows = [('image encoder', f'{encoder.get("library", "")} {encoder.get("name", "")}'),
            ('text encoder', str(options.text_encoder.path or options.text_encoder.library)),
            ('steps of alignment', str(options.align.total_iter)),
            ('components, buckets, basis vectors', f'{options.compress.pca_dim or "all"}, {options.compress.num_buckets}, '
                                                   f'{options.compress.num_basis}'),
            ('seed', str(options.manual_seed))]
    rows += [(f'data: {name}', _data_of(name, section)) for name, section in options.datasets.items()]
    if run.versions.exists():
        rows += [(name, str(value)) for name, value in yaml.safe_load(run.versions.read_text(encoding='utf-8')).items()
                 if name in ('git_revision', 'torch', 'pyiqa', 'python')]
    return Table('The run', ('what', 'value'), rows)


def _data_of(section: str, options: DatasetOptions) -> str:
    whole = dataset_section(section, options)
    scale = whole.scale
    return f'{whole.options.name}, MOS {scale.mos_range[0]:g} to {scale.mos_range[1]:g}'


def _curves(run: RunFolder, command: str) -> Section | None:
    logs = {'align': run.align / 'log.csv', 'score': run.score_log}
    drawn = curves({name: read_record(path) for name, path in logs.items() if path.exists()})
    if drawn is None:
        return None
    svg, png = svg_and_png(drawn)
    blocks: list[Block] = [Figure('Alignment against its steps, scoring against its epochs; the thick line is a running mean.',
                                  svg, png, command)]
    return Section('Training', blocks)


def _case(options: TrainOptions, section: str, images: list[str], anchor: str, kind: str, position: int,
          lines: list[str]) -> Case:
    """Return an image of a validation set: from its file, or drawn again where the set draws its pictures."""
    if not isinstance(options.datasets[section], SyntheticOptions):
        return case(anchor, kind, images[position], lines)
    return Case(anchor, kind, images[position], lines, thumbnail(_drawn(options, section, position)))


def _pixels(options: TrainOptions, scored: Mapping[str, tuple[list[str], np.ndarray, np.ndarray]], section: str,
            position: int) -> np.ndarray:
    """Return an image of a validation set, uint8 (H, W, 3), or UnreadableImage."""
    if not isinstance(options.datasets[section], SyntheticOptions):
        return read_rgb(scored[section][0][position])
    return _drawn(options, section, position)


def _drawn(options: TrainOptions, section: str, position: int) -> np.ndarray:
    pixels = _table(section, json.dumps(plain(options.datasets[section])), options.manual_seed)[position]['img']
    return (pixels.permute(1, 2, 0) * 255).round().byte().numpy()


@functools.lru_cache(maxsize=4)
def _table(section: str, values: str, seed: int):
    return build_table(section, json.loads(values), seed)
