"""Pickles from elsewhere, read as data: arrays come out, nothing is imported, called or executed."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyiqa_rali.errors import CheckpointError

LARGEST = 2 ** 31  # bytes after decompression: a PCA of any image encoder is far below
_OPENERS = ((b'\x1f\x8b', gzip.open), (b'BZh', bz2.open), (b'\xfd7zXZ', lzma.open), (b'\x5d\x00', lzma.open))
_NUMPY_ARRAY = ('numpy.core.multiarray', 'numpy._core.multiarray')
_INERT_PACKAGES = ('sklearn', 'numpy.random', 'scipy')


class Inert:
    """Stands for an object of a class that is neither imported nor run; it only keeps its state."""

    def __new__(cls, *args: Any, **kwargs: Any) -> 'Inert':
        """Take any arguments and leave them."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        """Take any arguments and leave them."""

    def __setstate__(self, state: Any) -> None:
        """Keep a dictionary's entries as attributes."""
        if isinstance(state, dict):
            self.__dict__.update(state)


class _ArrayWrapper(Inert):
    """joblib's note that the bytes of an array follow in the file."""


def _inert_reconstructor(cls: Any, base: Any, state: Any) -> Inert:
    return cls() if isinstance(cls, type) and issubclass(cls, Inert) else Inert()


def _plain_scalar(dtype: Any, data: bytes = b'') -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise pickle.UnpicklingError('a scalar of Python objects')
    return np.frombuffer(data, dtype=dtype)[0]


def _encoded(text: str, encoding: str = 'latin1') -> bytes:
    if not isinstance(text, str) or encoding != 'latin1':
        raise pickle.UnpicklingError(f'text in the encoding {encoding}')
    return text.encode('latin1')


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError('an array of Python objects')
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


def _empty_array(subtype: Any, shape: Any, typecode: Any) -> np.ndarray:
    return np.ndarray(0, dtype=np.int8)


class _DataUnpickler(pickle._Unpickler):  # the pure Python one: its steps can be replaced, as joblib does too
    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        known = {('numpy', 'dtype'): np.dtype, ('numpy', 'ndarray'): np.ndarray, ('builtins', 'object'): Inert,
                 ('copyreg', '_reconstructor'): _inert_reconstructor,
                 ('joblib.numpy_pickle', 'NumpyArrayWrapper'): _ArrayWrapper,
                 ('_codecs', 'encode'): _encoded,
                 **{(core.replace('multiarray', 'numeric'), '_frombuffer'): _array_from_buffer for core in _NUMPY_ARRAY},
                 **{(core, 'scalar'): _plain_scalar for core in _NUMPY_ARRAY},
                 **{(core, '_reconstruct'): _empty_array for core in _NUMPY_ARRAY}}
        if (module, name) in known:
            return known[module, name]
        if any(module == package or module.startswith(package + '.') for package in _INERT_PACKAGES):
            return type(name, (Inert,), {})
        raise pickle.UnpicklingError(f'it asks for {module}.{name}, which is refused')

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _ArrayWrapper):
            self.stack.append(self._read_array(self.stack.pop()))

    dispatch[pickle.BUILD[0]] = load_build

    def _read_array(self, wrapper: _ArrayWrapper) -> np.ndarray:
        """Read the array that follows, as joblib lays it out: padding length, padding, raw bytes."""
        dtype, shape = wrapper.dtype, tuple(int(length) for length in wrapper.shape)
        if not isinstance(dtype, np.dtype) or dtype.hasobject:
            raise pickle.UnpicklingError('an array of Python objects')
        if getattr(wrapper, 'numpy_array_alignment_bytes', None) is not None:
            self._stream.read(self._stream.read(1)[0])
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if not 0 <= size <= LARGEST:
            raise pickle.UnpicklingError(f'an array of {size} bytes')
        data = self._stream.read(size)
        if len(data) != size:
            raise EOFError('the file ends inside an array')
        flat = np.frombuffer(data, dtype=dtype)
        return flat.reshape(shape[::-1]).T.copy() if wrapper.order == 'F' else flat.reshape(shape).copy()

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream)
        self._stream = stream


def read_joblib(path: str | os.PathLike) -> dict[str, Any]:
    """Return the attributes of the object that joblib dumped, arrays as numpy arrays, anything else as inert values.

    Raises:
        CheckpointError: the file is missing, truncated or foreign, or asks for something to be imported or called.
    """
    path = Path(path)
    try:
        content = _decompressed(path.read_bytes())
        loaded = _DataUnpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, TypeError, KeyError, IndexError,
            AttributeError, MemoryError, UnicodeDecodeError, OverflowError, AssertionError) as error:
        raise CheckpointError(f'{path}: cannot be read as a joblib file of arrays ({type(error).__name__}: {error}). It is '
                              'truncated, of another format, or not to be trusted; get it again.') from error
    if not isinstance(loaded, Inert):
        raise CheckpointError(f'{path}: holds a {type(loaded).__name__}, not a fitted estimator.')
    return dict(vars(loaded))


def _decompressed(content: bytes) -> bytes:
    """Return the bytes that a compressed file stands for; one that grows beyond `LARGEST` is refused on the way."""
    for magic, opener in _OPENERS:
        if content.startswith(magic):
            return _bounded(opener(io.BytesIO(content)).read(LARGEST + 1))
    if content.startswith(b'\x78'):
        decompressor = zlib.decompressobj()
        found = _bounded(decompressor.decompress(content, LARGEST + 1))
        if not decompressor.eof:
            raise EOFError('the compressed data ends early')
        return found
    return content


def _bounded(content: bytes) -> bytes:
    if len(content) > LARGEST:
        raise pickle.UnpicklingError(f'it unpacks to more than {LARGEST} bytes')
    return content


def read_torch_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """Return the tensors of a torch file `{'state_dict': {...}}` or of a plain state dict.

    Raises:
        CheckpointError: the file is missing, truncated or foreign, or holds more than tensors.
    """
    path = Path(path)
    try:
        loaded = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch.load raises a different class for each way in which a file can be broken
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else 'no details'
        raise CheckpointError(f'{path}: cannot be read as a torch file of tensors ({type(error).__name__}: {first_line}). It '
                              'is truncated, of another format, or not to be trusted; get it again.') from error
    state = loaded.get('state_dict', loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f'{path}: holds no state dict of tensors.')
    return state


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file.

    Raises:
        CheckpointError: the file is missing, truncated or foreign, or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise CheckpointError(f'{path}: cannot be read as arrays ({type(error).__name__}: {error}).') from error
