"""What is measured: the release's own path, our metrics in several precisions, and pyiqa's metrics that build offline."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyiqa_rali.core.errors import OptionError

RELEASE, RALI, LITE = 'release', 'rali', 'rali-lite'
OWN = (RALI, LITE)
PRECISIONS = ('fp32', 'bf16', 'fp16')
# pyiqa's learned no-reference metrics that can be built without the network, and how: their weights are random, the time is not
OFFLINE: dict[str, dict[str, Any]] = {
    'cnniqa': {'pretrained': None}, 'musiq': {'pretrained': False}, 'metaiqa': {'pretrained': False},
    'wadiqam_nr': {'pretrained': False}, 'topiq_nr': {'pretrained': False, 'backbone_pretrain': False},
    'uranker': {'pretrained': False}}
LEFT_OUT = {  # pyiqa 0.1.16; why the others of its CNN- and CLIP-based metrics are not in the table unless they are named
    'download the weights of their backbone even with pretrained=False':
        ('nima', 'paq2piq', 'dbcnn', 'maniqa', 'tres', 'hyperiqa', 'topiq_iaa', 'fgresq'),
    'have no way to be built without their own weights': ('unique', 'arniqa'),
    'import openai-clip, which needs the removed module pkg_resources, and download its CLIP':
        ('clipiqa', 'clipiqa+', 'qualiclip', 'liqe', 'maclip', 'laion_aes', 'clipscore', 'afine_nr'),
    'are language models of billions of parameters': ('qalign', 'qrealign', 'compare2score')}


@dataclass(frozen=True)
class Subject:
    """One way to compute a score.

    Attributes:
        name: `RELEASE`, or the name of a no-reference metric of pyiqa.
        precision: of our metrics; the others compute in 'fp32'.
        options: further keywords for `create_metric`; for `RELEASE`, its 'folder'.
        exact: our metrics' mode with Pillow's own resizing.
        backend: of our metrics, 'torch' or 'onnx'.
    """

    name: str
    precision: str = 'fp32'
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    exact: bool = False
    backend: str = 'torch'

    @property
    def label(self) -> str:
        """Its name in tables."""
        return ' '.join([self.name, self.precision, *(['exact'] if self.exact else []),
                         *([self.backend] if self.backend != 'torch' else [])])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def subjects_for(names: Sequence[str], precisions: Sequence[str], folder: str, checkpoint: str,
                 backends: Sequence[str] = ('torch',)) -> list[Subject]:
    """Return the subjects of a run: our metrics once in each precision, rali-lite by each backend, everything else once.

    Args:
        names: as `Subject.name`.
        precisions: of our metrics.
        folder: random weights in the release's layout.
        checkpoint: the same, converted to our format.
        backends: of rali-lite, in float32.

    Raises:
        OptionError: a name or precision is not known.
    """
    _check(names, precisions)
    found = []
    for name in dict.fromkeys(names):
        if name == RELEASE:
            found.append(Subject(RELEASE, options={'folder': folder}))
        elif name in OWN:
            options = {'pretrained_model_path': checkpoint} if name == RALI else {}
            found += [Subject(name, precision, options) for precision in dict.fromkeys(precisions)]
            found += [Subject(name, backend=backend) for backend in backends if name == LITE and backend != 'torch']
        else:
            found.append(Subject(name, options=OFFLINE.get(name, {})))
    return found


def _check(names: Sequence[str], precisions: Sequence[str]) -> None:
    import pyiqa

    from pyiqa_rali.core.errors import did_you_mean
    known = [RELEASE, *pyiqa.list_models(metric_mode='NR')]
    for option, values, allowed in (('--metrics', names, known), ('--precisions', precisions, PRECISIONS)):
        for value in values:
            if value not in allowed:
                listed = ', '.join(allowed) if len(allowed) < 9 else f'{RELEASE} and the no-reference metrics of pyiqa -ls'
                raise OptionError(f'{option}: "{value}" is not one of {listed}.{did_you_mean(value, allowed)}')


class PyiqaScorer:
    """A no-reference metric of pyiqa.

    Args:
        subject: which, and how.
        device: torch's name of the device.
    """

    def __init__(self, subject: Subject, device: str):
        import pyiqa
        options = dict(subject.options)
        if subject.precision != 'fp32':
            options['precision'] = subject.precision
        if subject.exact:
            options['exact'] = True
        if subject.backend != 'torch':
            options['backend'] = subject.backend
        self.metric = pyiqa.create_metric(subject.name, device=torch.device(device), **options)
        self.module = self.metric.net

    @property
    def computed_by(self) -> str | None:
        """What actually computes scores of our metrics: 'onnxruntime', or the precision and, once it is known, the library."""
        from pyiqa_rali.model.clip_tower import ClipTower
        from pyiqa_rali.model.products import product_library
        from pyiqa_rali.model.rali import RALI as Net
        net = self.module
        if not isinstance(net, Net):
            return None
        if net.backend == 'onnx':
            return 'onnxruntime'
        encoder, library = net.image_encoder, None
        if net.precision == 'fp32' and net.scorer.basis_vectors.device.type == 'cpu':
            library = product_library() if isinstance(encoder.backbone, ClipTower) else encoder.library
        return f'{net.precision}, {library}' if library else net.precision

    def from_files(self, paths: list[str]) -> Tensor:
        """Return scores of image files of one size."""
        import numpy as np

        from pyiqa_rali.data.image_files import read_rgb
        pixels = torch.from_numpy(np.stack([read_rgb(path) for path in paths]))
        return self.metric(pixels.permute(0, 3, 1, 2).float().div(255))

    def from_tensor(self, images: Tensor) -> Tensor:
        """Return scores of pictures (N, 3, H, W) in [0, 1]."""
        return self.metric(images)


def build(subject: Subject, device: str) -> Any:
    """Return an object with `from_files`, `from_tensor` and `module`."""
    if subject.name == RELEASE:
        from pyiqa_rali.studies.benchmark.release import ReleasePath
        return ReleasePath(subject.options['folder'], device)
    return PyiqaScorer(subject, device)


def bare_tower(scorer: Any, images: Tensor) -> tuple[torch.nn.Module, tuple[Any, ...]]:
    """Return the backbone of one of our metrics, and its inputs for some pictures, on its device."""
    backbone, seen = scorer.module.image_encoder.backbone, []
    handle = backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    try:
        scorer.from_tensor(images)
    finally:
        handle.remove()
    return backbone, seen[-1]
