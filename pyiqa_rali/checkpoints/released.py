"""The released RALI folder (hub repository ByteDance/Q-Insight, folder RALI), turned into our checkpoint.

Its files: `best/` (a transformers CLIPModel with its processor), `ckpt.pt`, `pca.pkl`, `basis.npz`. What `ckpt.pt` holds
goes before the others; the PCA's mean stands in `pca.pkl` only. Everything is read as data.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyiqa_rali.archs.image_encoder import ImageEncoderConfig
from pyiqa_rali.archs.preprocessing import Preprocessing
from pyiqa_rali.checkpoints.format import FORMAT_VERSION
from pyiqa_rali.checkpoints.pickles import read_joblib, read_npz, read_torch_tensors
from pyiqa_rali.errors import CheckpointError, some

FILES = ('best/config.json', 'ckpt.pt', 'pca.pkl')
RESAMPLING = {2: 'bilinear', 3: 'bicubic'}  # Pillow's numbers
SCORER = ('pca_scale', 'pca_components', 'prototypes', 'proto_scores', 'logit_scale')
_VISION = 'vision_model.'
_RENAMED = {'embeddings.class_embedding': 'class_embedding', 'embeddings.patch_embedding.weight': 'conv1.weight',
            'embeddings.position_embedding.weight': 'positional_embedding', 'pre_layrnorm': 'ln_pre',
            'post_layernorm': 'ln_post', 'layer_norm1': 'ln_1', 'layer_norm2': 'ln_2', 'mlp.fc1': 'mlp.c_fc',
            'mlp.fc2': 'mlp.c_proj', 'self_attn.out_proj': 'attn.out_proj', 'encoder.layers': 'transformer.resblocks'}


def is_released(folder: Path) -> bool:
    """Whether a folder has the layout of the released checkpoint."""
    return all((folder / name).is_file() for name in FILES)


def read_released(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return our tensors and metadata for a released folder.

    Scores keep the unit of its basis scores. That unit is written down nowhere in the folder, so `mos_range` is the range
    that its scores can take: from the lowest to the highest basis score.

    Raises:
        CheckpointError: a file is missing or unreadable, or a tensor is missing or has another shape.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f'{folder}: is not a released RALI folder; it lacks {some(missing)}.')
    state = read_torch_tensors(folder / 'ckpt.pt')
    config, weights = encoder_config(folder / 'best'), vision_weights(folder, state)
    tensors = {f'image_encoder.backbone.{name}': tensor for name, tensor in to_open_clip(weights, folder).items()}
    tensors.update({f'scorer.{name}': tensor for name, tensor in scorer_tensors(folder, state).items()})
    scores = tensors['scorer.basis_scores']
    metadata = {'format_version': FORMAT_VERSION, 'name': 'RALI (released)', 'image_encoder': config.to_dict(),
                'mos_range': [float(scores.min()), float(scores.max())], 'lower_better': False,
                'temperature': float(tensors['scorer.temperature']), 'licence': 'Apache-2.0',
                'training': {'data': 'KonIQ-10k, by the authors of arXiv 2510.11369', 'source': 'ByteDance/Q-Insight, RALI'}}
    return tensors, metadata


def scorer_tensors(folder: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the scorer in our names from `ckpt.pt`, `pca.pkl` and, where `ckpt.pt` is silent, `basis.npz`."""
    unknown = [name for name in state if not name.startswith('clip.') and name not in {f'scorer.{known}' for known in SCORER}]
    if unknown:
        raise CheckpointError(f'{folder / "ckpt.pt"}: holds {some(unknown)}, which no part of RALI takes.')
    pca = read_joblib(folder / 'pca.pkl')
    if not isinstance(pca.get('mean_'), np.ndarray):
        raise CheckpointError(f'{folder / "pca.pkl"}: has no array mean_; without it the features cannot be standardised.')
    vectors, scores = state.get('scorer.prototypes'), state.get('scorer.proto_scores')
    if vectors is None or scores is None:
        basis = read_npz(folder / 'basis.npz')
        vectors, scores = (_array(basis, name, folder / 'basis.npz') for name in ('vectors', 'scores'))
    return {'pca_mean': torch.from_numpy(pca['mean_']).float(),
            'pca_scale': _tensor(state, 'scorer.pca_scale', folder).float().abs(),
            'pca_components': _tensor(state, 'scorer.pca_components', folder).float(),
            'basis_vectors': vectors.float(), 'basis_scores': scores.float().reshape(-1),
            'temperature': 1 / _tensor(state, 'scorer.logit_scale', folder).float().reshape(()).clamp(min=1e-6)}


