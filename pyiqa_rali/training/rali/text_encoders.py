"""Text encoders for contrastive alignment: a CLIP model's own text tower, or a sentence encoder from transformers."""

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.core.errors import CheckpointError, OptionError, first_line
from pyiqa_rali.core.hub import from_hub
from pyiqa_rali.core.messages import bars_of_transformers, progress_bar
from pyiqa_rali.model.text_tower import num_tokens
from pyiqa_rali.training.rali.feature_store import FeatureStore, Stored, identity_of, text_key

CHOICES = 'give the folder of a copy, or installed:PACKAGE; or, with a network, set HF_ENDPOINT to a mirror that can be reached'
HUB_FILES = ('*.json', '*.txt', '*.model', '*.safetensors', 'pytorch_model*.bin')
TEXTS_A_FILE = 256
_SENTENCE_END = re.compile(r'(?<=[.!?])\s+')


class TextEncoder(nn.Module):
    """Texts in, (N, C) features out; frozen encoders cache what they have encoded.

    Args:
        train: whether gradients reach the weights.
        split_sentences: encode each sentence by itself and average the normalised features.
    """

    context_length: int
    embed_dim: int

    def __init__(self, train: bool, split_sentences: bool):
        super().__init__()
        self.train_weights, self.split_sentences = train, split_sentences
        self._cache: dict[str, Tensor] = {}

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return text features (N, C)."""
        parts = [split_into_sentences(text) if self.split_sentences else [text] for text in texts]
        unique = list(dict.fromkeys(part for text in parts for part in text))
        features = self._encode_unique(unique)
        if not self.split_sentences:
            return features[[unique.index(text) for text in texts]] if len(unique) < len(texts) else features
        row = {part: index for index, part in enumerate(unique)}
        features = F.normalize(features, dim=-1)
        return torch.stack([features[[row[part] for part in text]].mean(dim=0) for text in parts])

    def remember(self, texts: Iterable[str], store: FeatureStore) -> None:
        """Encode texts ahead, and keep what a frozen encoder makes of them for later runs too; a trained one keeps nothing."""
        if self.train_weights:
            return
        device = next(self.parameters()).device
        identity = identity_of(self, [type(self).__name__, self.context_length], device)
        parts = dict.fromkeys(part for text in dict.fromkeys(texts)
                              for part in (split_into_sentences(text) if self.split_sentences else [text]))
        keys = {text_key(part): part for part in parts}
        self._cache.update({keys[key]: stored.row.to(device) for key, stored in store.get(identity, list(keys)).items()})
        new = [part for part in parts if part not in self._cache]
        for start in progress_bar(range(0, len(new), TEXTS_A_FILE), desc='texts', unit='file', disable=not new):
            chunk = new[start:start + TEXTS_A_FILE]
            rows = self._encode_unique(chunk).cpu()
            store.add(identity, {text_key(part): Stored(row) for part, row in zip(chunk, rows, strict=True)})

    def count_long(self, texts: Sequence[str]) -> int:
        """Return how many texts (or single sentences, when split) are longer than the context and lose their end."""
        parts = [part for text in texts for part in (split_into_sentences(text) if self.split_sentences else [text])]
        return sum(self.num_tokens(part) > self.context_length for part in set(parts))

    def num_tokens(self, text: str) -> int:
        """Return the number of tokens of one text, special tokens included."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return features (N, C) of texts that each fit the context."""
        raise NotImplementedError

    def _encode_unique(self, texts: list[str]) -> Tensor:
        if self.train_weights:
            return self.encode(texts)
        new = [text for text in texts if text not in self._cache]
        # one by one on the CPU: a text's last digits must not depend on its neighbours, or a resumed run would differ
        size = 1 if next(self.parameters()).device.type == 'cpu' else 64
        with torch.no_grad():
            for start in range(0, len(new), size):
                chunk = new[start:start + size]
                self._cache.update(zip(chunk, self.encode(chunk).float(), strict=True))
        return torch.stack([self._cache[text] for text in texts])


