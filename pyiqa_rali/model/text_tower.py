"""The text tower of an open_clip model beside a checkpoint's image encoder, for the prompts of generated pictures."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError, OptionError, first_line
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.core.hub import cache_alone_when_out_of_reach

NAME_KEY, CONFIG_KEY = 'name', 'model_config'
PROMPTS_AT_ONCE = 64


class TextTower(nn.Module):
    """Texts in, text features (N, C) out, in the space of the image features.

    Args:
        name: of the model in open_clip.
        model_config: open_clip's configuration of it, whole.

    Raises:
        OptionError: see `check_text_tower`.
    """

    def __init__(self, name: str, model_config: Mapping[str, Any]):
        super().__init__()
        check_text_tower(name, model_config)
        from open_clip.model import _build_text_tower
        self.name, self.model_config = name, copy.deepcopy(dict(model_config))
        with torch.device('cpu'):  # its attention mask is in no checkpoint, and would have no values where weights have none
            self.tower = _build_text_tower(model_config['embed_dim'], model_config['text_cfg'],
                                           model_config.get('quick_gelu', False))
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            CheckpointError: it is one of the hub's that is not on this machine, and cannot be downloaded.
        """
        if self._tokenizer is None:
            self._tokenizer = tokenizer_of(self.name, self.model_config)
        return self._tokenizer

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return text features (N, C), not normalised; what is beyond the context of the tower is cut off."""
        device = next(self.tower.parameters()).device
        found = [self.tower(self.tokenizer(list(texts[start:start + PROMPTS_AT_ONCE])).to(device))
                 for start in range(0, len(texts), PROMPTS_AT_ONCE)]
        return torch.cat(found).float()

    def count_long(self, texts: Sequence[str]) -> int:
        """Return how many different texts are longer than the context, and lose their end."""
        return sum(num_tokens(self.tokenizer, text) > self.tokenizer.context_length for text in set(texts))


def check_text_tower(name: str, model_config: Mapping[str, Any] | None) -> None:
    """Raise OptionError for a model of open_clip whose text tower a checkpoint cannot keep."""
    text = (model_config or {}).get('text_cfg')
    if not text:
        raise OptionError(f'image_encoder name: "{name}" has no text tower, which the alignment with prompts needs. Choose a '
                          'CLIP or SigLIP of open_clip, such as ViT-L-14-336.')
    if text.get('hf_model_name') or 'multimodal_cfg' in (model_config or {}):
        raise OptionError(f'image_encoder name: "{name}" has a text tower that is not open_clip\'s own, and a checkpoint '
                          'cannot keep it. Choose a CLIP or SigLIP of open_clip, such as ViT-L-14-336.')


def tokenizer_of(name: str, model_config: Mapping[str, Any]) -> Any:
    """Return the tokenizer of an open_clip model.

    Raises:
        CheckpointError: see `TextTower.tokenizer`.
    """
    import open_clip
    text = model_config['text_cfg']
    try:
        with cache_alone_when_out_of_reach():
            if open_clip.get_model_config(name) is not None:
                return open_clip.get_tokenizer(name)
            if text.get('hf_tokenizer_name'):
                return open_clip.HFTokenizer(text['hf_tokenizer_name'], context_length=text.get('context_length', 77),
                                             tokenizer_mode=text.get('tokenizer_mode'), **text.get('tokenizer_kwargs', {}))
            return open_clip.SimpleTokenizer(context_length=text.get('context_length', 77), **text.get('tokenizer_kwargs', {}))
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f'the tokenizer of {name} in open_clip cannot be obtained: {first_line(error)}. Prompts need it: '
                              'put it into the cache of the hub, or, with a network, set HF_ENDPOINT to a mirror that can be '
                              'reached.') from error


def num_tokens(tokenizer: Any, text: str) -> int:
    """Return the number of tokens of a text by a tokenizer of open_clip, start and end included."""
    if hasattr(tokenizer, 'encode'):
        return len(tokenizer.encode(text)) + 2
    return len(tokenizer.tokenizer(text)['input_ids'])


def tower_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the text tower's part of an open_clip model's weights, under the names of a `TextTower`."""
    from open_clip.transformer import TextTransformer
    whole = model.state_dict()
    if isinstance(getattr(model, 'text', None), TextTransformer):  # a model with a tower of its own; CLIP's is among the rest
        return {f'tower.{name.removeprefix("text.")}': tensor for name, tensor in whole.items() if name.startswith('text.')}
    parts = ('transformer.', 'token_embedding.', 'positional_embedding', 'ln_final.', 'text_projection')
    return {f'tower.{name}': tensor for name, tensor in whole.items() if name.startswith(parts)}


def save_text_tower(path: Path, name: str, model_config: Mapping[str, Any], state: Mapping[str, Tensor],
                    half: bool = False) -> None:
    """Write a text tower as the file between stage 1 and the export.

    Args:
        path: the safetensors file.
        name: of the model in open_clip.
        model_config: open_clip's configuration of it.
        state: as `tower_state` returns it.
        half: round floating-point weights to float16, as a float16 export does.
    """
    from safetensors.torch import save_file
    stored = {key: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
              for key, tensor in state.items()}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata={NAME_KEY: name, CONFIG_KEY: json.dumps(model_config)})


def load_text_tower(path: Path) -> TextTower:
    """Read what `save_text_tower` wrote, in float32.

    Raises:
        CheckpointError: the file is missing: stage 1 was run without `aspects`.
    """
    from safetensors import safe_open
    if not path.exists():
        raise CheckpointError(f'{path}: is not there; stage 1 was run without "aspects" in the data sets. Run it again '
                              '(stages: [align, compress, score]).')
    with safe_open(path, framework='pt') as stream:
        told = stream.metadata()
        tower = TextTower(told[NAME_KEY], json.loads(told[CONFIG_KEY]))
        tower.load_state_dict({name: stream.get_tensor(name).float() for name in stream.keys()})  # noqa: SIM118 (not a dict)
    return tower.eval()
