"""Our checkpoint: a safetensors file that describes itself, and the same weights as a `.pth` for pyiqa."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, some
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.model.checkpoint_bank import check_bank
from pyiqa_rali.model.checkpoint_diagnosis import DIAGNOSIS_FORMAT, check_diagnosis
from pyiqa_rali.model.checkpoint_interval import INTERVAL_FORMAT, check_interval
from pyiqa_rali.model.checkpoint_map import MAP_FORMAT, check_map
from pyiqa_rali.model.checkpoint_prompts import PROMPTS_FORMAT, check_prompts
from pyiqa_rali.model.foreign import EXPORT, what_foreign_tensors_are, why_no_tensors
from pyiqa_rali.model.wrapping import state_dict_in, wrapping

FORMAT_VERSION = 1  # of files that are written without a text bank
OWN_TEMPERATURE, DIRECTION = 'own_temperature', 'scorer.temperature_direction'  # key of the metadata, and its tensor
OWN_TEMPERATURE_FORMAT = 4  # earlier versions reject such files with a hint, and not by a tensor's name
NEWEST_FORMAT = max(OWN_TEMPERATURE_FORMAT, MAP_FORMAT, DIAGNOSIS_FORMAT, INTERVAL_FORMAT, PROMPTS_FORMAT)
METADATA_KEY = 'pyiqa_rali'
FILE_NAME = 'rali.safetensors'
NOT_OURS = f'has no "{METADATA_KEY}" metadata; it is not an export of pyiqa_rali.'
REQUIRED_METADATA = ('format_version', 'image_encoder', 'mos_range', 'lower_better')
SCORER_TENSORS = ('pca_mean', 'pca_scale', 'pca_components', 'basis_vectors', 'basis_scores', 'temperature')
TENSORS_AT_ONCE = 16
EXTRA_STATE_KEY = '_extra_state'


def save_checkpoint(path: str | os.PathLike, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and metadata as one safetensors file, atomically.

    Args:
        path: the file to write.
        tensors: `image_encoder.*`, `scorer.*` (`SCORER_TENSORS`) and, with a text bank or a diagnosis, `bank.*`, `diagnosis.*`;
            with an alignment with prompts `prompts.*` and `text_tower.*`.
        metadata: JSON values; `REQUIRED_METADATA` must be among them.

    Raises:
        CheckpointError: a required key is missing.
    """
    from safetensors.torch import save_file
    check_metadata(metadata, path)
    check_scorer_tensors(tensors, path)
    check_bank(tensors, metadata, path)
    check_diagnosis(tensors, metadata, path)
    check_interval(tensors, metadata, path)
    check_map(tensors, metadata, path)
    check_prompts(tensors, metadata, path)
    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary,
                  metadata={METADATA_KEY: json.dumps(metadata)})


