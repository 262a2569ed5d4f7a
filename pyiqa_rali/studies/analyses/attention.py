"""Where a rating comes from: its attention to the picture, the prompt and the reasoning, layer by layer.

The completion is given to the model up to its rating, in one forward pass; the attention of the last position is measured, from
which the rating is predicted (arXiv 2510.11369, section on what the reasoning text does).
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.data.image_finder import ImageFinder
from pyiqa_rali.figures.analyses import draw_attention
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.studies.analyses.folder import AnalysisFolder, AnalysisResult
from pyiqa_rali.studies.analyses.inputs import drawn, greedy_completions
from pyiqa_rali.vlm.generation import decode, encode
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.prompts import Prompt
from pyiqa_rali.vlm.ratings import until_rating, until_text
from pyiqa_rali.vlm.settings import ReasonerSettings
from pyiqa_rali.vlm.tables import read_picture

PARTS = ('visual', 'prompt', 'reasoning', 'format')  # format: the tags, and the beginning of the answer
IMAGE_TOKENS = ('image_token_id', 'image_token_index', 'video_token_id')


@dataclass
class AttentionShares:
    """Attention of one rating.

    Attributes:
        shares: (layers, 4), the parts in the order of `PARTS`; each layer sums to 1, mean over the heads.
        tokens: (4,), how many tokens each part has.
    """

    shares: np.ndarray
    tokens: np.ndarray


def analyse_attention(images: Sequence[str | os.PathLike], model: ReasonerSettings, out: str | os.PathLike,
                      limit: int | None = None) -> AnalysisResult:
    """Measure where a model's ratings look, image after image.

    Args:
        images: image files, and folders with images below them.
        model: the reasoning model; `seed` also draws the images.
        out: folder for layers.csv, images.csv, results.json and attention.png.
        limit: at most so many images. Raises:
        OptionError: there is no image, or the folder was begun with something else.
        CheckpointError: the model cannot be loaded, or does not return its attention.
    """
    sources = [str(each) for each in images]
    files = list(dict.fromkeys(ImageFinder(sources)))
    files = [files[place] for place in drawn(len(files), limit, model.seed)]
    if not files:
        raise OptionError(f'images: no image below {", ".join(sources)}.')
    folder = AnalysisFolder(out, 'attention', {**model.of_a_completion(), 'images': sources, 'limit': limit})
    reasoner = model.load()
    folder.check_weights({'model': weights_digest(reasoner.model)})
    completions = greedy_completions(reasoner, files, folder.rows('completions'), model)
    rows = folder.rows('attention')
    for path, completion in progress_bar(list(zip(files, completions, strict=True)), desc='attention', unit='image'):
        if path not in rows.done:
            found = attention_shares(reasoner, read_picture(path), reasoner.asked.prompt(), completion,
                                     reasoner.asked.rating_key)
            rows.add([{'key': path, 'shares': found.shares.tolist(), 'tokens': found.tokens.tolist()}])
    shares = np.array([rows.done[path]['shares'] for path in files])
    tokens = np.array([rows.done[path]['tokens'] for path in files])
    layers = [{'layer': layer + 1, **dict(zip(PARTS, values, strict=True))}
              for layer, values in enumerate(shares.mean(axis=0).tolist())]
    of_images = [{'image': path, **dict(zip(PARTS, own.mean(axis=0).tolist(), strict=True)),
                  **{f'{part}_tokens': count for part, count in zip(PARTS, counts.tolist(), strict=True)}}
                 for path, own, counts in zip(files, shares, tokens, strict=True)]
    draw_attention(shares, PARTS, folder.picture('attention'), f'attention of the rating, mean over {len(files)} images')
    return folder.finish({'layers': layers, 'images': of_images},
                         {'images': len(files), 'layers': shares.shape[1], **summary(shares, tokens)},
                         folder.picture('attention'))


@torch.no_grad()
def attention_shares(reasoner: ReasoningModel, image: Image.Image, prompt: Prompt, completion: Sequence[int],
                     key: str) -> AttentionShares:
    """Return where the rating of one completion looks.

    Args:
        reasoner: model and processor.
        image: RGB.
        prompt: what was asked.
        completion: token ids of what the model wrote.
        key: the rating's key in the answer's JSON.

    Raises:
        CheckpointError: the model does not return its attention, or does not say which tokens represent the picture.
    """
    prefix = until_rating(reasoner, completion, key)
    inputs = encode(reasoner, [image], prompt, [prefix])
    part = parts_of(reasoner, inputs['input_ids'][0].tolist(), prefix)
    with last_rows(reasoner.model) as rows:
        reasoner.model(**inputs, logits_to_keep=1)
    attention = torch.stack(rows).double().numpy()
    member = part[:, None] == np.arange(len(PARTS))
    shares = attention @ member
    return AttentionShares(shares / shares.sum(axis=1, keepdims=True), member.sum(axis=0))


def parts_of(reasoner: ReasoningModel, tokens: list[int], prefix: Sequence[int]) -> np.ndarray:
    """Return the index in `PARTS` of each token of prompt and begun completion.

    Raises:
        CheckpointError: no token represents the picture.
    """
    config = reasoner.model.config
    visual = {getattr(config, name) for name in IMAGE_TOKENS if isinstance(getattr(config, name, None), int)}
    start = len(tokens) - len(prefix)
    opened = next((length for length in range(len(prefix) + 1)
                   if '<think>' in decode(reasoner, prefix[:length])), 0)
    reasoned = max(opened, len(until_text(reasoner, prefix, ('</think>', '<answer>'))))
    part = np.full(len(tokens), PARTS.index('format'))
    part[:start] = PARTS.index('prompt')
    part[start + opened:start + reasoned] = PARTS.index('reasoning')
    part[[position for position in range(start) if tokens[position] in visual]] = PARTS.index('visual')
    if not (part == PARTS.index('visual')).any():
        raise CheckpointError(f'{reasoner.folder}: none of the {start} tokens of the prompt represents the picture; '
                              f'config.json names none as {" or ".join(IMAGE_TOKENS[:2])}.')
    return part


@contextlib.contextmanager
def last_rows(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the last row of each layer's attention, mean over the heads (length,), on the CPU, while the block runs.

    Meanwhile the language model computes attention eagerly; a layer's full attention is discarded once its row is taken.

    Raises:
        CheckpointError: the model has no layers with `self_attn`, or one does not return its attention.
    """
    base: Any = model.get_base_model() if hasattr(model, 'get_base_model') else model
    layers = getattr(base.get_decoder(), 'layers', []) if hasattr(base, 'get_decoder') else []
    modules = [layer.self_attn for layer in layers if hasattr(layer, 'self_attn')]
    if not modules or len(modules) < len(layers):
        raise CheckpointError(f'{type(base).__name__}: {len(layers) - len(modules)} of {len(layers)} layers have no self_attn; '
                              'attention cannot be measured on this architecture.')
    rows: list[torch.Tensor] = []

    def take(module: torch.nn.Module, arguments: tuple, output: tuple) -> None:
        if not isinstance(output, tuple) or len(output) < 2 or output[1] is None:
            raise CheckpointError(f'{type(module).__name__}: does not return its attention, though it was asked for eager '
                                  'attention. Use another version of transformers.')
        rows.append(output[1][0, :, -1].float().mean(dim=0).cpu())

    before = base.config.get_text_config()._attn_implementation
    base.set_attn_implementation({'text_config': 'eager'})
    hooks = [module.register_forward_hook(take) for module in modules]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()
        base.set_attn_implementation({'text_config': before})


def summary(shares: np.ndarray, tokens: np.ndarray) -> dict[str, dict[str, float]]:
    """Return means over images and layers.

    Args:
        shares: (images, layers, 4).
        tokens: (images, 4).

    Returns:
        'shares' and 'tokens' of each part, 'per_token' (share of one token), and in 'reasoning_and_visual' the reasoning's
        share of what these two get together, which the paper gives as 95 %.
    """
    mean, count = shares.mean(axis=(0, 1)), tokens.mean(axis=0)
    visual, reasoning = (mean[PARTS.index(name)] for name in ('visual', 'reasoning'))
    per_token = np.divide(mean, count, out=np.full(len(PARTS), np.nan), where=count > 0)
    return {'shares': dict(zip(PARTS, mean.tolist(), strict=True)), 'tokens': dict(zip(PARTS, count.tolist(), strict=True)),
            'per_token': dict(zip(PARTS, per_token.tolist(), strict=True)),
            'reasoning_and_visual': {'reasoning': float(reasoning / (reasoning + visual)),
                                     'visual': float(visual / (reasoning + visual))}}
