"""Completions by vLLM, for writing texts on many images; vLLM is not a dependency and is imported only here."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from pyiqa_rali.errors import OptionError
from pyiqa_rali.reasoning.vlm import ADAPTER_FILE, ReasoningModel


class VllmCompleter:
    """Callable in the place of `generation.complete`, with vLLM's own sampler: seeded, but other texts than transformers'.

    Args:
        reasoner: processor, card and folder; its weights are loaded once more by vLLM.
        options: more arguments of `vllm.LLM`.

    Raises:
        OptionError: vLLM is not installed, or the folder holds an adapter.
    """

    def __init__(self, reasoner: ReasoningModel, **options: Any):
        if (reasoner.folder / ADAPTER_FILE).exists():
            raise OptionError(f'--backend: vllm needs whole weights, and {reasoner.folder} holds an adapter. Export it with '
                              'export: merge: true.')
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise OptionError(f'--backend: vllm cannot be imported ({error}). pip install vllm, or take --backend '
                              'transformers.') from error
        self.parameters = SamplingParams
        self.model = LLM(model=str(reasoner.folder), limit_mm_per_prompt={'image': 1}, **options)

    def __call__(self, reasoner: ReasoningModel, images: Sequence[Image.Image], question: str, max_new_tokens: int,
                 seeds: Sequence[int], temperature: float) -> list[list[int]]:
        """Return the token ids of one sampled completion for each picture."""
        message = [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': question}]}]
        prompt = reasoner.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        requests = [{'prompt': prompt, 'multi_modal_data': {'image': image}} for image in images]
        parameters = [self.parameters(temperature=temperature, max_tokens=max_new_tokens, seed=seed % 2 ** 32)
                      for seed in seeds]
        found = self.model.generate(requests, parameters, use_tqdm=False)
        return [list(each.outputs[0].token_ids) for each in found]
