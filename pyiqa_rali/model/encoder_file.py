"""The aligned image encoder as a file between the stages."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.model.image_encoder import ImageEncoder, ImageEncoderConfig, build_image_encoder

CONFIG_KEY = 'image_encoder'


def save_encoder(path: Path, encoder: ImageEncoder, half: bool = False) -> None:
    """Write an image encoder with its configuration.

    Args:
        path: the safetensors file.
        encoder: the aligned encoder.
        half: round floating-point weights to float16, so that later stages see what a float16 export holds.
    """
    from safetensors.torch import save_file
    with atomic_path(path) as temporary:
        save_file(_stored(encoder, half), temporary, metadata={CONFIG_KEY: json.dumps(encoder.config.to_dict())})


def load_encoder(path: Path) -> ImageEncoder:
    """Read an image encoder in float32.

    Raises:
        CheckpointError: the file is missing (stage 1 has not run).
    """
    from safetensors import safe_open
    if not path.exists():
        raise CheckpointError(f'{path}: does not exist. Run stage 1 first (stages: [align, compress, score]).')
    with safe_open(path, framework='pt') as stream:
        config = ImageEncoderConfig.from_dict(json.loads(stream.metadata()[CONFIG_KEY]))
        state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    return _restored(config, state)


def is_encoder_file(path: Path) -> bool:
    """Whether a file is an image encoder by itself, as stage 1 leaves it, and no checkpoint."""
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework='pt') as stream:
            metadata = stream.metadata() or {}
    except (OSError, SafetensorError):
        return False
    return set(metadata) == {CONFIG_KEY}


def as_loaded(encoder: ImageEncoder, half: bool = False) -> ImageEncoder:
    """Return what `load_encoder` would read after `save_encoder`, without a file; on the CPU, in float32."""
    return _restored(encoder.config, _stored(encoder, half))


def round_to_half(module: nn.Module) -> None:
    """Round floating-point weights to float16 in place, as a float16 export stores them; they stay in float32."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())


def _stored(encoder: ImageEncoder, half: bool) -> dict[str, Tensor]:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    return {name: tensor.to(torch.float16) if half and tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _restored(config: ImageEncoderConfig, state: Mapping[str, Tensor]) -> ImageEncoder:
    encoder = build_image_encoder(config)
    encoder.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                             for name, tensor in state.items()})
    return encoder
