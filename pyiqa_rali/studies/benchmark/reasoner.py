"""RALI compared with a model of the size of the one that it replaces: time and memory for a batch of pictures.

The vision-language model has Qwen2.5-VL's architecture and random weights; it writes a fixed number of arbitrary tokens. The
paper's claim (arXiv 2510.11369, batch 16 on one A100): RALI needs 3.4 % of its time and 14.7 % of its memory.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch

from pyiqa_rali.studies.benchmark.cells import send_rows
from pyiqa_rali.studies.benchmark.measure import peaks, reset_peaks, time_calls, times
from pyiqa_rali.studies.benchmark.subjects import Subject, build

SIZES: dict[str, dict[str, Any]] = {
    '7b': {
        'text': {'hidden_size': 3584, 'intermediate_size': 18944, 'num_hidden_layers': 28, 'num_attention_heads': 28,
                 'num_key_value_heads': 4, 'vocab_size': 152064, 'mrope_section': [16, 24, 24]},
        'vision': {'depth': 32, 'hidden_size': 1280, 'intermediate_size': 3420, 'num_heads': 16, 'patch_size': 14,
                   'window_size': 112, 'out_hidden_size': 3584, 'fullatt_block_indexes': [7, 15, 23, 31]}},
    'tiny': {
        'text': {'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 2,
                 'num_key_value_heads': 2, 'vocab_size': 128, 'mrope_section': [2, 3, 3]},
        'vision': {'depth': 2, 'hidden_size': 32, 'intermediate_size': 64, 'num_heads': 2, 'patch_size': 14,
                   'window_size': 112, 'out_hidden_size': 32, 'fullatt_block_indexes': [1]}}}
MERGE = 2  # patches of an edge that become one image token
PROMPT_TOKENS = 100  # the question and the chat's marks
REASONER = 'Qwen2.5-VL'


def main(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row: 'reasoner' writes tokens, or a subject scores, each for the same batch of pictures.

    Args:
        request: 'size' (a key of `SIZES`, or None), 'subject' (of ours, where 'size' is None), 'device', 'threads', 'batch',
            'tokens', 'width' and 'height' of the pictures, 'repeats', 'seconds'.
    """
    torch.set_num_threads(request['threads'])
    device, batch, shape = request['device'], request['batch'], (request['height'], request['width'])
    if request['size'] is None:
        module, call = _own_call(request, batch, shape)
    else:
        module, call = reasoner_call(request['size'], device, batch, shape, request['tokens'])
    reset_peaks(device)
    seconds = time_calls(call, request['repeats'], request['seconds'], device)
    yield {'section': 'reasoner', 'parameters': sum(parameter.numel() for parameter in module.parameters()),
           **times(seconds, batch), **peaks(device)}


def _own_call(request: dict[str, Any], batch: int, shape: tuple[int, int]):
    scorer = build(Subject(**request['subject']), request['device'])
    images = torch.rand(batch, 3, *shape, generator=torch.Generator().manual_seed(0))
    return scorer.module, lambda: scorer.from_tensor(images).cpu()


def reasoner_call(size: str, device: str, batch: int, shape: tuple[int, int], tokens: int):
    """Return a model with random bfloat16 weights on the device, and the call that makes it write about a batch.

    Args:
        size: a key of `SIZES`.
        device: torch's name of the device.
        batch: pictures.
        shape: (height, width) of a picture, in pixels.
        tokens: how many it writes about each.
    """
    from transformers import GenerationConfig
    model = random_reasoner(size, device)
    inputs = reasoner_inputs(model.config, batch, shape, device)
    generation = GenerationConfig(do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, eos_token_id=None,
                                  pad_token_id=0)
    return model, torch.no_grad()(lambda: model.generate(**inputs, generation_config=generation))


def random_reasoner(size: str, device: str) -> Any:
    """Return Qwen2.5-VL of a size with random weights in bfloat16, created on their device."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    text = dict(SIZES[size]['text'])
    rope = {'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': text.pop('mrope_section')}
    last = text['vocab_size'] - 1
    ids = dict(zip(('image_token_id', 'video_token_id', 'vision_start_token_id', 'vision_end_token_id'),
                   range(last, last - 4, -1), strict=True))
    config = Qwen2_5_VLConfig(text_config={**text, 'rope_parameters': rope, 'bos_token_id': None, 'eos_token_id': None},
                              vision_config={**SIZES[size]['vision'], 'spatial_merge_size': MERGE},
                              tie_word_embeddings=False, **ids)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    return model.eval()


def reasoner_inputs(config: Any, batch: int, shape: tuple[int, int], device: str) -> dict[str, torch.Tensor]:
    """Return what the processor would make of pictures of a size (height, width) and a question, with random values."""
    vision, generator = config.vision_config, torch.Generator().manual_seed(0)
    step = vision.patch_size * MERGE
    rows, columns = (max(1, round(edge / step)) * MERGE for edge in shape)
    image_tokens = rows * columns // MERGE ** 2
    question = torch.randint(0, config.text_config.vocab_size - 4, (batch, PROMPT_TOKENS), generator=generator)
    picture = torch.tensor([config.vision_start_token_id, *[config.image_token_id] * image_tokens, config.vision_end_token_id])
    tokens = torch.cat([picture.expand(batch, -1), question], dim=1)
    patches = torch.randn(batch * rows * columns, 3 * vision.temporal_patch_size * vision.patch_size ** 2, generator=generator)
    inputs = {'input_ids': tokens, 'attention_mask': torch.ones_like(tokens), 'pixel_values': patches.to(torch.bfloat16),
              'image_grid_thw': torch.tensor([[1, rows, columns]]).repeat(batch, 1),
              'mm_token_type_ids': (tokens == config.image_token_id).long()}
    return {name: tensor.to(device) for name, tensor in inputs.items()}


if __name__ == '__main__':
    send_rows(main(json.loads(sys.argv[1])))
