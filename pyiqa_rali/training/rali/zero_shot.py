"""Following stage 1 by zero-shot quality, how much closer an image is to good words than to bad ones, and by what MOS teach."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pyiqa_rali.training.rali.features import FeatureTable
from pyiqa_rali.training.rali.options import ZeroShotPrompts
from pyiqa_rali.training.rali.quality import QualityHead
from pyiqa_rali.training.rali.text_encoders import TextEncoder


@torch.no_grad()
def zero_shot_scores(image_features: torch.Tensor, text_encoder: TextEncoder, prompts: ZeroShotPrompts) -> torch.Tensor:
    """Return (n,) the mean cosine to the prompts of high quality minus that to those of low quality."""
    images = F.normalize(image_features.float(), dim=-1)
    high, low = (F.normalize(text_encoder(texts).float().cpu(), dim=-1).mean(dim=0) for texts in (prompts.high, prompts.low))
    return images @ (high - low)


class AlignmentValidation:
    """Correlations on the validation sets every `val_freq` steps and at the end of stage 1: zero-shot, and of the quality.

    Args:
        embed_all: returns the features of every validation set by name, with the present encoder; called with whether it is
            the last time.
        text_encoder: encodes the prompts.
        prompts: sentences for high and for low quality; None leaves zero-shot out.
        with_quality: whether stage 1 learns a quality from MOS (`QualityHead`), which is then followed too.
        correlate: scores and labels to metric values, for a named data set.
        names: the validation sets.
        metrics: the metrics' names.
        val_freq: steps between validations; None validates at the end only.
    """

    def __init__(self, embed_all: Callable[[bool], dict[str, FeatureTable]], text_encoder: TextEncoder,
                 prompts: ZeroShotPrompts | None, with_quality: bool, correlate: Callable, names: list[str],
                 metrics: list[str], val_freq: int | None):
        self.embed_all, self.text_encoder, self.prompts = embed_all, text_encoder, prompts
        self.correlate, self.val_freq = correlate, val_freq
        followed = [*(['zero_shot'] if prompts else []), *(['quality'] if with_quality else [])]
        self.columns = [f'{what}/{name}/{metric}' for what in followed for name in names for metric in metrics]

    def due(self, done: int, last: bool) -> bool:
        """Whether to validate after `done` steps."""
        return last or bool(self.val_freq and done % self.val_freq == 0)

    @torch.no_grad()
    def __call__(self, quality: QualityHead | None, last: bool) -> dict[str, float]:
        """Return the metric values of every validation set.

        Args:
            quality: the present quality head, if there is one.
            last: whether stage 1 is at its end.
        """
        values = {}
        for name, table in self.embed_all(last).items():
            scores = {}
            if self.prompts:
                scores['zero_shot'] = zero_shot_scores(table.image_features, self.text_encoder, self.prompts)
            if quality is not None:
                scores['quality'] = quality(table.image_features.to(quality.linear.weight.device)).cpu()
            for what, found in scores.items():
                correlations = self.correlate(found.numpy(), table.mos_label.numpy(), name)
                values.update({f'{what}/{name}/{metric}': value for metric, value in correlations.items()})
        return values
