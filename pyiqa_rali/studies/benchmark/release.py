"""The released RALI to compare with: its own inference, and random weights in the layout of its folder.

Tensor -> 8-bit PIL -> CLIP's image processor -> `CLIPModel.get_image_features` -> PCA -> basis, in float32, written from the
paper's formulas on transformers' CLIP. Both towers are loaded, `best/` first and `ckpt.pt` over it, as the release does. Where
there is a choice, it favours the release: pictures from files skip the tensor, and the processor comes without its tokenizer.
With the random weights, a benchmark loads and computes what it would with the real ones.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.files import atomic_folder, write_json
from pyiqa_rali.core.runs import differences, read_claim
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.model.release.pickles import read_joblib

ENCODERS: dict[str, dict[str, Any]] = {
    'ViT-L/14-336': {
        'vision': {'hidden_size': 1024, 'intermediate_size': 4096, 'num_hidden_layers': 24, 'num_attention_heads': 16,
                   'image_size': 336, 'patch_size': 14},
        'text': {'hidden_size': 768, 'intermediate_size': 3072, 'num_hidden_layers': 12, 'num_attention_heads': 12},
        'features': 768, 'pca_dim': 512, 'num_basis': 250},
    'tiny': {
        'vision': {'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 2,
                   'image_size': 32, 'patch_size': 8},
        'text': {'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2,
                 'vocab_size': 64},
        'features': 16, 'pca_dim': 6, 'num_basis': 9}}
TEMPERATURE = 0.07
FINISHED = 'random.json'  # what the folder was made of


class ReleasePath:
    """Scores by the release's own method.

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
def image_features(clip: Any, processor: Any, pictures: list[Image.Image]) -> Tensor:
    """Return CLIP's projected image features (N, C), not normalised."""
    pixels = processor(images=pictures, return_tensors='pt')['pixel_values'].to(next(clip.parameters()).device)
    features = clip.get_image_features(pixel_values=pixels)
    return features if isinstance(features, Tensor) else features.pooler_output  # transformers 5 returns an output object


def write_random_release(folder: Path, encoder: str, pictures: list[Path], seed: int = 0) -> Path:
    """Write `best/`, `ckpt.pt` and `pca.pkl`, unless the folder holds them already, and return the folder.

    The features are standardised on real pictures and the basis lies among theirs, so that scores are spread over the range and
    small errors of the features are neither hidden nor exaggerated.

    Args:
        folder: where; made if needed.
        encoder: a key of `ENCODERS`.
        pictures: image files, two at least.
        seed: of all random numbers.

    Raises:
        OptionError: the encoder is not known.
    """
    if encoder not in ENCODERS:
        raise OptionError(f'--encoder: "{encoder}" is not one of {", ".join(ENCODERS)}.{did_you_mean(encoder, ENCODERS)}')
    described = {'encoder': encoder, 'seed': seed, 'pictures': [path.name for path in pictures]}
    finished = read_claim(folder / FINISHED)
    if finished is not None and not differences(finished, described):
        return folder
    torch.manual_seed(seed)
    clip = random_clip(ENCODERS[encoder])
    processor = _processor(ENCODERS[encoder]['vision']['image_size'])
    features = torch.cat([image_features(clip, processor, [Image.fromarray(read_rgb(path))]) for path in pictures])
    scorer, mean = random_scorer(features, ENCODERS[encoder]['pca_dim'], ENCODERS[encoder]['num_basis'])
    state = {f'clip.{name}': tensor for name, tensor in clip.state_dict().items()}
    state |= {f'scorer.{name}': tensor for name, tensor in scorer.items()}
    with atomic_folder(folder) as temporary:
        clip.save_pretrained(temporary / 'best')
        processor.save_pretrained(temporary / 'best')
        torch.save({'state_dict': state}, temporary / 'ckpt.pt')
        (temporary / 'pca.pkl').write_bytes(pca_pickle({'mean_': mean.numpy()}))
        write_json(temporary / FINISHED, described)
    return folder


def random_clip(encoder: dict[str, Any]) -> Any:
    """Return a transformers CLIPModel whose signals keep their size on the way through, unlike in its own random start."""
    from transformers import CLIPConfig, CLIPModel
    width = encoder['features']
    config = CLIPConfig(vision_config={**encoder['vision'], 'projection_dim': width},
                        text_config={**encoder['text'], 'projection_dim': width}, projection_dim=width)
    clip = CLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if parameter.dim() > 1 and 'position' not in name:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return clip


def random_scorer(features: Tensor, pca_dim: int, num_basis: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return the scorer of `ckpt.pt` and the mean of `pca.pkl` for the features (N, C) of some pictures."""
    width, mean, scale = features.shape[1], features.mean(dim=0), features.std(dim=0)
    components = torch.linalg.qr(torch.randn(width, pca_dim))[0].T.contiguous()
    pictures = (features - mean) / scale @ components.T
    shares = torch.softmax(3 * torch.randn(num_basis, len(pictures)), dim=1)
    vectors = shares @ pictures
    vectors = vectors + 0.5 * vectors.std() * torch.randn_like(vectors)
    basis_scores = (1 + 4 * shares @ torch.linspace(0, 1, len(pictures))).clamp(1, 5)
    return {'pca_scale': scale, 'pca_components': components, 'prototypes': vectors, 'proto_scores': basis_scores,
            'logit_scale': torch.tensor(1 / TEMPERATURE)}, mean


def pca_pickle(attributes: dict[str, np.ndarray]) -> bytes:
    """Return the pickle of a scikit-learn PCA with these attributes, written without scikit-learn."""
    state = pickle.dumps(attributes, protocol=3)[2:-1]  # without its first and last instruction
    return b'\x80\x03csklearn.decomposition._pca\nPCA\n)\x81' + state + b'b.'


def _processor(side: int) -> Any:
    from transformers import CLIPImageProcessor
    return CLIPImageProcessor(size={'shortest_edge': side}, crop_size={'height': side, 'width': side})
