"""Where a picture is good and where it is bad: the score of each position, by the scorer that scores the picture."""

import torch
from torch import Tensor

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.image_encoder import ImageEncoder
from pyiqa_rali.model.positions import SHARE, position_features


@torch.no_grad()
def quality_map(image_encoder: ImageEncoder, scorer: BasisScorer, images: Tensor, share: float = SHARE) -> Tensor:
    """Return the score (N, H', W') of each position of pictures (see `RALI.quality_map`, which calls this)."""
    if not 0 <= share <= 1:
        raise OptionError(f'share: {share} must be in [0, 1].')
    features = position_features(image_encoder, image_encoder.preprocess(images), share)
    return scorer(features.flatten(0, 2)).view(features.shape[:3]).float()
