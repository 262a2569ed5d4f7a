"""The scoring definition of RALI: from image features to a score through a basis (arXiv 2510.11369, section 2)."""

import hashlib
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_EXPONENT = 3.0  # of an image's own temperature: features from far outside must not make it 0 or infinite


class BasisScorer(nn.Module):
    """Standardise, project on principal components, compare with the basis, and average the basis scores.

    With image features x (C,), z = `pca_components` ((x - `pca_mean`) / `pca_scale`), w = softmax(cos(z, mu_i) / tau)
    over the K `basis_vectors` mu_i, and the score is the sum of w_i times `basis_scores` f_i. A score is a convex
    combination of the basis scores and has their unit. The division by `pca_scale` is not in the paper's formula; the
    released checkpoint has it, and with ones it changes nothing.

    Args:
        feature_dim: width C of the image features.
        pca_dim: width D after the projection, at most C.
        num_basis: number K of basis vectors.
        own_temperature: whether each image has a temperature of its own, tau(x) = tau exp(u z), with one direction u (D,) for
            all; u is 0 at first, which is one temperature for all.
    """

    pca_mean: Tensor
    pca_scale: Tensor
    pca_components: Tensor

    def __init__(self, feature_dim: int, pca_dim: int, num_basis: int, own_temperature: bool = False):
        super().__init__()
        # buffers are fitted to the data once; parameters are what fine-tuning may change
        self.register_buffer('pca_mean', torch.zeros(feature_dim))
        self.register_buffer('pca_scale', torch.ones(feature_dim))
        self.register_buffer('pca_components', torch.zeros(pca_dim, feature_dim))
        self.basis_vectors = nn.Parameter(torch.zeros(num_basis, pca_dim))
        self.basis_scores = nn.Parameter(torch.zeros(num_basis))
        self.temperature = nn.Parameter(torch.tensor(0.07))
        # None is in no state dict: checkpoints with one temperature stay what they were
        self.temperature_direction = nn.Parameter(torch.zeros(pca_dim)) if own_temperature else None

    def compress(self, image_features: Tensor) -> Tensor:
        """Return z (N, D) for image features (N, C), in float32 at least."""
        # float32 at least: features are close to their mean, and in half precision the difference would keep few digits
        features = image_features.to(torch.promote_types(image_features.dtype, torch.float32))
        standardised = (features - self.pca_mean.to(features.dtype)) / self.pca_scale.to(features.dtype)
        return standardised @ self.pca_components.to(features.dtype).T

    def weights(self, compressed: Tensor) -> Tensor:
        """Return the softmax weights (N, K), rows summing to 1, for compressed features (N, D)."""
        basis_vectors = F.normalize(self.basis_vectors.to(compressed.dtype), dim=-1)
        cosine = F.normalize(compressed, dim=-1) @ basis_vectors.T
        # Cosines, not dot products: only directions count, so fine-tuning cannot win by longer basis vectors, and one
        # temperature suits them all. As tau falls the score becomes that of the nearest basis vector; as it grows, the mean.
        return torch.softmax(cosine / self.temperature_of(compressed), dim=-1)

    def temperature_of(self, compressed: Tensor) -> Tensor:
        """Return tau, one number or with `own_temperature` (N, 1), for compressed features (N, D)."""
        temperature = self.temperature.to(compressed.dtype)
        if self.temperature_direction is None:
            return temperature
        exponent = compressed @ self.temperature_direction.to(compressed.dtype)
        return temperature * exponent.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp().unsqueeze(-1)

    def score_compressed(self, compressed: Tensor) -> Tensor:
        """Return scores (N, 1) for compressed features (N, D)."""
        return self.weights(compressed) @ self.basis_scores.to(compressed.dtype).unsqueeze(-1)

    def forward(self, image_features: Tensor) -> Tensor:
        """Return scores (N, 1) for image features (N, C)."""
        return self.score_compressed(self.compress(image_features))


def scorer_digest(scorer: Mapping[str, Tensor]) -> str:
    """Return a digest of a scorer's state: intervals and alignment belong to the one that they were fitted to."""
    found = hashlib.sha256()
    for name in sorted(scorer):
        found.update(name.encode())
        found.update(scorer[name].detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
