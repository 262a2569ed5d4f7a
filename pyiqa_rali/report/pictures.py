"""The pictures behind the points: which are shown, and made small."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyiqa_rali.data.image_files import UnreadableImage, read_rgb
from pyiqa_rali.report.blocks import Case

KINDS = ('best', 'typical', 'worst')
LONGEST_EDGE = 280  # pixels


def choose_cases(errors: np.ndarray, mos: np.ndarray, count: int = 4) -> dict[str, list[int]]:
    """Return positions of the pictures with the smallest, the median and the largest errors, none twice.

    The best and the typical ones are taken from parts of the MOS range with equally many pictures each, so that good and bad
    pictures are among them. The worst are the worst.

    Args:
        errors: (n,), 0 for a perfect score.
        mos: (n,).
        count: how many of each kind, fewer where there are not enough pictures.
    """
    count = min(count, max(1, len(errors) // len(KINDS)))
    worst = [int(position) for position in np.argsort(-errors, kind='stable')[:count]]
    chosen = {'best': [], 'typical': [], 'worst': worst}
    taken = set(worst)
    parts = np.array_split(np.argsort(mos, kind='stable'), count)
    for kind, target in (('best', 0.0), ('typical', float(np.median(errors)))):
        for part in parts:
            left = [int(position) for position in part if int(position) not in taken]
            if left:
                position = min(left, key=lambda each: abs(errors[each] - target))
                chosen[kind].append(position)
                taken.add(position)
    return chosen


def errors_of(scores: np.ndarray, mos: np.ndarray, same_scale: bool, lower_better: bool = False) -> np.ndarray:
    """Return how far each score is off: in MOS units on the same scale, otherwise in ranks, from 0 to 1.

    Args:
        scores: (n,).
        mos: (n,).
        same_scale: whether both have one unit and one direction.
        lower_better: whether the scores' direction is opposite to that of the MOS.
    """
    if same_scale:
        return np.abs(scores - mos)
    from scipy.stats import rankdata
    ranks = rankdata(-scores if lower_better else scores) - rankdata(mos)
    return np.abs(ranks) / max(1, len(scores) - 1)


def case(anchor: str, kind: str, path: str | Path, lines: Sequence[str]) -> Case:
    """Return a picture from a file with what is said of it; a file that cannot be read says why."""
    try:
        return Case(anchor, kind, Path(path).name, lines, jpeg=thumbnail(read_rgb(path)))
    except UnreadableImage as error:
        return Case(anchor, kind, Path(path).name, lines, problem=f'cannot be shown: {error.reason}')


def thumbnail(pixels: np.ndarray) -> bytes:
    """Return uint8 (H, W, 3) pixels as a small JPEG."""
    from PIL import Image
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_EDGE, LONGEST_EDGE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format='JPEG', quality=85)
    return stream.getvalue()
