"""Tiny models and data sets, built in a moment and from nothing that has to be downloaded."""

import json
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

WORDS = ['the', 'picture', 'is', 'sharp', 'clear', 'blurred', 'noisy', 'dark', 'bright', 'good', 'bad', 'very', 'slightly',
         'and', 'with', 'colours', 'natural', 'overall', 'impression', 'excellent', 'poor', 'fair']
TINY_TIMM = 'test_efficientnet.r160_in1k'


def tiny_sentence_encoder(folder: Path, width: int = 16) -> str:
    """Save a BERT of a few thousand parameters with its tokenizer and return the folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', ',', *WORDS]
    (folder / 'vocab.txt').write_text('\n'.join(vocabulary))
    tokenizer = BertTokenizerFast(vocab=str(folder / 'vocab.txt'), model_max_length=24)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=24, initializer_range=0.5)
    tokenizer.save_pretrained(folder)
    BertModel(config).save_pretrained(folder)
    return str(folder)


def tiny_open_clip_config(folder: Path, sigmoid: bool = False) -> str:
    """Register an open_clip model of a few thousand parameters and return its name."""
    import open_clip
    name = 'tiny-sigmoid' if sigmoid else 'tiny-softmax'
    config = {'embed_dim': 16, 'vision_cfg': {'image_size': 32, 'layers': 2, 'width': 32, 'head_width': 16, 'patch_size': 8},
              'text_cfg': {'context_length': 24, 'vocab_size': 49408, 'width': 16, 'heads': 2, 'layers': 1}}
    if sigmoid:
        config.update(custom_text=True, init_logit_bias=-10)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.json').write_text(json.dumps(config))
    open_clip.add_model_config(folder / f'{name}.json')
    return name


def tiny_table(folder: Path, count: int = 24, size: tuple[int, int] = (40, 48), seed: int = 0) -> dict[str, str]:
    """Write noisy pictures, a pyiqa table and reasoning texts; return their paths by name."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows, lines = [], []
    y, x = np.mgrid[0:size[0], 0:size[1]]
    for index in range(count):
        noise = index / count
        base = 128 + 60 * np.sin((x + y) / rng.uniform(3, 9))[..., None] * rng.uniform(0.5, 1, 3)
        image = np.clip(base + rng.normal(0, 90 * noise, (*size, 3)), 0, 255).astype(np.uint8)
        name = f'{index:03d}.png'
        Image.fromarray(image).save(folder / name)
        rows.append({'image': name, 'mos': 5 - 4 * noise, 'split_photo': 'train' if index % 3 else 'val'})
        word = 'clear' if noise < 0.3 else 'noisy' if noise < 0.7 else 'very noisy'
        texts = [f'The picture is {word}.', f'Overall impression {"good" if noise < 0.5 else "bad"}.']
        if index % 3:
            lines.append({'image': name, 'texts': [{'text': text, 'seed': seed, 'model': 'tiny'}
                                                   for seed, text in enumerate(texts)]})
    pd.DataFrame(rows).to_csv(folder / 'meta_info.csv', index=False)
    (folder / 'texts.jsonl').write_text('\n'.join(json.dumps(line) for line in lines))
    return {'images': str(folder), 'table': str(folder / 'meta_info.csv'), 'texts': str(folder / 'texts.jsonl')}


def tiny_options(folder: Path, **changes) -> dict:
    """Return options of a run that takes seconds: a tiny timm backbone, a tiny sentence encoder, a tiny table."""
    paths = tiny_table(folder / 'data')
    table = {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': paths['images'],
             'meta_info_file': paths['table'], 'split_index': 'split_photo', 'mos_range': [1, 5], 'lower_better': False}
    options = {
        'name': 'tiny', 'manual_seed': 7, 'num_gpu': 0,
        'datasets': {'train': {**table, 'reasoning_texts': paths['texts'], 'batch_size_per_gpu': 4, 'augment': {'hflip': True}},
                     'val': dict(table)},
        'network': {'type': 'RALI', 'image_encoder': {
            'library': 'timm', 'name': TINY_TIMM.split('.')[0], 'pooling': 'mean_std', 'projection_dim': 24,
            'preprocessing': {'resize_mode': 'native', 'image_size': None}}},
        'text_encoder': {'library': 'transformers', 'path': tiny_sentence_encoder(folder / 'text')},
        'path': {'experiments_root': str(folder / 'experiments')},
        'align': {'total_iter': 6, 'lr': 1e-3, 'warmup_iter': 2, 'standardise_samples': 8},
        'compress': {'pca_dim': 8, 'num_buckets': 4, 'num_basis': 8},
        'score': {'total_epochs': 4, 'batch_size': 8},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False},
    }
    for path, value in changes.items():
        section = options
        *parents, last = path.split('__')
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = value
    return options


