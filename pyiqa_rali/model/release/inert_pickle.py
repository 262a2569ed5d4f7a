"""A reader of pickles that imports, calls and builds nothing of theirs: containers, numbers, texts and arrays come out.

Every name that a pickle asks for is looked up in a short table. What is there is our own: objects that only keep
their state, and arrays made from bytes of the file. Objects of scikit-learn, scipy and numpy's random generators become
such inert objects too; every other name is refused.
"""

import io
import pickle
import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

_CORES = ('numpy.core', 'numpy._core')
_INERT_PACKAGES = ('sklearn', 'numpy.random', 'scipy')
_DTYPE = re.compile(r'[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|\?)')
_UNWANTED = ('EXT1', 'EXT2', 'EXT4', 'PERSID', 'BINPERSID', 'EMPTY_SET', 'ADDITEMS', 'FROZENSET', 'NEXT_BUFFER',
             'READONLY_BUFFER')


class Refused(pickle.UnpicklingError):
    """A file asks for what is not data."""


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


class _Type(Inert):
    """A numpy type of plain numbers, given as text, with its byte order as state."""

    def __init__(self, text: Any = None, *args: Any):
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise Refused(f'an array of {_shown(text)}')
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ('<', '>', '|', '=') or any(part is not None for part in state[2:5]):
            raise Refused('a type of structured values')
        self.value = self.value.newbyteorder(order)


class _Array(Inert):
    """A numpy array; its state holds version, shape, type, order and bytes."""

    value = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.value = _from_bytes(data, kind, shape, 'F' if fortran else 'C')


class _JoblibArray(Inert):
    """joblib's note that the bytes of an array follow in the file."""


class _Class(Inert):
    """The name of a class that only serves as an argument."""


def plain(value: Any) -> Any:
    """Return a numpy array for our stand-in, and anything else as it is."""
    return value.value if isinstance(value, _Array) else value


def _shown(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else f'a {type(value).__name__}'


def _number_type(kind: Any) -> np.dtype:
    if not isinstance(kind, _Type):
        raise Refused(f'an array of {_shown(kind)}')
    return kind.value


def _lengths(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape) or len(shape) > 32:
        raise Refused('an array whose shape is not whole numbers')
    return shape


def _from_bytes(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    dtype, shape = _number_type(kind), _lengths(shape)
    if not isinstance(data, (bytes, bytearray)) or order not in ('C', 'F'):
        raise Refused('an array that is not given as bytes')
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


def _array_from_buffer(data: Any, kind: Any, shape: Any, order: Any = 'C', *args: Any) -> _Array:
    array = _Array()
    array.value = _from_bytes(data, kind, shape, order)
    return array


def _scalar(kind: Any, data: Any = b'') -> Any:
    return _from_bytes(data, kind, (1,), 'C')[0].item()


def _reconstructor(cls: Any, base: Any = None, state: Any = None) -> Inert:
    return cls() if isinstance(cls, type) and issubclass(cls, Inert) else Inert()


def _reconstruct(*args: Any) -> _Array:
    return _Array()


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ('numpy', 'dtype'): _Type, ('numpy', 'ndarray'): _Class, ('builtins', 'object'): _Class,
    ('__builtin__', 'object'): _Class, ('copyreg', '_reconstructor'): _reconstructor,
    ('copy_reg', '_reconstructor'): _reconstructor, ('joblib.numpy_pickle', 'NumpyArrayWrapper'): _JoblibArray,
    **{(f'{core}.numeric', '_frombuffer'): _array_from_buffer for core in _CORES},
    **{(f'{core}.multiarray', 'scalar'): _scalar for core in _CORES},
    **{(f'{core}.multiarray', '_reconstruct'): _reconstruct for core in _CORES}}
_STEPS: dict[int, Callable[[Any], None]] = dict(pickle._Unpickler.dispatch)  # Python's own


class InertUnpickler(pickle._Unpickler):  # the pure Python one: its steps can be replaced, as joblib does too
    """Reads one pickle, with the arrays that joblib puts between its steps.

    Args:
        stream: the whole file.
        largest: how many bytes may be made of texts; a few steps can ask for the same text over and over.
    """

    dispatch: ClassVar[dict] = dict(_STEPS)
    stack: list[Any]
    metastack: list[list[Any]]

    def __init__(self, stream: io.BytesIO, largest: int):
        super().__init__(stream)
        self._stream, self._left = stream, largest

    def find_class(self, module: str, name: str) -> Any:
        """Return our own stand-in for a name, never what it names.

        Raises:
            Refused: the name is not one that a fitted estimator needs.
        """
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if (module, name) == ('_codecs', 'encode'):
            return self._encoded
        if any(module == package or module.startswith(package + '.') for package in _INERT_PACKAGES):
            return type('Inert', (Inert,), {})
        raise Refused(f'it asks for {str(module)[:100]}.{str(name)[:100]}, which is refused')

    def _encoded(self, text: Any, encoding: Any = 'latin1') -> bytes:
        """Return the bytes that older protocols write as text."""
        if not isinstance(text, str) or encoding != 'latin1':
            raise Refused('text in an encoding other than latin1')
        self._left -= len(text)
        if self._left < 0:
            raise Refused('it expands the same text into ever more bytes')
        return text.encode('latin1')

    def load_build(self) -> None:
        """Give an inert object its state; an array of joblib's is read from the file."""
        if not isinstance(self.stack[-2] if len(self.stack) > 1 else None, Inert):
            raise Refused('it sets the state of an object that has none')
        self._do(pickle.BUILD)
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack.append(self._read_array(self.stack.pop()))

    def _read_array(self, wrapper: _JoblibArray) -> _Array:
        """Read the array that follows, as joblib lays it out: padding length, padding, raw bytes."""
        state = vars(wrapper)
        kind, shape, order = state.get('dtype'), _lengths(state.get('shape')), state.get('order')
        size = _number_type(kind).itemsize
        for length in shape:
            size *= length
        if size > self._stream.getbuffer().nbytes - self._stream.tell():
            raise Refused(f'an array of {size} bytes, more than the rest of the file')
        if state.get('numpy_array_alignment_bytes') is not None:
            self._stream.read(self._stream.read(1)[0])
        return _array_from_buffer(self._stream.read(size), kind, shape, order)

    def load_setitem(self) -> None:
        """Put one entry into a dictionary whose keys are texts."""
        self._check_entries(self.stack[-3:-2], self.stack[-2:-1])
        self._do(pickle.SETITEM)

    def load_setitems(self) -> None:
        """Put entries into a dictionary whose keys are texts; other keys can take for ever to compare."""
        self._check_entries(self.metastack[-1][-1:], self.stack[::2])
        self._do(pickle.SETITEMS)

    def load_dict(self) -> None:
        """Make a dictionary whose keys are texts."""
        self._check_entries([{}], self.stack[::2])
        self._do(pickle.DICT)

    def _do(self, step: bytes) -> None:
        """Do a step as Python's own reader does."""
        _STEPS[step[0]](self)

    def _check_entries(self, targets: list[Any], keys: list[Any]) -> None:
        if not all(type(target) is dict for target in targets) or not all(type(key) is str for key in keys):
            raise Refused('a dictionary whose keys are not texts')

    def _refuse(self) -> None:
        raise Refused('it has a step that no fitted estimator needs')

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch.update(dict.fromkeys((getattr(pickle, name)[0] for name in _UNWANTED), _refuse))
