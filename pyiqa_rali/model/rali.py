"""RALI as a pyiqa architecture: an aligned image encoder and a basis scorer, no language model.

Here is what it tells of pictures; `rali_weights` builds and loads it, `rali_precision` keeps its precision.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.memory import bound_primitive_cache
from pyiqa_rali.data.decoding import PIXEL_LIMIT
from pyiqa_rali.data.image_files import ReadingOptions
from pyiqa_rali.data.training_images import TrainingImages, record_in
from pyiqa_rali.model.diagnosis import Aspects, aspects_of
from pyiqa_rali.model.explanation import NUM_BASIS, NUM_TEXTS, Explanation, explain
from pyiqa_rali.model.image_encoder import with_their_nan
from pyiqa_rali.model.interval import COVERAGE, NO_INTERVAL, ScoreIntervals
from pyiqa_rali.model.onnx.backend import OnnxScorer, check_backend
from pyiqa_rali.model.positions import SHARE, region_of
from pyiqa_rali.model.precision import check_device, check_precision
from pyiqa_rali.model.prompt_scorer import NO_ALIGNMENT, PromptScores, checked_prompts
from pyiqa_rali.model.quality_map import quality_map
from pyiqa_rali.model.rali_weights import NetOfWeights, check_trainable
from pyiqa_rali.model.sharing import share_as_one_block
from pyiqa_rali.model.value_range import check_on_cpu
from pyiqa_rali.model.windows import EMPHASIS, WindowScores, is_larger, means_under, side_of, weights_of, windows_of


class RALI(NetOfWeights):
    """Reasoning-Aligned Lightweight IQA (arXiv 2510.11369): no-reference score of pictures in [0, 1].

    Float pictures with values beyond [0, 1], by more than resampling explains (`pyiqa_rali.model.value_range`), are refused.
    As a metric of pyiqa it takes a path, the bytes of a file or a Pillow image too, and reads them as this package's
    commands do (see `pyiqa_rali.data.image_files`).

    Args:
        pretrained: 'rali' (the released checkpoint, or the user's default), 'rali-lite' (embedded), a path or a hub
            repository; False builds the model that `image_encoder`, `pca_dim` and `num_basis` describe, with random
            weights. True means 'rali'.
        pretrained_model_path: file or folder of an export; takes precedence over `pretrained`.
        image_encoder: with `pretrained=False`, the values of an `ImageEncoderConfig`.
        pca_dim: with `pretrained=False`, the width D after the projection.
        num_basis: with `pretrained=False`, the number K of basis vectors.
        mos_range: with `pretrained=False`, the range of the scores.
        lower_better: with `pretrained=False`, whether low scores mean good quality.
        precision: of the image encoder, 'fp32', 'bf16' (GPUs, and CPUs on which it is faster; on others float32 is used,
            with a warning) or 'fp16' (GPUs); the scorer always computes in float32.
        exact: treat pictures as 8-bit ones and let Pillow resize them, as the released model does; scores of files are then
            exactly its own, and the pixels have no gradient.
        revision: branch, tag or commit, for weights from the hub.
        trainable: let the weights require gradients, and `train()` reach the encoder, for training them yourself. By default a
            checkpoint's weights require none, and scores do not depend on the mode of a model that contains the metric; without
            a checkpoint the model is always trainable.
        backend: what computes on CPUs: 'torch', or 'onnx', onnxruntime, which is faster for convolutional
            encoders, gives scores within 1e-4 of the range, and has no gradient. The first use of weights exports them.
        windows: score pictures that are larger than the encoder takes by windows of their own pixels, in the place of scaling
            them down (see `score_windows`).
        upright: turn pictures that are given as files or by Pillow as their EXIF orientation says.
        pixel_limit: refuse such pictures with more pixels than this.

    Raises:
        CheckpointError: the weights cannot be found or read.
        OptionError: an argument has a value that cannot be used.
    """

    windows = False  # of nets that an earlier version has pickled

    def __init__(self, pretrained: bool | str = True, pretrained_model_path: str | os.PathLike | None = None,
                 image_encoder: dict[str, Any] | None = None, pca_dim: int | None = None, num_basis: int | None = None,
                 mos_range: tuple[float, float] | None = None, lower_better: bool | None = None, precision: str = 'fp32',
                 exact: bool = False, revision: str | None = None, trainable: bool | None = None,
                 backend: str = 'torch', upright: bool = True, pixel_limit: int = PIXEL_LIMIT, windows: bool = False):
        super().__init__()
        self.reading = ReadingOptions(upright, pixel_limit)
        bound_primitive_cache()
        check_trainable(trainable)
        if windows not in (True, False):
            raise OptionError(f'windows: {windows!r} must be true or false.')
        self.windows = bool(windows)
        self.precision, self._dtype, self.exact = precision, check_precision(precision), exact
        self._undecided = precision == 'bf16'  # whether it is faster on this CPU
        described = {'image_encoder': image_encoder, 'pca_dim': pca_dim, 'num_basis': num_basis, 'mos_range': mos_range,
                     'lower_better': lower_better}
        source: str | os.PathLike | None = (
            'rali' if pretrained is True else None if pretrained is False else pretrained)
        if pretrained_model_path is not None:
            source = pretrained_model_path
        self.trainable = source is None if trainable is None else trainable
        if source is None:
            self._build_from_arguments(described)
        else:
            self._refuse_with_weights(described)
            self._load_pretrained(source, revision, may_be_name=pretrained_model_path is None)
        self.use_backend(backend)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, revision: str | None = None, **options: Any) -> 'RALI':
        """Return the network of a checkpoint.

        Args:
            source: 'rali-lite' (embedded), 'rali', a file or folder, or 'owner/name' or 'owner/name:folder' on the hub.
            revision: branch, tag or commit of a repository: a commit pins the weights.
            options: of the constructor.

        Raises:
            CheckpointError, OptionError: as the constructor.
        """
        return cls(pretrained=os.fspath(source), revision=revision, **options)

    @property
    def backend(self) -> str:
        """What computes scores: 'torch' or 'onnx'."""
        return 'torch' if self._onnx is None else 'onnx'

    def use_backend(self, backend: str) -> None:
        """Compute by PyTorch ('torch') or onnxruntime ('onnx') from now on (see `backend` of the constructor).

        Raises:
            OptionError: there is no such backend, it is not installed, or it cannot be combined with other options.
            CheckpointError: the exported network does not give PyTorch's scores, or cannot be kept.
        """
        check_backend(backend, self.precision, self.trainable)
        self._onnx: OnnxScorer | None = None
        if backend == 'onnx':
            scorer = OnnxScorer()
            scorer.file(self)  # anything that can fail or takes time happens here
            self._onnx = scorer

    @property
    def metadata(self) -> dict[str, Any]:
        """What the checkpoint says about itself: encoder, MOS range and direction, training, versions, licence."""
        return self._metadata

    @property
    def training_images(self) -> TrainingImages | None:
        """The record of the images that the weights were trained on; None where they keep none.

        Raises:
            CheckpointError: it cannot be read.
        """
        return record_in(self._metadata)

    @property
    def score_range(self) -> str:
        """The range of the scores as pyiqa writes it: the MOS range, such as '1, 5'.

        A score is a convex combination of the basis scores. Where fine-tuning has moved one of them beyond an end of the MOS
        range, scores can exceed that end a little, and a tilde says so: '~1, ~5'.
        """
        low, high = self._metadata['mos_range']
        basis_scores = self.scorer.basis_scores.detach()
        below, above = (basis_scores < low).any(), (basis_scores > high).any()
        return f'{"~" if below else ""}{low:g}, {"~" if above else ""}{high:g}'

    @property
    def lower_better(self) -> bool:
        """Whether low scores mean good quality."""
        return bool(self._metadata['lower_better'])

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, 1), float32, in the unit of the training MOS; NaN for pictures with pixels that are not finite.

        Args:
            images: (N, 3 or 1, H, W) in [0, 1] of any float type, or uint8 or uint16.

        Raises:
            RangeError: values of a float tensor on the CPU, without a gradient, are not in [0, 1] (see `model.value_range`).
        """
        check_on_cpu(images)
        if self._takes_windows(images):  # what `score_windows` returns, EMPHASIS being 0, and with a gradient
            (height, width), side = images.shape[-2:], cast(int, side_of(self.image_encoder.config.preprocessing))
            return torch.stack([self.score_prepared(self.prepare(images[..., top:bottom, left:right]))
                                for top, left, bottom, right in windows_of(height, width, side)]).mean(dim=0)
        return self.score_prepared(self.prepare(images))

    def _takes_windows(self, images: Tensor) -> bool:
        return self.windows and is_larger(self.image_encoder.config.preprocessing, *images.shape[-2:])

    def _refuse_windows(self, images: Tensor) -> None:
        """Raise OptionError where what belongs to the score of the whole picture would stand beside that of its windows."""
        if self._takes_windows(images):
            size = f'{images.shape[-1]} x {images.shape[-2]}'
            raise OptionError(f'windows: true scores pictures of {size} pixels by their windows, and intervals, explanations '
                              'and alignment belong to the score of the whole picture. Ask a metric without windows for them.')

    @torch.no_grad()
    def score_windows(self, images: Any, emphasis: float = EMPHASIS) -> list[WindowScores]:
        """Return the scores of large pictures at their own resolution: of windows, weighted by the map of quality.

        Windows cover the picture evenly, as few as possible with the longest edge that the encoder takes. A window's weight is
        softmax(emphasis q), q the mean of the map under it, as quality from 0 to 1. A picture no larger than a window is one.

        Args:
            images: as `forward` takes them, or a path, the bytes of a file or a Pillow image; no gradient is kept.
            emphasis: 0 weights all windows alike; below 0 the worse ones count more, above 0 the better ones.

        Raises:
            OptionError: the emphasis is not a finite number, or the encoder has no positions, which 0 needs none of.
        """
        side = side_of(self.image_encoder.config.preprocessing)
        low, high = self._metadata['mos_range']
        images, found = self.as_pictures(images).to(self.scorer.basis_vectors.device), []
        for picture in images.split(1) if len(images) else ():
            height, width = picture.shape[-2:]
            windows = windows_of(height, width, side or max(height, width))
            scores = torch.cat([self.score_prepared(self.prepare(picture[..., top:bottom, left:right])).flatten()
                                for top, left, bottom, right in windows])
            means = torch.zeros_like(scores)
            if emphasis != 0 and len(windows) > 1:
                means = means_under(self.quality_map(picture)[0], self.map_region(height, width), windows)
            weights = weights_of(means, emphasis, (low, high), self.lower_better)
            found.append(WindowScores(float(weights @ scores), windows, scores.tolist(), weights.tolist()))
        return found

    @property
    def fixed_input(self) -> bool:
        """Whether `prepare` brings all pictures to one size."""
        return self.image_encoder.config.preprocessing.image_size is not None

    def prepare(self, images: Tensor) -> Tensor:
        """Return the encoder's input (N, 3, h, w), float32, for pictures as `forward` takes them."""
        with self._own_precision(images):
            return self.image_encoder.preprocess(images)

    def score_prepared(self, prepared: Tensor) -> Tensor:
        """Return scores (N, 1), float32, for what `prepare` made of pictures of any sizes."""
        if self._onnx is not None and not torch.compiler.is_compiling():
            return with_their_nan(self._onnx(self, prepared), prepared)
        return self.torch_scores(prepared)

    def torch_scores(self, prepared: Tensor) -> Tensor:
        """Return what `score_prepared` does, by PyTorch, whatever the backend is."""
        return self._torch_scores_and_features(prepared)[0]

    def scores_and_features(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `score_prepared` does, and the image features (N, C), float32, that the scores come from."""
        if self._onnx is not None and not torch.compiler.is_compiling():
            scores, features = self._onnx.scores_and_features(self, prepared)
            return with_their_nan(scores, prepared), with_their_nan(features, prepared)
        return self._torch_scores_and_features(prepared)

    def score_with_interval(self, images: Any, coverage: float = COVERAGE) -> ScoreIntervals:
        """Return scores with intervals that hold the MOS of a share of all images like those of the calibration.

        Args:
            images: as `forward` takes them, or a path, the bytes of a file or a Pillow image. No gradient is kept.
            coverage: that share, above 0 and below 1.

        Raises:
            CheckpointError: the checkpoint has no interval; the message says how to calibrate it.
            OptionError: the calibration had too few images for such a coverage, or larger pictures are scored by windows.
        """
        with torch.no_grad():
            images = self.as_pictures(images).to(self.scorer.basis_vectors.device)
            self._refuse_windows(images)
            scores, features = self.scores_and_features(self.prepare(images))
            return self.intervals_of(features, scores, coverage)

    def intervals_of(self, features: Tensor, scores: Tensor, coverage: float = COVERAGE) -> ScoreIntervals:
        """Return the intervals of `score_with_interval` for what `scores_and_features` returned."""
        if self.interval is None:
            raise CheckpointError(NO_INTERVAL)
        return self.interval.around(self.scorer, features, scores, coverage)

    def score_with_prompts(self, images: Any, prompts: str | Sequence[str]) -> PromptScores:
        """Return both aspects of generated pictures: their quality, and their alignment with the prompts they were made from.

        Args:
            images: as `forward` takes them, or a path, the bytes of a file or a Pillow image. No gradient is kept.
            prompts: of the pictures, in their order; one text for one picture.

        Raises:
            CheckpointError: the checkpoint has no alignment with prompts; the message says how to train one.
            OptionError: there are more or fewer prompts than pictures, or one is empty; or the option `windows` is set.
        """
        with torch.no_grad():
            images = self.as_pictures(images).to(self.scorer.basis_vectors.device)
            checked = checked_prompts(prompts, len(images))
            if self.prompts is None:  # before any picture is encoded
                raise CheckpointError(NO_ALIGNMENT)
            self._refuse_windows(images)
            scores, features = self.scores_and_features(self.prepare(images))
            return self.prompt_scores_of(features, scores, checked)

    def prompt_scores_of(self, features: Tensor, scores: Tensor, prompts: Sequence[str]) -> PromptScores:
        """Return the scores of `score_with_prompts` for what `scores_and_features` returned."""
        if self.prompts is None or self.text_tower is None:
            raise CheckpointError(NO_ALIGNMENT)
        unique = list(dict.fromkeys(prompts))
        if self.text_tower.count_long(unique):
            context = self.text_tower.tokenizer.context_length
            warnings.warn(f'prompts that are longer than the {context} tokens of the text tower lose their end: the alignment '
                          'is that with their beginning.', stacklevel=3)
        with self._own_precision(features):
            text_features = self.text_tower(unique)[[unique.index(prompt) for prompt in prompts]]
            alignment, agreement = self.prompts(self.scorer, features, text_features)
        return PromptScores(scores, alignment.float(), agreement.float())

    def _torch_scores_and_features(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        device = self.scorer.basis_vectors.device
        check_device(self.precision, device)
        if self._undecided and device.type == 'cpu':
            self._decide_on_bf16()
        with self._own_precision(prepared):
            features = self.image_encoder.encode(prepared)
            return self.scorer(features).float(), features.float()

    def explain(self, images: Any, num_texts: int = NUM_TEXTS, num_basis: int = NUM_BASIS) -> list[Explanation]:
        """Return why each picture of (N, 3 or 1, H, W) in [0, 1] has its score, from the checkpoint's text bank.

        Args:
            images: as `forward` takes them, or a path, the bytes of a file or a Pillow image; no gradient is kept.
            num_texts: how many of the nearest texts.
            num_basis: how many of the basis vectors with the largest weights.

        Raises:
            CheckpointError: the checkpoint has no text bank; the message says how to add one.
            OptionError: a number below 1, or larger pictures are scored by windows.
        """
        images = self.as_pictures(images).to(self.scorer.basis_vectors.device)
        self._refuse_windows(images)
        with self._own_precision(images):
            return explain(self.image_encoder, self.scorer, self.bank, images, num_texts, num_basis, self.diagnosis)

    @torch.no_grad()
    def aspects(self, images: Any) -> Aspects:
        """Return how good focus, noise, exposure and other aspects of pictures are, in [0, 1] (see `model.diagnosis`).

        Args:
            images: as `forward` takes them, or a path, the bytes of a file or a Pillow image.

        Raises:
            CheckpointError: the checkpoint has no diagnosis; the message says how to add one.
        """
        images = self.as_pictures(images).to(self.scorer.basis_vectors.device)
        with self._own_precision(images):
            return aspects_of(self.diagnosis, self.image_encoder(images))

    def quality_map(self, images: Any, share: float | None = None) -> Tensor:
        """Return where pictures are good and bad: the score of each position (N, H', W'), float32, in the unit of the score.

        Each position is scored as a picture that is everywhere what this one is there, by the same encoder and scorer. Rows and
        columns cover `map_region` evenly: with `pooling: mean_std` cells of 16 pixels, otherwise the encoder's patches or
        positions. The map's mean is near the picture's score, not equal to it.

        Args:
            images: as `forward` takes them, or a path, the bytes of a file or a Pillow image; no gradient is kept.
            share: in [0, 1], how much of a position's difference from its picture counts; 0 gives the score everywhere. None
                takes the shares that the checkpoint has (`pyiqa-rali fit-map`), or half where it has none.

        Raises:
            OptionError: `share` is outside its range, or the encoder has no positions.
        """
        images = self.as_pictures(images).to(self.scorer.basis_vectors.device)
        shares = share if share is not None else SHARE if self.map is None else self.map.shares
        with self._own_precision(images):
            return quality_map(self.image_encoder, self.scorer, images, shares)

    def map_region(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return the part of a picture that its map covers: (top, left, bottom, right), in pixels of the picture.

        An encoder that takes a centre crop sees less than the picture; one that pads sees more, and the part reaches beyond it.

        Args:
            height: of the picture, in pixels.
            width: of the picture, in pixels.
        """
        return region_of(self.image_encoder.config.preprocessing, height, width)


share_as_one_block(RALI)
