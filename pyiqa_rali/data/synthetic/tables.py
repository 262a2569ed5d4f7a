"""The files that describe a data set of `make-dataset`: table, reasoning texts, options and provenance."""

import copy
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from pyiqa_rali import __version__
from pyiqa_rali.core.files import write_text
from pyiqa_rali.core.tables import write_csv
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.photographs import PHASES, Photograph, split_photographs
from pyiqa_rali.data.reasoning_texts import ReasoningText, save_reasoning_texts
from pyiqa_rali.data.synthetic.pseudo_mos import METRIC_WEIGHT, MOS_RANGE
from pyiqa_rali.data.synthetic.quality_texts import WRITER, write_texts
from pyiqa_rali.data.synthetic.settings import IMAGES, DatasetSettings, generator

TABLE, TEXTS, OPTIONS, README = 'meta_info.csv', 'reasoning_texts.jsonl', 'dataset.yml', 'README.txt'
NOT_USED = 'unused'
ORIGIN = 'Synthetic distortions with synthetic labels: no human gave an opinion on any of these pictures.'


def write_tables(settings: DatasetSettings, photographs: list[Photograph], records: list[dict[str, Any]]) -> int:
    """Write everything but the pictures; return how many pictures there are.

    Raises:
        DataError: the labels cannot be used, or a split leaves a phase without photographs.
    """
    rows = [row for record in records for row in record['rows']]
    MosScale(MOS_RANGE, False).check_labels([row['mos'] for row in rows], settings.out)
    splits = split_columns(settings, photographs)
    folder = Path(settings.out)
    _write_table(folder / TABLE, settings, rows, splits)
    save_reasoning_texts(folder / TEXTS, {row['image']: _texts(settings, row) for row in rows})
    write_text(folder / OPTIONS, dataset_options(settings, list(splits)))
    idle = [name for record in records for name in record['without_effect']]
    write_text(folder / README, _readme(settings, photographs, rows, idle))
    return len(rows)


def split_columns(settings: DatasetSettings, photographs: list[Photograph]) -> dict[str, dict[str, str]]:
    """Return the name of each split column, in pyiqa's style, and the phase of each photograph in it.

    Split k of seed S is the split of `SyntheticNRDataset` with `split_seed` S + k - 1.
    """
    splits = [split_photographs(photographs, settings.split_seed + number, settings.ratios)
              for number in range(settings.splits)]
    return {split_name(settings, number): {item.photograph_id: phase for phase in PHASES for item in split[phase]}
            for number, split in enumerate(splits, start=1)}


def split_name(settings: DatasetSettings, number: int) -> str:
    """Return the name of a split's column; the first number is 1."""
    return f'ratio{_ratio_name(settings.ratios)}_seed{settings.split_seed}_split_{number:02d}'


def _ratio_name(ratios: tuple[float, float, float]) -> str:
    """Return shares as pyiqa writes them: 712 for 0.7, 0.1 and 0.2."""
    shares = [share / sum(ratios) for share in ratios]
    tenths = all(abs(share * 10 - round(share * 10)) < 1e-9 for share in shares)
    return ''.join(f'{share * 10:.0f}' for share in shares) if tenths else '-'.join(f'{share * 100:.3g}' for share in shares)


def _write_table(path: Path, settings: DatasetSettings, rows: list[dict[str, Any]], splits: dict[str, dict[str, str]]) -> None:
    held_out_splits = [f'{name}_held_out' for name in splits] if settings.hold_out else []
    columns = ['image_name', 'mos', 'photograph', 'distortion', 'family', 'level', 'held_out', *settings.metrics, *splits,
               *held_out_splits]
    lines = []
    for row in rows:
        held_out = any(name in settings.hold_out for name, _ in row['steps'])
        phases = [phase_of[row['photograph']] for phase_of in splits.values()]
        lines.append([row['image'], f'{row["mos"]:.4f}', row['photograph'],
                      '+'.join(name for name, _ in row['steps']) or row['family'],
                      row['family'], '+'.join(f'{level:g}' for _, level in row['steps']) or 0, int(held_out),
                      *(row['metrics'][name] for name in settings.metrics),
                      *(NOT_USED if held_out else phase for phase in phases),
                      *(phase if held_out and phase == 'test' else NOT_USED for phase in phases if held_out_splits)])
    write_csv(path, columns, lines)


