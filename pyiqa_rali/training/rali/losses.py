"""open_clip's contrastive losses, and their exact gradient in small memory."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.core.processes import gather_features

Encode = Callable[[Tensor], Tensor]


class ContrastiveLoss(nn.Module):
    """Symmetric InfoNCE ('softmax', CLIP) or pairwise sigmoid ('sigmoid', SigLIP) with a learned scale.

    Args:
        kind: 'softmax' or 'sigmoid'.
        init_scale: the scale 1 / temperature at the start; it is learned as a logarithm.
        init_bias: the logits' bias at the start, 'sigmoid' only.
        max_scale: the scale never exceeds it; see `clamp_scale`.
    """

    def __init__(self, kind: str = 'softmax', init_scale: float = 1 / 0.07, init_bias: float = -10.0,
                 max_scale: float = 100.0):
        super().__init__()
        from open_clip.loss import ClipLoss, SigLipLoss
        self.kind, self.max_scale = kind, max_scale
        self.logit_scale = nn.Parameter(torch.tensor(init_scale).log())
        self.logit_bias = nn.Parameter(torch.tensor(init_bias)) if kind == 'sigmoid' else None
        self._loss = SigLipLoss() if kind == 'sigmoid' else ClipLoss()
        self.clamp_scale()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Bring the scale back into [1, max_scale]; to be called after every step of the optimiser, as open_clip does.

        The parameter itself is clamped. Were its exponential clamped in `forward`, a parameter beyond the limit would have no
        gradient, and could never come back.
        """
        self.logit_scale.clamp_(0.0, math.log(self.max_scale))

    def forward(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Return the loss of one batch; row i of both (N, C) inputs belongs together, the rest are negatives."""
        image_features = F.normalize(image_features.float(), dim=-1)
        text_features = F.normalize(text_features.float(), dim=-1)
        scale = self.logit_scale.exp()  # learned as a logarithm: it stays positive, and a step changes it by a factor
        if self.kind == 'sigmoid':
            return self._loss(image_features, text_features, scale, self.logit_bias)
        return self._loss(image_features, text_features, scale)


def contrastive_backward(loss: Callable[[Tensor, Tensor], Tensor], encode_images: Encode, images: Tensor | Sequence[Tensor],
                         encode_texts: Callable[[Sequence[str]], Tensor], texts: Sequence[str],
                         chunk_size: int | None = None, scaler: torch.amp.GradScaler | None = None) -> Tensor:
    """Add the gradient of the whole batch's loss to all parameters, holding activations of one chunk at a time.

    Features of every chunk are computed without a graph, gathered over all ranks, and the loss gives their gradient; then
    each chunk is encoded again and takes its part of it. The encoders must be deterministic (evaluation mode), then the
    gradient is exactly that of the full batch. Over several ranks the encoders' gradients must be summed afterwards;
    those of the loss's own scale are complete on each rank.

    Args:
        loss: takes the image features (N, C) and text features (N, C) of all ranks.
        encode_images: pictures (n, 3, H, W) to features (n, C).
        images: this rank's pictures; several tensors where their sizes differ, each of one size.
        encode_texts: n texts to features (n, C).
        texts: this rank's texts, one for each picture.
        chunk_size: pictures at once; None, or the batch size and more, keeps the graph of the single pass instead.
        scaler: scales the loss for float16.

    Returns:
        The loss of the batch over all ranks, detached.
    """
    # The loss L couples all pairs of the batch, so chunks cannot be summed. But it sees the encoder only through the features
    # f, and dL/dw = sum_i (dL/df_i)(df_i/dw): dL/df needs all features at once, which are small, and no activations; each
    # df_i/dw needs the activations of its own chunk alone. Encoding twice is the price (gradient caching, arXiv 2101.06983).
    groups = [images] if isinstance(images, Tensor) else list(images)
    whole = chunk_size is None or chunk_size >= sum(map(len, groups))
    chunks = groups if chunk_size is None or whole else [part for group in groups for part in group.split(chunk_size)]
    ends = list(itertools.accumulate(map(len, chunks)))
    rows = [slice(end - len(chunk), end) for end, chunk in zip(ends, chunks, strict=True)]
    if whole:
        image_outputs, text_outputs = torch.cat([encode_images(chunk) for chunk in chunks]), encode_texts(texts)
    else:
        with torch.no_grad():
            image_outputs = torch.cat([encode_images(chunk) for chunk in chunks])
            text_outputs = torch.cat([encode_texts(texts[part]) for part in rows])
    # leaves of a graph of their own: backward stops here, and leaves dL/df in them
    image_features = image_outputs.detach().requires_grad_()
    text_features = text_outputs.detach().requires_grad_()
    value = loss(gather_features(image_features), gather_features(text_features))
    image_gradient, text_gradient = _gradients(scaler.scale(value) if scaler else value, image_features, text_features)
    if whole:
        _backward_through(image_outputs, image_gradient)
        _backward_through(text_outputs, text_gradient)
    else:
        for chunk, part in zip(chunks, rows, strict=True):
            # a vector-Jacobian product: adds (dL/df)(df/dw) of these rows to the weights' gradients
            _backward_through(encode_images(chunk), image_gradient[part])
            _backward_through(encode_texts(texts[part]), text_gradient[part])
    return value.detach()


def _gradients(value: Tensor, *features: Tensor) -> list[Tensor]:
    """Run backward, which also reaches the loss's own parameters, and return the gradient of each leaf."""
    value.backward()
    return [torch.zeros_like(feature) if feature.grad is None else feature.grad for feature in features]


def _backward_through(outputs: Tensor, gradient: Tensor) -> None:
    if outputs.requires_grad:
        outputs.backward(gradient.to(outputs.dtype))
