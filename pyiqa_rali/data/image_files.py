"""The one reader of pictures: whatever the package reads from a file or from bytes becomes 8-bit RGB here, by one rule.

The rule, for every command, data set and table:

- Transparent pixels are composited onto white, whatever colour is hidden behind them.
- 16-bit gray is divided by 257 and rounded (12-bit TIFF by its own white); of 16-bit colour Pillow returns the higher byte.
  32-bit and floating-point pixels have no known range and are rejected.
- The picture is turned upright as EXIF says. `ReadingOptions.upright` switches that off; TIFF, HEIF and JPEG XL carry their
  orientation in the format itself, and their decoders always apply it.
- Gray is repeated; palettes, CMYK, YCbCr and CIELAB are converted by Pillow; colour profiles are not applied, as in pyiqa.
- Of animations and multi-page files, the first picture is read.
- Camera raw files are developed by LibRaw with the camera's white balance; their preview is never used in its place.
- A truncated file is rejected, a PNG or JPEG whose end was overwritten (`image_damage`), and so is one with more pixels than
  `ReadingOptions.pixel_limit`.

Whatever a decoder raises becomes an `UnreadableImage` that names the file.
"""

import contextlib
import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NoReturn

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pyiqa_rali.core.errors import DataError, OptionError, first_line
from pyiqa_rali.data.addresses import extension_of, is_address, shown
from pyiqa_rali.data.decoding import PIXEL_LIMIT, decoding
from pyiqa_rali.data.fetching import FETCHING, FetchError, FetchOptions, fetch
from pyiqa_rali.data.image_damage import damage
from pyiqa_rali.data.image_formats import RAW, UNKNOWN, develop, is_raw, open_image, raw_size, why_unidentified

HEAD = 64  # bytes that show what an undecodable file contains
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
SWAPPING = (5, 6, 7, 8)  # orientations that exchange height and width
WITH_ALPHA = ('LA', 'RGBA', 'PA', 'La', 'RGBa')
KNOWN_16_BITS = ('PNG', 'TIFF', 'JPEG2000', 'PPM', 'JXL', 'IM')  # FITS, among others, has signed values of any range
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF
TOO_MANY = ('its {} pixels are more than the limit; raise --pixel-limit (pixel_limit in option files and create_metric), '
            'or make it smaller')
KINDS = ((stat.S_ISFIFO, 'a named pipe'), (stat.S_ISSOCK, 'a socket'), (stat.S_ISCHR, 'a device'), (stat.S_ISBLK, 'a device'))
OWN_NAME = r" (?:'[^']*'|\"[^\"]*\"|<_io\.BytesIO object at 0x[0-9a-fA-F]+>)$"  # at the end of Pillow's messages


@dataclass(frozen=True)
class ReadingOptions:
    """How pictures are read, where a user may choose.

    Attributes:
        upright: turn pictures as their EXIF orientation says.
        pixel_limit: reject pictures with more pixels than this.
        fetching: how long, and how often, pictures at addresses are tried.

    Raises:
        OptionError: the limit is below 1.
    """

    upright: bool = True
    pixel_limit: int = PIXEL_LIMIT
    fetching: FetchOptions = FETCHING

    def __post_init__(self) -> None:
        if isinstance(self.pixel_limit, bool) or not isinstance(self.pixel_limit, int) or self.pixel_limit < 1:
            raise OptionError(f'pixel_limit: {self.pixel_limit!r} must be a whole number of pixels, at least 1.')
        if not isinstance(self.upright, bool):
            raise OptionError(f'upright: {self.upright!r} must be true or false.')


READING = ReadingOptions()


class UnreadableImage(DataError):
    """A picture that cannot be read.

    Attributes:
        path: the file, or the name that stands for it.
        reason: one line that does not repeat the name.
    """

    def __init__(self, path: str, reason: str = ''):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f'{self.path}: cannot be read as an image ({self.reason}).' if self.reason else self.path


def read_rgb(source: str | os.PathLike | bytes, options: ReadingOptions = READING, name: str | None = None) -> np.ndarray:
    """Return a picture as 8-bit RGB, by the rule at the head of this module.

    Args:
        source: a file, the address of one (see `pyiqa_rali.data.addresses`), or the bytes of one.
        options: orientation, pixel limit, and how addresses are tried.
        name: the name of bytes in errors, whose extension also tells their format; default: the path, or the address without
            credentials.

    Returns:
        uint8 (H, W, 3), writable.

    Raises:
        UnreadableImage: there is no such file, or no picture in it; the message names it.
    """
    source, name = _fetched(source, options, name)
    with _opened(source, options, name) as opened:
        if not isinstance(opened, Image.Image):
            return _developed(opened, options)
        pixels = _pixels(opened, options)
        _refuse_damaged(source, opened.format)
        return pixels


