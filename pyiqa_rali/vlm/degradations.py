"""Images with a class of degradation and its severity: a table, or the JSON in which such data is published.

Two layouts of JSON are read: {"image", "distortion_class", "severity"} with the words of `SEVERITIES`, as Q-Insight is
trained on (arXiv 2503.22679), and {"image_A", "distortion_class", "severity"} with severities from 1 to 5 and null for images
that are not degraded, as DQ-495K has it (arXiv 2405.18842), whose further classes are left out on request.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.core.messages import warn_once
from pyiqa_rali.core.options import from_known_keys, plain
from pyiqa_rali.data.delimited import read_delimited
from pyiqa_rali.data.manifests import json_records
from pyiqa_rali.data.pyiqa_tables import existing_name
from pyiqa_rali.data.sections import DatasetOptions, of_type
from pyiqa_rali.vlm.prompts import DEGRADATIONS, SEVERITIES

COLUMNS = ('image', 'distortion_class', 'severity')
IMAGE_KEYS = ('image', 'image_A')
NOTHING = 'null'  # class and severity of an image that is not degraded
EXAMPLE = '{"image": ..., "distortion_class": "blur", "severity": "moderate"}'

logger = logging.getLogger(__name__)


@of_type('DegradationTable')
@dataclass(kw_only=True)
class DegradationOptions(DatasetOptions):
    """A section with `type: DegradationTable`.

    Attributes:
        dataroot_target: folder of the images.
        meta_info_file: a table with the columns image, distortion_class and severity, or one of the two layouts of JSON.
        other_classes: 'leave_out' leaves out images of classes that are not asked for.
    """

    dataroot_target: str | None = None
    meta_info_file: str | None = None
    other_classes: Literal['refuse', 'leave_out'] = 'refuse'


def read_degradations(section: str, options: DegradationOptions | Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return path, class and severity of every image of a section with `type: DegradationTable`.

    Args:
        section: its name under `datasets:`.
        options: what it holds.

    Raises:
        OptionError: a key is unknown, missing or has a value that is not allowed.
        DataError: a row cannot be used; the message names file and line, or entry.
    """
    read = from_known_keys(DegradationOptions, plain(options), f'datasets: {section}')
    for key in ('name', 'dataroot_target', 'meta_info_file'):
        if getattr(read, key) is None:
            raise OptionError(f'datasets: {section}: {key}: must be given.')
    path, root = Path(str(read.meta_info_file)), str(read.dataroot_target)
    records = json_records(path, EXAMPLE) if path.suffix.lower() in ('.json', '.jsonl') else _table_records(path)
    leaves_out = read.other_classes == 'leave_out'
    found: dict[str, tuple[str, str, str]] = {}  # class, severity and place, by path
    others: dict[str, int] = {}
    repeated = []
    for where, record in records:
        kind, severity = _degradation(where, record, leaves_out)
        if kind not in DEGRADATIONS:
            others[kind] = others.get(kind, 0) + 1
            continue
        image = os.path.join(root, existing_name(_image(where, record), root, where))
        if image in found:
            repeated.append(where)
        before = found.setdefault(image, (kind, severity, where))
        if before[:2] != (kind, severity):
            raise DataError(f'{where}: {image} is degraded by {kind}, {severity}, and by {before[0]}, {before[1]} at '
                            f'{before[2]}. An image has one degradation; keep one of the two.')
    if repeated:
        warn_once(logger, f'datasets: {section}: {len(repeated)} rows say again what an earlier row says of their image, and '
                  f'are left out: {some(repeated)}')
    if others:
        told = some(f'{count} {kind}' for kind, count in others.items())
        warn_once(logger, f'datasets: {section}: {sum(others.values())} of {len(records)} images are of other classes and left '
                  f'out (other_classes: leave_out): {told}')
    if not found:
        raise DataError(f'datasets: {section}: {path} has no image of {", ".join(DEGRADATIONS)}.')
    return [(image, kind, severity) for image, (kind, severity, _) in found.items()]


def _table_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    table = read_delimited(path)
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f'{path}, line 1: has no column {some(missing)}; it has {", ".join(table.columns)}.')
    return [(table.where(row), dict(zip(table.columns, cells, strict=True))) for row, cells in enumerate(table.rows)]


def _image(where: str, record: dict[str, Any]) -> str:
    image = next((record[key] for key in IMAGE_KEYS if record.get(key)), None)
    if not isinstance(image, str):
        raise DataError(f'{where}: has no "{IMAGE_KEYS[0]}" with the path of an image; it has '
                        f'{some(map(str, record)) or "nothing"}.')
    return image


def _degradation(where: str, record: dict[str, Any], leaves_out: bool) -> tuple[str, str]:
    """Return class and severity; another class, where such are left out, is returned without its severity."""
    for key in COLUMNS[1:]:
        if key not in record:
            raise DataError(f'{where}: has no "{key}"; it has {some(map(str, record)) or "nothing"}.')
    kind, severity = _word(record['distortion_class']), _word(record['severity'])
    if kind not in DEGRADATIONS and leaves_out and kind:
        return kind, ''
    if severity.isdigit() and int(severity) <= len(SEVERITIES):
        severity = (NOTHING, *SEVERITIES)[int(severity)]
    if kind == NOTHING and severity in (NOTHING, ''):
        return NOTHING, NOTHING
    if kind not in DEGRADATIONS or severity not in SEVERITIES or kind == NOTHING:
        raise DataError(f'{where}: {kind or "nothing"}, {severity or "nothing"}; classes are {", ".join(DEGRADATIONS)}, '
                        f'severities {", ".join(SEVERITIES)} or 1 to {len(SEVERITIES)}, and {NOTHING} for {NOTHING} alone. '
                        'Images of other classes are left out with other_classes: leave_out.')
    return kind, severity


def _word(value: Any) -> str:
    return NOTHING if value is None else str(value).strip().lower()
