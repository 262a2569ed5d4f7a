"""Memory of a process that scores pictures of many sizes."""

import os

CAPACITY = 'ONEDNN_PRIMITIVE_CACHE_CAPACITY'
PRIMITIVES = 256  # far more than an encoder has layers, so that pictures of one size never wait for a primitive


def bound_primitive_cache() -> None:
    """Let oneDNN, which computes convolutions on CPUs, keep fewer compiled primitives than the 1024 of its default.

    It compiles one for every layer and size of picture. Pictures of thousands of sizes fill the whole cache, which takes
    hundreds of megabytes in every process; recompiling costs nothing measurable. The library reads the variable
    once, when the first primitive is made in the process. A value that the user has set stays.
    """
    os.environ.setdefault(CAPACITY, str(PRIMITIVES))
