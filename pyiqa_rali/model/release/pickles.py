"""Files of arrays from elsewhere, read as data: arrays come out, nothing is imported, called or executed."""

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, some
from pyiqa_rali.model.release.inert_pickle import Inert, InertUnpickler, Refused, plain
from pyiqa_rali.model.wrapping import state_dict_in

LARGEST = 2 ** 29  # bytes after decompression: a PCA of the widest image encoders has a quarter of it
LARGEST_DICTIONARY = 2 ** 28  # bytes that a file may have lzma reserve: twice what its highest level takes
_OPENERS = ((b'\x1f\x8b', gzip.open), (b'BZh', bz2.open))
_STREAMS = ((b'\x78', zlib.decompressobj), (b'\xfd7zXZ', lambda: lzma.LZMADecompressor(memlimit=LARGEST_DICTIONARY)),
            (b'\x5d\x00', lambda: lzma.LZMADecompressor(memlimit=LARGEST_DICTIONARY)))


def read_joblib(path: str | os.PathLike) -> dict[str, Any]:
    """Return the attributes of the object that joblib dumped, arrays as numpy arrays, anything else as inert values.

    Raises:
        CheckpointError: the file is missing, truncated or foreign, or asks for something to be imported or called.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise Refused(f'it has more than {LARGEST} bytes')
        loaded = InertUnpickler(io.BytesIO(_decompressed(path.read_bytes())), LARGEST).load()
    except Exception as error:  # a file from elsewhere can break the reading in any way
        raise CheckpointError(f'{path}: cannot be read as a joblib file of arrays ({_reason(error)}). It is '
                              'truncated, of another format, or not to be trusted; get it again.') from error
    if not isinstance(loaded, Inert):
        raise CheckpointError(f'{path}: holds a {type(loaded).__name__}, not a fitted estimator.')
    return {name: plain(value) for name, value in vars(loaded).items()}


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ['no details']
    return f'{type(error).__name__}: {lines[0][:300]}'


def _decompressed(content: bytes) -> bytes:
    """Return the bytes that a compressed file stands for; one that grows beyond `LARGEST` is refused on the way."""
    for magic, opener in _OPENERS:
        if content.startswith(magic):
            return _bounded(opener(io.BytesIO(content)).read(LARGEST + 1))
    for magic, make in _STREAMS:
        if content.startswith(magic):
            decompressor = make()
            found = _bounded(decompressor.decompress(content, LARGEST + 1))
            if not decompressor.eof:
                raise EOFError('the compressed data ends early')
            return found
    return content


def _bounded(content: bytes) -> bytes:
    if len(content) > LARGEST:
        raise Refused(f'it unpacks to more than {LARGEST} bytes')
    return content


def read_torch_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """Return the tensors of a torch file `{'state_dict': {...}}` or of a plain state dict, mapped from the file if it can be.

    Raises:
        CheckpointError: the file is missing, truncated or foreign, or holds more than tensors.
    """
    path = Path(path)
    try:
        mapped = zipfile.is_zipfile(path)
        if mapped:
            _check_zip(path)
        loaded = torch.load(path, map_location='cpu', weights_only=True, mmap=mapped)
    except Exception as error:  # torch.load raises a different class for each way in which a file can be broken
        raise CheckpointError(f'{path}: cannot be read as a torch file of tensors ({_reason(error)}). It '
                              'is truncated, of another format, or not to be trusted; get it again.') from error
    state = state_dict_in(loaded)
    if state is None or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f'{path}: holds no state dict of tensors.')
    strange = [str(name) for name, tensor in state.items() if not isinstance(name, str) or not _is_stored(tensor)]
    if strange:
        raise CheckpointError(f'{path}: {some(strange)} is not an ordinary tensor whose values are all in the file.')
    return state


def _check_zip(path: Path) -> None:
    """Refuse what torch never writes and what would unpack to more than the file holds."""
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        size = sum(entry.file_size for entry in archive.infolist())
    if packed:
        raise Refused(f'its part {packed[0]} is compressed, which torch never writes')
    if size > path.stat().st_size:
        raise Refused('its parts are larger than the file')


def _is_stored(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.device.type != 'cpu' or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def read_npz(path: str | os.PathLike, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return arrays of an `.npz` file by name; others in it are not read.

    Raises:
        CheckpointError: the file is missing, truncated or foreign, lacks a name, or holds Python objects.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _bounded_parts(archive)
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in names if name not in arrays.files]
            found = {name: arrays[name] for name in names if name not in missing}
    except Exception as error:  # as above
        raise CheckpointError(f'{path}: cannot be read as arrays ({_reason(error)}).') from error
    if missing:
        raise CheckpointError(f'{path}: lacks {some(missing)}.')
    strange = [name for name, array in found.items() if not isinstance(array, np.ndarray) or array.dtype.kind != 'f']
    if strange:
        raise CheckpointError(f'{path}: {some(strange)} holds no floating-point numbers.')
    return found


def _bounded_parts(archive: zipfile.ZipFile) -> None:
    if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
        raise Refused(f'it unpacks to more than {LARGEST} bytes')
