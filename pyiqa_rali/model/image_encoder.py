"""Image encoders by name: open_clip's vision towers, and timm backbones with a projection."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.options import from_known_keys
from pyiqa_rali.model.clip_tower import ClipTower, build_clip_tower, is_plain
from pyiqa_rali.model.preprocessing import Preprocess, Preprocessing

Computed = TypeVar('Computed')
LIBRARIES = ('open_clip', 'timm')
POOLINGS = ('head', 'mean_std')
CPU_PIXELS_AT_ONCE = 50_000  # of a convolutional backbone without gradients


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Everything needed to rebuild an image encoder, stored in every checkpoint.

    Attributes:
        library: 'open_clip' or 'timm'.
        name: the model's name in that library.
        preprocessing: its evaluation transform.
        embed_dim: width C of the image features.
        model_config: open_clip's model configuration (None looks `name` up in the installed open_clip).
        pooling: for timm, 'head' (the backbone's own pooling) or 'mean_std' (mean and standard deviation over the
            positions of every stage, side by side).
        projection_dim: for timm, the hidden width of the projection; None makes it a single linear layer.
    """

    library: str
    name: str
    preprocessing: Preprocessing
    embed_dim: int
    model_config: dict[str, Any] | None = field(default=None)
    pooling: str = 'head'
    projection_dim: int | None = None

    def __post_init__(self):
        for option, allowed in (('library', LIBRARIES), ('pooling', POOLINGS)):
            value = getattr(self, option)
            if value not in allowed:
                raise OptionError(f'image_encoder {option}: "{value}" is not one of {", ".join(allowed)}.'
                                  f'{did_you_mean(value, allowed)}')

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values for a checkpoint's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'ImageEncoderConfig':
        """Build the configuration from `to_dict`'s values.

        Raises:
            OptionError: a key is unknown or missing.
        """
        values = dict(values)
        preprocessing = from_known_keys(Preprocessing, values.pop('preprocessing', {}), 'preprocessing')
        return from_known_keys(cls, {**values, 'preprocessing': preprocessing}, 'image_encoder')


