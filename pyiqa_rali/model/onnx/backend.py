"""Scores by onnxruntime in place of PyTorch: on CPUs, where its convolutions are faster.

A network is exported once for each set of weights, checked against PyTorch, and kept among pyiqa's weights. PyTorch still
prepares the pictures, so that any size and any option of the preparation works.
"""

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError, OptionError, did_you_mean
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.onnx.network import (
    FEATURES,
    INPUT,
    NEEDED,
    OUTPUT,
    ScoringNetwork,
    check_size,
    exported,
    require_onnx,
)

if TYPE_CHECKING:
    from pyiqa_rali.model.rali import RALI

BACKENDS = ('torch', 'onnx')
LAYOUT = 2  # incremented when what is exported changes
PIXELS_AT_ONCE = 50_000  # larger batches do not fit the cache, and are slower

logger = logging.getLogger(__name__)


def check_backend(backend: str, precision: str, trainable: bool) -> None:
    """Raise OptionError for a backend that does not exist, or that cannot be combined with other options."""
    if backend not in BACKENDS:
        raise OptionError(f'backend: "{backend}" is not one of {", ".join(BACKENDS)}.{did_you_mean(backend, BACKENDS)}')
    if backend == 'onnx' and (precision != 'fp32' or trainable):
        other = f'precision: {precision}' if precision != 'fp32' else 'trainable: true'
        raise OptionError(f'backend: onnx computes in float32 with weights that stay, and cannot be combined with {other}. '
                          'Leave one of them out.')
    if backend == 'onnx' and not is_installed('onnxruntime'):
        raise OptionError('backend: onnx needs onnxruntime. Install it: pip install "pyiqa-rali[onnx]".')


def is_installed(*packages: str) -> bool:
    """Whether packages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in packages)


def is_convolutional(net: 'RALI') -> bool:
    """Whether most weights of a net's backbone belong to convolutions, which onnxruntime computes faster."""
    backbone = net.image_encoder.backbone
    convolved = sum(module.weight.numel() for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return 2 * convolved > sum(parameter.numel() for parameter in backbone.parameters())


def can_score(net: 'RALI', may_export: bool) -> bool:
    """Whether onnxruntime can score a net here.

    Args:
        net: on the CPU.
        may_export: whether an export, which takes about ten seconds, is worth it.
    """
    return is_installed('onnxruntime') and (network_file(net).exists() or (may_export and is_installed(*NEEDED)))


def network_file(net: 'RALI') -> Path:
    """Return where the network of a net's weights is kept."""
    from pyiqa_rali.model.release.conversion import cache_folder
    return cache_folder() / f'rali_onnx_{weights_digest(net)[:16]}_{LAYOUT}.onnx'


class OnnxScorer:
    """Scores prepared pictures of one net by onnxruntime."""

    def __init__(self) -> None:
        self._state: tuple[tuple[int, int], ...] = ()
        self._path: Path | None = None
        self._sessions: dict[tuple[Path, int, int], Any] = {}  # of a file, a process and a number of threads

    def __getstate__(self) -> dict[str, Any]:
        """Leave sessions out of copies: they belong to this process."""
        return {'_state': (), '_path': None, '_sessions': {}}

    def __call__(self, net: 'RALI', prepared: Tensor) -> Tensor:
        """Return scores (N, 1), float32, for prepared pictures (N, 3, h, w); raises as `scores_and_features`."""
        return self.scores_and_features(net, prepared)[0]

    def scores_and_features(self, net: 'RALI', prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (N, 1) and image features (N, C), float32, for prepared pictures (N, 3, h, w).

        Raises:
            OptionError: they are on another device or require a gradient; or the weights have changed, and the packages for a
                new export are missing.
            CheckpointError: the network does not give PyTorch's scores, or cannot be kept or read.
        """
        if prepared.device.type != 'cpu':
            raise OptionError(f'backend: onnx computes on the CPU, and the pictures are on {prepared.device}. Leave backend '
                              'out.')
        if torch.is_grad_enabled() and prepared.requires_grad:
            raise OptionError('backend: onnx has no gradient to the pixels. Leave backend out.')
        session, pictures = self._session(self.file(net)), prepared.detach().contiguous()
        at_once = max(1, PIXELS_AT_ONCE // (prepared.shape[-2] * prepared.shape[-1]))
        found = [session.run([OUTPUT, FEATURES], {INPUT: part.numpy()}) for part in pictures.split(at_once)]
        scores, features = (torch.cat([torch.from_numpy(each) for each in parts]) for parts in zip(*found, strict=True))
        return scores, features

    def file(self, net: 'RALI') -> Path:
        """Return the file for the net's present weights; it is created if it does not exist."""
        state = tuple((id(tensor), 0 if tensor.is_inference() else tensor._version)
                      for tensor in (*net.parameters(), *net.buffers()))
        if self._path is None or state != self._state:
            path = network_file(net)
            if not path.exists():
                _export(net, path)
            self._path, self._state = path, state
        return self._path

    def _session(self, path: Path) -> Any:
        from pyiqa_rali.model.onnx.agreement import open_session
        key = (path, os.getpid(), torch.get_num_threads())
        if key not in self._sessions:
            try:
                self._sessions[key] = open_session(path, key[2])
            except Exception as error:  # onnxruntime raises another class for each way in which a file can be broken
                raise CheckpointError(f'{path}: onnxruntime cannot read it ({error}). Remove it, and it will be made '
                                      'again.') from error
        return self._sessions[key]


def _export(net: 'RALI', path: Path) -> None:
    """Write the network of a net, if its scores are PyTorch's; processes that start together wait for the one that writes."""
    import onnx_ir as ir
    from filelock import FileLock

    from pyiqa_rali.core.files import atomic_path
    from pyiqa_rali.model.onnx.agreement import check_network
    require_onnx('backend: onnx')
    check_size(net, 'backend: onnx')
    if next(net.parameters()).device.type != 'cpu':
        raise OptionError('backend: onnx computes on the CPU, and the weights are elsewhere. Leave backend out.')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{path}.lock'):
            if path.exists():
                return
            logger.info('Exporting the network for onnxruntime, once, to %s.', path)
            model = exported(ScoringNetwork(net).eval(), net.image_encoder.config.preprocessing.image_size)
            with atomic_path(path) as temporary:
                ir.save(model, temporary)
                check_network(temporary, net, str(path))
    except OSError as error:
        raise CheckpointError(f'{path}: cannot be written ({error}). Weights of pyiqa are kept there; TORCH_HOME names another '
                              'folder.') from error
