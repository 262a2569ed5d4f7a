"""Camera raw files made in memory, for no package brings one."""

import struct

import numpy as np
from PIL import Image


def dng(width: int, height: int, orientation: int = 1, preview: Image.Image | None = None) -> bytes:
    """Return a DNG of 16-bit RGGB whose left half is dark and whose right half is bright.

    Args:
        width: in pixels.
        height: in pixels.
        orientation: as in TIFF.
        preview: stands first in the file, as cameras have it; then the raw picture is in a sub-IFD.
    """
    values = np.full((height, width), 4000, '<u2')
    values[:, width // 2:] = 40000
    identity = [value for row in np.eye(3, dtype=int) for each in row for value in (int(each), 1)]
    raw = {254: (4, [0]), 256: (4, [width]), 257: (4, [height]), 258: (3, [16]), 259: (3, [1]), 262: (3, [32803]),
           277: (3, [1]), 278: (4, [height]), 279: (4, [values.nbytes]), 33421: (3, [2, 2]), 33422: (1, [0, 1, 1, 2]),
           50714: (3, [0]), 50717: (3, [65535])}
    camera = {271: (2, b'Test\0'), 272: (2, b'Raw\0'), 274: (3, [orientation]), 50706: (1, [1, 4, 0, 0]),
              50707: (1, [1, 1, 0, 0]), 50708: (2, b'Test Raw\0'), 50721: (10, identity), 50728: (5, [1, 1] * 3),
              50778: (3, [21])}
    blocks, parts, position = [values.tobytes()], [], 8
    if preview is not None:
        blocks.append(preview.tobytes())
    places = []
    for block in blocks:
        places.append(position)
        parts.append(block)
        position += len(block)
    if preview is None:
        parts.append(_ifd({**camera, **raw, 273: (4, [places[0]])}, position))
        first = position
    else:
        sub = _ifd({**raw, 273: (4, [places[0]])}, position)
        first = position + len(sub)
        parts += [sub, _ifd({**camera, 254: (4, [1]), 256: (4, [preview.width]), 257: (4, [preview.height]),
                             258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]), 273: (4, [places[1]]), 277: (3, [3]),
                             278: (4, [preview.height]), 279: (4, [len(blocks[1])]), 330: (4, [position])}, first)]
    return b'II*\0' + struct.pack('<I', first) + b''.join(parts)


def _ifd(tags: dict[int, tuple], offset: int) -> bytes:
    """Return a directory of TIFF tags that stands at an offset of the file, with the values that do not fit into it behind."""
    sizes = {1: 'B', 2: 's', 3: 'H', 4: 'I', 5: 'I', 10: 'i'}
    entries, behind = b'', b''
    end = offset + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        data = values if kind == 2 else struct.pack(f'<{len(values)}{sizes[kind]}', *values)
        count = len(values) // 2 if kind in (5, 10) else len(values)
        if len(data) <= 4:
            entry = data.ljust(4, b'\0')
        else:
            entry = struct.pack('<I', end + len(behind))
            behind += data + b'\0' * (len(data) % 2)
        entries += struct.pack('<HHI', tag, kind, count) + entry
    return struct.pack('<H', len(tags)) + entries + bytes(4) + behind
