"""Completions by vLLM, for writing texts on many images; vLLM is not a dependency and is imported only here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.vlm.chat import rendered_chat
from pyiqa_rali.vlm.decoding import Sampling
from pyiqa_rali.vlm.generation import placeholder_tokens
from pyiqa_rali.vlm.loading import ADAPTER_FILE, ReasoningModel, generation_config_of, load_without_weights
from pyiqa_rali.vlm.prompts import Prompt

NEVER = -100.0  # the smallest logit bias that vLLM accepts


class VllmCompleter:
    """Callable in place of `generation.complete`, with vLLM's own sampler: seeded, but with other texts than transformers'.

    Args:
        reasoner: processor, card, folder, and how to load its weights; it needs none loaded itself.

    Raises:
        OptionError: vLLM is not installed, the folder holds an adapter, or pixel bounds cannot be kept.
    """

    def __init__(self, reasoner: ReasoningModel):
        require_whole_weights(reasoner.folder)
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise OptionError(f'--backend: vllm cannot be imported ({error}). pip install vllm, or take --backend '
                              'transformers.') from error
        self.resize = pixel_bounds(reasoner)
        self.parameters = SamplingParams
        self.model = LLM(model=str(reasoner.folder), dtype=reasoner.loading['dtype'], limit_mm_per_prompt={'image': 1})

    def __call__(self, reasoner: ReasoningModel, images: Sequence[Image.Image], prompt: Prompt, max_new_tokens: int,
                 seeds: Sequence[int], sampling: Sampling) -> list[list[int]]:
        """Return the token ids of one sampled completion for each picture."""
        chat = rendered_chat(reasoner.processor, prompt)
        requests = [{'prompt': chat, 'multi_modal_data': {'image': self.resize(image)}} for image in images]
        given = sampling_values(reasoner, sampling, max_new_tokens)
        parameters = [self.parameters(**given, seed=seed % 2 ** 32) for seed in seeds]
        found = self.model.generate(requests, parameters, use_tqdm=False)
        return [list(each.outputs[0].token_ids) for each in found]


def require_whole_weights(folder: Path) -> None:
    """Raise OptionError for a folder that holds an adapter."""
    if (folder / ADAPTER_FILE).exists():
        raise OptionError(f'--backend: vllm needs whole weights, and {folder} holds an adapter. Export it with export: merge: '
                          'true.')


def sampling_values(reasoner: ReasoningModel, sampling: Sampling, max_new_tokens: int) -> dict[str, Any]:
    """Return the arguments of vLLM's `SamplingParams`, without the seed: no token that stands for a picture may be written."""
    from transformers import AutoConfig
    config = AutoConfig.from_pretrained(reasoner.folder, local_files_only=True)
    given = vars(sampling.with_values_of(generation_config_of(reasoner.folder)))
    return {**{name: value for name, value in given.items() if value is not None}, 'max_tokens': max_new_tokens,
            'logit_bias': dict.fromkeys(placeholder_tokens(config), NEVER)}


def pixel_bounds(reasoner: ReasoningModel) -> Callable[[Image.Image], Image.Image]:
    """Return what brings a picture to the size that the processor would give it, when pixel bounds are given.

    vLLM has its own processor, whose versions differ in whether they respect bounds; it leaves pictures of this size as they
    are.

    Raises:
        OptionError: the processor has no grid of patches to which sizes are rounded, or bounds of its own that would undo it.
    """
    images = reasoner.processor.image_processor
    if reasoner.loading['min_pixels'] is None and reasoner.loading['max_pixels'] is None:
        return lambda image: image
    if not hasattr(images, 'merge_size'):
        raise OptionError(f'--max-pixels: {reasoner.loading["max_pixels"]} cannot be kept by --backend vllm for the processor '
                          f'{type(images).__name__}, only for those of the Qwen-VL models. Leave it out, or take --backend '
                          'transformers.')
    own = load_without_weights(reasoner.folder).processor.image_processor.size
    if images.size['shortest_edge'] < own['shortest_edge'] or images.size['longest_edge'] > own['longest_edge']:
        raise OptionError(f'--max-pixels: {reasoner.loading["max_pixels"]} must be in {own["shortest_edge"]} to '
                          f'{own["longest_edge"]} for --backend vllm, which keeps the bounds of the model\'s processor. Take '
                          'another number, or --backend transformers.')
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    def resize(image: Image.Image) -> Image.Image:
        height, width = smart_resize(image.height, image.width, images.patch_size * images.merge_size,
                                     images.size['shortest_edge'], images.size['longest_edge'])
        return image.resize((width, height), Image.Resampling.BICUBIC)
    return resize
