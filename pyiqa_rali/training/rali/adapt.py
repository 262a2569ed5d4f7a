"""A basis refreshed for a new domain, from images without labels: vectors anew, scores carried over.

The model that exists scores the images of the domain, and these scores take the place of MOS. In the end the scores of these
images have the mean and the standard deviation that they had before, so that the scale stays the same.
"""

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import DataError, OptionError, did_you_mean, some
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage
from pyiqa_rali.data.synthetic.dataset import as_tensor
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.checkpoint import load_checkpoint, write_checkpoint
from pyiqa_rali.model.checkpoint_interval import INTERVAL_KEY, without_interval
from pyiqa_rali.model.checkpoint_prompts import without_prompts
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.model.prompt_scorer import PROMPTS_KEY
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.scoring.entries import ImageEntry, read_entry
from pyiqa_rali.training.rali.compression import bucketed_kmeans
from pyiqa_rali.training.rali.options import CompressOptions

Method = Literal['means', 'buckets']
LEAST_IMAGES = 16


@dataclass(frozen=True)
class AdaptOptions:
    """How a basis is refreshed.

    Attributes:
        method: 'means' moves each basis vector towards the images that lean on it, and keeps its basis score; 'buckets' makes
            basis vectors and scores anew by k-means in buckets, as stage 2 does, with the model's own scores as labels.
        strength: with 'means', how many images the old direction of a basis vector counts for.
        num_buckets: with 'buckets', number of buckets, by rank.
        seed: of k-means.
    """

    method: Method = 'means'
    strength: float = 10.0
    num_buckets: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise OptionError(f'method: "{self.method}" is not one of {", ".join(get_args(Method))}.'
                              f'{did_you_mean(self.method, get_args(Method))}')
        if not 0 <= self.strength < float('inf'):
            raise OptionError(f'strength: {self.strength} must be a number of images, 0 or more.')
        if self.num_buckets < 1:
            raise OptionError(f'num_buckets: {self.num_buckets} must be at least 1.')


@dataclass(frozen=True)
class Adapted:
    """A checkpoint with a refreshed basis.

    Attributes:
        path: the file that was written.
        images: how many images it follows.
        unreadable: names of those that could not be read, with reasons.
        turned: mean angle between old and new basis vectors, in degrees; None where they are others.
        changed: mean absolute change of the images' scores, in the unit of the scores.
        without_interval: whether intervals were left out: they belong to the scores before.
        without_prompts: whether the alignment with prompts was left out: its basis scores belong to the basis before.
    """

    path: Path
    images: int
    unreadable: list[str]
    turned: float | None
    changed: float
    without_interval: bool
    without_prompts: bool = False


def adapt(checkpoint: str | os.PathLike, images: Iterable[ImageEntry], out: str | os.PathLike,
          options: AdaptOptions | None = None, reading: ReadingOptions = READING) -> Adapted:
    """Refresh the basis of a checkpoint for a domain, and write the checkpoint with it.

    Args:
        checkpoint: file or folder of an export, or 'rali-lite'.
        images: of the domain, such as `ImageSources`; no labels are needed.
        out: the .safetensors or .pth file to write.
        options: how.
        reading: how pictures are read.

    Raises:
        OptionError, DataError, CheckpointError: with what to do; such as fewer than 16 images that can be read.
    """
    options = options or AdaptOptions()
    path = locate_checkpoint(str(checkpoint))
    tensors, metadata = load_checkpoint(path)
    net = RALI(pretrained_model_path=path)
    features, unreadable = _features(net, images, reading)
    if len(features) < LEAST_IMAGES:
        raise DataError(f'images: {len(features)} can be read; a basis needs {LEAST_IMAGES} at least'
                        + (f'. Not readable: {some(unreadable, 3)}.' if unreadable else '.'))
    scorer = refreshed(net.scorer, features, options)
    with torch.no_grad():
        changed = float((scorer(features) - net.scorer(features)).abs().mean())
    turned = None
    if options.method == 'means':
        cosine = F.cosine_similarity(scorer.basis_vectors, net.scorer.basis_vectors, dim=1).clamp(-1, 1)
        turned = float(cosine.acos().rad2deg().mean())
    calibrated = INTERVAL_KEY in metadata
    if calibrated:
        tensors, metadata = without_interval(tensors, metadata)
    prompted = PROMPTS_KEY in metadata
    if prompted:
        tensors, metadata = without_prompts(tensors, metadata)
    tensors = {**tensors, **{f'scorer.{name}': tensor for name, tensor in scorer.state_dict().items()}}
    told: dict[str, Any] = {'images': len(features), 'method': options.method, 'strength': options.strength}
    write_checkpoint(out, tensors, {**metadata, 'adapted': told})
    return Adapted(Path(out), len(features), unreadable, turned, changed, calibrated, prompted)


