"""The expected rating of what a model wrote: where the rating begins, and what might follow there.

The model continues from what it remembers of its reasoning. Where its cache does not allow that, it reads everything again,
which is just as accurate and many times slower; the first rating of a model shows which.
"""

import bisect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyiqa_rali.core.errors import first_line
from pyiqa_rali.vlm.answers import rating_position
from pyiqa_rali.vlm.expectation import Node, moments, number_tokens
from pyiqa_rali.vlm.generation import decode, encode
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.memory import Branches, Memory, memory_of
from pyiqa_rali.vlm.prompts import Prompt

# how far probabilities from the cache may be off, in sum, before the cache counts as unusable
MOST_OFF, MOST_OFF_IN_HALF_PRECISION = 1e-4, 0.05


def expected_ratings(reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt,
                     completions: Sequence[Sequence[int]], rating_range: tuple[float, float], key: str,
                     batch_size: int, memory: Memory | None = None) -> list[float]:
    """Return the expectation of the rating, after each completion's reasoning; see `ratings_and_spreads`."""
    return [expected for expected, _ in ratings_and_spreads(reasoner, images, prompt, completions, rating_range, key,
                                                            batch_size, memory)]


@torch.no_grad()
def ratings_and_spreads(reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt,
                        completions: Sequence[Sequence[int]], rating_range: tuple[float, float], key: str,
                        batch_size: int, memory: Memory | None = None) -> list[tuple[float, float]]:
    """Return the expectation of the rating, after each completion's reasoning, and its standard deviation.

    The completion is cut where its rating begins, or the answer is begun for it when it plainly has none. Then all ratings that
    the model might write there are followed token by token; see `expectation`.

    Args:
        reasoner: model and processor.
        images: RGB.
        prompt: what was asked about each.
        completions: what the model wrote.
        rating_range: lowest and highest rating.
        key: the rating's key in the answer's JSON.
        batch_size: continuations that the model reads at once.
        memory: of these completions, from `complete_and_remember`; without it, they are read once more.

    Returns:
        Two numbers for each picture, the first in the range; NaN when the model's own numbers are NaN, or when it would write
        anything other than a rating in the range.
    """
    if memory is None and len(images) > batch_size:
        parts = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
        return [rating for part in parts for rating in ratings_and_spreads(
            reasoner, images[part], prompt, completions[part], rating_range, key, batch_size)]
    if not images:
        return []
    begins = [rating_begin(reasoner, completion, key, rating_range) for completion in completions]
    if memory is None and reasoner.reuses_cache is not False:
        memory = read(reasoner, images, prompt, [begin.prefix for begin in begins])
        begins = [replace(begin, kept=0, pending=[]) for begin in begins]
    tokens, leads = number_tokens(reasoner.processor.tokenizer), [begin.lead for begin in begins]
    continuations = Continuations(reasoner, images, prompt, begins, tokens.asked_about(leads), batch_size, memory)
    return moments(continuations, tokens, leads, rating_range)


@dataclass(frozen=True)
class RatingBegin:
    """Where a completion's rating begins.

    Attributes:
        kept: how many tokens of the completion come before it.
        pending: tokens between these and the rating that the model has not written: an answer that was begun for it.
        prefix: both together.
        lead: text between `prefix` and the number, which a token of the number may begin with.
    """

    kept: int
    pending: list[int]
    prefix: list[int]
    lead: str


def rating_begin(reasoner: ReasoningModel, completion: Sequence[int], key: str,
                 rating_range: tuple[float, float] | None = None) -> RatingBegin:
    """Return where the rating of a completion begins; without one, its reasoning with the answer begun."""
    text = decode(reasoner, completion)
    position = rating_position(text, key, rating_range)
    if position is not None:
        kept = tokens_before(reasoner, completion, position)
        lead = text[len(decode(reasoner, completion[:kept])):position]
        return RatingBegin(kept, [], list(completion[:kept]), lead)
    ends = [place for place in (text.find(end) for end in ('</think>', '<answer>')) if place >= 0]
    end = min(ends, default=len(text))
    kept = tokens_before(reasoner, completion, end)
    rest = text[len(decode(reasoner, completion[:kept])):end]
    tokenizer = reasoner.processor.tokenizer
    begun = f'{rest}</think><answer>{{"{key}": '
    pending = tokenizer.encode(begun, add_special_tokens=False)
    whole = tokenizer.encode(f'{begun}1', add_special_tokens=False)
    shared = next((place for place, (one, other) in enumerate(zip(pending, whole, strict=False)) if one != other), len(pending))
    lead = begun[len(tokenizer.decode(pending[:shared])):]  # such as a space that the number's first token begins with
    return RatingBegin(kept, pending[:shared], [*completion[:kept], *pending[:shared]], lead)


def until_rating(reasoner: ReasoningModel, completion: Sequence[int], key: str) -> list[int]:
    """Return the tokens of a completion before its rating; without one, its reasoning with the answer begun."""
    return rating_begin(reasoner, completion, key).prefix


