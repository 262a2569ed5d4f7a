"""The text bank of a checkpoint: reasoning texts with their embeddings, and the distortions that they name."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.data.reasoning_texts import PRISTINE, Distortions
from pyiqa_rali.model.checkpoint_bank import BANK_KEY, TEXT_FEATURES, bank_texts


class TextBank(nn.Module):
    """B reasoning texts in the space of the image features, and votes on what is wrong with an image.

    Args:
        values: the section `bank` of the metadata: the B texts (see `bank_texts`) and `temperature`, of the votes.
        feature_dim: width C of the features.

    Attributes:
        entries: the B texts, with seed, model and distortions.
        text_features: (B, C), rows of unit length up to the precision of float16.
        classes: the types that the texts name, 'pristine' among them if some name none.
    """

    text_features: Tensor
    class_shares: Tensor
    class_levels: Tensor

    def __init__(self, values: dict[str, Any], feature_dim: int):
        super().__init__()
        self.entries = bank_texts(values)
        self.temperature = float(values['temperature'])
        self.classes = sorted({name for pairs in self.distortions if pairs is not None for name, _ in _named(pairs)})
        self.register_buffer('text_features', torch.zeros(len(self.texts), feature_dim, dtype=torch.float16))
        shares, levels = self._class_tables()
        self.register_buffer('class_shares', shares, persistent=False)
        self.register_buffer('class_levels', levels, persistent=False)

    @property
    def texts(self) -> list[str]:
        """The B texts."""
        return [each.text for each in self.entries]

    @property
    def distortions(self) -> list[Distortions]:
        """What each text names: (type, level) pairs, an empty list for no distortion, None when nothing is known."""
        return [each.distortions for each in self.entries]

    def cosines(self, image_features: Tensor) -> Tensor:
        """Return (N, B) cosines of images and texts for image features (N, C)."""
        texts = F.normalize(self.text_features.float(), dim=-1)
        return F.normalize(image_features.float(), dim=-1) @ texts.T

    def vote(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """Return shares (N, T) and levels (N, T) of the T classes for cosines (N, B).

        A text votes with softmax(cosine / temperature) over the texts whose distortions are known; one that names several
        types splits its vote evenly. The level of a class is the mean of what its texts say, by their votes.
        """
        # texts about which nothing is known get no vote, instead of one for no class: shares add up to 1 over what is known
        known = self.class_shares.sum(dim=1) > 0
        weights = torch.softmax((cosines / self.temperature).masked_fill(~known, -torch.inf), dim=-1)
        shares = weights @ self.class_shares.float()
        # a mean over the votes for the class, not over all votes: a rare class keeps its level
        levels = weights @ (self.class_shares * self.class_levels).float() / shares.clamp(min=1e-12)
        return shares, levels

    def _class_tables(self) -> tuple[Tensor, Tensor]:
        """Return (B, T) how much of a text's vote goes to each class, and (B, T) the level that it names."""
        shares, levels = torch.zeros(2, len(self.texts), len(self.classes), device='cpu').unbind()  # also on meta
        for row, pairs in enumerate(self.distortions):
            named = [] if pairs is None else _named(pairs)
            for name, level in named:
                column = self.classes.index(name)
                shares[row, column] += 1 / len(named)
                levels[row, column] = level
        return shares, levels


def build_bank(metadata: dict[str, Any], feature_dim: int) -> TextBank | None:
    """Return an empty bank of the size that the metadata names; None when there is none."""
    values = metadata.get(BANK_KEY)
    return None if values is None else TextBank(values, feature_dim)


def loaded_bank(tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> TextBank | None:
    """Return the bank of a checkpoint with its features; None when there is none."""
    bank = None
    if TEXT_FEATURES in tensors:
        bank = TextBank(metadata[BANK_KEY], tensors[TEXT_FEATURES].shape[1])
        bank.text_features.copy_(tensors[TEXT_FEATURES])
    return bank


def _named(pairs: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return pairs or [(PRISTINE, 0.0)]
