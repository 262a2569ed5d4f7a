"""Which weights are trained in stage 1, and at which learning rate."""

import re

from torch import nn

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.training.rali.losses import ContrastiveLoss
from pyiqa_rali.training.rali.options import AlignOptions
from pyiqa_rali.training.rali.towers import Towers

_BLOCK = re.compile(r'^(.*?(?:resblocks|blocks|stages|layers|layer)[._]?\d+(?:\.(?:blocks\.)?\d+)?)')
_HEAD = re.compile(r'^(head|proj|ln_post|norm\.|fc_norm|attn_pool|trunk\.(norm|attn_pool|head))')


def layer_names(backbone: nn.Module) -> list[str]:
    """Return the backbone's layers in order: the stem, each block, and the head (what comes after the last block)."""
    seen = dict.fromkeys(layer_of(name) for name, _ in backbone.named_parameters())
    blocks = [name for name in seen if name not in ('stem', 'head')]
    return ['stem', *blocks, 'head']


def layer_of(parameter_name: str) -> str:
    """Return the layer that a parameter of a backbone belongs to.

    Example:
        >>> layer_of('transformer.resblocks.3.attn.in_proj_weight')
        'transformer.resblocks.3'
        >>> layer_of('conv1.weight')
        'stem'
    """
    block = _BLOCK.match(parameter_name)
    if block:
        return block.group(1)
    return 'head' if _HEAD.match(parameter_name) else 'stem'


def trainable_groups(towers: Towers, loss: ContrastiveLoss, options: AlignOptions) -> list[dict]:
    """Freeze what is not trained, and return AdamW's groups for the rest: backbone by layer, projection, text encoder, loss.

    Raises:
        OptionError: more layers would be frozen than there are.
    """
    backbone = towers.image_encoder.backbone
    layers = layer_names(backbone)
    frozen = len(layers) if options.freeze_layers == -1 else options.freeze_layers
    if not 0 <= frozen <= len(layers):
        raise OptionError(f'align: freeze_layers: {options.freeze_layers} must be -1 (all) or 0 to {len(layers)} for this '
                          'encoder.')
    groups = []
    for name, parameter in backbone.named_parameters():
        depth = layers.index(layer_of(name))
        parameter.requires_grad_(depth >= frozen)
        rate = options.lr * options.layer_decay ** (len(layers) - 1 - depth)
        groups.append((parameter, rate))
    groups += [(parameter, options.lr_projection or options.lr) for parameter in towers.image_encoder.projection.parameters()]
    for parameter in towers.text_encoder.parameters():
        parameter.requires_grad_(towers.text_encoder.train_weights)
        groups.append((parameter, options.lr_text or options.lr))
    groups += [(parameter, options.lr_projection or options.lr) for parameter in loss.parameters()]
    return _merged([(parameter, rate) for parameter, rate in groups if parameter.requires_grad], options.weight_decay)


def _merged(parameters: list[tuple[nn.Parameter, float]], weight_decay: float) -> list[dict]:
    """Put parameters of one rate and decay into one group; vectors and scalars are not decayed."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, rate in parameters:
        groups.setdefault((rate, weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    return [{'params': members, 'lr': rate, 'weight_decay': decay} for (rate, decay), members in groups.items()]
