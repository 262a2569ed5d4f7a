"""A blind reader: what rating stands in a reasoning text when nobody looks at the picture.

A model that rates pictures can learn to pass its own text by: the picture tells the rating, and the text says anything. A
frozen copy that is shown a gray picture has nothing but the text; what it rates well was written for the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from pyiqa_rali.reasoning.generation import expected_ratings
from pyiqa_rali.reasoning.prompts import ReasoningCard
from pyiqa_rali.reasoning.vlm import ReasoningModel

GRAY = Image.new('RGB', (64, 64), (128, 128, 128))


@dataclass
class BlindReader:
    """Rates texts without their pictures.

    Attributes:
        reasoner: a frozen model that can tell a rating from a text; it is never trained here.
        card: the prompt and the rating scale of the texts.
        batch_size: texts at once.
    """

    reasoner: ReasoningModel
    card: ReasoningCard
    batch_size: int = 64

    def ratings(self, texts: Sequence[str | None]) -> list[float | None]:
        """Return the expected rating of each text, on the card's scale; None for None.

        Equal texts are read once. What a text gets depends on the set of texts that are read together by no more than the
        rounding of a batch.
        """
        different = sorted({text for text in texts if text is not None})
        tokenizer = self.reasoner.processor.tokenizer
        written = [tokenizer.encode(f'<think>{text}</think>', add_special_tokens=False) for text in different]
        read = expected_ratings(self.reasoner, [GRAY] * len(different), self.card.question(), written,
                                tuple(self.card.rating_range), self.card.rating_key, self.batch_size)
        found = dict(zip(different, read, strict=True))
        return [None if text is None else found[text] for text in texts]
