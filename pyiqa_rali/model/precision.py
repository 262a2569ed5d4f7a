"""In which precision an image encoder computes, and whether the machine is made for it."""

import functools
import warnings
from pathlib import Path

import torch

from pyiqa_rali.core.errors import OptionError, did_you_mean

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def check_precision(precision: str) -> torch.dtype:
    """Return the type that the option `precision` names.

    Raises:
        OptionError: there is no such precision.
    """
    if not isinstance(precision, str) or precision not in DTYPES:
        raise OptionError(f'precision: "{precision}" is not one of {", ".join(DTYPES)}.{did_you_mean(precision, DTYPES)}')
    return DTYPES[precision]


def check_device(precision: str, device: torch.device) -> None:
    """Refuse float16 on a CPU, and say so once when a CPU only emulates bfloat16.

    Raises:
        OptionError: the device cannot be used with the precision.
    """
    if device.type != 'cpu' or precision == 'fp32':
        return
    if precision == 'fp16':
        raise OptionError('precision: fp16 is for GPUs; on a CPU take fp32, or bf16 where it has units for that.')
    if not cpu_has_bf16():
        _warn_of_emulation()


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices by units of its own (AVX512-BF16, AMX, Arm's BF16)."""
    if hasattr(torch.cpu, 'get_capabilities'):
        return any(found is True and name.endswith('bf16') for name, found in torch.cpu.get_capabilities().items())
    try:
        words = Path('/proc/cpuinfo').read_text(encoding='utf-8').split()
    except OSError:
        return False
    return any(word.endswith('bf16') for word in words)


@functools.cache
def _warn_of_emulation() -> None:
    warnings.warn('precision: bf16 is emulated by this CPU, which has no units for it: it will be slower than fp32, and no '
                  'more exact. Take precision="fp32", or a GPU.', RuntimeWarning, stacklevel=4)
