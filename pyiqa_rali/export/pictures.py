"""Distorted photographs for calibrating and comparing exported models."""

from collections.abc import Iterator

import cv2
import numpy as np

from pyiqa_rali.data.distortions import DEFAULT_TYPES
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.photographs import Photograph
from pyiqa_rali.data.synthetic.dataset import distort_visibly

LONGEST_EDGE = 512
PRISTINE_EVERY = 10
LEVELS = (0.5, 5.5)


def distorted_pictures(photographs: list[Photograph], count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield pictures, uint8 (H, W, 3): the photographs in turn, each time with another type of distortion.

    Args:
        photographs: what to distort; those above `LONGEST_EDGE` pixels are scaled down.
        count: how many pictures; one of ten stays pristine.
        seed: draws order, types and levels.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(photographs))
    types = rng.permutation(list(DEFAULT_TYPES))
    for index in range(count):
        picture = _shrunk(read_rgb(photographs[order[index % len(order)]].path))
        steps = [] if index % PRISTINE_EVERY == 0 else [(str(types[index % len(types)]), float(rng.uniform(*LEVELS)))]
        yield distort_visibly(picture, steps, rng)[0]


def as_input(picture: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 as the input of an exported model: float32 (1, 3, H, W) in [0, 1]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None], dtype=np.float32) / 255


def _shrunk(picture: np.ndarray) -> np.ndarray:
    factor = LONGEST_EDGE / max(picture.shape[:2])
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else picture
