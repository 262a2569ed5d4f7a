"""Every image of a run is inspected before its first step: whether it can be read, its size, and what identifies it.

All files are read completely, in parallel, so that a damaged or missing one ends a run at its start, and not days later when it
is drawn. The same pass computes the digests by which a model recognises its training images later (`training_images`).
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from pyiqa_rali.core.errors import DataError, first_line
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage, read_rgb

MOST_THREADS = 16
REMEMBERED = 2 ** 18  # images of a process that need not be read again
NAMED = 100  # failures that a message names; the others are counted
DIGEST_BYTES = 8
LOOK_SIZE = 8  # a look is LOOK_SIZE squared bits


@dataclass(frozen=True)
class InspectedImage:
    """What reading an image file shows.

    Attributes:
        path: the file.
        error: why it cannot be used; empty when it can.
        height, width: in pixels, as it is read.
        content: digest of the pixels, turned upright.
        look: a coarse picture of it, as bits, which another size or file format changes little.
    """

    path: str
    error: str = ''
    height: int = 0
    width: int = 0
    content: int = 0
    look: int = 0


def inspect_images(paths: Iterable[str | os.PathLike], reading: ReadingOptions = READING,
                   description: str = 'checking images') -> list[InspectedImage]:
    """Read every image, in parallel, and return the findings in the order of the paths; no image raises an error.

    Args:
        paths: the files.
        reading: how they are read.
        description: of the progress bar.
    """
    paths = [os.fspath(path) for path in paths]
    if not paths:
        return []
    threads = max(1, min(MOST_THREADS, os.cpu_count() or 1, len(paths)))
    with ThreadPoolExecutor(threads) as pool:  # decoders and digests release the interpreter's lock
        found = pool.map(lambda path: _inspect(path, reading), paths)
        return list(progress_bar(found, desc=description, total=len(paths), unit='image', leave=False))


def refuse_unusable(images: Iterable[InspectedImage], told: str,
                    problem: Callable[[InspectedImage], str] = lambda image: '') -> None:
    """Raise DataError, naming all images that cannot be used and why.

    Args:
        images: of the run.
        told: their name in the message, such as 'training images'.
        problem: what else keeps an image that can be read from being used; empty for nothing.
    """
    images = list({image.path: image for image in images}.values())
    found = [(image.path, reason) for image in images if (reason := image.error or problem(image))]
    if not found:
        return
    lines = [f'  {path}: {reason}' for path, reason in found[:NAMED]]
    if len(found) > NAMED:
        lines.append(f'  and {len(found) - NAMED} more')
    raise DataError('\n'.join([f'{len(found)} of {len(images)} {told} cannot be used:', *lines,
                               'Fix or remove them, and their rows in the tables.']))


def content_digest(pixels: np.ndarray) -> int:
    """Return the digest of a picture's shape and pixels; it stays the same when the file is re-encoded without loss.

    Args:
        pixels: uint8 (H, W, 3).
    """
    return digest(repr(pixels.shape).encode() + pixels.tobytes())


def name_digest(path: str | os.PathLike) -> int:
    """Return the digest of a file's name, without folders, extension and case."""
    return digest(Path(os.fspath(path).replace('\\', '/')).stem.casefold().encode('utf-8', 'surrogateescape'))


def digest(content: bytes) -> int:
    """Return the beginning of a BLAKE2b digest as a number."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest(), 'little')


def look_of(pixels: np.ndarray) -> int:
    """Return a difference hash: for each of 8 x 8 places, whether the picture is brighter to the right of it.

    Args:
        pixels: uint8 (H, W, 3).
    """
    gray = Image.fromarray(pixels).convert('L').resize((LOOK_SIZE + 1, LOOK_SIZE), Image.Resampling.BOX)
    values = np.asarray(gray, dtype=np.int16)
    bits = values[:, 1:] > values[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), 'big')


def _inspect(path: str, reading: ReadingOptions) -> InspectedImage:
    try:
        status = os.stat(path)
        return _read(path, status.st_size, status.st_mtime_ns, reading)
    except UnreadableImage as error:
        return InspectedImage(path, error.reason or first_line(error))
    except (OSError, DataError) as error:
        return InspectedImage(path, getattr(error, 'strerror', None) or first_line(error))


@functools.lru_cache(maxsize=REMEMBERED)
def _read(path: str, size: int, time: int, reading: ReadingOptions) -> InspectedImage:
    """Read an image; the file's size and time show whether it is still the one that was read before."""
    pixels = read_rgb(path, reading)
    height, width = pixels.shape[:2]
    upright = pixels if reading.upright else read_rgb(path, replace(reading, upright=True))  # one content, however read
    return InspectedImage(path, '', height, width, content_digest(upright), look_of(pixels))


def sizes_told(images: Sequence[InspectedImage], limit: int = 3) -> str:
    """Return the first few sizes of images, height x width, for a message."""
    sizes = sorted({(image.height, image.width) for image in images if not image.error})
    return ', '.join(f'{height} x {width}' for height, width in sizes[:limit]) + (
        f' and {len(sizes) - limit} more' if len(sizes) > limit else '')