class ImageEncoder(nn.Module):
    """Preprocessing, backbone and projection in one module: pictures in, image features out.

    Args:
        config: what to build.
        backbone: module that takes normalised pictures.
        projection: module from the backbone's output to (N, C).
    """

    def __init__(self, config: ImageEncoderConfig, backbone: nn.Module, projection: nn.Module):
        super().__init__()
        self.config = config
        self.preprocess = Preprocess(config.preprocessing)
        self.backbone = backbone.to(memory_format=torch.channels_last)  # convolutions run 1.5 times faster on CPUs
        self.projection = projection
        self._folded: tuple[Any, ...] | None = None  # the state of the weights that are folded
        self._threads: int | None = None  # for which the library of the folded convolutions is chosen

    def forward(self, images: Tensor) -> Tensor:
        """Return image features (N, C), not normalised, for (N, 3 or 1, H, W) pictures in [0, 1]."""
        return self.encode(self.preprocess(images))

    def encode(self, prepared: Tensor) -> Tensor:
        """Return image features (N, C) for preprocessed pictures (N, 3, h, w)."""
        return with_their_nan(self.project(self.backbone_rows(prepared)), prepared)

    def backbone_rows(self, prepared: Tensor) -> Tensor:
        """Return the backbone's output (N, W), which the projection takes, for preprocessed pictures (N, 3, h, w)."""
        return torch.cat(list(self.in_parts(prepared, self.backbone)))

    def in_parts(self, prepared: Tensor, compute: Callable[[Tensor], Computed]) -> Iterator[Computed]:
        """Yield what a function that calls the backbone returns for preprocessed pictures, a few pictures at a time.

        Args:
            prepared: (N, 3, h, w).
            compute: takes some of them in the type of the backbone's weights, channels last.
        """
        self._unfold_if_changed()
        self._choose_library(prepared)
        dtype = _dtype_of(self.backbone)
        for part in prepared.split(self._pictures_at_once(prepared)):
            yield compute(part.to(dtype, memory_format=torch.channels_last))

    def project(self, rows: Tensor) -> Tensor:
        """Return image features (N, C) for the backbone's output (N, W)."""
        return self.projection(rows.to(_dtype_of(self.projection) or rows.dtype))

    def _pictures_at_once(self, prepared: Tensor) -> int:
        """Return how many pictures pass through a convolutional backbone together: few on CPUs, the whole batch elsewhere.

        The feature maps of larger batches do not fit the cache, and their memory is requested from the system anew each time: 8
            pictures of 512 x 384 took twice as long together as one after the other.
        """
        whole = (self.config.library != 'timm' or prepared.device.type != 'cpu' or torch.is_grad_enabled()
                 or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export())
        pictures = len(prepared) if whole else CPU_PIXELS_AT_ONCE // (prepared.shape[-2] * prepared.shape[-1])
        return max(1, pictures)

    def fold(self) -> None:
        """Fold batch norms into the convolutions before them; the features stay the same up to the rounding of float32.

        For scoring with fixed weights: once one of them is written to or requires a gradient, everything computes as before.
        """
        if isinstance(self.backbone, ClipTower):  # it has none, and is built without importing timm
            return
        from pyiqa_rali.model import folding
        if folding.fold(self.backbone, self.config.preprocessing.image_size):
            self._folded, self._threads = folding.state_of(self.backbone), None

    @property
    def is_folded(self) -> bool:
        """Whether batch norms are folded into convolutions."""
        return self._folded is not None

    @property
    def library(self) -> str | None:
        """What computes folded convolutions on this CPU, 'torch' or 'onednn'; None before the first picture."""
        if self._folded is None or self._threads is None:
            return None
        from pyiqa_rali.model import folding
        return folding.library_of(self.backbone)

    def _choose_library(self, prepared: Tensor) -> None:
        """Let folded convolutions be computed by the library that is faster on this machine with as many threads."""
        if (self._folded is None or prepared.device.type != 'cpu' or _dtype_of(self.backbone) != torch.float32
                or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()):
            return
        if torch.get_num_threads() != self._threads:
            self.choose_library(self.backbone)
            self._threads = torch.get_num_threads()

    def choose_library(self, backbone: nn.Module) -> None:
        """Let the folded convolutions of the backbone, or of a copy of it, be computed by the faster library."""
        from pyiqa_rali.model import folding
        config = self.config
        folding.choose_library(backbone, f'{config.name} {config.pooling}', config.preprocessing.image_size)

    def _unfold_if_changed(self) -> None:
        """Compute with the weights themselves again if one was written to since they were folded, or requires a gradient."""
        if self._folded is None or torch.compiler.is_compiling() or getattr(self, '_is_replica', False):
            return
        from pyiqa_rali.model import folding
        if folding.state_of(self.backbone) != self._folded:
            folding.unfold(self.backbone)
            self._folded = None

    def _keep_folded(self) -> None:
        """Record the state of the weights again: they were moved, cast or copied, but have the same values."""
        if self._folded is not None:
            from pyiqa_rali.model import folding
            self._folded = folding.state_of(self.backbone)

    def _apply(self, *args: Any, **kwargs: Any) -> 'ImageEncoder':
        self._unfold_if_changed()
        super()._apply(*args, **kwargs)
        self._keep_folded()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle what remains valid."""
        self._unfold_if_changed()
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a copy."""
        super().__setstate__(state)
        self._keep_folded()

    def _replicate_for_data_parallel(self) -> 'ImageEncoder':
        self._unfold_if_changed()  # a replica's weights are copies, which do not show whether they were written to
        return super()._replicate_for_data_parallel()

    def narrow(self, dtype: torch.dtype) -> None:
        """Cast the backbone, which takes the time, to another precision; preprocessing and projection stay as they are."""
        if isinstance(self.backbone, ClipTower):
            self.backbone.narrow(dtype)
        else:
            self.backbone.to(dtype)
        self._keep_folded()


def with_their_nan(values: Tensor, prepared: Tensor) -> Tensor:
    """Return values (N, ...) with NaN in the place of those of pictures (N, 3, h, w) that have a pixel without a number.

    Activations that are cut off at 0 and 6 turn a NaN into a number in some libraries, and the picture would have a score like
    any other.
    """
    if torch.onnx.is_in_onnx_export():  # exported files stay what they are
        return values
    nothing = 0 * prepared.detach().sum(dim=(1, 2, 3))  # NaN where a pixel is NaN or infinite
    return values + nothing.to(values.dtype).view(-1, *[1] * (values.dim() - 1))


def _dtype_of(module: nn.Module) -> torch.dtype | None:
    """Return the type of a module's first weight; None where it has none.

    The replicas of `DataParallel` have no parameters: their tensors are kept in another dictionary.
    """
    for part in module.modules():
        for weight in (*part._parameters.values(), *vars(part).get('_former_parameters', {}).values()):
            if weight is not None:
                return weight.dtype
    return None


