"""The names of CLIP's tensors: transformers' turned into open_clip's, and every one of them accounted for."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyiqa_rali.errors import CheckpointError, some

_VISION = 'vision_model.'
_RENAMED = {'embeddings.class_embedding': 'class_embedding', 'embeddings.patch_embedding.weight': 'conv1.weight',
            'embeddings.position_embedding.weight': 'positional_embedding', 'pre_layrnorm': 'ln_pre',
            'post_layernorm': 'ln_post', 'layer_norm1': 'ln_1', 'layer_norm2': 'ln_2', 'mlp.fc1': 'mlp.c_fc',
            'mlp.fc2': 'mlp.c_proj', 'self_attn.out_proj': 'attn.out_proj', 'encoder.layers': 'transformer.resblocks'}


def is_vision_tower(name: str) -> bool:
    """Whether a tensor of a transformers CLIPModel belongs to the vision tower."""
    return name.startswith((_VISION, 'visual_projection.'))


def is_text_tower(name: str) -> bool:
    """Whether a tensor of a transformers CLIPModel belongs to the text tower or to the comparison with it."""
    return name.startswith(('text_model.', 'text_projection.')) or name == 'logit_scale'


def to_open_clip(weights: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Rename a transformers CLIP vision tower to open_clip's `visual`: q, k and v become one matrix.

    Raises:
        CheckpointError: the projection is missing, or a layer lacks one of q, k and v.
    """
    if 'visual_projection.weight' not in weights:
        raise CheckpointError(f'{source}: its CLIP has no visual_projection.weight.')
    renamed = {}
    for name, tensor in weights.items():
        own = name.removeprefix(_VISION)
        attention = re.match(r'encoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.(weight|bias)$', own)
        if name == 'visual_projection.weight':
            renamed['proj'] = tensor.T.contiguous()
        elif attention:
            target = f'transformer.resblocks.{attention[1]}.attn.in_proj_{attention[2]}'
            if target not in renamed:
                renamed[target] = _joined(weights, name, source)
        elif not name.endswith('embeddings.position_ids'):  # numbers from 0 up, which older versions saved
            for old, new in _RENAMED.items():
                own = own.replace(old, new)
            renamed[own] = tensor
    return renamed


def _joined(weights: dict[str, Tensor], name: str, source: Path) -> Tensor:
    names = [re.sub(r'self_attn\.[qkv]_proj', f'self_attn.{part}_proj', name) for part in 'qkv']
    missing = [part for part in names if part not in weights]
    if missing:
        raise CheckpointError(f'{source}: its CLIP lacks {some(missing)}.')
    return torch.cat([weights[part] for part in names])


def check_fit(backbone: dict[str, Tensor], model_config: dict[str, Any], source: Path, config_file: Path) -> None:
    """Compare tensors with those of the tower that a configuration names.

    Raises:
        CheckpointError: a tensor is missing, is not used, or has another shape; the message names it in open_clip's words.
    """
    from pyiqa_rali.archs.clip_tower import build_clip_tower
    with torch.device('meta'):
        wanted = {name: tuple(tensor.shape) for name, tensor in build_clip_tower(model_config).state_dict().items()}
    missing, unused = sorted(wanted.keys() - backbone.keys()), sorted(backbone.keys() - wanted.keys())
    if missing:
        raise CheckpointError(f'{source}: lacks {some(missing)} of the image encoder that {config_file} describes.')
    if unused:
        raise CheckpointError(f'{source}: holds {some(unused)}, which the image encoder that {config_file} describes does not '
                              'have.')
    for name, shape in wanted.items():
        if tuple(backbone[name].shape) != shape:
            raise CheckpointError(f'{source}: {name} has shape {tuple(backbone[name].shape)}; by {config_file} it must be '
                                  f'{shape}.')