def write_checkpoint(path: str | os.PathLike, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a checkpoint in the format that the readers take for its extension: `.pth` and `.pt`, else safetensors."""
    (save_pth if Path(path).suffix in ('.pth', '.pt') else save_checkpoint)(path, tensors, metadata)


def load_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: a `.safetensors` or `.pth` file, or a folder that holds `rali.safetensors`.

    Names may have the prefixes that DataParallel, torch.compile or pyiqa's metric put before them; the state dict of a torch
    file may stand under 'params', 'state_dict' or 'model', or be the file.

    Returns:
        The tensors by name, on the CPU, and the metadata.

    Raises:
        CheckpointError: the file is missing, truncated, or not one of ours; the message names it.
    """
    path = checkpoint_file(path)
    tensors, metadata = _read_pth(path) if path.suffix in ('.pth', '.pt') else _read_safetensors(path)
    check_metadata(metadata, path)
    check_scorer_tensors(tensors, path)
    check_bank(tensors, metadata, path)
    check_diagnosis(tensors, metadata, path)
    check_interval(tensors, metadata, path)
    check_map(tensors, metadata, path)
    check_prompts(tensors, metadata, path)
    return tensors, metadata


def with_types(path: str | os.PathLike, tensors: dict[str, Tensor], dtypes: dict[str, torch.dtype]) -> dict[str, Tensor]:
    """Return the tensors of `load_checkpoint(path)` in the wanted types; what has its type already stays mapped.

    A mapped file counts as memory once it is read. So it is opened anew for every few tensors that are cast.
    """
    path = checkpoint_file(path)
    changed = [name for name, tensor in tensors.items() if tensor.dtype != dtypes.get(name, tensor.dtype)]
    if path.suffix in ('.pth', '.pt'):
        return {**tensors, **{name: tensors[name].to(dtypes[name]) for name in changed}}
    from safetensors import safe_open
    cast = {}
    for start in range(0, len(changed), TENSORS_AT_ONCE):
        with safe_open(path, framework='pt') as stream:
            prefix = wrapping(stream.keys())
            for name in changed[start:start + TENSORS_AT_ONCE]:
                cast[name] = stream.get_tensor(prefix + name).to(dtypes[name])
    return {**tensors, **cast}


def load_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Read only the metadata of a checkpoint (raises as `load_checkpoint`)."""
    path = checkpoint_file(path)
    if path.suffix in ('.pth', '.pt'):
        return load_checkpoint(path)[1]
    metadata = _read_safetensors(path, with_tensors=False)[1]
    check_metadata(metadata, path)
    return metadata


def checkpoint_file(path: str | os.PathLike) -> Path:
    """Return the checkpoint file that `path`, a file or folder, stands for."""
    path = Path(path).expanduser()
    if path.is_dir():
        found = path / FILE_NAME
        if not found.is_file():
            present = some(sorted(item.name for item in path.iterdir())) or 'nothing'
            raise CheckpointError(f'{path}: no {FILE_NAME} in this folder (it holds {present}). Give the folder of an '
                                  f'export, or the file itself.')
        return found
    if not path.is_file():
        raise CheckpointError(f'{path}: no such file or folder. Give the path of an export of pyiqa_rali.train.')
    return path


def _read_safetensors(path: Path, with_tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework='pt') as stream:
            text = (stream.metadata() or {}).get(METADATA_KEY)
            prefix, names = wrapping(stream.keys()), list(stream.keys())
            carried = stream.get_tensor(prefix + EXTRA_STATE_KEY) if prefix + EXTRA_STATE_KEY in names else None
            if not text and carried is None:
                raise CheckpointError(f'{path}: {NOT_OURS} {what_foreign_tensors_are(names)}')
            metadata = _parse_metadata(text, path) if text or carried is None else metadata_from_extra_state(carried, path)
            tensors = {name.removeprefix(prefix): stream.get_tensor(name) for name in names} if with_tensors else {}
            tensors.pop(EXTRA_STATE_KEY, None)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path}: cannot be read as safetensors ({error}). The file is truncated or of another '
                              'format; copy or export it again.') from error
    return tensors, metadata


def _read_pth(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch.load raises another class for each way in which a file can be broken
        raise CheckpointError(f'{path}: cannot be read as a torch file of tensors ({type(error).__name__}). '
                              f'{why_no_tensors(path)}') from error
    tensors = state_dict_in(content)
    if not tensors or not any(torch.is_tensor(value) for value in tensors.values()):
        raise CheckpointError(f'{path}: holds no "params" and no other state dict; it is not an export of pyiqa_rali. Give '
                              f'{EXPORT}.')
    if EXTRA_STATE_KEY not in tensors:
        raise CheckpointError(f'{path}: {NOT_OURS} {what_foreign_tensors_are(tensors)}')
    return tensors, metadata_from_extra_state(tensors.pop(EXTRA_STATE_KEY), path)


def _parse_metadata(text: str | None, path: str | os.PathLike) -> dict[str, Any]:
    if text is None:
        raise CheckpointError(f'{path}: {NOT_OURS} Give {EXPORT}.')
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f'{path}: its "{METADATA_KEY}" metadata is not valid JSON ({error}).') from error


def check_metadata(metadata: dict[str, Any], path: str | os.PathLike) -> None:
    """Raise CheckpointError when a required key is missing or the format is newer than this version reads."""
    missing = [key for key in REQUIRED_METADATA if key not in metadata]
    if missing:
        raise CheckpointError(f'{path}: its metadata lacks {some(missing)}.')
    if metadata['format_version'] > NEWEST_FORMAT:
        raise CheckpointError(f'{path}: format_version {metadata["format_version"]} is newer than the {NEWEST_FORMAT} '
                              'that this version of pyiqa_rali reads. Upgrade pyiqa-rali.')


def check_scorer_tensors(tensors: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Raise CheckpointError when the scorer's tensors are missing, do not fit each other, or are not finite."""
    missing = [f'scorer.{name}' for name in SCORER_TENSORS if f'scorer.{name}' not in tensors]
    if missing:
        raise CheckpointError(f'{path}: lacks the tensors {some(missing)}.')
    pca_dim, feature_dim = tensors['scorer.pca_components'].shape
    num_basis = tensors['scorer.basis_vectors'].shape[0]
    expected: dict[str, tuple[int, ...]] = {
        'pca_mean': (feature_dim,), 'pca_scale': (feature_dim,), 'basis_vectors': (num_basis, pca_dim),
        'basis_scores': (num_basis,), 'temperature': ()}
    names = list(SCORER_TENSORS)
    if DIRECTION in tensors:
        names.append(DIRECTION.removeprefix('scorer.'))
        expected[names[-1]] = (pca_dim,)
    for name, shape in expected.items():
        found = tuple(tensors[f'scorer.{name}'].shape)
        if found != shape:
            raise CheckpointError(f'{path}: scorer.{name} has shape {found}; with {feature_dim} features, '
                                  f'{pca_dim} components and {num_basis} basis vectors it must be {shape}.')
    for name in names:
        if not tensors[f'scorer.{name}'].isfinite().all():
            raise CheckpointError(f'{path}: scorer.{name} has values that are not finite. The file is damaged, or its training '
                                  'diverged; copy or export it again.')


def metadata_to_extra_state(metadata: dict[str, Any]) -> Tensor:
    """Return metadata as a byte tensor, so that a plain state dict carries it."""
    return torch.frombuffer(bytearray(json.dumps(metadata).encode()), dtype=torch.uint8)


def metadata_from_extra_state(state: Tensor | None, path: str | os.PathLike = 'state dict') -> dict[str, Any]:
    """Return the metadata that `metadata_to_extra_state` stored.

    Raises:
        CheckpointError: there is none; `path` names the source in the message.
    """
    text = None if state is None else bytes(state.cpu().numpy().tobytes()).decode()
    return _parse_metadata(text, path)


def save_pth(path: str | os.PathLike, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write `{'params': state_dict}` for pyiqa's own `metric.load_weights(path)`, atomically."""
    check_metadata(metadata, path)
    params = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        torch.save({'params': {**params, EXTRA_STATE_KEY: metadata_to_extra_state(metadata)}}, temporary)
