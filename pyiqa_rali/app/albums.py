"""The pictures of a page, in memory: nothing that is uploaded is written to a disk, and no page sees those of another."""

import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage, read_rgb

THUMB, VIEW, WORKING = 480, 1600, 768  # longest edges in pixels: in the gallery, alone, under the sliders
KEPT = 3  # pictures whose pixels stay decoded
LONGEST_NAME = 400
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What may be uploaded.

    Attributes:
        file_mb: of one file, in megabytes.
        pictures: of one page.
        memory_mb: of all pages together, in megabytes of files; pages that were not used for longest give way.

    Raises:
        OptionError: a limit is below 1.
    """

    file_mb: int = 64
    pictures: int = 1000
    memory_mb: int = 2048

    def __post_init__(self) -> None:
        for name, value in (('max-file-mb', self.file_mb), ('max-pictures', self.pictures), ('memory-mb', self.memory_mb)):
            if value < 1:
                raise OptionError(f'--{name}: {value} must be at least 1.')


class TooMuch(DataError):
    """An upload is beyond a limit."""


@dataclass(eq=False)
class Picture:
    """A picture of a page.

    Attributes:
        key: its name in addresses.
        name: of the file, with its folder when a folder was given.
        content: the file; empty when it cannot be read.
        height: in pixels, 0 when it cannot be read.
        width: in pixels, 0 when it cannot be read.
        thumb: a small JPEG.
        error: why it cannot be read; empty otherwise.
        verdicts: what metrics said about it, by their names.
    """

    key: str
    name: str
    content: bytes
    height: int = 0
    width: int = 0
    thumb: bytes = b''
    error: str = ''
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def memory(self) -> int:
        """Bytes that it holds."""
        return len(self.content) + len(self.thumb)

    def facts(self) -> dict[str, Any]:
        """Return what a page is told about it."""
        return {'key': self.key, 'name': self.name, 'width': self.width, 'height': self.height, 'error': self.error,
                'verdicts': self.verdicts}


class Albums:
    """The pictures of all pages. Any thread may call it.

    Args:
        limits: of uploads.
        reading: how pictures are read.
    """

    def __init__(self, limits: Limits, reading: ReadingOptions = READING):
        self.limits, self.reading = limits, reading
        self._albums: OrderedDict[str, dict[str, Picture]] = OrderedDict()  # the one used last is at the end
        self._lock = threading.RLock()
        self._decoded: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def open(self, album: str = '') -> str:
        """Return the name of an album: the one of this name if there is one, else a new one that nobody can guess."""
        with self._lock:
            if album not in self._albums:
                album = secrets.token_urlsafe(24)
                self._albums[album] = {}
            self._albums.move_to_end(album)
            return album

    def pictures(self, album: str) -> list[Picture]:
        """Return the pictures of an album in the order in which they came; none of one that does not exist."""
        with self._lock:
            return list(self._albums.get(album, {}).values())

    def picture(self, album: str, key: str) -> Picture:
        """Return a picture.

        Raises:
            DataError: there is no such picture.
        """
        with self._lock:
            found = self._albums.get(album, {}).get(key)
            if found is None:
                raise DataError('this picture is no longer there; add it again')
            self._albums.move_to_end(album)
            return found

    def add(self, album: str, name: str, content: bytes) -> Picture:
        """Read a file and keep it; one that cannot be read is kept with the reason.

        Raises:
            TooMuch: it is beyond a limit; the message says which.
            DataError: there is no such album.
        """
        self.check_size(len(content))
        with self._lock:
            if album not in self._albums:
                raise DataError('this page is no longer known; reload it')
            if len(self._albums[album]) >= self.limits.pictures:
                raise TooMuch(f'this page holds at most {self.limits.pictures} pictures; remove some, or start with '
                              '--max-pictures')
        picture = self._read(_tidy(name), content)
        with self._lock:
            self._make_room(album, picture.memory)
            self._albums[album][picture.key] = picture
        return picture

    def check_size(self, size: int) -> None:
        """Raise TooMuch for a file of more bytes than are allowed."""
        if size > self.limits.file_mb * MEGABYTE:
            raise TooMuch(f'it is larger than {self.limits.file_mb} MB; start with --max-file-mb to allow more')

    def remove(self, album: str, keys: list[str]) -> None:
        """Forget pictures; those that are not there are no matter."""
        with self._lock:
            pictures = self._albums.get(album, {})
            for key in keys:
                pictures.pop(key, None)

    def pixels(self, picture: Picture, longest: int = 0) -> np.ndarray:
        """Return a picture's pixels, uint8 (H, W, 3), which must not be changed.

        Args:
            picture: one that can be read.
            longest: make a longer edge this long; 0 leaves the picture as it is.

        Raises:
            UnreadableImage: it cannot be read.
        """
        if not longest:
            return self._kept((picture.key, 0), lambda: read_rgb(picture.content, self.reading, picture.name))
        return self._kept((picture.key, longest), lambda: smaller(self.pixels(picture), longest))

    def _kept(self, key: tuple[str, int], make: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if key in self._decoded:
                self._decoded.move_to_end(key)
                return self._decoded[key]
        made = make()
        with self._lock:
            self._decoded[key] = made
            while len(self._decoded) > KEPT:
                self._decoded.popitem(last=False)
        return made

    def _read(self, name: str, content: bytes) -> Picture:
        picture = Picture(secrets.token_urlsafe(9), name, content)
        try:
            pixels = self.pixels(picture)
        except UnreadableImage as error:
            return Picture(picture.key, name, b'', error=error.reason)
        picture.height, picture.width = pixels.shape[:2]
        picture.thumb = as_jpeg(smaller(pixels, THUMB), 85)
        return picture

    def _make_room(self, album: str, needed: int) -> None:
        """Forget the albums that were not used for longest until there is room, but never this one."""
        most = self.limits.memory_mb * MEGABYTE
        held = {name: sum(picture.memory for picture in pictures.values()) for name, pictures in self._albums.items()}
        if album not in held:
            raise DataError('this page is no longer known; reload it')
        if held[album] + needed > most:
            raise TooMuch(f'the pages hold at most {self.limits.memory_mb} MB; remove pictures, or start with --memory-mb')
        for other in list(self._albums):
            if sum(held.values()) + needed <= most:
                break
            if other != album:
                del self._albums[other], held[other]
        self._albums.move_to_end(album)


def smaller(pixels: np.ndarray, longest: int) -> np.ndarray:
    """Return pixels (H, W, 3) whose longer edge is at most this long."""
    height, width = pixels.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return pixels.copy()
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3))


def as_jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    """Return uint8 pixels (H, W, 3) as a JPEG without halved colours."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'JPEG', quality=quality, subsampling=0)
    return stream.getvalue()


def _tidy(name: str) -> str:
    """Return a file's name as it may be shown: on one line and not endless."""
    printable = ''.join(letter if letter.isprintable() else '?' for letter in name).strip()
    return printable[-LONGEST_NAME:] or 'picture'