@torch.no_grad()
def _features(net: RALI, images: Iterable[ImageEntry], reading: ReadingOptions) -> tuple[Tensor, list[str]]:
    """Return the features (n, C) of images, and those that cannot be read."""
    device, rows, unreadable = net.scorer.basis_vectors.device, list[Tensor](), list[str]()
    for entry in progress_bar(images, desc='features', unit='image'):
        try:
            rows.append(net.image_encoder(as_tensor([read_entry(entry, reading)]).to(device)).float())
        except UnreadableImage as error:
            unreadable.append(f'{entry.name}: {error.reason}')
    return torch.cat(rows) if rows else torch.empty(0, net.scorer.pca_mean.numel()), unreadable


@torch.no_grad()
def refreshed(scorer: BasisScorer, image_features: Tensor, options: AdaptOptions) -> BasisScorer:
    """Return a scorer whose basis follows images of a domain.

    Args:
        scorer: the model's; it stays as it is.
        image_features: (n, C) of the domain's images.
        options: how.
    """
    compressed = scorer.compress(image_features)
    before = scorer.score_compressed(compressed).squeeze(-1)
    made = (_by_means if options.method == 'means' else _by_buckets)(scorer, compressed, before, options)
    after = made.score_compressed(compressed).squeeze(-1)
    factor = before.std() / after.std() if after.std() > 1e-6 * (1 + before.abs().max()) else before.new_ones(())
    # scores are weighted means of basis scores: what is done to all basis scores is done to every score
    made.basis_scores.copy_(before.mean() + factor * (made.basis_scores - after.mean()))
    return made


def _by_means(scorer: BasisScorer, compressed: Tensor, scores: Tensor, options: AdaptOptions) -> BasisScorer:
    """Return a scorer in which each basis vector is the mean direction of the images that lean on it and of its own."""
    made = copy.deepcopy(scorer)
    weights = scorer.weights(compressed)
    directions = F.normalize(compressed, dim=-1)
    old = F.normalize(scorer.basis_vectors, dim=-1)
    leaning = weights.T @ directions + options.strength * old
    moved = leaning.norm(dim=-1, keepdim=True) > 0  # a vector on which nothing leans stays, also at strength 0
    made.basis_vectors.copy_(torch.where(moved, F.normalize(leaning, dim=-1), old))
    return made


def _by_buckets(scorer: BasisScorer, compressed: Tensor, scores: Tensor, options: AdaptOptions) -> BasisScorer:
    """Return a scorer with centroids of the images in buckets of their scores, as many as there were or as images allow."""
    count = min(len(scorer.basis_scores), len(compressed))
    wanted = CompressOptions(num_basis=count, num_buckets=min(options.num_buckets, count), bucket_by='rank')
    vectors, means, _ = bucketed_kmeans(compressed.cpu().double().numpy(), scores.cpu().double().numpy(), wanted, options.seed)
    made = copy.deepcopy(scorer)
    made.basis_vectors = torch.nn.Parameter(torch.from_numpy(np.asarray(vectors)).to(scorer.basis_vectors))
    made.basis_scores = torch.nn.Parameter(torch.from_numpy(np.asarray(means)).to(scorer.basis_scores))
    return made
