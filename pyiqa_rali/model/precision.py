"""The precision in which an image encoder computes, and whether the machine is suited to it."""

import copy
import functools
import warnings

import torch

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.processor import instruction_sets
from pyiqa_rali.model.clip_tower import ClipTower
from pyiqa_rali.model.image_encoder import ImageEncoder
from pyiqa_rali.model.products import bf16_speed
from pyiqa_rali.model.race import times

TRIED_SIZE = 256  # pixels, where a backbone takes any size
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def check_precision(precision: str) -> torch.dtype:
    """Return the dtype that the option `precision` names.

    Raises:
        OptionError: there is no such precision.
    """
    if not isinstance(precision, str) or precision not in DTYPES:
        raise OptionError(f'precision: "{precision}" is not one of {", ".join(DTYPES)}.{did_you_mean(precision, DTYPES)}')
    return DTYPES[precision]


def check_device(precision: str, device: torch.device) -> None:
    """Reject float16 on a CPU.

    Raises:
        OptionError: the device cannot be used with the precision.
    """
    if device.type == 'cpu' and precision == 'fp16':
        raise OptionError('precision: fp16 is for GPUs; on a CPU use fp32, or bf16 where it has units for that.')


def reason_for_fp32(encoder: ImageEncoder) -> str | None:
    """Return why this CPU computes an encoder in float32 although bfloat16 is asked for; None where bfloat16 is faster.

    For a CLIP tower its largest product decides, whatever its weights are; another backbone is timed on one picture.
    """
    if not cpu_has_bf16():
        return 'it has no units for it'
    speed = bf16_speed() if isinstance(encoder.backbone, ClipTower) else _speed_of_backbone(encoder)
    return None if speed > 1 else f'it takes {1 / speed:.1f} times as long'


@torch.no_grad()
def _speed_of_backbone(encoder: ImageEncoder) -> float:
    """Return how much faster a backbone is in bfloat16 than in float32."""
    size = encoder.config.preprocessing.image_size or TRIED_SIZE
    picture = torch.linspace(-2, 2, 3 * size * size, dtype=torch.float32, device='cpu').sin().view(1, 3, size, size)
    ways = {}
    for name in ('fp32', 'bf16'):
        backbone = copy.deepcopy(encoder.backbone).to(DTYPES[name])
        if name == 'fp32' and encoder.is_folded:  # its convolutions are then those that will be computed
            encoder.choose_library(backbone)
        given = picture.to(DTYPES[name], memory_format=torch.channels_last)
        ways[name] = functools.partial(backbone, given)
    with torch.autocast('cpu', enabled=False):
        found = times(f'{encoder.config.name} {encoder.config.pooling} in bf16', ways)
    return found['fp32'] / found['bf16']


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether the CPU has units for multiplying bfloat16 matrices (AVX512-BF16, AMX, Arm's BF16)."""
    if hasattr(torch.cpu, 'get_capabilities'):
        return any(found is True and name.endswith('bf16') for name, found in torch.cpu.get_capabilities().items())
    return any(name.endswith('bf16') for name in instruction_sets())


def warn_of_fp32(reason: str) -> None:
    """Warn that float32 is used although bfloat16 was asked for."""
    warnings.warn(f'precision: bf16 is slower than fp32 on this CPU ({reason}); fp32 is used. Give precision="fp32" to be rid '
                  'of this line, or take a GPU.', RuntimeWarning, stacklevel=4)
