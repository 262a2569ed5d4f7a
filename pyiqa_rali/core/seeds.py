"""Seeds that follow from other seeds and names."""

import random

import numpy as np


def derived_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on every part; names of files may hold bytes that are not valid UTF-8."""
    numbers = [int.from_bytes(str(part).encode('utf-8', 'surrogateescape'), 'little') for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    import torch
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
