"""Pictures as programs have them: paths and addresses, bytes, pictures of Pillow, arrays and tensors, in any mixture."""

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.addresses import is_address, shown
from pyiqa_rali.data.arrays import CHANNELS, from_array
from pyiqa_rali.data.fetching import FETCHING, FetchOptions
from pyiqa_rali.scoring.entries import ImageEntry
from pyiqa_rali.scoring.sources import ImageSources

NO_PICTURE = 'there is no picture: the cell is empty'
KINDS = ('a path or an address, the bytes of a file or a file open for reading them, a picture of Pillow, an array with '
         'channels=..., or a tensor (3, H, W) in [0, 1]')


def entries_of(images: Any, channels: str | None = None, fetching: FetchOptions = FETCHING,
               once: bool = True) -> tuple[list[ImageEntry], list[str]]:
    """Return what is to be read for what a caller gave, and the sources that hold no image.

    Args:
        images: one picture, or several: words as the command line takes them (a folder or glob stands for its images), and
            pictures in memory, which are called `images[3]` by their place; also a tensor (N, 3, H, W) or an array
            (N, H, W, C).
        channels: order of the colours of arrays; see `arrays.from_array`.
        fetching: how addresses are tried.
        once: leave out images that are named again, where only words are given.

    Raises:
        FileNotFoundError: nothing of what is named exists.
        OptionError: an element is something else, or an array has no `channels`.
    """
    if channels is not None and channels not in CHANNELS:
        raise OptionError(f'channels: {channels!r} is not one of {", ".join(CHANNELS)}.')
    several = [images] if _is_one(images) else list(images)  # of a stack (N, ...), its pictures
    if not several:
        raise OptionError('images: the list is empty; give image files, folders, globs, tar shards, or pictures.')
    if all(isinstance(each, str | os.PathLike) for each in several):
        sources = ImageSources([os.fspath(each) for each in several], once, fetching=fetching)
        return list(sources), sources.empty
    found: list[ImageEntry] = []
    empty: list[str] = []
    for place, each in enumerate(several):
        if isinstance(each, ImageEntry):
            found.append(each)
        elif isinstance(each, str | os.PathLike):
            own = ImageSources([os.fspath(each)], once=False, fetching=fetching)
            found += own
            empty += own.empty
        else:
            found.append(picture_entry(each, f'images[{place}]', channels))
    return found, empty


def cell_entry(value: Any, place: int, channels: str | None = None) -> ImageEntry:
    """Return the one picture that a cell of a column stands for; an empty cell, or a folder, has a reason in its place."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or type(value).__name__ in ('NAType', 'NaTType'):
        return ImageEntry(f'images[{place}]', '', (place, 0), error=NO_PICTURE)
    if isinstance(value, str | os.PathLike):
        return replace(_at_path(value, f'images[{place}]'), position=(place, 0))
    return picture_entry(value, f'images[{place}]', channels)


def picture_entry(picture: Any, name: str, channels: str | None = None) -> ImageEntry:
    """Return the entry of a picture in memory.

    Raises:
        OptionError: it is none, or an array without `channels`.
    """
    from PIL import Image
    if isinstance(picture, bytes | bytearray | memoryview):
        content = bytes(picture)
        return ImageEntry(name, name, size=len(content), content=content)
    if isinstance(picture, Image.Image):
        return ImageEntry(name, name, picture=picture)
    if hasattr(picture, 'read'):
        return picture_entry(_content_of(picture, name), name)
    if isinstance(picture, dict) and picture.get('bytes'):  # as `datasets` keeps pictures that are not decoded
        return picture_entry(picture['bytes'], name)
    if isinstance(picture, dict) and isinstance(picture.get('path'), str | os.PathLike):
        return _at_path(picture['path'], name)
    if type(picture).__module__.split('.')[0] == 'torch':
        return ImageEntry(name, name, picture=_pixels_of_tensor(picture, name))
    if isinstance(picture, np.ndarray):
        if channels is None:
            raise OptionError(f"{name}: an array may be RGB or BGR, which its numbers do not tell; give channels='rgb' or "
                              f"'bgr' ({', '.join(CHANNELS)}).")
        return ImageEntry(name, name, picture=from_array(picture, channels))
    raise OptionError(f'{name}: is a {type(picture).__name__}; it must be {KINDS}.')


def _content_of(file: Any, name: str) -> bytes:
    content = file.read()
    if not isinstance(content, bytes):
        raise OptionError(f'{name}: the file is open for text; open it with "rb".')
    return content


def _at_path(path: str | os.PathLike, name: str) -> ImageEntry:
    given = os.fspath(path)
    return ImageEntry(shown(given) if is_address(given) else given or name, given)


def _pixels_of_tensor(tensor: Any, name: str) -> np.ndarray:
    """Return (H, W, 3) of a tensor as pyiqa's metrics take it: RGB, float in [0, 1] or uint8."""
    import torch

    from pyiqa_rali.model.value_range import complaint
    picture = tensor.detach().cpu()
    picture = picture[0] if picture.ndim == 4 and len(picture) == 1 else picture
    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or not picture.numel():
        raise OptionError(f'{name}: a tensor of shape {tuple(tensor.shape)}; a picture is (3, H, W) or (1, 3, H, W), or gray '
                          '(1, H, W).')
    if picture.dtype != torch.uint8:
        if not picture.is_floating_point():
            raise OptionError(f'{name}: a tensor of {picture.dtype}; it must be uint8, or floating point in [0, 1].')
        picture = picture.float()
        wrong = complaint(picture.min().item(), picture.max().item())
        if wrong:
            raise OptionError(f'{name}: the tensor has {wrong}')
    return picture.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def _is_one(images: Any) -> bool:
    """Whether this is one picture and not several."""
    if type(images).__module__.split('.')[0] in ('torch', 'numpy') and getattr(images, 'ndim', 0) == 4:
        return False
    kinds = str | os.PathLike | bytes | bytearray | memoryview | np.ndarray | dict | ImageEntry
    return (isinstance(images, kinds) or hasattr(images, 'read') or not isinstance(images, Iterable)
            or type(images).__module__.split('.')[0] in ('torch', 'PIL') or hasattr(images, 'getexif'))
