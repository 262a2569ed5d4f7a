"""The pictures of one block of `make-dataset`: cut, distorted, measured and written."""

import functools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pyiqa_rali.core.files import atomic_open, write_json
from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.reasoning_texts import PRISTINE
from pyiqa_rali.data.synthetic.dataset import as_tensor, by_camera_order, distort_visibly
from pyiqa_rali.data.synthetic.pseudo_mos import PseudoMos, load_calibration, severity_of
from pyiqa_rali.data.synthetic.settings import COMPOSITE, IMAGES, RECORDS, Block, DatasetSettings, generator

PNG_COMPRESSION = 3


def make_block(settings: DatasetSettings, block: Block) -> int:
    """Make the pictures of a block, then write its record; return how many there are.

    Raises:
        DataError: the photograph cannot be read.
        OSError: the folder cannot be written.
    """
    reference = cover_crop(read_rgb(block.photograph.path), settings.size)
    labels = _labels(settings.metrics, settings.calibration)
    rows, without_effect = [], []
    for kind in block.kinds:
        made, idle = _pictures(settings, block.stem, kind, reference)
        without_effect += idle
        rows += _label(labels, reference, made)
        for name, picture, _ in made:
            _write_png(Path(settings.out) / IMAGES / name, picture)
    for row in rows:
        row['photograph'] = block.photograph.photograph_id
    write_json(Path(settings.out) / RECORDS / block.record, {'rows': rows, 'without_effect': without_effect})
    return len(rows)


def read_record(settings: DatasetSettings, block: Block) -> dict[str, Any] | None:
    """Return the record of a block whose pictures are all there, or None."""
    path = Path(settings.out) / RECORDS / block.record
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding='utf-8'))
    images = Path(settings.out) / IMAGES
    return record if all((images / row['image']).is_file() for row in record['rows']) else None


def cover_crop(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the centre of a photograph, made as small as still fills `size` (height, width)."""
    height, width = size
    scale = max(height / picture.shape[0], width / picture.shape[1])
    if scale < 1:
        whole = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
        picture = cv2.resize(picture, whole, interpolation=cv2.INTER_AREA)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top:top + height, left:left + width])


def steps_of(settings: DatasetSettings, stem: str, kind: str) -> dict[str, list[tuple[str, float]]]:
    """Return the name of each picture of a kind, and its (distortion, level) steps."""
    if kind == PRISTINE:
        return {f'{stem}__{PRISTINE}.png': []}
    if kind != COMPOSITE:
        return {f'{stem}__{kind}_{level:g}.png': [(kind, float(level))] for level in settings.levels}
    steps = {}
    for number in range(1, settings.composites + 1):
        rng = generator(settings.seed, stem, COMPOSITE, number)
        names = by_camera_order(settings.types[index] for index in rng.choice(len(settings.types), 2, replace=False))
        steps[f'{stem}__{COMPOSITE}_{number}.png'] = [(name, float(rng.choice(settings.levels))) for name in names]
    return steps


def _pictures(settings: DatasetSettings, stem: str, kind: str, reference: np.ndarray) -> tuple[list[tuple], list[str]]:
    """Return (name, picture, effective steps) of one kind, and the names of those that nothing happened to.

    All levels of a type share their random numbers, so that a higher level is more of the same.
    """
    made, idle = [], []
    for name, steps in steps_of(settings, stem, kind).items():
        rng = generator(settings.seed, stem, name if kind == COMPOSITE else kind)
        picture, effective = distort_visibly(reference, steps, rng)
        if len(effective) < len(steps):
            idle.append(name)
        else:
            made.append((name, picture, effective))
    return made, idle


def _label(labels: PseudoMos, reference: np.ndarray, made: list[tuple]) -> list[dict[str, Any]]:
    if not made:
        return []
    distorted = as_tensor([picture for _, picture, _ in made])
    measured = labels.measure(as_tensor([reference]).expand_as(distorted), distorted)
    mos = labels.label_measured(measured, [severity_of([level for _, level in steps]) for _, _, steps in made])
    return [{'image': name, 'mos': round(float(mos[position]), 4), 'steps': steps, 'family': _family(steps),
             'metrics': {metric: round(float(values[position]), 6) for metric, values in measured.items()}}
            for position, (name, _, steps) in enumerate(made)]


def _family(steps: list[tuple[str, float]]) -> str:
    if len(steps) == 1:
        return DISTORTIONS[steps[0][0]].family
    return COMPOSITE if steps else PRISTINE


@functools.lru_cache(maxsize=1)
def _labels(metrics: tuple[str, ...], calibration: str | None) -> PseudoMos:
    return PseudoMos(metrics, load_calibration(calibration))


def _write_png(path: Path, picture: np.ndarray) -> None:
    _, encoded = cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
    with atomic_open(path, 'wb') as stream:
        stream.write(encoded.tobytes())
