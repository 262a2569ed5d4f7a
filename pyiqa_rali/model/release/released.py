"""The released RALI folder (hub repository ByteDance/Q-Insight, folder RALI), turned into our checkpoint.

Its files: `best/` (a transformers CLIPModel with its processor), `ckpt.pt`, `pca.pkl`, `basis.npz`. What `ckpt.pt` holds
takes precedence over the others; the PCA's mean is in `pca.pkl` only. Everything is read as data, and every tensor is
accounted for: it is used, or it belongs to the text tower, or it is rejected by name.
"""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, some
from pyiqa_rali.model.checkpoint import FORMAT_VERSION, check_scorer_tensors
from pyiqa_rali.model.release.clip_names import check_fit, is_text_tower, is_vision_tower, to_open_clip
from pyiqa_rali.model.release.clip_settings import encoder_config
from pyiqa_rali.model.release.pickles import read_joblib, read_npz, read_torch_tensors

FILES = ('best/config.json', 'ckpt.pt', 'pca.pkl')
WEIGHTS = ('model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin', 'pytorch_model.bin.index.json')
SHARDS = ('best/model*.safetensors', 'best/model.safetensors.index.json', 'best/pytorch_model*.bin',
          'best/pytorch_model.bin.index.json')
MOS_RANGE = (1.0, 5.0)
SCORER = ('pca_scale', 'pca_components', 'prototypes', 'proto_scores', 'logit_scale')


def is_released(folder: Path) -> bool:
    """Whether a folder has the layout of the released checkpoint."""
    return all((folder / name).is_file() for name in FILES)


def not_there_yet(folder: Path) -> list[str]:
    """Return patterns of the files that `ckpt.pt` leaves something to, and that the folder does not have."""
    state = read_torch_tensors(folder / 'ckpt.pt')
    missing: list[str] = []
    if not _own_vision(state) and not any((folder / 'best' / name).is_file() for name in WEIGHTS):
        missing += SHARDS
    if not _has_basis(state) and not (folder / 'basis.npz').is_file():
        missing.append('basis.npz')
    return missing


def read_released(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return our tensors and metadata for a released folder.

    Scores keep the unit of its basis scores: DeQA-Score's `gt_score_norm`, from 1 to 5. No file of the folder says so; the
    release's own evaluation compares its scores with these labels.

    Raises:
        CheckpointError: a file is missing or unreadable, or a tensor is missing, unknown, of another shape, or not finite.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f'{folder}: is not a released RALI folder; it lacks {some(missing)}.')
    state = read_torch_tensors(folder / 'ckpt.pt')
    config = encoder_config(folder / 'best')
    weights, source = vision_weights(folder, state)
    model_config = cast(dict[str, Any], config.model_config)  # `encoder_config` always describes the tower
    check_fit(weights, model_config, source, folder / 'best' / 'config.json')
    tensors = {f'image_encoder.backbone.{name}': tensor for name, tensor in to_open_clip(weights).items()}
    tensors.update({f'scorer.{name}': tensor for name, tensor in scorer_tensors(folder, state).items()})
    check_scorer_tensors(tensors, folder)
    _check_values(tensors, folder)
    metadata = {'format_version': FORMAT_VERSION, 'name': 'RALI (released)', 'image_encoder': config.to_dict(),
                'mos_range': list(MOS_RANGE), 'lower_better': False,
                'temperature': float(tensors['scorer.temperature']), 'licence': 'Apache-2.0',
                'training': {'data': 'KonIQ-10k, by the authors of arXiv 2510.11369', 'source': 'ByteDance/Q-Insight, RALI'}}
    return tensors, metadata


