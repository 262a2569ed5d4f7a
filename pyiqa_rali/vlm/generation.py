"""Asking a vision-language model about pictures: greedy or sampled completions, and the expectation of the rating.

What a picture gets depends on the picture, the question and the seed, never on the batch that it came in.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.model.preprocessing import has_float64
from pyiqa_rali.vlm.chat import rendered_chat
from pyiqa_rali.vlm.decoding import Sampling
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.prompts import Prompt

ENDS = ('}</answer>', '}', '</answer>', '\n', ' ')  # what may follow a rating
SAMPLING = Sampling()
LEAST_MASS = 1e-3  # branches of the rating less probable than this are left out of the expectation


class GumbelSampling(LogitsProcessor):
    """Turns greedy decoding into sampling: the largest of logits / temperature + Gumbel noise is a sample of the softmax.

    Every row has a generator of its own, so that the other rows of a batch have no influence.

    Args:
        seeds: one for each row.
        sampling: with a temperature.
        padding: how many tokens of padding each row begins with; None for none. They are not penalised as repeated.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, padding: Tensor | None = None):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        penalty = sampling.repetition_penalty
        self.penalty = None if penalty in (None, 1.0) else RepetitionPenaltyLogitsProcessor(penalty)
        self.temperature, self.padding = sampling.temperature or 1.0, padding
        self.bounds = [] if sampling.top_k is None else [TopKLogitsWarper(sampling.top_k)]
        self.bounds += [] if sampling.top_p in (None, 1.0) else [TopPLogitsWarper(sampling.top_p)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.penalty is not None:
            scores = self.penalty(self._without_padding(input_ids), scores)
        home, precise = scores.device, has_float64(scores.device.type)
        scores = (scores if precise else scores.cpu()).double() / self.temperature
        for bound in self.bounds:
            scores = bound(input_ids, scores)
        drawn = [torch.empty(scores.shape[-1], dtype=torch.float64).exponential_(generator=each) for each in self.generators]
        noise = -torch.log(torch.stack(drawn))  # minus the logarithm of an exponential variable is a Gumbel variable
        scores = scores + noise.to(scores.device)
        return scores if precise else scores.float().to(home)

    def _without_padding(self, input_ids: Tensor) -> Tensor:
        """Return the tokens of each row with its padding overwritten by its last token, which is penalised anyway."""
        if self.padding is None:
            return input_ids
        inside = torch.arange(input_ids.shape[1], device=input_ids.device) >= self.padding[:, None]
        return torch.where(inside, input_ids, input_ids[:, -1:])


def derived_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on every part."""
    numbers = [int.from_bytes(str(part).encode(), 'little') for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def encode(reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt,
           continuations: Sequence[Sequence[int]] | None = None) -> dict[str, Tensor]:
    """Return the model's inputs for one question about each picture, padded on the left.

    Args:
        reasoner: model and processor.
        images: RGB.
        prompt: what is asked about each.
        continuations: token ids that the answer of each picture already has.

    Raises:
        DataError: the processor refuses a picture.
    """
    processor = reasoner.processor
    text = rendered_chat(processor, prompt)
    try:
        inputs = dict(processor(text=[text] * len(images), images=[[image] for image in images], padding=True,
                                padding_side='left', return_tensors='pt'))
    except ValueError as error:  # above all: too long and thin
        sizes = ', '.join(f'{image.width} x {image.height}' for image in images)
        raise DataError(f"the model's processor takes no pictures of {sizes} pixels: {error}. Leave such out.") from error
    if continuations is not None:
        inputs = _continued(inputs, continuations, processor.tokenizer.pad_token_id)
    device = next(reasoner.model.parameters()).device
    return {key: value.to(device) for key, value in inputs.items()}


@torch.no_grad()
def complete(reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt, max_new_tokens: int,
             seeds: Sequence[int] | None = None, sampling: Sampling = SAMPLING) -> list[list[int]]:
    """Return the token ids of one completion for each picture, without what follows its end.

    Args:
        reasoner: model and processor.
        images: RGB.
        prompt: what is asked about each.
        max_new_tokens: longest completion.
        seeds: one for each picture; None decodes greedily.
        sampling: how, with seeds.
    """
    inputs = encode(reasoner, images, prompt)
    ends, padding = end_tokens(reasoner)
    processors = LogitsProcessorList()
    if seeds is not None:
        left = (inputs['attention_mask'] == 0).sum(dim=1)
        processors.append(GumbelSampling(seeds, sampling.with_values_of(reasoner.model.generation_config), left))
    # generate() fills whatever is None here from the checkpoint's generation_config.json, Qwen2.5-VL's penalty of 1.05 on
    # tokens that stand in the prompt among it: on the digits of the rating scale, too
    config = GenerationConfig(do_sample=False, num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0, use_cache=True,
                              max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=padding,
                              suppress_tokens=placeholder_tokens(reasoner.model.config) or None)
    found = reasoner.model.generate(**inputs, generation_config=config, logits_processor=processors)
    return [_until_end(row, ends) for row in found[:, inputs['input_ids'].shape[1]:].tolist()]


def end_tokens(reasoner: ReasoningModel) -> tuple[list[int], int]:
    """Return the tokens that end a completion, and the one for padding."""
    tokenizer = reasoner.processor.tokenizer
    ends = reasoner.model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    ends = list(dict.fromkeys([*ends, tokenizer.eos_token_id]))
    return ends, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]


def placeholder_tokens(config: Any) -> list[int]:
    """Return a model's tokens that stand for pictures in a prompt; a completion that holds one cannot be read again."""
    names = [name for name in vars(config) if name.endswith('_token_id') and name[:3] not in ('eos', 'pad', 'bos')]
    return sorted({getattr(config, name) for name in names if isinstance(getattr(config, name), int)})


def decode(reasoner: ReasoningModel, completion: Sequence[int]) -> str:
    """Return the text of a completion; the end of the turn is left out, the tags are kept."""
    return reasoner.processor.tokenizer.decode(completion, skip_special_tokens=True)


@torch.no_grad()
def expected_ratings(reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt,
                     completions: Sequence[Sequence[int]], rating_range: tuple[float, float], key: str,
                     batch_size: int) -> list[float]:
    """Return the expectation of the rating over its digits, after each completion's reasoning.

    The completion is cut where its rating begins, or the answer is begun for it when it has none. Then the probabilities
    of all ratings with at most `most_decimals` are followed digit by digit, normalised among the ones in the range; further
    digits are cut off.

    Returns:
        One number in the range for each picture; NaN when the model's own numbers are NaN.
    """
    tokenizer = reasoner.processor.tokenizer
    branches = rating_branches(tokenizer, rating_range)
    prefixes = [until_rating(reasoner, completion, key) for completion in completions]
    weighted, settled = [0.0] * len(images), [0.0] * len(images)  # ratings by their probabilities, and the sum of these
    frontier = [(number, (), 1.0) for number in range(len(images))]
    while frontier:
        open_nodes = [node for node in frontier if len(branches[node[1]]) > 1]
        chances = iter(_next_tokens(reasoner, images, prompt, prefixes, open_nodes, branches, batch_size))
        following = []
        for number, path, mass in frontier:
            children = branches[path]
            shares = next(chances) if len(children) > 1 else [1.0]
            for child, share in zip(children, shares, strict=True):
                ends = branches[*path, child]
                if isinstance(ends[0], float):
                    weighted[number] += mass * share * ends[0]
                    settled[number] += mass * share
                else:
                    following.append((number, (*path, child), mass * share))
        frontier = _likely(following, settled)
    expected = [value / mass for value, mass in zip(weighted, settled, strict=True)]
    return [value if math.isnan(value) else min(max(value, rating_range[0]), rating_range[1]) for value in expected]


@functools.lru_cache(maxsize=8)
def rating_branches(tokenizer: Any, rating_range: tuple[float, float]) -> dict[tuple[int, ...], list]:
    """Return the tree of token paths of all ratings in the range with at most `most_decimals`.

    A rating with fewer decimals ends with the token that follows it, so that '3.4' is told from the begin of '3.42'.

    Returns:
        For each path the next tokens; a path's end is the rating itself, as a float.
    """
    branches: dict[tuple[int, ...], list] = {}
    most = most_decimals(rating_range)
    for decimals in range(most + 1):
        ends = ('',) if decimals == most > 0 else ENDS  # whole numbers may begin longer ones
        for text in _ratings_with(decimals, rating_range):
            for path in filter(None, dict.fromkeys(_path(tokenizer, text, end) for end in ends)):
                for length, token in enumerate(path):
                    children = branches.setdefault(path[:length], [])
                    if token not in children:
                        children.append(token)
                branches.setdefault(path, []).append(float(text))
    return branches


def most_decimals(rating_range: tuple[float, float]) -> int:
    """Return how many decimals of a rating are followed: the fewest whose step is below a three-hundredth of the range.

    Example:
        >>> most_decimals((0, 1)), most_decimals((1, 5)), most_decimals((0, 10)), most_decimals((0, 100))
        (3, 2, 2, 1)
    """
    return max(0, math.ceil(2.5 - math.log10(rating_range[1] - rating_range[0])))


def _ratings_with(decimals: int, rating_range: tuple[float, float]) -> list[str]:
    steps = 10 ** decimals
    low, high = (round(bound * steps, 6) for bound in rating_range)
    return [f'{step / steps:.{decimals}f}' for step in range(math.ceil(low), math.floor(high) + 1)]


def _path(tokenizer: Any, rating: str, end: str) -> tuple[int, ...] | None:
    """Return a rating's tokens and the first one of what follows it; None when a token spans both."""
    own = tokenizer.encode(rating, add_special_tokens=False)
    whole = tokenizer.encode(rating + end, add_special_tokens=False)
    return tuple(whole[:len(own) + bool(end)]) if whole[:len(own)] == own else None


def _likely(nodes: list[tuple[int, tuple, float]], settled: list[float]) -> list[tuple[int, tuple, float]]:
    """Leave out improbable branches; a picture without any other, and without a settled rating, keeps them."""
    kept = {node[0] for node in nodes if node[2] >= LEAST_MASS}
    return [node for node in nodes if node[2] >= LEAST_MASS or (node[0] not in kept and settled[node[0]] < LEAST_MASS)]


def _next_tokens(reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt, prefixes: list[list[int]],
                 nodes: list[tuple[int, tuple, float]], branches: dict, batch_size: int) -> list[list[float]]:
    """Return for each node the probabilities of its children, which sum to 1."""
    found = []
    for start in range(0, len(nodes), batch_size):
        chunk = nodes[start:start + batch_size]
        inputs = encode(reasoner, [images[number] for number, _, _ in chunk], prompt,
                        [[*prefixes[number], *path] for number, path, _ in chunk])
        logits = reasoner.model(**inputs, logits_to_keep=1).logits[:, -1].cpu().double()
        for row, (_, path, _) in zip(logits, chunk, strict=True):
            found.append(torch.softmax(row[torch.tensor(branches[path])], dim=0).tolist())
    return found


def until_rating(reasoner: ReasoningModel, completion: Sequence[int], key: str) -> list[int]:
    """Return the tokens of a completion before its rating; without one, its reasoning with the answer begun."""
    begins = re.search(rf'<answer>\s*(?:\{{\s*"{re.escape(key)}"\s*:\s*)?(?=-?[0-9])', decode(reasoner, completion))
    if begins:
        for length in range(len(completion), 0, -1):
            if len(decode(reasoner, completion[:length])) <= begins.end():
                return list(completion[:length])
    reasoning = until_text(reasoner, completion, ('</think>', '<answer>'))
    begun = reasoner.processor.tokenizer.encode(f'</think><answer>{{"{key}": ', add_special_tokens=False)
    return [*reasoning, *begun]


def until_text(reasoner: ReasoningModel, completion: Sequence[int], ends: tuple[str, ...]) -> list[int]:
    """Return the tokens before the first of some texts appears."""
    for length in range(1, len(completion) + 1):
        if any(end in decode(reasoner, completion[:length]) for end in ends):
            return list(completion[:length - 1])
    return list(completion)


def _until_end(tokens: list[int], ends: list[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in ends:
            return tokens[:position]
    return tokens


def _continued(inputs: dict[str, Tensor], continuations: Sequence[Sequence[int]], padding: int) -> dict[str, Tensor]:
    """Append token ids to each row, and pad on the left again; only what is given per token grows with them."""
    shape = inputs['input_ids'].shape
    fillers = {'input_ids': padding, 'attention_mask': 0}
    longest = max(map(len, continuations))
    continued = dict(inputs)
    for name, values in inputs.items():
        if values.shape != shape:
            continue
        rows = []
        for row, tokens in zip(values, continuations, strict=True):
            more = {'input_ids': list(tokens), 'attention_mask': [1] * len(tokens)}.get(name, [0] * len(tokens))
            blank = row.new_full((longest - len(tokens),), fillers.get(name, 0))
            rows.append(torch.cat([blank, row, row.new_tensor(more)]))
        continued[name] = torch.stack(rows)
    return continued
