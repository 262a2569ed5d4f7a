"""The names of CLIP's tensors: transformers' turned into open_clip's, and every one of them accounted for."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, some

_VISION = 'vision_model.'
POSITION_IDS = 'vision_model.embeddings.position_ids'  # numbers from 0 up, which older versions saved
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


def expected_shapes(model_config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the vision tower of an open_clip configuration, in transformers' words."""
    vision, embed_dim = model_config['vision_cfg'], model_config['embed_dim']
    width, patch = vision['width'], vision['patch_size']
    hidden = round(width * vision['mlp_ratio'])
    shapes = {'embeddings.class_embedding': (width,), 'embeddings.patch_embedding.weight': (width, 3, patch, patch),
              'embeddings.position_embedding.weight': ((vision['image_size'] // patch) ** 2 + 1, width)}
    layers = {'self_attn.q_proj': (width, width), 'self_attn.k_proj': (width, width), 'self_attn.v_proj': (width, width),
              'self_attn.out_proj': (width, width), 'mlp.fc1': (hidden, width), 'mlp.fc2': (width, hidden),
              'layer_norm1': (width,), 'layer_norm2': (width,)}
    modules = {f'encoder.layers.{number}.{name}': shape for number in range(vision['layers']) for name, shape in layers.items()}
    for name, shape in {'pre_layrnorm': (width,), **modules, 'post_layernorm': (width,)}.items():
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = shape, shape[:1]
    return {**{_VISION + name: shape for name, shape in shapes.items()}, 'visual_projection.weight': (embed_dim, width)}


def check_fit(weights: dict[str, Tensor], model_config: dict[str, Any], source: Path, config_file: Path) -> None:
    """Compare a vision tower's tensors with what a configuration names.

    Raises:
        CheckpointError: a tensor is missing, is not used, has another shape or is not of floating-point numbers.
    """
    wanted = expected_shapes(model_config)
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise CheckpointError(f'{source}: its CLIP lacks {some(missing)}, which {config_file} describes.')
    unused = [name for name in weights if name not in wanted and name != POSITION_IDS]
    if unused:
        raise CheckpointError(f'{source}: its CLIP holds {some(unused)}, which {config_file} does not describe.')
    for name, shape in wanted.items():
        if tuple(weights[name].shape) != shape or not weights[name].is_floating_point():
            raise CheckpointError(f'{source}: {name} is {weights[name].dtype} of shape {tuple(weights[name].shape)}; by '
                                  f'{config_file} it must be floating-point numbers of shape {shape}.')


def to_open_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the vision tower of a transformers CLIP that `check_fit` has seen: q, k and v become one matrix."""
    renamed = {'proj': weights['visual_projection.weight'].T.contiguous()}
    for name, tensor in weights.items():
        own = name.removeprefix(_VISION)
        attention = re.match(r'encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)$', own)
        if attention and attention[2] == 'q':
            parts = [weights[name.replace('q_proj', f'{part}_proj')] for part in 'qkv']
            renamed[f'transformer.resblocks.{attention[1]}.attn.in_proj_{attention[3]}'] = torch.cat(parts)
        elif not attention and own not in ('visual_projection.weight', POSITION_IDS.removeprefix(_VISION)):
            for old, new in _RENAMED.items():
                own = own.replace(old, new)
            renamed[own] = tensor
    return renamed
