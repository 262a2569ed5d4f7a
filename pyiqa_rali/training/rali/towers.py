"""The two towers of a run: image encoder and text encoder with their pretrained weights, built from the options."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError, OptionError, first_line, some
from pyiqa_rali.core.hub import cache_alone_when_out_of_reach
from pyiqa_rali.core.options import Count, from_known_keys
from pyiqa_rali.model.checkpoint import load_checkpoint
from pyiqa_rali.model.encoder_file import is_encoder_file, load_encoder
from pyiqa_rali.model.image_encoder import (
    ImageEncoder,
    ImageEncoderConfig,
    StageStatistics,
    build_image_encoder,
    open_clip_model_config,
)
from pyiqa_rali.model.locate import EMBEDDED, embedded_file
from pyiqa_rali.model.preprocessing import Preprocessing
from pyiqa_rali.model.wrapping import state_dict_in
from pyiqa_rali.training.rali.options import PathOptions, TextEncoderOptions
from pyiqa_rali.training.rali.text_encoders import OpenClipText, SentenceEncoder, TextEncoder, installed_folder


@dataclasses.dataclass
class EncoderOptions:
    """`network: image_encoder:` of an option file.

    Attributes:
        library: 'open_clip' or 'timm'.
        name: the model's name there.
        pretrained: open_clip's tag or a weight file; for timm True (its own weights), a file, or
            'installed:PACKAGE' (weights that a Python package ships); None means random weights.
        embed_dim: width C; None takes the open_clip model's, or the text encoder's.
        pooling: see `ImageEncoderConfig`.
        projection_dim: see `ImageEncoderConfig`.
        preprocessing: values that replace the encoder's own (see `Preprocessing`).
    """

    library: Literal['open_clip', 'timm']
    name: str
    pretrained: str | bool | None = None
    embed_dim: Count | None = None
    pooling: Literal['head', 'mean_std'] = 'head'
    projection_dim: Count | None = None
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Towers:
    """Both encoders, and the scale and bias of the model's own loss (None where it has none)."""

    image_encoder: ImageEncoder
    text_encoder: TextEncoder
    logit_scale: float | None = None
    logit_bias: float | None = None


def build_towers(network: dict[str, Any], text: TextEncoderOptions, path: PathOptions) -> Towers:
    """Build image and text encoder with their pretrained weights.

    Raises:
        OptionError: names, widths or libraries do not fit together.
        CheckpointError: weights cannot be found, or `path: pretrain_network` does not fit.
    """
    network = {'type': 'RALI', **network}
    unknown = set(network) - {'type', 'image_encoder'}
    if unknown or network['type'] != 'RALI':
        raise OptionError(f'network: {some(unknown) or network["type"]} is not known; it takes type: RALI and image_encoder.')
    encoder = from_known_keys(EncoderOptions, network.get('image_encoder', {}), 'network: image_encoder')
    towers = _open_clip_towers(encoder, text) if encoder.library == 'open_clip' else _timm_towers(encoder, text)
    if towers.image_encoder.config.embed_dim != towers.text_encoder.embed_dim:
        raise OptionError(f'network: image_encoder: gives {towers.image_encoder.config.embed_dim} features and the text '
                          f'encoder {towers.text_encoder.embed_dim}; both must be equal. Choose another text_encoder.')
    if path.pretrain_network:
        load_image_encoder(towers.image_encoder, path.pretrain_network, path.strict_load)
    return towers


def load_image_encoder(encoder: ImageEncoder, path: str | list[str], strict: bool) -> None:
    """Start from the image encoder of an export of this package, or of embedded weights by their name, or the mean of several.

    The mean of runs that began with the same weights is a model soup (arXiv 2203.05482).

    Raises:
        CheckpointError: a file cannot be read, does not fit the encoder, or does not fit the others.
    """
    starts = start_files(path)
    states = [_image_encoder_state(start_file(start)) for start in starts]
    for start, state in zip(starts, states, strict=True):
        try:
            encoder.load_state_dict(state, strict=strict)
        except RuntimeError as error:
            raise CheckpointError(f'path: pretrain_network: {start} does not fit the network: {error}') from error
    if len(states) > 1:
        encoder.load_state_dict(_mean(starts, states), strict=strict)


