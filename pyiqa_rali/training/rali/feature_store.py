"""Rows of features that are kept by what they were computed from, so that nothing is computed twice.

A row is addressed by who computed it (the digest of weights and settings) and by what of (the digest of a picture's file, of
a draw of a synthetic set, or of a text). Whatever changes one of these makes another address: nothing is ever out of date.
"""

import functools
import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError, first_line
from pyiqa_rali.core.files import atomic_path, remembered_sha256, sha256
from pyiqa_rali.core.options import plain
from pyiqa_rali.data.image_files import OF_PIXELS
from pyiqa_rali.data.sections import LOADER_KEYS
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset
from pyiqa_rali.data.table_pictures import reads_rows, row_paths
from pyiqa_rali.data.tables import QualityTable
from pyiqa_rali.model.digest import weights_digest

DRAWN_BY = ('numpy', 'opencv-python-headless', 'pillow', 'pyiqa', 'torch')
# of a synthetic set: what no draw depends on, or what the digests of its files say better
NOT_OF_DRAWS = (*LOADER_KEYS, 'name', 'phase', 'share', 'supervision', 'samples_per_epoch', 'cached_photographs', 'pixel_limit',
                'dataroot_photos', 'photo_groups', 'split_seed', 'split_ratios', 'num_photographs', 'calibration',
                'reasoning_texts')
ROWS, KEYS, NOTES, SHA256 = 'rows', 'keys', 'notes', 'sha256'


@dataclass(frozen=True)
class Stored:
    """A row of features (W,) float32, and what else is known of what it is of, as plain values."""

    row: Tensor
    note: Any = None


class FeatureStore:
    """Rows by their address, in files below a folder, or in memory without one.

    Each file holds the rows that were added together, whole or not at all; several processes may add at once. Of rows in
    files, memory holds the addresses alone.

    Args:
        folder: has a folder for each identity; None keeps the rows in memory.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        self.folder = None if folder is None else Path(folder).expanduser()
        self._memory: dict[str, dict[str, Stored]] = {}
        self._places: dict[str, dict[str, Path]] = {}

    def get(self, identity: str, keys: Sequence[str]) -> dict[str, Stored]:
        """Return the rows of those keys that are there.

        Args:
            identity: digest of who computed them.
            keys: digests of what they were computed from.

        Raises:
            CheckpointError: a file cannot be read; the message names it.
        """
        memory = self._memory.get(identity, {})
        found = {key: memory[key] for key in keys if key in memory}
        places = self._places_of(identity)
        files = dict.fromkeys(places[key] for key in keys if key in places)
        wanted = set(keys)
        for path in files:
            found |= {key: stored for key, stored in _read(path) if key in wanted}
        return found

    def add(self, identity: str, rows: Mapping[str, Stored]) -> None:
        """Keep rows."""
        if not rows:
            return
        if self.folder is None:
            self._memory.setdefault(identity, {}).update(rows)
            return
        from safetensors.torch import save_file
        places = self._places_of(identity)
        # named by its keys: two processes that compute the same rows write the same file
        path = self.folder / _short(identity) / f'{_short(_digest(*rows))}.safetensors'
        stacked = torch.stack([stored.row.float().cpu() for stored in rows.values()])
        with atomic_path(path) as temporary:
            save_file({ROWS: stacked}, temporary, metadata={
                KEYS: json.dumps(list(rows)), NOTES: json.dumps([stored.note for stored in rows.values()]),
                SHA256: _digest_of_rows(stacked)})
        places.update(dict.fromkeys(rows, path))

    def look_again(self, identity: str) -> None:
        """List the files anew at the next question: other processes have added to them."""
        self._places.pop(identity, None)

    def _places_of(self, identity: str) -> dict[str, Path]:
        """Return the file of each key of an identity; the folder is listed once."""
        if self.folder is None:
            return {}
        if identity not in self._places:
            files = sorted((self.folder / _short(identity)).glob('[!.]*.safetensors'))
            self._places[identity] = {key: path for path in files for key in json.loads(_metadata(path)[KEYS])}
        return self._places[identity]


def _read(path: Path) -> Iterator[tuple[str, Stored]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    told = _metadata(path)
    try:
        rows = load_file(path)[ROWS]
        # the format notices a file that was cut short, and not bytes that changed
        if told.get(SHA256) not in (None, _digest_of_rows(rows)):  # files of earlier versions have no digest
            raise ValueError('its rows are not those that were written')
    except (OSError, SafetensorError, ValueError, LookupError) as error:
        raise _damaged(path, error) from error
    for key, row, note in zip(json.loads(told[KEYS]), rows, json.loads(told[NOTES]), strict=True):
        yield key, Stored(row, note)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework='pt') as stream:
            told = stream.metadata()
        return {KEYS: told[KEYS], NOTES: told[NOTES], **{name: told[name] for name in (SHA256,) if name in told}}
    except (OSError, SafetensorError, LookupError, TypeError) as error:
        raise _damaged(path, error) from error


def _digest_of_rows(rows: Tensor) -> str:
    return hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest()


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f'path: feature_cache: {path} is no file of features of ours: {first_line(error)}. Delete it; what '
                           'it held is computed anew.')


def identity_of(module: nn.Module, settings: Any, device: torch.device) -> str:
    """Return the digest of who computes rows.

    Args:
        module: whose weights do.
        settings: plain values that say what it does with them.
        device: kinds of devices round differently.
    """
    return _digest(weights_digest(module), settings, device.type,
                   {name: metadata.version(name) for name in ('torch', 'timm', 'open_clip_torch')})


def text_key(text: str) -> str:
    """Return the digest of a text."""
    return _digest(text)


def picture_keys(table: QualityTable) -> list[str] | None:
    """Return the digest of what each item's picture is made of; None where pictures are not the same each time.

    That is the file, how it is read and by which code; for a synthetic set the options of its draws, the photographs, the code
    that distorts them, and the item's number.
    """
    base = table.base
    if isinstance(base, SyntheticNRDataset):
        drawn = _digest(*_draws_of(base))
        return [_digest(drawn, index) for index in range(len(table))]
    if not reads_rows(base) or base.opt.get('augment'):
        return None
    # another Pillow may bring another JPEG decoder, and our own reader decides what upright, grey or 16 bits mean
    reader = _digest(_version_of('pillow'), _source_digest('decoding.py'), [inspect.getsource(each) for each in OF_PIXELS])
    read = [table.reading.upright, float(base.img_range), reader]
    return [_digest(remembered_sha256(row_paths(base, index)[0]), read) for index in range(len(table))]


def _draws_of(base: SyntheticNRDataset) -> list[Any]:
    options = {name: value for name, value in plain(base.options).items() if name not in NOT_OF_DRAWS}
    photographs = [[photograph.photograph_id, remembered_sha256(str(photograph.path))] for photograph in base.photographs]
    calibration = base.options.calibration
    return [options, photographs, remembered_sha256(calibration) if calibration else None,
            _source_digest('distortions', 'synthetic'),
            {name: _version_of(name) for name in DRAWN_BY}]


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # OpenCV has several packages
        return None


@functools.cache
def _source_digest(*names: str) -> str:
    """Return the digest of modules or packages of `pyiqa_rali.data`."""
    data = Path(__file__).parents[2] / 'data'
    files = sorted(path for name in names for path in ([data / name] if (data / name).is_file() else (data / name).iterdir())
                   if path.is_file())
    return _digest([[path.name, sha256(path)] for path in files])


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _short(digest: str) -> str:
    return digest[:16]
