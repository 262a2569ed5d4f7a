"""Memory of a process: while it scores pictures of many sizes, while it starts, and while it trains."""

import contextlib
import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterator

CAPACITY = 'ONEDNN_PRIMITIVE_CACHE_CAPACITY'
KEEPING = {  # mallopt(3)
    -4: 0,  # M_MMAP_MAX: no block of its own from the system, which would go back when it is freed
    -1: 2 ** 31 - 1,  # M_TRIM_THRESHOLD: nothing at the end of the heap is given back before it has 2 GiB
    -2: 2 ** 27,  # M_TOP_PAD: the heap grows by 128 MiB more than is asked for
}
PRIMITIVES = 256  # far more than an encoder has layers, so that pictures of one size never wait for a primitive


def bound_primitive_cache() -> None:
    """Let oneDNN, which computes convolutions on CPUs, keep fewer compiled primitives than the 1024 of its default.

    It compiles one for every layer and size of picture. Pictures of thousands of sizes fill the whole cache, which takes
    hundreds of megabytes in every process; recompiling costs nothing measurable. The library reads the variable
    once, when the first primitive is made in the process. A value that the user has set stays.
    """
    os.environ.setdefault(CAPACITY, str(PRIMITIVES))


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, where it is glibc, so that the next step need not ask the system for it again.

    Each step of a training frees feature maps of hundreds of megabytes and asks for as many in the next. By default glibc
    returns them at once, and the system fills every page with zeros anew: a third to a half of a step's time on CPUs. For
    programs whose whole work is of this kind, and for no library call: the process keeps its largest size until it ends.
    Processes that are forked afterwards inherit it. Values of `MALLOC_*` and `GLIBC_TUNABLES` that the user has set stay.

    Returns:
        Whether it was switched on.
    """
    users = any(name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES' for name in os.environ)
    if users or not sys.platform.startswith('linux') or platform.libc_ver()[0] != 'glibc':
        return False
    library = ctypes.CDLL(None)
    done = [library.mallopt(option, value) for option, value in KEEPING.items()]  # each of them, whatever the others say
    return all(done)


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Let Python look for no garbage within the block, and afterwards never among the objects that the block has made.

    The imports of PyTorch and Gradio make a million objects, nearly all of which stay. Looking through them again and again
    takes a fifth of the time that a program needs to start; later on, each look is a pause of a quarter of a second.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            gc.enable()
