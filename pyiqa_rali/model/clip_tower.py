"""CLIP's vision transformer (arXiv 2103.00020) under open_clip's tensor names.

It computes what open_clip's and transformers' towers do and imports neither. Only the class token leaves the last block, so
that block computes nothing else. In half precision the sum that runs through the blocks stays in float32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.model.products import Linear, linear

PLAIN = {'image_size': 224, 'patch_size': 16, 'width': 768, 'layers': 12, 'head_width': 64, 'mlp_ratio': 4.0}


def is_plain(model_config: dict[str, Any]) -> bool:
    """Whether an open_clip model configuration names this tower: a ViT with none of the variants' options."""
    vision = model_config['vision_cfg']
    return set(vision) <= set(PLAIN) and all(isinstance(value, (int, float)) for value in vision.values())


def build_clip_tower(model_config: dict[str, Any]) -> 'ClipTower':
    """Build the tower of a plain configuration (see `is_plain`) with random weights."""
    vision = {**PLAIN, **model_config['vision_cfg']}
    return ClipTower(vision['image_size'], vision['patch_size'], vision['width'], vision['layers'],
                     vision['width'] // vision['head_width'], int(vision['width'] * vision['mlp_ratio'] + 1e-6),
                     model_config['embed_dim'], model_config.get('quick_gelu', False))


class ClipTower(nn.Module):
    """Patches, a class token, transformer blocks, and the class token's projection.

    Args:
        image_size: side of the pictures, in pixels.
        patch_size: side of a patch, in pixels.
        width: width of a token.
        layers: number of blocks.
        heads: attention heads of a block.
        mlp_width: hidden width of a block's perceptron.
        embed_dim: width C of the image features.
        quick_gelu: x sigmoid(1.702 x) instead of GELU.
    """

    def __init__(self, image_size: int, patch_size: int, width: int, layers: int, heads: int, mlp_width: int, embed_dim: int,
                 quick_gelu: bool):
        super().__init__()
        self.image_size = image_size
        self.class_embedding = nn.Parameter(torch.randn(width) * width ** -0.5)
        self.positional_embedding = nn.Parameter(torch.randn((image_size // patch_size) ** 2 + 1, width) * width ** -0.5)
        self.proj = nn.Parameter(torch.randn(width, embed_dim) * width ** -0.5)
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.ln_pre = WideLayerNorm(width)
        self.transformer = Transformer([Block(width, heads, mlp_width, quick_gelu) for _ in range(layers)])
        self.ln_post = WideLayerNorm(width)

    def narrow(self, dtype: torch.dtype) -> None:
        """Cast the weights of matrix products inside the blocks; what is small and counts for accuracy stays in float32."""
        self.conv1.to(dtype)
        for block in self.transformer.resblocks:
            block.attn.to(dtype)
            block.mlp.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Return image features (N, C) for normalised pictures (N, 3, image_size, image_size)."""
        *blocks, last = self.transformer.resblocks
        tokens = self._embedded(images)
        for block in blocks:
            tokens = block(tokens)
        return self._projected(last(tokens, outputs=1)[:, 0])

    def with_positions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return image features (N, C) as `forward` does, and those of the patches (N, rows, columns, C) in their place."""
        tokens = self._embedded(images)
        for block in self.transformer.resblocks:
            tokens = block(tokens)
        projected, side = self._projected(tokens), self.image_size // self.conv1.kernel_size[0]
        return projected[:, 0], projected[:, 1:].unflatten(1, (side, side))

    def _embedded(self, images: Tensor) -> Tensor:
        """Return the tokens (N, T, width) that the first block takes; the class token is the first of them."""
        patches = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.to(patches.dtype).expand(len(images), 1, -1), patches], dim=1)
        return self.ln_pre(tokens.float() + self.positional_embedding.float())

    def _projected(self, tokens: Tensor) -> Tensor:
        """Return image features (..., C) of the last block's tokens (..., width)."""
        return self.ln_post(tokens) @ self.proj.float()


class Transformer(nn.Module):
    """The blocks, under open_clip's name; the tower runs them."""

    def __init__(self, blocks: list['Block']):
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)


class Block(nn.Module):
    """Attention and perceptron, each after a layer norm and added to its input."""

    def __init__(self, width: int, heads: int, mlp_width: int, quick_gelu: bool):
        super().__init__()
        self.ln_1 = WideLayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = WideLayerNorm(width)
        self.mlp = Perceptron(width, mlp_width, quick_gelu)

    def forward(self, tokens: Tensor, outputs: int | None = None) -> Tensor:
        """Return (N, T, width), or only its first `outputs` tokens."""
        dtype = self.mlp.c_fc.weight.dtype
        tokens, added = tokens[:, :outputs], self.attn(self.ln_1(tokens).to(dtype), outputs)
        tokens = tokens + added
        return tokens + self.mlp(self.ln_2(tokens).to(dtype))


class Perceptron(nn.Module):
    """The two layers of a block's perceptron, under open_clip's names."""

    def __init__(self, width: int, hidden_width: int, quick_gelu: bool):
        super().__init__()
        self.c_fc, self.c_proj = Linear(width, hidden_width), Linear(hidden_width, width)
        self.activation = _quick_gelu if quick_gelu else F.gelu

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (N, T, width)."""
        return self.c_proj(self.activation(self.c_fc(tokens)))


class SelfAttention(nn.Module):
    """Multi-head attention with the parameters of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, tokens: Tensor, outputs: int | None = None) -> Tensor:
        """Return what tokens (N, T, width) see, for the first `outputs` of them (None: all)."""
        projected = linear(tokens, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each of shape (N, heads, T, head width)
        on_cpu_units = query.dtype == torch.bfloat16 and query.device.type == 'cpu' and not torch.is_grad_enabled()
        seen = (_attend_by_products if on_cpu_units else F.scaled_dot_product_attention)(query[:, :, :outputs], key, value)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class WideLayerNorm(nn.LayerNorm):
    """Layer norm in float32, whatever the precision of the weights."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (..., width) in float32."""
        return F.layer_norm(tokens.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return what `scaled_dot_product_attention` does, picture by picture, in half its time on CPUs with bfloat16 units."""
    seen = torch.empty_like(query, memory_format=torch.contiguous_format)
    scale = query.shape[-1] ** -0.5
    for position, (asked, offered, taken) in enumerate(zip(query, key, value, strict=True)):
        logits = torch.matmul(asked * scale, offered.contiguous().transpose(-1, -2))
        torch.matmul(torch.softmax(logits, dim=-1), taken.contiguous(), out=seen[position])
    return seen


def _quick_gelu(values: Tensor) -> Tensor:
    if values.requires_grad:
        return values * torch.sigmoid(1.702 * values)
    return torch.mul(values, 1.702).sigmoid_().mul_(values)  # one new tensor in place of three
