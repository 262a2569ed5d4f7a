"""The inference of the released RALI, written from the paper's formulas on transformers' CLIP: what we compare ourselves with.

Tensor -> 8-bit PIL -> CLIP's image processor -> `CLIPModel.get_image_features` -> PCA -> basis, in float32. Both towers are
loaded, `best/` first and `ckpt.pt` over it, as the release does. Where there is a choice, it is made in favour of the release:
pictures from files skip the tensor, and the processor comes without its tokenizer.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyiqa_rali.model.release.pickles import read_joblib


class ReleasePath:
    """Scores by the release's own path.

    Args:
        folder: a folder in the layout of the release.
        device: torch's name of the device.
    """

    def __init__(self, folder: str | Path, device: str = 'cpu'):
        from transformers import CLIPImageProcessor, CLIPModel
        folder, self.device = Path(folder), device
        self.processor = CLIPImageProcessor.from_pretrained(folder / 'best')
        self.module = CLIPModel.from_pretrained(folder / 'best', dtype=torch.float32)
        state = torch.load(folder / 'ckpt.pt', map_location='cpu', weights_only=True)['state_dict']
        self.module.load_state_dict({name.removeprefix('clip.'): tensor for name, tensor in state.items()
                                     if name.startswith('clip.')})
        self.module.to(device).eval()
        self.mean = torch.from_numpy(read_joblib(folder / 'pca.pkl')['mean_']).float().to(device)
        self.scorer = {name.removeprefix('scorer.'): tensor.float().to(device) for name, tensor in state.items()
                       if name.startswith('scorer.')}

    @property
    def score_range(self) -> float:
        """Width of the range that its scores can take."""
        return (self.scorer['proto_scores'].max() - self.scorer['proto_scores'].min()).item()

    def from_files(self, paths: list[str]) -> Tensor:
        """Return scores (N, 1) of image files."""
        return self._scores([Image.open(path).convert('RGB') for path in paths])

    def from_tensor(self, images: Tensor) -> Tensor:
        """Return scores (N, 1) of pictures (N, 3, H, W) in [0, 1]."""
        pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return self._scores([Image.fromarray(np.ascontiguousarray(each)) for each in pixels])

    @torch.no_grad()
    def _scores(self, pictures: list[Image.Image]) -> Tensor:
        features = image_features(self.module, self.processor, pictures)
        z = ((features - self.mean) / self.scorer['pca_scale'].abs()) @ self.scorer['pca_components'].T
        z, vectors = (each / each.norm(dim=-1, keepdim=True) for each in (z, self.scorer['prototypes']))
        weights = torch.softmax(z @ vectors.T * self.scorer['logit_scale'].clamp(min=1e-6), dim=-1)
        return (weights @ self.scorer['proto_scores']).unsqueeze(-1)


@torch.no_grad()
def image_features(clip: torch.nn.Module, processor: Any, pictures: list[Image.Image]) -> Tensor:
    """Return CLIP's projected image features (N, C), not normalised."""
    pixels = processor(images=pictures, return_tensors='pt')['pixel_values'].to(next(clip.parameters()).device)
    features = clip.get_image_features(pixel_values=pixels)
    return features if isinstance(features, Tensor) else features.pooler_output  # an output object since transformers 5
