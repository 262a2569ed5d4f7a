"""The scores of a page as a table."""

from collections.abc import Sequence
from typing import Any

from pyiqa_rali.app.albums import Picture
from pyiqa_rali.core.tables import csv_line

FORMULA = ('=', '+', '-', '@', '\t', '\r')  # what programs for tables would compute
VOTES = 3


def scores_csv(pictures: Sequence[Picture]) -> bytes:
    """Return a row for each picture and metric that was asked about it, in the order in which the pictures came.

    Columns: `image`, `width`, `height`, `metric`, `score`, `low` and `high` (the interval), `unlike` (whether the interval may
    not hold), `votes` (the largest, with their shares), one column for each aspect, `error`. A picture without a score has a
    row with the reason.
    """
    aspects = sorted({each['label'] for picture in pictures for verdict in picture.verdicts.values()
                      for each in verdict.get('aspects', ())})
    columns = ['image', 'width', 'height', 'metric', 'score', 'low', 'high', 'unlike', 'votes', *aspects, 'error']
    lines = [csv_line(columns)]
    for picture in pictures:
        for metric, verdict in picture.verdicts.items() or [('', {'error': picture.error or 'not scored yet'})]:
            lines.append(csv_line(_cells(picture, metric, verdict, aspects)))
    return ''.join(lines).encode('utf-8', 'surrogateescape')


def _cells(picture: Picture, metric: str, verdict: dict[str, Any], aspects: Sequence[str]) -> list[Any]:
    votes = '; '.join(f'{vote["label"]} {vote["share"]:.2f}' for vote in verdict.get('votes', ())[:VOTES])
    of_aspect = {each['label']: each['value'] for each in verdict.get('aspects', ())}
    return [_harmless(picture.name), picture.width or None, picture.height or None, metric,
            *(verdict.get(name) for name in ('score', 'low', 'high', 'unlike')), votes,
            *(of_aspect.get(name) for name in aspects), verdict.get('error', '')]


def _harmless(name: str) -> str:
    """Return a file's name so that no program for tables takes it for a formula."""
    return f"'{name}" if name.startswith(FORMULA) else name