class StageStatistics(nn.Module):
    """A timm backbone whose output is the mean and the standard deviation of each stage, (N, 2 * sum of channels).

    Statistics over positions accept pictures of any size and keep what fine distortions change in early stages.
    """

    def __init__(self, features: Any):
        super().__init__()
        self.features = features  # timm's: a module with `feature_info`

    @property
    def num_features(self) -> int:
        """Width of the output."""
        return 2 * sum(self.features.feature_info.channels())

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, 2 * sum of channels) for normalised pictures (N, 3, H, W)."""
        statistics = []
        for stage in self.features(images):
            mean, variance = _mean_and_variance(stage.to(torch.promote_types(stage.dtype, torch.float32)))
            statistics += [mean, torch.sqrt(variance + 1e-6)]
        return torch.cat(statistics, dim=1)


def _mean_and_variance(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance (N, C) over the positions of feature maps (N, C, H, W).

    PyTorch's own variance takes a tenth of a light encoder's time when the channels are contiguous in memory.
    """
    plain = (maps.requires_grad or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
             or not maps.is_contiguous(memory_format=torch.channels_last))
    if plain:
        return maps.mean(dim=(2, 3)), maps.var(dim=(2, 3), correction=0)
    positions = maps.permute(0, 2, 3, 1).flatten(1, 2)
    mean = positions.mean(dim=1)
    return mean, (positions - mean.unsqueeze(1)).square_().mean(dim=1)


class Standardise(nn.Module):
    """Subtract a mean and divide by a scale, both fixed once from real features before training starts."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('scale', torch.ones(width))

    @property
    def is_fitted(self) -> bool:
        """Whether mean and scale were taken from features: those of an export were, and the layers after them rely on it."""
        return bool(self.mean.any() or (self.scale != 1).any())

    def fit(self, features: Tensor) -> None:
        """Take mean and standard deviation over the rows of (N, width); constant columns keep scale 1."""
        scale = features.std(dim=0)
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(torch.where(scale > 1e-6, scale, torch.ones_like(scale)))

    def forward(self, features: Tensor) -> Tensor:
        """Return the standardised features, same shape."""
        return (features - self.mean) / self.scale


def build_image_encoder(config: ImageEncoderConfig) -> ImageEncoder:
    """Build an image encoder with random weights; nothing is downloaded.

    Raises:
        OptionError: the library does not know the name.
    """
    if config.library == 'open_clip':
        return ImageEncoder(config, _open_clip_tower(config), nn.Identity())
    backbone, width = _timm_backbone(config)
    return ImageEncoder(config, backbone, _projection(width, config.embed_dim, config.projection_dim))


def is_own_tower(config: ImageEncoderConfig) -> bool:
    """Whether an encoder is built without importing open_clip or timm: a plain CLIP tower that describes itself."""
    return config.library == 'open_clip' and config.model_config is not None and is_plain(config.model_config)


def open_clip_model_config(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of a model.

    Raises:
        OptionError: open_clip has no model of that name.
    """
    import open_clip
    model_config = open_clip.get_model_config(name)
    if model_config is None:
        known = open_clip.list_models()
        raise OptionError(f'image_encoder name: "{name}" is not a model of open_clip {open_clip.__version__}. See '
                          f'open_clip.list_models() for its {len(known)} names.{did_you_mean(name, known)}')
    return model_config


def _open_clip_tower(config: ImageEncoderConfig) -> nn.Module:
    model_config = config.model_config or open_clip_model_config(config.name)
    if is_plain(model_config):
        return build_clip_tower(model_config)
    from open_clip.model import _build_vision_tower
    return _build_vision_tower(model_config['embed_dim'], model_config['vision_cfg'],
                               model_config.get('quick_gelu', False))


def _timm_backbone(config: ImageEncoderConfig) -> tuple[nn.Module, int]:
    import timm
    if not timm.is_model(config.name):
        raise OptionError(f'image_encoder name: "{config.name}" is not a model of timm {timm.__version__}. See '
                          f'timm.list_models().{did_you_mean(config.name, timm.list_models())}')
    if config.pooling == 'mean_std':
        backbone = StageStatistics(timm.create_model(config.name, pretrained=False, features_only=True))
    else:
        backbone = timm.create_model(config.name, pretrained=False, num_classes=0)
    return backbone, backbone.num_features


def _projection(width: int, embed_dim: int, hidden: int | None) -> nn.Module:
    if hidden is None:
        return nn.Sequential(Standardise(width), nn.Linear(width, embed_dim))
    return nn.Sequential(Standardise(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, embed_dim))