def tiny_released_folder(folder: Path, seed: int = 0, activation: str = 'quick_gelu') -> Path:
    """Write random weights in the layout of the released RALI checkpoint, by the libraries that wrote the real one."""
    import joblib
    from sklearn.decomposition import PCA
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel
    torch.manual_seed(seed)
    vision = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 64, 'image_size': 32,
              'patch_size': 8, 'hidden_act': activation, 'projection_dim': 16}
    text = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32, 'vocab_size': 64,
            'hidden_act': activation, 'projection_dim': 16}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16))
    for parameter in clip.parameters():  # transformers starts nearly at zero: features of real size are wanted
        torch.nn.init.normal_(parameter, std=0.3)
    clip.save_pretrained(folder / 'best')
    CLIPImageProcessor(size={'shortest_edge': 32}, crop_size={'height': 32, 'width': 32}).save_pretrained(folder / 'best')
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        pooled = clip.vision_model(torch.randn(40, 3, 1, 1) + torch.randn(40, 3, 32, 32)).pooler_output
        features = clip.visual_projection(pooled).numpy()
    pca = PCA(n_components=6).fit(features)
    joblib.dump(pca, folder / 'pca.pkl')
    basis = {'vectors': rng.normal(size=(9, 6)).astype(np.float32), 'scores': rng.uniform(1, 5, 9).astype(np.float32)}
    np.savez(folder / 'basis.npz', **basis)
    scorer = {'pca_scale': torch.from_numpy(features.std(0)) * torch.where(torch.arange(16) % 2 == 0, 1, -1),
              'pca_components': torch.from_numpy(pca.components_).float(),
              'prototypes': torch.from_numpy(basis['vectors']) + 0.1, 'proto_scores': torch.from_numpy(basis['scores']) + 0.1,
              'logit_scale': torch.tensor(1 / 0.07)}
    torch.save({'state_dict': {**{f'clip.{name}': tensor for name, tensor in clip.state_dict().items()},
                               **{f'scorer.{name}': tensor for name, tensor in scorer.items()}}}, folder / 'ckpt.pt')
    return folder


def tiny_vlm(folder: Path, seed: int = 0) -> Path:
    """Save a vision-language model with its card, and return the folder."""
    from pyiqa_rali.data.synthetic.quality_texts import all_sentences
    from pyiqa_rali.vlm.prompts import ReasoningCard
    from pyiqa_rali.vlm.tiny_vlm import save_tiny_vlm
    answers = [f'<think>{text}</think><answer>{{"rating": {1 + number % 40 / 10:.2f}}}</answer>'
               for number, text in enumerate(all_sentences()[:200])]
    save_tiny_vlm(folder, answers, seed, image_size=32, width=32, layers=2, vocab_size=600)
    ReasoningCard(score_prompt='Rate it from {low:g} to {high:g}.', training='none: random weights').save(folder)
    return folder


def tiny_qwen3_vl(folder: Path) -> Path:
    """Save a Qwen3-VL of a few thousand parameters with the tokenizer of `tiny_vlm`, and return the folder."""
    from transformers import (
        AutoProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    from pyiqa_rali.vlm.prompts import ReasoningCard
    other = AutoProcessor.from_pretrained(tiny_vlm(folder / 'other'))
    tokenizer = other.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in (
        ('image_token_id', '<|image_pad|>'), ('video_token_id', '<|video_pad|>'), ('vision_start_token_id', '<|vision_start|>'),
        ('vision_end_token_id', '<|vision_end|>'))}
    text = {'vocab_size': len(tokenizer), 'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2, 'head_dim': 16,
            'num_attention_heads': 2, 'num_key_value_heads': 2, 'eos_token_id': tokenizer.eos_token_id,
            'pad_token_id': tokenizer.pad_token_id,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0, 'mrope_section': [2, 3, 3]}}
    vision = {'depth': 2, 'hidden_size': 32, 'intermediate_size': 64, 'num_heads': 2, 'patch_size': 8, 'spatial_merge_size': 2,
              'out_hidden_size': 32, 'deepstack_visual_indexes': [0], 'num_position_embeddings': 64}
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    videos = Qwen3VLVideoProcessor(size={'shortest_edge': 1024, 'longest_edge': 1024}, patch_size=8, merge_size=2)
    Qwen3VLProcessor(other.image_processor, tokenizer, videos, chat_template=other.chat_template).save_pretrained(folder)
    ReasoningCard(score_prompt='Rate it.', training='none: random weights').save(folder)
    return folder


def free_port() -> str:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        return str(probe.getsockname()[1])
