"""Damage that Pillow decodes over: pixels of files whose end was lost or overwritten, typically with zeros.

A PNG has a checksum in each of its chunks, which Pillow does not compare for pixels, and a chunk that ends it; a JPEG has a
marker that ends it. Where these are wrong or missing, what was decoded is not the picture. Bytes after the end belong to no
picture and are left alone. Formats without checksums (BMP, WebP, AVIF, ...) do not tell.
"""

import struct
import zlib
from typing import IO

BLOCK = 1 << 20
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
HAS_PIXELS, PNG_END = b'IDAT', b'IEND'
JPEG_END = b'\xff\xd9'
ALONE = frozenset((0x01, *range(0xd0, 0xd9)))  # markers of JPEG without a length
START_OF_SCAN, FILL = 0xda, 0xff
NOT_FINISHED = 'a copy or a download that was not finished?'


def damage(stream: IO[bytes], image_format: str | None) -> str | None:
    """Return what is wrong with a file that Pillow has decoded; None when nothing is, or its format does not tell.

    Args:
        stream: the file, from its start.
        image_format: Pillow's name of it.
    """
    if image_format == 'PNG':
        return _damage_of_png(stream)
    if image_format in ('JPEG', 'MPO'):
        return _damage_of_jpeg(stream.read())
    return None


def _damage_of_png(stream: IO[bytes]) -> str | None:
    if stream.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
        return None
    while len(begin := stream.read(8)) == 8:
        length, kind = struct.unpack('>I4s', begin)
        if kind == PNG_END:
            return None
        if kind != HAS_PIXELS:
            stream.seek(length + 4, 1)
            continue
        checksum = zlib.crc32(kind)
        while length and (block := stream.read(min(length, BLOCK))):
            checksum, length = zlib.crc32(block, checksum), length - len(block)
        if stream.read(4) != struct.pack('>I', checksum):
            return f'damaged PNG file: a checksum of its pixels is wrong; {NOT_FINISHED}'
    return f'damaged PNG file: its end is missing; {NOT_FINISHED}'


def _damage_of_jpeg(content: bytes) -> str | None:
    scan = _first_scan(content)
    if scan is None or content.find(JPEG_END, scan) >= 0:  # in compressed pixels these two bytes are always the marker
        return None
    return f'damaged JPEG file: its end is missing; {NOT_FINISHED}'


def _first_scan(content: bytes) -> int | None:
    """Return where the first pixels are, after segments that may hold a thumbnail with an end of its own; None if unknown."""
    place = 2
    while place + 4 <= len(content) and content[place] == FILL:
        marker = content[place + 1]
        if marker == START_OF_SCAN:
            return place
        if marker == FILL:
            place += 1
        else:
            place += 2 if marker in ALONE else 2 + int.from_bytes(content[place + 2:place + 4], 'big')
    return None
