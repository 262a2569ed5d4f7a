"""Where a picture is good and where it is bad: the score of each position, by the scorer that scores the picture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.checkpoint_map import MAP_KEY
from pyiqa_rali.model.image_encoder import ImageEncoder, with_their_nan
from pyiqa_rali.model.positions import SHARE, position_features

NINTHS = 3  # parts along each edge that `QualityMap.parts` has


@dataclass(frozen=True)
class QualityMap:
    """Where one picture is good and where it is bad.

    Attributes:
        values: (H', W') the score of each position, in the unit of the picture's score.
        region: (top, left, bottom, right) in pixels of the picture, which the values cover evenly.
    """

    values: list[list[float]]
    region: tuple[float, float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def parts(self) -> list[list[float]]:
        """Return the mean score of each ninth of the region, row by row; fewer where a map has fewer positions."""
        maps = torch.tensor(self.values)[None]
        grid = (min(NINTHS, maps.shape[1]), min(NINTHS, maps.shape[2]))
        return torch.nn.functional.adaptive_avg_pool2d(maps, grid)[0].tolist()


class MapShares(nn.Module):
    """How much of a position's difference from its picture counts, for each output of the backbone (see `fit-map`).

    Args:
        width: W of the backbone's output.
    """

    shares: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer('shares', torch.full((width,), SHARE))


def build_map(metadata: Mapping[str, Any]) -> MapShares | None:
    """Return a place for the shares that a checkpoint has; None where it has none."""
    return MapShares(int(metadata[MAP_KEY]['width'])) if MAP_KEY in metadata else None


@torch.no_grad()
def quality_map(image_encoder: ImageEncoder, scorer: BasisScorer, images: Tensor, share: float | Tensor = SHARE) -> Tensor:
    """Return the score (N, H', W') of each position of pictures (see `RALI.quality_map`, which calls this)."""
    if not isinstance(share, Tensor) and not 0 <= share <= 1:
        raise OptionError(f'share: {share} must be in [0, 1].')
    prepared = image_encoder.preprocess(images)
    features = position_features(image_encoder, prepared, share)
    return with_their_nan(scorer(features.flatten(0, 2)).view(features.shape[:3]).float(), prepared)
