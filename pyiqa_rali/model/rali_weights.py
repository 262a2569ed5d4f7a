"""The weights of a RALI: built from arguments or from a checkpoint, loaded anew, and carried along with what they are."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError, OptionError, some
from pyiqa_rali.model import checkpoint as checkpoint_format
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.diagnosis import build_diagnosis
from pyiqa_rali.model.image_encoder import ImageEncoderConfig, build_image_encoder, is_own_tower, open_clip_model_config
from pyiqa_rali.model.interval import build_interval
from pyiqa_rali.model.prompt_scorer import build_prompt_scorer
from pyiqa_rali.model.quality_map import build_map
from pyiqa_rali.model.rali_precision import NetOfPrecision
from pyiqa_rali.model.text_bank import build_bank
from pyiqa_rali.model.text_tower import TextTower
from pyiqa_rali.model.wrapping import unwrapped


class NetOfWeights(NetOfPrecision):
    """The part of a `RALI` that builds it and loads its weights.

    Attributes:
        exact: whether Pillow resizes pictures.
        trainable: whether the weights require gradients.
    """

    exact: bool
    trainable: bool
    _metadata: dict[str, Any]

    def train(self, mode: bool = True) -> Self:
        """Set the mode where training was asked for (`trainable`); otherwise a metric stays in its scoring mode."""
        return super().train(mode and self.trainable)

    def get_extra_state(self) -> Tensor:
        """Carry the metadata in the state dict, so that pyiqa's `.pth` files describe themselves."""
        return checkpoint_format.metadata_to_extra_state(self._metadata)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the metadata of a state dict."""
        self._metadata = checkpoint_format.metadata_from_extra_state(state)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast the weights, to normal tensors even inside `torch.inference_mode`."""
        with torch.inference_mode(False):
            return super()._apply(*args, **kwargs)

    @torch.inference_mode(False)
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """Load the weights of any export: the model is rebuilt when encoder, K or D differ.

        Names may have the prefixes of `wrapping.WRAPPERS`.

        Raises:
            CheckpointError: the state dict is not from an export of pyiqa_rali, or its tensors do not fit; the model then
                stays as it was. Missing tensors are an error with `strict=False` too: random ones would score.
        """
        tensors = unwrapped(state_dict)
        extra_state = tensors.pop(checkpoint_format.EXTRA_STATE_KEY, None)
        metadata = checkpoint_format.metadata_from_extra_state(extra_state, 'these weights')
        checkpoint_format.check_metadata(metadata, 'these weights')
        checkpoint_format.check_scorer_tensors(tensors, 'these weights')
        checkpoint_format.check_bank(tensors, metadata, 'these weights')
        checkpoint_format.check_diagnosis(tensors, metadata, 'these weights')
        checkpoint_format.check_interval(tensors, metadata, 'these weights')
        checkpoint_format.check_map(tensors, metadata, 'these weights')
        checkpoint_format.check_prompts(tensors, metadata, 'these weights')
        parts = ('image_encoder', 'scorer', 'bank', 'diagnosis', 'interval', 'map', 'prompts', 'text_tower', '_metadata')
        before = {name: getattr(self, name) for name in parts}
        current, training = self.scorer.basis_vectors, self.training
        try:
            self._build(metadata, *_scorer_sizes(tensors))
            self.to(device=current.device, dtype=current.dtype)
            result = _load_into(self, tensors, strict, assign, 'these weights')
        except Exception:
            for name, value in before.items():
                setattr(self, name, value)
            raise
        self._settle(training)
        return result

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any],
                              *args: Any) -> None:
        """Load the weights of any export inside a larger module too, whose `load_state_dict` does not call ours."""
        own = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
        if prefix and own:
            self.load_state_dict(own, assign=local_metadata.get('assign_to_params_buffers', False))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _build_from_arguments(self, described: dict[str, Any]) -> None:
        missing = [name for name, value in described.items() if value is None]
        if missing:
            raise OptionError(f'pretrained: False needs {", ".join(described)}; missing: {some(missing)}.')
        encoder = ImageEncoderConfig.from_dict(described['image_encoder'])
        metadata = {'format_version': checkpoint_format.FORMAT_VERSION, 'image_encoder': encoder.to_dict(),
                    'mos_range': list(described['mos_range']), 'lower_better': described['lower_better'],
                    'training': 'none: random weights'}
        self._build(metadata, encoder.embed_dim, described['pca_dim'], described['num_basis'])
        self._settle(training=False)

    def _refuse_with_weights(self, described: dict[str, Any]) -> None:
        given = [name for name, value in described.items() if value is not None]
        if given:
            raise OptionError(f'{given[0]}: is only for pretrained: False; a checkpoint has its own. Leave it out.')

    def _load_pretrained(self, source: str | os.PathLike, revision: str | None, may_be_name: bool) -> None:
        """Build the model without memory for its weights where possible, and let the file's own take their place."""
        from pyiqa_rali.model.locate import locate_checkpoint
        path = locate_checkpoint(os.fspath(source), revision, may_be_name)
        tensors, metadata = checkpoint_format.load_checkpoint(path)
        own_tower = _is_own_tower(metadata)
        try:
            with torch.device('meta') if own_tower else contextlib.nullcontext():
                self._build(metadata, *_scorer_sizes(tensors))
        except OptionError as error:
            raise CheckpointError(f'{path}: {error}') from error
        if own_tower:  # the file's tensors are cast as they are read
            self._decide_if_on_cpu()
            self._narrow()
        wanted = {name: tensor.dtype for name, tensor in self.state_dict().items()}
        _load_into(self, checkpoint_format.with_types(path, tensors, wanted), True, True, path)
        self.image_encoder.backbone.to(memory_format=torch.channels_last)
        self._settle(training=False)

    def _settle(self, training: bool) -> None:
        """Give new weights the mode and precision of this metric, and let them require gradients or not."""
        self.train(training)
        self.requires_grad_(self.trainable)
        if not self.trainable:
            self.image_encoder.fold()
        self._decide_if_on_cpu()
        self._narrow()

    def _build(self, metadata: dict[str, Any], feature_dim: int, pca_dim: int, num_basis: int) -> None:
        config = ImageEncoderConfig.from_dict(metadata['image_encoder'])
        self._metadata = metadata
        with _float32_by_default():
            self.image_encoder = build_image_encoder(config)
            self.image_encoder.preprocess.exact = self.exact
            self.scorer = BasisScorer(feature_dim, pca_dim, num_basis, bool(metadata.get(checkpoint_format.OWN_TEMPERATURE)))
            self.bank = build_bank(metadata, feature_dim)
            self.diagnosis = build_diagnosis(metadata, feature_dim)
            self.map = build_map(metadata)
            self.interval = build_interval(metadata, pca_dim, num_basis)
            self.prompts = build_prompt_scorer(metadata, feature_dim, num_basis)
            self.text_tower = None if self.prompts is None else TextTower(
                config.name, config.model_config or open_clip_model_config(config.name))