def rgb_of(image: Image.Image, options: ReadingOptions = READING) -> np.ndarray:
    """Return a picture of Pillow as 8-bit RGB, by the rule at the head of this module; the picture itself stays as it is.

    16-bit gray that was made in memory is taken as 16 bits; what the file has lost, Pillow does not tell.

    Args:
        image: of any mode, decoded or not; of several frames the one that it shows.
        options: orientation and pixel limit.

    Returns:
        uint8 (H, W, 3), writable.

    Raises:
        UnreadableImage: it cannot be decoded, or its pixels have no known range.
    """
    with _named(b'', str(getattr(image, 'filename', '') or 'the picture'), ''), decoding(options.pixel_limit):
        _check_count(image.size, options)
        if is_raw(image):
            raise DataError("it is the preview inside a camera's raw file; give the path of the file")
        return _pixels(image, options)


def read_size(source: str | os.PathLike | bytes, options: ReadingOptions = READING, name: str | None = None) -> tuple[int, int]:
    """Return the height and width that `read_rgb` would give, from the file's header.

    Raises:
        UnreadableImage: there is no such file, or no picture in it; the message names it.
    """
    source, name = _fetched(source, options, name)
    with _opened(source, options, name) as opened:
        if not isinstance(opened, Image.Image):
            return raw_size(opened, options.upright)
        swapped = options.upright and opened.format != 'TIFF' and _orientation(opened) in SWAPPING
        return opened.size if swapped else opened.size[::-1]


def _fetched(source: str | os.PathLike | bytes, options: ReadingOptions,
             name: str | None) -> tuple[str | os.PathLike | bytes, str | None]:
    """Return the bytes of a picture at an address, and its name; anything else stays as it is."""
    if not isinstance(source, str) or not is_address(source) or os.path.exists(source):
        return source, name
    name = shown(source) if name is None else name
    try:
        return fetch(source, options.fetching), name
    except FetchError as error:
        raise UnreadableImage(name, str(error)) from None


@contextlib.contextmanager
def _opened(source: str | os.PathLike | bytes, options: ReadingOptions,
            name: str | None) -> Iterator[Image.Image | str | IO[bytes]]:
    """Yield a picture as Pillow opens it, not yet decoded, or what LibRaw opens: a camera raw file or a stream of one.

    Raises:
        UnreadableImage: for whatever is raised here or inside.
    """
    name = _name_of(source) if name is None else name
    extension = extension_of(name)
    with _named(source, name, extension), decoding(options.pixel_limit):
        if extension not in RAW:
            with open_image(_stream(source), extension) as image:
                _check_count(image.size, options)
                if not is_raw(image):
                    yield image
                    return
        yield _stream(source)


def _name_of(source: str | os.PathLike | bytes) -> str:
    return '<bytes>' if isinstance(source, bytes) else os.fspath(source)


def _stream(source: str | os.PathLike | bytes) -> str | IO[bytes]:
    """Return what decoders open: the path of a regular file, or a stream of the bytes.

    Raises:
        DataError: opening it could block for ever: a pipe, a socket, a device.
        OSError: the file, or a folder that was to be listed, cannot be read.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    path = os.fspath(source)
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        os.listdir(path)  # raises whatever keeps the folder from being listed
        raise DataError('it is a folder')
    refuse_special_file(mode)
    return path


def refuse_special_file(mode: int) -> None:
    """Raise DataError for what a file of this `st_mode` is, unless it is a regular file or a folder."""
    for is_kind, what in KINDS:
        if is_kind(mode):
            raise DataError(f'it is {what} and not a file')


def _check_count(size: tuple[int, int], options: ReadingOptions) -> None:
    count = size[0] * size[1]
    if count > options.pixel_limit:
        raise DataError(TOO_MANY.format(count))
    if not count:
        raise DataError(f'it has {size[0]} x {size[1]} pixels')


def _refuse_damaged(source: str | os.PathLike | bytes, image_format: str | None) -> None:
    """Raise DataError for a file that was decoded although a part of it is lost."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, 'rb') as stream:
        found = damage(stream, image_format)
    if found is not None:
        raise DataError(found)


def _developed(stream: str | IO[bytes], options: ReadingOptions) -> np.ndarray:
    _check_count(raw_size(stream, upright=False)[::-1], options)
    if not isinstance(stream, str):
        stream.seek(0)
    return np.ascontiguousarray(develop(stream, options.upright))


def _pixels(image: Image.Image, options: ReadingOptions) -> np.ndarray:
    colour_key = _colour_key(image)
    image.load()
    orientation = _orientation(image) if options.upright else None
    rgb = _as_rgb(image, colour_key)
    turn = None if orientation is None else TURNS.get(orientation)
    return np.array(rgb if turn is None else rgb.transpose(turn))


