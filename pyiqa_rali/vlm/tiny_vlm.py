"""A vision-language model of half a million parameters, built from a configuration: for laptops, tests and the demo.

Its architecture is Qwen2.5-VL's. Nothing is downloaded; its tokenizer is trained on the sentences that it is to write.
"""

from collections.abc import Iterable
from pathlib import Path

import torch

from pyiqa_rali.core.files import atomic_folder
from pyiqa_rali.core.messages import bars_of_transformers

SPECIAL_TOKENS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|vision_start|>', '<|vision_end|>', '<|image_pad|>',
                  '<|video_pad|>']
TAGS = ['<think>', '</think>', '<answer>', '</answer>']
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
PATCH_SIZE, MERGE_SIZE = 8, 2


@bars_of_transformers()
def save_tiny_vlm(folder: Path, sentences: Iterable[str], seed: int = 0, image_size: int = 64, width: int = 96,
                  layers: int = 3, vocab_size: int = 1200) -> Path:
    """Write model, tokenizer and processor to a folder that transformers loads, and return it.

    Args:
        folder: where.
        sentences: what the tokenizer is trained on.
        seed: of the random weights.
        image_size: pictures are resized to about this side, in pixels.
        width: hidden size of both towers, a multiple of 16.
        layers: of the language model; the vision tower has one less.
        vocab_size: tokens, at most.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration
    processor = _processor(list(sentences), image_size, vocab_size)
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(processor.tokenizer, width, layers))
    model.generation_config.update(eos_token_id=processor.tokenizer.eos_token_id, pad_token_id=processor.tokenizer.pad_token_id)
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
    return folder


def _config(tokenizer, width: int, layers: int):
    from transformers import Qwen2_5_VLConfig
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in (
        ('image_token_id', '<|image_pad|>'), ('video_token_id', '<|video_pad|>'), ('vision_start_token_id', '<|vision_start|>'),
        ('vision_end_token_id', '<|vision_end|>'))}
    heads = width // 16
    # with the usual standard deviation of 0.02 so small a model learns the format but ignores the picture
    text = {'vocab_size': len(tokenizer), 'hidden_size': width, 'intermediate_size': 2 * width, 'num_hidden_layers': layers,
            'num_attention_heads': heads, 'num_key_value_heads': heads, 'initializer_range': 0.05,
            'max_position_embeddings': 1024, 'bos_token_id': None, 'eos_token_id': tokenizer.eos_token_id,
            'pad_token_id': tokenizer.pad_token_id, 'tie_word_embeddings': True,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0, 'mrope_section': [2, 3, 3]}}
    vision = {'depth': layers - 1, 'hidden_size': width, 'intermediate_size': 2 * width, 'num_heads': heads,
              'patch_size': PATCH_SIZE, 'spatial_merge_size': MERGE_SIZE, 'window_size': 64, 'out_hidden_size': width,
              'fullatt_block_indexes': [layers - 2], 'initializer_range': 0.08}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def _processor(sentences: list[str], image_size: int, vocab_size: int):
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    area = {'shortest_edge': image_size ** 2, 'longest_edge': image_size ** 2}
    images = Qwen2VLImageProcessor(size=area, patch_size=PATCH_SIZE, merge_size=MERGE_SIZE)
    videos = Qwen2VLVideoProcessor(size=area, patch_size=PATCH_SIZE, merge_size=MERGE_SIZE)
    return Qwen2_5_VLProcessor(images, _tokenizer(sentences, vocab_size), videos, chat_template=CHAT_TEMPLATE)


def _tokenizer(sentences: list[str], vocab_size: int):
    """Return a byte-level BPE with single digits; the tags are tokens that decoding keeps."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='<|im_end|>', pad_token='<|endoftext|>',
                                   padding_side='left', additional_special_tokens=SPECIAL_TOKENS[1:2] + SPECIAL_TOKENS[3:])