def _texts(settings: DatasetSettings, row: dict[str, Any]) -> list[ReasoningText]:
    rng = generator(settings.seed, row['image'], 'texts')
    low, high = MOS_RANGE
    texts = write_texts(row['steps'], (row['mos'] - low) / (high - low), rng, settings.texts_per_image)
    known = [(name, float(level)) for name, level in row['steps']]
    return [ReasoningText(text, number, WRITER, known) for number, text in enumerate(texts)]


def dataset_options(settings: DatasetSettings, splits: list[str]) -> str:
    """Return the `datasets:` section of an option file, as YAML."""
    folder = Path(settings.out)
    common = {'type': 'GeneralNRDataset', 'dataroot_target': str(folder / IMAGES), 'meta_info_file': str(folder / TABLE),
              'split_index': splits[0], 'mos_range': list(MOS_RANGE), 'lower_better': False}
    sections = {}
    if settings.ratios[0]:
        sections['train'] = {'name': f'{folder.name}_train', **common, 'reasoning_texts': str(folder / TEXTS)}
    if settings.ratios[1]:
        sections['val'] = {'name': f'{folder.name}_val', **common}
    if settings.ratios[2]:
        sections['val_test'] = {'name': f'{folder.name}_test', **common, 'phase': 'test'}
    if settings.ratios[2] and settings.hold_out:
        sections['val_held_out'] = {'name': f'{folder.name}_held_out', **common, 'phase': 'test',
                                    'split_index': f'{splits[0]}_held_out'}
    described = {'name': folder.name, 'labels': ORIGIN, 'hold_out': list(settings.hold_out),
                 'datasets': {name: copy.deepcopy(section) for name, section in sections.items()}}  # YAML without anchors
    return f'# {ORIGIN}\n# For an option file: its section datasets.\n' + yaml.safe_dump(described, sort_keys=False, width=120)


def _readme(settings: DatasetSettings, photographs: list[Photograph], rows: list[dict[str, Any]], idle: list[str]) -> str:
    """Return what the data set is and how it was made."""
    versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('pyiqa', 'torch', 'numpy', 'opencv-python'))
    count = len({item.photograph_id for item in photographs})
    last_seed = settings.split_seed + settings.splits - 1
    lines = [
        ORIGIN, '',
        f'{len(rows)} pictures of {settings.size[1]} x {settings.size[0]} pixels (width x height),',
        f'from {len(photographs)} files of {count} photographs ({settings.photos or "installed with scikit-image and pyiqa"}).',
        'The photographs keep their own licences: look at them before you pass these pictures on.', '',
        f'Distortions: {", ".join(settings.types)}.',
        f'Held out: {", ".join(settings.hold_out) or "none"}.',
        f'Levels: {", ".join(f"{level:g}" for level in settings.levels)}.',
        f'Pictures with two distortions for each file: {settings.composites}.', '',
        f'Labels: {MOS_RANGE[0]:g} (worst) to {MOS_RANGE[1]:g} (best), made of',
        f'{METRIC_WEIGHT:g} times the mean quality rank of {", ".join(settings.metrics)} at half size,',
        f'by the quantiles of {settings.calibration or "the calibration in pyiqa_rali"}, and',
        f'{1 - METRIC_WEIGHT:g} times what the levels say.',
        f'Texts: {settings.texts_per_image} for each picture, from templates.', '',
        f'Splits: by photograph, seeds {settings.split_seed} to {last_seed}, train, val, test {settings.ratios}.',
        f'Pictures with held-out distortions are "{NOT_USED}" there; those of test photographs are "test" in the',
        'columns that end in _held_out.', '']
    if idle:
        lines += [f'{len(idle)} pictures were left out, because a distortion changed nothing in them',
                  '(colour of a gray photograph):',
                  f'{", ".join(idle)}.', '']
    lines += [f'Made by pyiqa_rali {__version__} with seed {settings.seed}; Python {platform.python_version()}, {versions}.',
              f"Files: {IMAGES}/, {TABLE} (pyiqa's table), {TEXTS}, {OPTIONS} (for an option file).", '']
    return '\n'.join(lines)
