"""Asking a vision-language model about pictures: greedy or sampled completions.

The result for a picture depends on the picture, the question and the seed, never on the rest of its batch.
"""

from collections.abc import Sequence
from typing import Any

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
from pyiqa_rali.vlm.memory import Memory, memory_of
from pyiqa_rali.vlm.prompts import Prompt

SAMPLING = Sampling()


class GumbelSampling(LogitsProcessor):
    """Turns greedy decoding into sampling: the largest of logits / temperature + Gumbel noise is a sample of the softmax.

    Every row has its own generator, so that the other rows of a batch have no influence.

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
        # argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T) (the Gumbel-max trick). generate() draws for the
        # whole batch from one generator; this way a row's draws depend on its own seed alone. In float64: sums rounded to
        # half precision would tie, and ties favour low token numbers.
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


def encode(reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt,
           continuations: Sequence[Sequence[int]] | None = None) -> dict[str, Tensor]:
    """Return the model's inputs for one question about each picture, padded on the left.

    Args:
        reasoner: model and processor.
        images: RGB.
        prompt: what is asked about each.
        continuations: token ids that the answer of each picture already has.

    Raises:
        DataError: the processor rejects a picture.
    """
    processor = reasoner.processor
    text = rendered_chat(processor, prompt)
    try:
        inputs = dict(processor(text=[text] * len(images), images=[[image] for image in images], padding=True,
                                padding_side='left', return_tensors='pt'))
    except ValueError as error:  # above all: too long and thin
        sizes = ', '.join(f'{image.width} x {image.height}' for image in images)
        raise DataError(f"the model's processor takes no pictures of {sizes} pixels: {error}. Leave such pictures "
                        "out.") from error
    if continuations is not None:
        inputs = _continued(inputs, continuations, processor.tokenizer.pad_token_id)
    device = next(reasoner.model.parameters()).device
    return {key: value.to(device) for key, value in inputs.items()}


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
    return complete_and_remember(reasoner, images, prompt, max_new_tokens, seeds, sampling)[0]


@torch.no_grad()
def complete_and_remember(reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt, max_new_tokens: int,
                          seeds: Sequence[int] | None = None,
                          sampling: Sampling = SAMPLING) -> tuple[list[list[int]], Memory | None]:
    """Return what `complete` does, and what the model remembers of it; None when its cache cannot be reused."""
    inputs = encode(reasoner, images, prompt)
    ends, padding = end_tokens(reasoner)
    processors = LogitsProcessorList()
    if seeds is not None:
        left = (inputs['attention_mask'] == 0).sum(dim=1)
        processors.append(GumbelSampling(seeds, sampling.with_values_of(reasoner.model.generation_config), left))
    # generate() fills whatever is None here from the checkpoint's generation_config.json, Qwen2.5-VL's penalty of 1.05 on
    # tokens of the prompt among it: also of the rating scale
    config = GenerationConfig(do_sample=False, num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0, use_cache=True,
                              max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=padding,
                              return_dict_in_generate=True, suppress_tokens=placeholder_tokens(reasoner.model.config) or None)
    output = reasoner.model.generate(**inputs, generation_config=config, logits_processor=processors)
    found = output.sequences[:, inputs['input_ids'].shape[1]:].tolist()
    memory = memory_of(reasoner.model, output, output.sequences, inputs['attention_mask'])
    return [_until_end(row, ends) for row in found], memory


def end_tokens(reasoner: ReasoningModel) -> tuple[list[int], int]:
    """Return the tokens that end a completion, and the one for padding."""
    tokenizer = reasoner.processor.tokenizer
    ends = reasoner.model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    ends = list(dict.fromkeys([*ends, tokenizer.eos_token_id]))
    return ends, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]


def placeholder_tokens(config: Any) -> list[int]:
    """Return a model's tokens that represent pictures in a prompt; a completion that contains one cannot be read again."""
    names = [name for name in vars(config) if name.endswith('_token_id') and name[:3] not in ('eos', 'pad', 'bos')]
    return sorted({getattr(config, name) for name in names if isinstance(getattr(config, name), int)})


def decode(reasoner: ReasoningModel, completion: Sequence[int]) -> str:
    """Return the text of a completion; the end of the turn is left out, the tags are kept."""
    return reasoner.processor.tokenizer.decode(completion, skip_special_tokens=True)


def _until_end(tokens: list[int], ends: list[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in ends:
            return tokens[:position]
    return tokens


def _continued(inputs: dict[str, Tensor], continuations: Sequence[Sequence[int]], padding: int) -> dict[str, Tensor]:
    """Append token ids to each row, and pad on the left again; only inputs with a value per token grow with them."""
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
