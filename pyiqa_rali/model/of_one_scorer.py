"""Parts of a checkpoint that were fitted to one scorer and mean nothing beside another."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pyiqa_rali.model.basis_scorer import BasisScorer, scorer_digest


class OfOneScorer(nn.Module):
    """Base of such parts.

    Args:
        values: the part's section of the metadata; `scorer` in it is the digest of the scorer that it belongs to.
    """

    def __init__(self, values: Mapping[str, Any]):
        super().__init__()
        self.values = dict(values)
        self._checked: tuple[tuple[int, int], ...] | None = None  # the state of the scorer that is known to be the right one

    def belongs_to(self, scorer: BasisScorer) -> bool:
        """Whether this was fitted to a scorer with these weights."""
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            return True
        state = tuple((id(tensor), 0 if tensor.is_inference() else tensor._version)
                      for tensor in (*scorer.parameters(), *scorer.buffers()))
        if state != self._checked:
            if scorer_digest(scorer.state_dict()) != self.values['scorer']:
                return False
            self._checked = state
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Forget in copies that the scorer was checked: its tensors are others there."""
        return {**self.__dict__, '_checked': None}
