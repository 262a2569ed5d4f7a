"""Memory of a process: while it scores pictures of many sizes, and while it starts."""

import contextlib
import gc
import os
from collections.abc import Iterator

CAPACITY = 'ONEDNN_PRIMITIVE_CACHE_CAPACITY'
PRIMITIVES = 256  # far more than an encoder has layers, so that pictures of one size never wait for a primitive


def bound_primitive_cache() -> None:
    """Let oneDNN, which computes convolutions on CPUs, keep fewer compiled primitives than the 1024 of its default.

    It compiles one for every layer and size of picture. Pictures of thousands of sizes fill the whole cache, which takes
    hundreds of megabytes in every process; recompiling costs nothing measurable. The library reads the variable
    once, when the first primitive is made in the process. A value that the user has set stays.
    """
    os.environ.setdefault(CAPACITY, str(PRIMITIVES))


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
