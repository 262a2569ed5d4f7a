"""Which weights a network has, identified by a digest."""

import hashlib

import torch


def weights_digest(net: torch.nn.Module) -> str:
    """Return a SHA-256 digest of a network's parameters and buffers: their names, types and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        if not torch.is_tensor(tensor):
            found.update(f'{name}={tensor!r}'.encode())
            continue
        found.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
