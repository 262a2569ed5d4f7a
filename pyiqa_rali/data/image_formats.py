"""Which files are pictures by their extension, what decodes each format, and what an undecodable file really contains."""

import functools
import importlib
from typing import IO, Any

import numpy as np
from PIL import Image, features

from pyiqa_rali.core.errors import DataError

EXTRA = 'pip install pyiqa-rali[formats]'

# Pillow's plug-ins that never give the pixels of a picture file: containers of other things, and formats that a program
# outside draws, so that the same file would look different, and score differently, on another machine.
NO_PICTURES = frozenset({'BUFR', 'GRIB', 'HDF5', 'MPEG'})
DRAWN = frozenset({'EPS', 'WMF'})

WITH_EXTRA = {'.heic': 'HEIF', '.heif': 'HEIF', '.hif': 'HEIF', '.heics': 'HEIF', '.heifs': 'HEIF', '.avif': 'AVIF',
              '.avifs': 'AVIF', '.jxl': 'JPEG XL'}
RAW = frozenset({'.dng', '.3fr', '.arw', '.cr2', '.cr3', '.crw', '.dcr', '.erf', '.fff', '.iiq', '.kdc', '.mef', '.mos',
                 '.mrw', '.nef', '.nrw', '.orf', '.pef', '.raf', '.rw2', '.rwl', '.sr2', '.srf', '.srw', '.x3f'})
UNREAD = {**dict.fromkeys(('.eps', '.ps', '.wmf', '.emf', '.svg', '.svgz'),
                          'vector graphics have no pixels of their own; draw it at the size that it is shown in'),
          **dict.fromkeys(('.exr', '.hdr'), 'floating-point pixels have no known range; convert it to 8 or 16 bits'),
          **dict.fromkeys(('.jxr', '.wdp', '.hdp', '.bpg', '.flif', '.xcf', '.kra', '.ora', '.dcm'),
                          'no reader supports this format; convert it to PNG')}
DNG_VERSION = 50706  # a tag that only raw files have
COMMON = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP')  # asked first

# What the first bytes of a file say: formats that need a plug-in of Pillow, by its name there, and what is no picture at all.
PLUGIN_FORMATS = (
    (0, b'\xff\x0a', 'JXL'), (4, b'JXL ', 'JXL'), (4, b'ftypavif', 'AVIF'), (4, b'ftypavis', 'AVIF'),
    *((4, b'ftyp' + brand, 'HEIF') for brand in (b'heic', b'heix', b'heim', b'heis', b'hevc', b'mif1', b'msf1')))
PLUGIN_NAMES = {'JXL': 'JPEG XL'}
PLAIN_PICTURES = ((b'\xff\xd8\xff', 'JPEG'), (b'\x89PNG', 'PNG'), (b'RIFF', 'WebP'), (b'GIF8', 'GIF'), (b'BM', 'BMP'))
UNKNOWN = 'cannot identify image file'
WEB_PAGE = 'it holds a web page and not a picture: a download that failed?'
HOLDS_JSON = 'it holds JSON and no picture; images are listed in a text file, one path a line, which is given as @FILE'
CONTENTS = (
    (0, b'version https://git-lfs', 'it holds a Git LFS pointer and not a picture; fetch it with: git lfs pull'),
    (4, b'ftyp', 'it holds a video'), (0, b'\x1aE\xdf\xa3', 'it holds a video'),
    (0, b'%PDF', 'it holds a PDF document'), (0, b'%!PS', UNREAD['.eps']), (0, b'\xc5\xd0\xd3\xc6', UNREAD['.eps']),
    (0, b'<svg', UNREAD['.svg']), (0, b'<!doctype', WEB_PAGE), (0, b'<html', WEB_PAGE),
    (0, b'<?xml', 'it holds XML text and not a picture'), *((0, begin, HOLDS_JSON) for begin in (b'{"', b'[{')),
    (0, b'PK\x03\x04', 'it holds a zip archive'),
    (0, b'\x1f\x8b', 'it holds a gzip archive'))


