"""A blind reader: which rating a reasoning text conveys when nobody looks at the picture.

A model that rates pictures can learn to ignore its own text: the rating comes from the picture, and the text says anything. A
frozen copy that is shown a gray picture has only the text; if it rates that well, the text describes the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from pyiqa_rali.vlm.generation import encode
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.prompts import ReasoningCard
from pyiqa_rali.vlm.ratings import expected_ratings

GRAY = Image.new('RGB', (64, 64), (128, 128, 128))


@dataclass
class BlindReader:
    """Rates texts without their pictures.

    Attributes:
        reasoner: a frozen model that can infer a rating from a text; it is never trained here.
        card: the prompt and the rating scale of the texts.
        most_surprise: texts with a token that surprises more than this, in nats, are not rated; None rates all.
        batch_size: texts at once.
    """

    reasoner: ReasoningModel
    card: ReasoningCard
    most_surprise: float | None = None
    batch_size: int = 64

    def ratings(self, texts: Sequence[str | None]) -> list[float | None]:
        """Return the expected rating of each text, on the card's scale; None for None, and for texts too surprising.

        Equal texts are read once. Other texts affect a text's rating only by the rounding of a batch.
        """
        different = sorted({text for text in texts if text is not None})
        if self.most_surprise is not None:
            different = [text for text, nats in zip(different, self.surprise(different), strict=True)
                         if nats <= self.most_surprise]
        read = expected_ratings(self.reasoner, [GRAY] * len(different), self.card.prompt(), self._written(different),
                                self.card.bounds, self.card.rating_key, self.batch_size)
        found = dict(zip(different, read, strict=True))
        return [None if text is None else found.get(text) for text in texts]

    @torch.no_grad()
    def surprise(self, texts: Sequence[str]) -> list[float]:
        """Return how unexpected each text is to the reader: the negative log-likelihood of its least likely token, in nats."""
        found = []
        for start in range(0, len(texts), self.batch_size):
            written = self._written(texts[start:start + self.batch_size])
            inputs = encode(self.reasoner, [GRAY] * len(written), self.card.prompt(), written)
            longest = max(map(len, written))
            # Inputs are padded on the left, so all texts end together. The logits at a place are of the token after it: those
            # of the last `longest` tokens stand one place earlier, and the very last ones are of a token that nobody wrote.
            logits = self.reasoner.model(**inputs, logits_to_keep=longest + 1).logits[:, -longest - 1:-1]
            expected = torch.log_softmax(logits.double(), dim=-1)
            likelihoods = expected.gather(-1, inputs['input_ids'][:, -longest:, None])[..., 0]
            found += [-float(row[-len(tokens):].min()) for row, tokens in zip(likelihoods, written, strict=True)]
        return found

    def _written(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = self.reasoner.processor.tokenizer
        return [tokenizer.encode(f'<think>{text}</think>', add_special_tokens=False) for text in texts]
