"""Tiny models in the layouts of published ones, as transformers 4 wrote them: other names, other files, no card."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pyiqa_rali.vlm.prompts import CARD_FILE

TEXT_KEYS = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
             'num_key_value_heads', 'initializer_range', 'max_position_embeddings', 'hidden_act', 'rms_norm_eps',
             'eos_token_id', 'pad_token_id', 'tie_word_embeddings', 'use_cache')
IDS = ('image_token_id', 'video_token_id', 'vision_start_token_id', 'vision_end_token_id')
LEGACY_VISION = {'in_channels': 'in_chans'}


def to_legacy_qwen(folder: Path) -> Path:
    """Rewrite a tiny Qwen2.5-VL folder in place as Q-Insight and VisualQuality-R1 are published, and return it.

    The weights are `visual.*`, `model.*` and `lm_head.weight` in two shards with an index; the text model's values stand at
    the top of `config.json`; the processor has files of its own with pixel bounds.
    """
    _legacy_weights(folder)
    config = json.loads((folder / 'config.json').read_text())
    text, vision = config['text_config'], config['vision_config']
    rope = text['rope_parameters']
    (folder / 'config.json').write_text(json.dumps({
        'architectures': ['Qwen2_5_VLForConditionalGeneration'], 'model_type': 'qwen2_5_vl', 'torch_dtype': 'bfloat16',
        'transformers_version': '4.49.0', **{name: text[name] for name in TEXT_KEYS}, **{name: config[name] for name in IDS},
        'tie_word_embeddings': False, 'rope_theta': rope['rope_theta'],
        'rope_scaling': {'type': 'mrope', 'mrope_section': rope['mrope_section']},
        'vision_config': {LEGACY_VISION.get(name, name): vision[name] for name in vision if name != 'rope_parameters'}}))
    _legacy_processor(folder)
    (folder / CARD_FILE).unlink(missing_ok=True)
    return folder


def _legacy_weights(folder: Path) -> None:
    state = load_file(folder / 'model.safetensors')
    renamed = {name.replace('model.visual.', 'visual.').replace('model.language_model.', 'model.'):
               tensor.to(torch.bfloat16) for name, tensor in state.items()}
    renamed.setdefault('lm_head.weight', renamed['model.embed_tokens.weight'].clone())
    names = sorted(renamed)
    half = len(names) // 2
    shards = {f'model-0000{number}-of-00002.safetensors': part for number, part in ((1, names[:half]), (2, names[half:]))}
    for shard, part in shards.items():
        save_file({name: renamed[name] for name in part}, folder / shard, metadata={'format': 'pt'})
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
    (folder / 'model.safetensors').unlink()


def _legacy_processor(folder: Path) -> None:
    values = json.loads((folder / 'processor_config.json').read_text())
    images = values['image_processor']
    size = images.pop('size')
    (folder / 'preprocessor_config.json').write_text(json.dumps({
        **images, 'image_processor_type': 'Qwen2VLImageProcessor', 'processor_class': 'Qwen2_5_VLProcessor',
        'min_pixels': size['shortest_edge'], 'max_pixels': size['longest_edge']}))
    (folder / 'processor_config.json').unlink()
    template = folder / 'chat_template.jinja'
    (folder / 'chat_template.json').write_text(json.dumps({'chat_template': template.read_text()}))
    template.unlink()
    tokenizer = json.loads((folder / 'tokenizer_config.json').read_text())
    tokenizer.update(tokenizer_class='PreTrainedTokenizerFast', additional_special_tokens=tokenizer.pop('extra_special_tokens'))
    (folder / 'tokenizer_config.json').write_text(json.dumps({name: value for name, value in tokenizer.items()
                                                              if name != 'backend'}))
