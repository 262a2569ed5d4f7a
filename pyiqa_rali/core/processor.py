"""The processor that this process runs on: its name, and the instruction sets that determine how fast it multiplies."""

import functools
import platform
import subprocess
import sys
from pathlib import Path

TOLD = ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'avx512_fp16', 'amx_int8', 'amx_bf16',  # x86
        'asimddp', 'i8mm', 'bf16', 'sve', 'sve2')  # Arm, as Linux calls them


@functools.cache
def processor_name() -> str:
    """Return what the processor calls itself, such as 'AMD EPYC 9654'."""
    if sys.platform == 'darwin':
        found = subprocess.run(['sysctl', '-n', 'machdep.cpu.brand_string'], capture_output=True, text=True, check=False)
        return found.stdout.strip() or platform.machine()
    return _of_linux('model name') or platform.processor() or platform.machine()


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Return those of `TOLD` that Linux lists; on other systems none."""
    listed = (_of_linux('flags') or _of_linux('Features')).split()
    return tuple(name for name in TOLD if name in listed)


def described_processor() -> str:
    """Return name and instruction sets in one line."""
    return ' '.join([processor_name(), *instruction_sets()])


def _of_linux(key: str) -> str:
    """Return the first value of a key in /proc/cpuinfo, or an empty string."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return ''
    return next((line.partition(':')[2].strip() for line in lines if line.split(':')[0].strip() == key), '')