def _orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation that is still to be applied; an unreadable one counts as none, as in other programs."""
    if image.format == 'JXL' and not getattr(image, 'jpeg', False):
        return None  # its decoder has applied the codestream's orientation, which EXIF repeats
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF blocks can be damaged in as many ways as pictures, and pixels do not depend on them
        return None


def _colour_key(image: Image.Image) -> object:
    """Return the colour that stands for transparency, on the scale of the decoded pixels."""
    key = image.info.get('transparency')
    if image.mode == 'RGB' and isinstance(key, tuple) and (
            max(key) > 255 or any('16' in str(tile[3]) for tile in getattr(image, 'tile', ()))):
        return tuple(value >> 8 for value in key)  # Pillow returns the higher byte of the pixels, but not of the key
    return key


def _as_rgb(image: Image.Image, colour_key: object) -> Image.Image:
    if image.mode == 'F':
        raise DataError('floating-point pixels have no known range; convert it to 8 or 16 bits')
    if image.mode.startswith('I'):
        return _scaled_to_8_bits(image, colour_key)
    if colour_key is not None:
        image = image.copy()  # somebody else's, maybe
        image.info['transparency'] = colour_key
    if image.mode in WITH_ALPHA or colour_key is not None or _has_alpha_palette(image):
        image = image.convert('RGBA')
        return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
    return image if image.mode == 'RGB' else image.convert('RGB')  # converting would copy it


def _has_alpha_palette(image: Image.Image) -> bool:
    return image.mode == 'P' and image.palette is not None and image.palette.mode.endswith('A')


def _scaled_to_8_bits(image: Image.Image, colour_key: object) -> Image.Image:
    """Return 16-bit gray as 8-bit RGB. Pillow's mode I holds 16 bits in a PNG or a PGM, and has no known range elsewhere."""
    known = (*KNOWN_16_BITS, None) if image.mode != 'I' else ('PNG', 'PPM')  # without a format it was made in memory
    if image.format not in known:
        bits, made_by = 32 if image.mode == 'I' else 16, f' of {image.format}' if image.format else ''
        raise DataError(f'{bits}-bit pixels{made_by} have no known range; convert it to PNG of 8 or 16 bits')
    tags = getattr(image, 'tag_v2', {})
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    values = np.asarray(image).astype(np.float32)
    gray = np.rint(values * (255 / ((1 << bits) - 1)))
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts 8-bit TIFFs, but not these
        gray = 255 - gray
    if isinstance(colour_key, int):
        gray = np.where(values == colour_key, 255, gray)
    return Image.fromarray(gray.astype(np.uint8)).convert('RGB')


# what decides which pixels a file has: features that are kept are of no use once one of these changes
OF_PIXELS = (_developed, _pixels, _orientation, _colour_key, _as_rgb, _has_alpha_palette, _scaled_to_8_bits)


@contextlib.contextmanager
def _named(source: str | os.PathLike | bytes, name: str, extension: str) -> Iterator[None]:
    """Turn whatever is raised inside into an `UnreadableImage` with this name."""
    try:
        yield
    except UnreadableImage:
        raise
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a decoder written in Rust is not an Exception
        _raise_unreadable(error, source, name, extension)


def _raise_unreadable(error: BaseException, source: str | os.PathLike | bytes, name: str, extension: str) -> NoReturn:
    if isinstance(error, UnidentifiedImageError):
        reason = _why_unidentified(source, extension)
    elif isinstance(error, Image.DecompressionBombError):  # raised on opening, or by a picture inside the picture
        reason = TOO_MANY.format((re.findall(r'\d+', str(error)) or ['many'])[0])
    elif isinstance(error, DataError):
        reason = first_line(error)
    elif isinstance(error, MemoryError):
        reason = 'there is not enough memory to decode it'
    elif isinstance(error, OSError) and error.errno and error.strerror:
        reason = error.strerror
    elif error.args and isinstance(error.args[0], bytes):
        reason = _why_not_developed(error.args[0].decode(errors='replace'), source, extension)
    elif isinstance(error, OSError | SyntaxError | ValueError):
        reason = re.sub(OWN_NAME, '', first_line(error))
    elif (found := _why_unidentified(source, extension)).startswith('damaged'):  # the messages of such decoders help nobody
        reason = found
    else:
        reason = f'{type(error).__name__}: {first_line(error)}'
    raise UnreadableImage(name, reason) from error


def _why_not_developed(said: str, source: str | os.PathLike | bytes, extension: str) -> str:
    """Return why LibRaw, which says little, does not develop a file."""
    found = _why_unidentified(source, extension)
    if found != UNKNOWN:
        return found
    return (f'damaged, or no camera raw file that LibRaw knows ({said}); copy it from the camera again, or convert it to DNG '
            'or TIFF')


def _why_unidentified(source: str | os.PathLike | bytes, extension: str) -> str:
    if isinstance(source, bytes):
        return why_unidentified(source[:HEAD], extension)
    try:
        with open(source, 'rb') as stream:
            return why_unidentified(stream.read(HEAD), extension)
    except OSError as error:  # it has disappeared in the meantime
        return error.strerror or str(error)