def tokens_before(reasoner: ReasoningModel, completion: Sequence[int], position: int) -> int:
    """Return how many of a completion's first tokens lie wholly before a place in its text."""
    text = decode(reasoner, completion)
    lengths = range(len(completion) + 1)
    count = bisect.bisect_right(lengths, position, key=lambda length: len(decode(reasoner, completion[:length]))) - 1
    while not text[:position].startswith(decode(reasoner, completion[:count])):
        count -= 1  # a character that spans several tokens is text only with its last one
    return count


def read(reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt,
         completions: Sequence[Sequence[int]]) -> Memory | None:
    """Let the model read a prompt with given completions; return what it remembers, all of it as part of the prompt."""
    inputs = encode(reasoner, images, prompt, completions)
    output = reasoner.model(**inputs, use_cache=True, logits_to_keep=1)
    return memory_of(reasoner.model, output, inputs['input_ids'], inputs['attention_mask'])


class Continuations:
    """Asks a model what follows begun ratings, level by level.

    Args:
        reasoner: model and processor; findings about its cache are recorded there.
        images: RGB.
        prompt: what was asked about each.
        begins: where each rating begins.
        wanted: the tokens whose probabilities are wanted.
        batch_size: how many the model reads at once, where it has to read everything again.
        memory: what it remembers of the completions; None reads everything again for each.
    """

    def __init__(self, reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt, begins: Sequence[RatingBegin],
                 wanted: np.ndarray, batch_size: int, memory: Memory | None):
        self.reasoner, self.images, self.prompt, self.begins, self.batch_size = reasoner, images, prompt, begins, batch_size
        self.wanted = wanted
        if reasoner.reuses_cache is None:
            reasoner.reuses_cache = self._cache_is_right(memory)
        self.branches = self._branches(memory, self._chances) if reasoner.reuses_cache and memory is not None else None

    def __call__(self, nodes: Sequence[Node]) -> Iterator[np.ndarray]:
        """Yield the probabilities (V,) of the next token at each node, 0 for tokens that are not wanted."""
        size = self.batch_size if self.branches is None else len(nodes)
        chances = np.zeros(int(self.wanted.max()) + 1)  # one array for all: each is used up before the next one comes
        for start in range(0, len(nodes), size):
            part = nodes[start:start + size]
            if self.branches is not None:
                found = self.branches.following([node.picture for node in part], [node.path for node in part])
            else:
                found = self._chances(self._read_again(part)).cpu()
                self.reasoner.read_again += len(part)
            for row in found.double().numpy():
                chances[self.wanted] = row
                yield chances

    def _branches(self, memory: Memory, reduced: Callable[[Tensor], Tensor]) -> Branches:
        return Branches(self.reasoner.model, memory, [begin.kept for begin in self.begins],
                        [begin.pending for begin in self.begins], reduced)

    def _chances(self, logits: Tensor) -> Tensor:
        """Return the probabilities (..., n) of the wanted tokens."""
        logits = logits.float()
        wanted = torch.from_numpy(self.wanted).to(logits.device)
        return (logits[..., wanted] - logits.logsumexp(dim=-1, keepdim=True)).exp()

    def _read_again(self, nodes: Sequence[Node]) -> Tensor:
        inputs = encode(self.reasoner, [self.images[node.picture] for node in nodes], self.prompt,
                        [[*self.begins[node.picture].prefix, *node.path] for node in nodes])
        return self.reasoner.model(**inputs, logits_to_keep=1).logits[:, -1]

    def _cache_is_right(self, memory: Memory | None) -> bool:
        """Whether continuing from memory gives what reading again gives; tried once for each model, on two branches."""
        if memory is None:
            reason = 'it does not keep all keys and values'
        else:
            try:
                branches = self._branches(memory, _softmax)
                likely = branches.following([0], [()])[0].topk(2).indices.tolist()
                remembered = branches.following([0, 0], [(token,) for token in likely])
                again = _softmax(self._read_again([Node(0, (token,), '', '', 1.0) for token in likely])).cpu()
            except torch.OutOfMemoryError:
                raise
            except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError) as error:
                reason = f'{type(error).__name__}: {first_line(error)}'
            else:
                off = float((remembered - again).abs().sum(dim=-1).max() / 2)
                precise = next(self.reasoner.model.parameters()).dtype == torch.float32
                if not off > (MOST_OFF if precise else MOST_OFF_IN_HALF_PRECISION):  # NaN is not the fault of the cache
                    return True
                reason = f'probabilities are off by {off:.2g}'
        warnings.warn(f'{self.reasoner.folder}: the cache of this model cannot be used again ({reason}). Expected ratings are '
                      'right, but picture and reasoning are read again for each digit.', stacklevel=2)
        return False


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits.float(), dim=-1)


def until_text(reasoner: ReasoningModel, completion: Sequence[int], ends: tuple[str, ...]) -> list[int]:
    """Return the tokens before the first of some texts; all tokens without one."""
    text = decode(reasoner, completion)
    places = [place for place in map(text.find, ends) if place >= 0]
    return list(completion[:tokens_before(reasoner, completion, min(places))]) if places else list(completion)