def start_files(start: str | list[str] | None) -> list[str]:
    """Return what `path: pretrain_network` names, as a list."""
    return [start] if isinstance(start, str) and start else list(start or [])


def _image_encoder_state(file: str | Path) -> dict[str, Tensor]:
    if Path(file).is_file() and is_encoder_file(Path(file)):
        return load_encoder(Path(file)).state_dict()
    tensors, _ = load_checkpoint(file)
    prefix = 'image_encoder.'
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _mean(names: list[str], states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor, in float32; of counters and switches those of the first."""
    first = states[0]
    for name, state in zip(names, states, strict=True):
        if set(state) != set(first):
            raise CheckpointError(f'path: pretrain_network: {name} has other tensors than {names[0]}; a mean is taken of '
                                  'encoders that are built alike.')
    return {name: torch.stack([state[name].float() for state in states]).mean(0) if tensor.is_floating_point() else tensor
            for name, tensor in first.items()}


def start_file(path: str) -> str | Path:
    """Return the file of `path: pretrain_network`: itself, or that of embedded weights by their name."""
    return embedded_file(path) if path in EMBEDDED and not Path(path).exists() else os.path.expanduser(path)


def _open_clip_towers(encoder: EncoderOptions, text: TextEncoderOptions) -> Towers:
    import open_clip
    model_config = open_clip_model_config(encoder.name)
    elsewhere = bool(encoder.pretrained) and not Path(str(encoder.pretrained)).exists()
    with _told(f'network: image_encoder: pretrained: {encoder.pretrained} of {encoder.name}', elsewhere):
        model = open_clip.create_model(encoder.name, pretrained=encoder.pretrained or None, pretrained_text=False)
    config = ImageEncoderConfig('open_clip', encoder.name, _open_clip_preprocessing(model, encoder),
                                model_config['embed_dim'], model_config)
    image_encoder = build_image_encoder(config)
    image_encoder.backbone.load_state_dict(model.visual.state_dict())
    scale = float(model.logit_scale.detach().exp())
    bias = float(model.logit_bias.detach()) if getattr(model, 'logit_bias', None) is not None else None
    if text.library == 'transformers':
        return Towers(image_encoder, SentenceEncoder(text.path, text.train, text.split_sentences))
    elsewhere = 'hf_tokenizer_name' in model_config.get('text_cfg', {})
    with _told(f'text_encoder: library: the tokenizer of {encoder.name} in open_clip', elsewhere):
        tokenizer = open_clip.get_tokenizer(encoder.name)
    tower = OpenClipText(model, tokenizer, model_config['embed_dim'], text.train, text.split_sentences)
    return Towers(image_encoder, tower, scale, bias)


@contextlib.contextmanager
def _told(what: str, from_hub: bool) -> Iterator[None]:
    """Turn what open_clip and timm raise, mostly for lack of a network, into an error that says what to give."""
    try:
        with cache_alone_when_out_of_reach() if from_hub else contextlib.nullcontext():
            yield
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f'{what} cannot be obtained: {first_line(error)}. Give what is on this machine; or, with a '
                              'network, set HF_ENDPOINT to a mirror that can be reached.') from error


def _open_clip_preprocessing(model: Any, encoder: EncoderOptions) -> Preprocessing:
    size = model.visual.image_size
    size = size[0] if isinstance(size, (tuple, list)) else size
    own = getattr(model.visual, 'preprocess_cfg', {})
    values = {'image_size': size, 'resize_mode': own.get('resize_mode', 'shortest'),
              'interpolation': own.get('interpolation', 'bicubic'), 'mean': tuple(own.get('mean', Preprocessing.mean)),
              'std': tuple(own.get('std', Preprocessing.std)), **encoder.preprocessing}
    return from_known_keys(Preprocessing, values, 'network: image_encoder: preprocessing')


def _timm_towers(encoder: EncoderOptions, text: TextEncoderOptions) -> Towers:
    if text.library != 'transformers':
        raise OptionError('text_encoder: library: must be transformers for a timm image encoder, which has no text tower of '
                          'its own.')
    text_encoder = SentenceEncoder(text.path, text.train, text.split_sentences)
    image_encoder = build_image_encoder(_timm_config(encoder, encoder.embed_dim or text_encoder.embed_dim))
    if encoder.pretrained:
        _load_timm_backbone(image_encoder.backbone, _timm_weights(encoder))
    return Towers(image_encoder, text_encoder)


def _timm_config(encoder: EncoderOptions, embed_dim: int) -> ImageEncoderConfig:
    import timm
    own: dict[str, Any] = timm.data.resolve_data_config({}, model=timm.create_model(encoder.name, pretrained=False)) \
        if timm.is_model(encoder.name) else {'input_size': (3, 224, 224), 'crop_pct': 1.0, 'interpolation': 'bicubic',
                                             'mean': Preprocessing.mean, 'std': Preprocessing.std}
    size = own['input_size'][-1]
    values = {'image_size': size, 'resize_size': int(size / own['crop_pct']), 'interpolation': own['interpolation'],
              'mean': tuple(own['mean']), 'std': tuple(own['std']), **encoder.preprocessing}
    if values.get('resize_mode') == 'native' and 'resize_size' not in encoder.preprocessing:
        values['resize_size'] = None
    if values.get('resize_mode') == 'native':
        values['image_size'] = None
    preprocessing = from_known_keys(Preprocessing, values, 'network: image_encoder: preprocessing')
    return ImageEncoderConfig('timm', encoder.name, preprocessing, embed_dim, None, encoder.pooling,
                              encoder.projection_dim)


def _timm_weights(encoder: EncoderOptions) -> dict[str, Tensor]:
    """Return the full timm model's state dict from timm's own weights, a file, or an installed package."""
    import timm
    with _told(f'network: image_encoder: pretrained: the weights of {encoder.name} in timm', encoder.pretrained is True):
        full = timm.create_model(encoder.name, pretrained=encoder.pretrained is True)
    if encoder.pretrained is True:
        return full.state_dict()
    found = torch.load(weight_file(str(encoder.pretrained)), map_location='cpu', weights_only=True)
    return _with_timm_names(state_dict_in(found) or {}, full.state_dict(), encoder)


def weight_file(pretrained: str) -> Path:
    """Return the file of a timm model's weights: a path, or the one .pth file of 'installed:PACKAGE'.

    Raises:
        OptionError: there is no such file or package, or the package holds several.
    """
    if not pretrained.startswith('installed:'):
        path = Path(pretrained).expanduser()
        if not path.is_file():
            raise OptionError(f'network: image_encoder: pretrained: {path} is not a file.')
        return path
    folder = installed_folder(pretrained.removeprefix('installed:'))
    files = sorted(folder.rglob('*.pth'))
    if len(files) != 1:
        raise OptionError(f'network: image_encoder: pretrained: {pretrained} holds {len(files)} .pth files; one is needed.')
    return files[0]


def _with_timm_names(found: dict[str, Tensor], wanted: dict[str, Tensor], encoder: EncoderOptions) -> dict[str, Tensor]:
    """Rename tensors to timm's names: equal names, or else the same shapes in the same order."""
    if set(found) == set(wanted):
        return found
    shapes = [tuple(tensor.shape) for tensor in found.values()] == [tuple(tensor.shape) for tensor in wanted.values()]
    if not shapes:
        raise OptionError(f'network: image_encoder: pretrained: {encoder.pretrained} does not hold the weights of '
                          f'{encoder.name} ({len(found)} tensors, {len(wanted)} wanted).')
    return dict(zip(wanted, found.values(), strict=True))


def _load_timm_backbone(backbone: nn.Module, state: dict[str, Tensor]) -> None:
    target = backbone.features if isinstance(backbone, StageStatistics) else backbone
    missing = target.load_state_dict({name: state[name] for name in target.state_dict() if name in state}, strict=False)
    if missing.missing_keys:
        raise OptionError(f'network: image_encoder: pretrained: lacks {some(missing.missing_keys)}.')