def check_trainable(trainable: bool | None) -> None:
    """Raise OptionError for what is neither true nor false."""
    if trainable not in (None, True, False):
        raise OptionError(f'trainable: {trainable!r} must be true or false.')


def _is_own_tower(metadata: dict[str, Any]) -> bool:
    return is_own_tower(ImageEncoderConfig.from_dict(metadata['image_encoder']))


def _scorer_sizes(tensors: dict[str, Tensor]) -> tuple[int, int, int]:
    pca_dim, feature_dim = tensors['scorer.pca_components'].shape
    return feature_dim, pca_dim, tensors['scorer.basis_vectors'].shape[0]


def _load_into(net: NetOfWeights, tensors: dict[str, Tensor], strict: bool, assign: bool, source: str | os.PathLike):
    """Load tensors with errors that name their source; half-precision storage is widened by the copy."""
    try:
        state = {**tensors, checkpoint_format.EXTRA_STATE_KEY: net.get_extra_state()}
        result = nn.Module.load_state_dict(net, state, strict=strict, assign=assign)
        if result.missing_keys:
            raise RuntimeError(f'missing are {some(result.missing_keys)}')
        return result
    except RuntimeError as error:
        raise CheckpointError(f'{source}: its tensors do not fit the encoder that its metadata names '
                              f'({net._metadata["image_encoder"]["name"]}): {error}') from error


@contextlib.contextmanager
def _float32_by_default() -> Iterator[None]:
    """Build in float32 even in programs with another default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