class OpenClipText(TextEncoder):
    """The text tower of an open_clip model."""

    def __init__(self, model: Any, tokenizer: Any, embed_dim: int, train: bool = False, split_sentences: bool = False):
        super().__init__(train, split_sentences)
        model.visual = nn.Identity()  # to release the memory of the image tower
        self.model, self.tokenizer, self.embed_dim = model, tokenizer, embed_dim
        self.context_length = tokenizer.context_length

    def num_tokens(self, text: str) -> int:
        """Return the number of tokens, start and end included."""
        return num_tokens(self.tokenizer, text)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return features (N, C)."""
        device = next(self.model.parameters()).device
        return self.model.encode_text(self.tokenizer(list(texts)).to(device))


class SentenceEncoder(TextEncoder):
    """A sentence encoder of transformers: mean over the tokens of the last layer (MiniLM).

    Args:
        path: see `resolve_text_encoder`.
        train: see `TextEncoder`.
        split_sentences: see `TextEncoder`.

    Raises:
        OptionError, CheckpointError: it cannot be found, or is not a sentence encoder.
    """

    @bars_of_transformers()
    def __init__(self, path: str | None, train: bool = False, split_sentences: bool = False):
        super().__init__(train, split_sentences)
        from transformers import AutoModel, AutoTokenizer
        folder = resolve_text_encoder(path)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f'text_encoder: path: {path} cannot be loaded as a sentence encoder: {first_line(error)}. '
                                  'Give a folder with its configuration, weights and tokenizer.') from error
        self.embed_dim = self.model.config.hidden_size
        self.context_length = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def num_tokens(self, text: str) -> int:
        """Return the number of tokens, special tokens included."""
        return len(self.tokenizer(text)['input_ids'])

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return features (N, C)."""
        device = next(self.model.parameters()).device
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.context_length,
                                return_tensors='pt').to(device)
        hidden = self.model(**tokens).last_hidden_state
        mask = tokens['attention_mask'].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def split_into_sentences(text: str) -> list[str]:
    """Split after full stops, question and exclamation marks.

    Example:
        >>> split_into_sentences('Sharp overall. Some noise.')
        ['Sharp overall.', 'Some noise.']
    """
    return [part for part in _SENTENCE_END.split(text.strip()) if part]


def resolve_text_encoder(path: str | None) -> str:
    """Return the folder of a text encoder.

    Args:
        path: a folder; 'installed:PACKAGE', which is the package's `model` folder; or a repository on the hub, from its cache
            or else downloaded. An existing folder is never looked up on the hub.

    Raises:
        OptionError: no path, a folder that does not exist, or a package that is not installed.
        CheckpointError: a repository that is not in the hub's cache, and cannot be downloaded.
    """
    if not path:
        raise OptionError('text_encoder: path: must be given with library: transformers; a folder, a hub repository such as '
                          'sentence-transformers/all-MiniLM-L6-v2, or installed:PACKAGE.')
    if path.startswith('installed:'):
        return str(installed_folder(path.removeprefix('installed:')) / 'model')
    if path.startswith(('.', '/', '~')) and not Path(path).expanduser().is_dir():
        raise OptionError(f'text_encoder: path: "{path}" is not a folder. Give a folder or a hub repository.')
    folder = Path(path).expanduser()
    return str(folder if folder.is_dir() else from_hub(path, CHOICES, None, HUB_FILES, _is_whole))


def _is_whole(folder: Path) -> bool:
    """Whether a download, which may have been interrupted, contains a configuration and weights."""
    return (folder / 'config.json').is_file() and any([*folder.glob('*.safetensors'), *folder.glob('*.bin')])


def installed_folder(package: str) -> Path:
    """Return the folder of an installed Python package that ships weights.

    Raises:
        OptionError: the package is not installed.
    """
    try:
        return Path(str(resources.files(package)))
    except ModuleNotFoundError as error:
        raise OptionError(f'installed:{package}: the Python package is not installed. Install it with pip install '
                          f'{package.replace("_", "-")}, or give a path.') from error


class ClipText(TextEncoder):
    """The text tower of a CLIP in transformers' format, with CLIP's own tokenizer, which comes with open_clip.

    Args:
        folder: a folder with the whole CLIP, such as `best/` of the released RALI.
        split_sentences: see `TextEncoder`.
    """

    @bars_of_transformers()
    def __init__(self, folder: str, split_sentences: bool = False):
        super().__init__(False, split_sentences)
        from open_clip import SimpleTokenizer
        from transformers import CLIPModel
        self.model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        self.model.vision_model = None
        config = self.model.config.text_config
        self.context_length, self.embed_dim = config.max_position_embeddings, self.model.config.projection_dim
        self.tokenizer = SimpleTokenizer(context_length=self.context_length)
        if config.vocab_size != self.tokenizer.vocab_size:
            raise OptionError(f"text encoder: {folder} has {config.vocab_size} tokens, and CLIP's tokenizer "
                              f"{self.tokenizer.vocab_size}; it is not CLIP's text tower.")

    def num_tokens(self, text: str) -> int:
        """Return the number of tokens, start and end included."""
        return len(self.tokenizer.encode(text)) + 2

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return features (N, C). Nothing attends to what follows the end of a text."""
        tokens = self.tokenizer(list(texts)).to(next(self.model.parameters()).device)
        return self.model.text_projection(self.model.text_model(input_ids=tokens).pooler_output)


def load_text_encoder(path: str, split_sentences: bool) -> TextEncoder:
    """Return the frozen text encoder in a folder or repository: a CLIP's text tower, or else a sentence encoder.

    Raises:
        OptionError: the folder does not exist or cannot be used.
        CheckpointError: a repository that is not in the hub's cache, and cannot be downloaded.
    """
    source = resolve_text_encoder(path)
    from transformers import AutoConfig
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        raise OptionError(f'text encoder: {path} cannot be read: {str(error).splitlines()[0]}') from error
    return ClipText(source, split_sentences) if config.model_type == 'clip' else SentenceEncoder(path, False, split_sentences)