@functools.cache
def image_extensions() -> frozenset[str]:
    """Return the lower-case extensions, with their dot, of files that are pictures, whether or not they can be read here."""
    known = {extension for extension, name in Image.registered_extensions().items()
             if (name in Image.OPEN or name == 'MPO') and name not in NO_PICTURES}
    return frozenset(known | WITH_EXTRA.keys() | RAW | UNREAD.keys())


@functools.cache
def decoders(with_extra: bool = False) -> tuple[str, ...]:
    """Return the names of the Pillow plug-ins that may read a picture, the common ones first.

    Args:
        with_extra: load those of the extra `formats` too, if they are installed.
    """
    Image.init()
    if with_extra:
        with_heif = _module('pillow_heif')
        if with_heif is not None:
            with_heif.register_heif_opener()
        _module('pillow_jxl')  # registers itself
    others = sorted(set(Image.OPEN) - NO_PICTURES - DRAWN - set(COMMON))
    return (*(name for name in COMMON if name in Image.OPEN), *others)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def open_image(source: str | IO[bytes], extension: str) -> Image.Image:
    """Open a picture with Pillow, with the plug-ins of the extra `formats` where the plain ones do not know it.

    Raises:
        PIL.UnidentifiedImageError, OSError, ...: what Pillow and its plug-ins raise.
    """
    try:
        return Image.open(source, formats=decoders(extension in WITH_EXTRA))
    except Image.UnidentifiedImageError:
        if not isinstance(source, str):
            source.seek(0)
        return Image.open(source, formats=decoders(with_extra=True))


def is_raw(image: Image.Image) -> bool:
    """Whether Pillow shows the small preview of a camera's raw file as if it were the picture."""
    return DNG_VERSION in getattr(image, 'tag_v2', ())


def develop(source: str | IO[bytes], upright: bool) -> np.ndarray:
    """Return a camera's raw file as LibRaw develops it with the camera's white balance: uint8 (H, W, 3), sRGB.

    Raises:
        DataError: rawpy is not installed.
        rawpy.LibRawError: it cannot be read.
    """
    with _rawpy().imread(source) as raw:
        return raw.postprocess(use_camera_wb=True, output_bps=8, user_flip=None if upright else 0)


def raw_size(source: str | IO[bytes], upright: bool) -> tuple[int, int]:
    """Return height and width of a camera's raw file, developed.

    Raises:
        DataError: rawpy is not installed.
        rawpy.LibRawError: it cannot be read.
    """
    with _rawpy().imread(source) as raw:
        sizes = raw.sizes
        turned = upright and sizes.flip in (5, 6)
        return (sizes.iwidth, sizes.iheight) if turned else (sizes.iheight, sizes.iwidth)


def _rawpy() -> Any:
    module = _module('rawpy')
    if module is None:
        raise DataError(f'camera raw needs {EXTRA}')
    return module


def why_unidentified(head: bytes, extension: str) -> str:
    """Return why nothing reads a file: by its first bytes, by its extension, or because nothing knows it.

    Args:
        head: its first bytes.
        extension: lower case, with the dot.
    """
    if not head:
        return 'the file is empty'
    if not head.strip(b'\0'):
        return 'it holds zeros only: a download that was not finished?'
    for place, content, plugin in PLUGIN_FORMATS:
        if head[place:place + len(content)] == content:
            name = PLUGIN_NAMES.get(plugin, plugin)
            return f'damaged {name} file' if _has_plugin(plugin) else f'{name} needs {EXTRA}'
    text = head.lstrip(b'\xef\xbb\xbf \r\n\t').lower()
    for place, content, reason in CONTENTS:
        if content in (head[place:place + len(content)], text[:len(content)]):
            return reason
    if extension in RAW:
        found = next((name for begin, name in PLAIN_PICTURES if head.startswith(begin)), None)
        if found is not None:
            return f'it holds a {found} picture and no camera raw; give it the extension of that'
    return UNREAD.get(extension, UNKNOWN)


def _has_plugin(name: str) -> bool:
    decoders(with_extra=True)
    return features.check('avif') is True if name == 'AVIF' else name in Image.OPEN