def _tensor(state: dict[str, Tensor], name: str, folder: Path) -> Tensor:
    if name not in state:
        raise CheckpointError(f'{folder / "ckpt.pt"}: lacks {name}.')
    return state[name]


def _array(arrays: dict[str, np.ndarray], name: str, path: Path) -> Tensor:
    if name not in arrays:
        raise CheckpointError(f'{path}: lacks {name}.')
    return torch.from_numpy(arrays[name])


def vision_weights(folder: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the vision tower in transformers' names: from `ckpt.pt` where it has it, otherwise from `best/`."""
    own = {name.removeprefix('clip.'): tensor for name, tensor in state.items()
           if name.startswith(('clip.vision_model.', 'clip.visual_projection.'))}
    if own:
        return own
    safetensors, pickled = folder / 'best' / 'model.safetensors', folder / 'best' / 'pytorch_model.bin'
    if safetensors.is_file():
        from safetensors.torch import load_file
        return load_file(safetensors)
    if pickled.is_file():
        return read_torch_tensors(pickled)
    raise CheckpointError(f'{folder}: neither ckpt.pt (clip.*) nor best/ (model.safetensors, pytorch_model.bin) holds the '
                          'image encoder.')


def to_open_clip(weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Rename a transformers CLIP vision tower to open_clip's `visual`: q, k and v become one matrix.

    Raises:
        CheckpointError: the projection is missing, or a layer lacks one of q, k and v.
    """
    if 'visual_projection.weight' not in weights:
        raise CheckpointError(f'{folder}: its CLIP has no visual_projection.weight.')
    renamed = {'proj': weights['visual_projection.weight'].T.contiguous()}
    for name, tensor in weights.items():
        if not name.startswith(_VISION) or name.endswith('position_ids'):
            continue
        name = name.removeprefix(_VISION)
        attention = re.match(r'encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)$', name)
        if attention:
            parts = [weights.get(_VISION + name.replace('q_proj', f'{part}_proj')) for part in 'qkv']
            if any(part is None for part in parts):
                raise CheckpointError(f'{folder}: its CLIP lacks a part of {name}.')
            renamed[f'transformer.resblocks.{attention[1]}.attn.in_proj_{attention[2]}'] = torch.cat(parts)
        elif not re.search(r'self_attn\.[kv]_proj\.', name):
            for old, new in _RENAMED.items():
                name = name.replace(old, new)
            renamed[name] = tensor
    return renamed


def encoder_config(best: Path) -> ImageEncoderConfig:
    """Return the encoder's configuration from `config.json` and the processor's.

    Raises:
        CheckpointError: a file or key is missing, or the model is no CLIP that open_clip can build.
    """
    config = _read_json(best / 'config.json')
    vision = config.get('vision_config') or {}
    try:
        activation = vision.get('hidden_act', 'quick_gelu')
        width = vision['hidden_size']
        model_config = {
            'embed_dim': config['projection_dim'], 'quick_gelu': activation == 'quick_gelu',
            'vision_cfg': {'image_size': vision['image_size'], 'layers': vision['num_hidden_layers'], 'width': width,
                           'head_width': width // vision['num_attention_heads'], 'patch_size': vision['patch_size'],
                           'mlp_ratio': vision['intermediate_size'] / width}}
    except KeyError as error:
        raise CheckpointError(f'{best / "config.json"}: lacks {error}.') from error
    if activation not in ('quick_gelu', 'gelu'):
        raise CheckpointError(f'{best / "config.json"}: hidden_act {activation} is not quick_gelu or gelu.')
    preprocessing = _preprocessing(best / 'preprocessor_config.json')
    return ImageEncoderConfig('open_clip', 'released CLIP', preprocessing, config['projection_dim'], model_config)


def _preprocessing(path: Path) -> Preprocessing:
    values = _read_json(path)
    values = values.get('image_processor', values)
    try:
        size, crop = values['size'], values['crop_size']
        shortest = size['shortest_edge'] if isinstance(size, dict) else size
        side = crop['height'] if isinstance(crop, dict) else crop
        return Preprocessing(image_size=side, resize_size=shortest, resize_mode='shortest', crop_rounding='floor',
                             interpolation=RESAMPLING[values['resample']], mean=tuple(values['image_mean']),
                             std=tuple(values['image_std']))
    except KeyError as error:
        raise CheckpointError(f'{path}: lacks {error}, or has a value that is not known.') from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f'{path}: cannot be read ({error}).') from error