def scorer_tensors(folder: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the scorer in our names from `ckpt.pt`, `pca.pkl` and, where `ckpt.pt` is silent, `basis.npz`."""
    unknown = [name for name in state if not name.startswith('clip.') and name not in {f'scorer.{known}' for known in SCORER}]
    if unknown:
        raise CheckpointError(f'{folder / "ckpt.pt"}: holds {some(unknown)}, which no part of RALI takes.')
    vectors, scores = _basis(folder, state)
    return {'pca_mean': _pca_mean(folder / 'pca.pkl'),
            'pca_scale': _tensor(state, 'scorer.pca_scale', folder).float().abs(),
            'pca_components': _tensor(state, 'scorer.pca_components', folder).float(),
            'basis_vectors': vectors.float(), 'basis_scores': scores.float().reshape(-1),
            'temperature': 1 / _number(state, 'scorer.logit_scale', folder).clamp(min=1e-6)}


def _pca_mean(path: Path) -> Tensor:
    mean = read_joblib(path).get('mean_')
    if not isinstance(mean, np.ndarray) or mean.ndim != 1 or mean.dtype.kind != 'f':
        raise CheckpointError(f'{path}: has no array mean_ of numbers; without it the features cannot be standardised.')
    return torch.from_numpy(mean.astype(np.float32))


def _has_basis(state: dict[str, Tensor]) -> bool:
    return 'scorer.prototypes' in state and 'scorer.proto_scores' in state


def _basis(folder: Path, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return basis vectors and scores, both from one file: fine-tuning has changed them together."""
    if _has_basis(state):
        return state['scorer.prototypes'], state['scorer.proto_scores']
    half = [name for name in ('scorer.prototypes', 'scorer.proto_scores') if name in state]
    if half:
        raise CheckpointError(f'{folder / "ckpt.pt"}: holds {half[0]} without its counterpart; the basis is incomplete.')
    arrays = read_npz(folder / 'basis.npz', ('vectors', 'scores'))
    return torch.from_numpy(arrays['vectors']), torch.from_numpy(arrays['scores'])


def _tensor(state: dict[str, Tensor], name: str, folder: Path) -> Tensor:
    if name not in state:
        raise CheckpointError(f'{folder / "ckpt.pt"}: lacks {name}.')
    return state[name]


def _number(state: dict[str, Tensor], name: str, folder: Path) -> Tensor:
    tensor = _tensor(state, name, folder)
    if tensor.numel() != 1:
        raise CheckpointError(f'{folder / "ckpt.pt"}: {name} has shape {tuple(tensor.shape)}; one number is needed.')
    return tensor.float().reshape(())


def _check_values(tensors: dict[str, Tensor], folder: Path) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(f'{folder}: {some(broken)} has values that are not finite.')
    if (tensors['scorer.pca_scale'] == 0).any():
        raise CheckpointError(f'{folder / "ckpt.pt"}: scorer.pca_scale has zeros; features cannot be divided by them.')


def _own_vision(state: dict[str, Tensor]) -> bool:
    return any(name.startswith('clip.') and is_vision_tower(name.removeprefix('clip.')) for name in state)


def vision_weights(folder: Path, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Path]:
    """Return the vision tower in transformers' names, and the file it is from: `ckpt.pt` if it has it, otherwise `best/`.

    Raises:
        CheckpointError: no file holds it, or the CLIP has a tensor that is part of neither tower.
    """
    found = {name.removeprefix('clip.'): tensor for name, tensor in state.items() if name.startswith('clip.')}
    path = folder / 'ckpt.pt'
    if not _own_vision(state):
        found, path = _weights_of_best(folder)
    foreign = [name for name in found if not is_vision_tower(name) and not is_text_tower(name)]
    if foreign:
        raise CheckpointError(f'{path}: its CLIP holds {some(foreign)}, which is part of neither tower.')
    return {name: tensor for name, tensor in found.items() if is_vision_tower(name)}, path


def _weights_of_best(folder: Path) -> tuple[dict[str, Tensor], Path]:
    present = [folder / 'best' / name for name in WEIGHTS if (folder / 'best' / name).is_file()]
    if not present:
        raise CheckpointError(f'{folder}: neither ckpt.pt (clip.*) nor best/ ({", ".join(WEIGHTS)}) holds the image encoder.')
    if not present[0].name.endswith('.index.json'):
        return _read_weights(present[0]), present[0]
    try:
        shards = sorted(set(json.loads(present[0].read_text(encoding='utf-8'))['weight_map'].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f'{present[0]}: is not an index of weights ({error!r}).') from error
    found: dict[str, Tensor] = {}
    for shard in shards:
        found.update(_read_weights(folder / 'best' / Path(str(shard)).name))
    return found, present[0]


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix != '.safetensors':
        return read_torch_tensors(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path}: cannot be read as safetensors ({error}). It is missing or truncated; get it '
                              'again.') from error

