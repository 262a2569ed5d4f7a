"""Test images that a model was trained on, in a report: counted, named, and never shown as a result by oversight."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.training_images import overlap_told
from pyiqa_rali.report.blocks import Block, Table, Text

UNKNOWN = Text('Whether test images were trained on is unknown: these results are of a version that did not look.')


def overlap_block(rows: list[dict[str, Any]] | None, options: Mapping[str, Any], section: str, folder: Path) -> Block:
    """Return what a report says of test images that were trained on.

    Args:
        rows: `Overlap.plain` of each data set, with its name under `dataset` and, of several models, theirs under `metric`;
            None where the results are of a version that did not look.
        options: of the run or the evaluation, as plain values.
        section: of its key `overlap`.
        folder: the run's, for the message.

    Raises:
        DataError: some were, and the options do not say that they are to be counted only.
    """
    if rows is None:
        return UNKNOWN
    choice = (options.get(section) or {}).get('overlap', 'fail')
    tainted = [row for row in rows if row['trained_on']]
    if tainted and choice != 'count':
        first = tainted[0]
        raise DataError(f'{folder}: {first["trained_on"]} of {first["images"]} test images of {first["dataset"]} were trained '
                        f'on: {", ".join(first["first"])}. Its options do not have {section}: overlap: count, which lets such '
                        'results be shown.')
    cells = [(row['dataset'], *([row['metric']] if 'metric' in row else []), overlap_told(row)) for row in rows]
    headers = ('data set', 'metric', 'trained on') if rows and 'metric' in rows[0] else ('data set', 'trained on')
    return Table('Test images that were trained on, by digests of their content and names', headers, cells)
