"""Files that are either whole or absent: every output of the package is written through here."""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL_SUFFIXES = ('.safetensors', '.bin', '.json', '.jinja', '.txt')  # weights, configuration, tokenizer, prompts
REMEMBERED = 2 ** 18  # files of a process whose digests need not be computed again
NUMBER_WITH_EXPONENT = re.compile(r'^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$')  # which YAML 1.1 takes for text


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block succeeds.

    A reader sees either the old file or the whole new one, even after a kill or on a full disk; what a failed block left behind
    is removed.

    Raises:
        OSError: the folder cannot be made or written; the message names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{platform.node()}-{os.getpid()}.part')  # machines may share a folder
    try:
        yield temporary
        with open(temporary, 'rb+') as written:
            os.fsync(written.fileno())
        os.chmod(temporary, _usual_mode())  # some writers, safetensors among them, keep others from reading
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f'cannot write {path}: {error.strerror or error}') from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the unfinished files that killed runs left in a folder; no other run may be writing there."""
    for path in Path(folder).glob('.*.part'):
        path.unlink(missing_ok=True)


def _usual_mode() -> int:
    """Return the permissions that a new file gets; the system reveals its mask only when one is set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, mode: str = 'w') -> Iterator[IO[Any]]:
    """Open a temporary file that takes the place of `path` when the block succeeds."""
    with atomic_path(path) as temporary:
        binary = 'b' in mode
        with open(temporary, mode, encoding=None if binary else 'utf-8', newline=None if binary else '') as stream:
            yield stream


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place when the block succeeds.

    A folder of this name is always whole, even after a kill; what a killed block left behind is removed by the next one.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.part')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def without_nan(value: Any) -> Any:
    """Return nested values with None for NaN, which JSON does not have; tuples become lists."""
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically; names of files that are not valid UTF-8 are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = json.dumps(value, indent=2)
    with atomic_open(path) as stream:
        stream.write(f'{text}\n')


def write_yaml(path: str | os.PathLike, value: Mapping[str, Any]) -> None:
    """Write `value` as YAML in its own order, atomically; see `yaml_text`."""
    write_text(path, yaml_text(value))


def yaml_text(value: Any) -> str:
    """Return plain values as the YAML that `core.options.read_yaml` reads back as they were."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that our reader would take for a number, and writes lists that appear twice without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a list that is in two places twice."""
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Escape the line ends that YAML would read back as a blank."""
        style = '"' if re.search('[\x85\u2028\u2029]', data) else None
        return self.represent_scalar('tag:yaml.org,2002:str', data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_implicit_resolver('tag:yaml.org,2002:float', NUMBER_WITH_EXPONENT, list('-+0123456789'))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text, atomically."""
    with atomic_open(path) as stream:
        stream.write(text)


def write_picture(path: str | os.PathLike, picture: 'Image', **options: Any) -> None:
    """Write a Pillow image in the format that the file's extension names, atomically.

    Args:
        path: the file.
        picture: what to write.
        options: of the format, such as `quality`.
    """
    from PIL import Image
    with atomic_open(path, 'wb') as stream:
        picture.save(stream, Image.registered_extensions()[Path(path).suffix.lower()], **options)


def sha256(path: str | os.PathLike) -> str:
    """Return the hexadecimal SHA-256 digest of a file."""
    with open(path, 'rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()


def remembered_sha256(path: str | os.PathLike) -> str:
    """Return the digest of a file that is asked for again and again: it is read anew once its size or time has changed.

    Raises:
        OSError: it cannot be read, or is no regular file: opening a pipe could block for ever.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, 'it is not a regular file', os.fspath(path))
    return _sha256_of_state(os.fspath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=REMEMBERED)
def _sha256_of_state(path: str, size: int, time: int) -> str:
    return sha256(path)


def model_sha256(path: str | os.PathLike) -> str:
    """Return a SHA-256 digest of a model: of its file, or of the weights and settings in its folder."""
    path = Path(path)
    if path.is_file():
        return sha256(path)
    files = sorted(each for each in path.iterdir() if each.is_file() and each.suffix in MODEL_SUFFIXES)
    return hashlib.sha256(''.join(f'{each.name} {sha256(each)}\n' for each in files).encode()).hexdigest()
