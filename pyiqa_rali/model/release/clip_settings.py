"""A transformers CLIP's configuration and its processor's, as our encoder's configuration."""

import json
import math
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.model.image_encoder import ImageEncoderConfig
from pyiqa_rali.model.preprocessing import Preprocessing

PROCESSOR_FILES = ('best/preprocessor_config.json', 'best/processor_config.json')  # of transformers 4 and 5
RESAMPLING = {2: 'bilinear', 3: 'bicubic'}  # Pillow's numbers
# transformers leaves values out of config.json that are CLIP's defaults there
DEFAULTS = {'hidden_size': 768, 'intermediate_size': 3072, 'num_hidden_layers': 12, 'num_attention_heads': 12,
            'num_channels': 3, 'image_size': 224, 'patch_size': 32, 'hidden_act': 'quick_gelu', 'layer_norm_eps': 1e-5}
DEFAULT_PROJECTION = 512
SWITCHES = ('do_resize', 'do_rescale', 'do_normalize')


def encoder_config(best: Path) -> ImageEncoderConfig:
    """Return the encoder's configuration from `config.json` and the processor's.

    Raises:
        CheckpointError: a file or key is missing, or the model is not a CLIP with this tower.
    """
    path = best / 'config.json'
    config = _read_json(path)
    if config.get('model_type', 'clip') != 'clip' or not isinstance(config.get('vision_config'), dict):
        raise CheckpointError(f'{path}: is not the configuration of a CLIPModel (model_type: {config.get("model_type")}; '
                              'vision_config is needed).')
    vision = {**DEFAULTS, **{name: config['vision_config'][name] for name in DEFAULTS if name in config['vision_config']}}
    _check_vision(vision, path)
    width, embed_dim = vision['hidden_size'], config.get('projection_dim', DEFAULT_PROJECTION)
    model_config = {
        'embed_dim': embed_dim, 'quick_gelu': vision['hidden_act'] == 'quick_gelu',
        'vision_cfg': {'image_size': vision['image_size'], 'layers': vision['num_hidden_layers'], 'width': width,
                       'head_width': width // vision['num_attention_heads'], 'patch_size': vision['patch_size'],
                       'mlp_ratio': vision['intermediate_size'] / width}}
    preprocessing = _preprocessing(processor_file(best))
    if preprocessing.image_size != vision['image_size']:
        raise CheckpointError(f'{best}: its processor gives pictures of {preprocessing.image_size} pixels, and its encoder '
                              f'takes {vision["image_size"]}.')
    return ImageEncoderConfig('open_clip', 'released CLIP', preprocessing, embed_dim, model_config)


def _check_vision(vision: dict[str, Any], path: Path) -> None:
    if vision['hidden_act'] not in ('quick_gelu', 'gelu'):
        raise CheckpointError(f'{path}: hidden_act {vision["hidden_act"]} is not quick_gelu or gelu.')
    for name, only in (('num_channels', 3), ('layer_norm_eps', 1e-5)):
        if vision[name] != only:
            raise CheckpointError(f'{path}: {name} {vision[name]} is not {only}.')
    wrong = [name for name, value in vision.items() if name not in ('hidden_act', 'layer_norm_eps')
             and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2 ** 20)]
    if wrong:
        raise CheckpointError(f'{path}: {wrong[0]} {vision[wrong[0]]!r} is not a size.')
    if vision['hidden_size'] % vision['num_attention_heads']:
        raise CheckpointError(f'{path}: {vision["num_attention_heads"]} heads do not divide hidden_size '
                              f'{vision["hidden_size"]}.')


def processor_file(best: Path) -> Path:
    """Return the file that describes the processor: of transformers 4, or else of transformers 5."""
    old, new = (best.parent / name for name in PROCESSOR_FILES)
    return new if new.is_file() and not old.is_file() else old


def _preprocessing(path: Path) -> Preprocessing:
    values = _read_json(path)
    values = values.get('image_processor', values)
    off = [name for name in SWITCHES if values.get(name, True) is not True]
    if off:
        raise CheckpointError(f'{path}: {off[0]}: {values[off[0]]} is not how CLIP prepares pictures.')
    if not math.isclose(values.get('rescale_factor', 1 / 255), 1 / 255, rel_tol=1e-6):
        raise CheckpointError(f'{path}: rescale_factor {values["rescale_factor"]} is not 1/255.')
    try:
        side, resizing = _sizes(values, path)
        return Preprocessing(image_size=side, crop_rounding='floor', interpolation=RESAMPLING[values['resample']],
                             mean=_channels(values, 'image_mean', path), std=_channels(values, 'image_std', path), **resizing)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f'{path}: lacks {error}, or has a value that is not known.') from error


def _sizes(values: dict[str, Any], path: Path) -> tuple[int, dict[str, Any]]:
    """Return the side of the encoder's pictures, and how they are resized: a size may be a number or name its edges."""
    size = values['size']
    if isinstance(size, dict) and 'shortest_edge' not in size:
        side = _square(size, path)
        if values.get('do_center_crop', True) and _square(values['crop_size'], path) != side:
            raise CheckpointError(f'{path}: size {size} and crop_size {values["crop_size"]} differ; CLIP takes one of them.')
        return side, {'resize_size': side, 'resize_mode': 'squash'}
    if values.get('do_center_crop', True) is not True:
        raise CheckpointError(f'{path}: without do_center_crop pictures are not square, as the encoder needs them.')
    shortest = size['shortest_edge'] if isinstance(size, dict) else size
    return _square(values['crop_size'], path), {'resize_size': int(shortest), 'resize_mode': 'shortest'}


def _square(size: Any, path: Path) -> int:
    if not isinstance(size, dict):
        return int(size)
    if size['height'] != size['width']:
        raise CheckpointError(f'{path}: pictures of {size["width"]} x {size["height"]} pixels are not square.')
    return int(size['height'])


def _channels(values: dict[str, Any], name: str, path: Path) -> tuple[float, ...]:
    found = values[name]
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(each, (int, float)) for each in found):
        raise CheckpointError(f'{path}: {name} {found!r} is not three numbers.')
    return tuple(found)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f'{path}: cannot be read ({error}).') from error
    if not isinstance(values, dict):
        raise CheckpointError(f'{path}: is not a JSON object.')
    return values
