"""Loading and saving vision-language models: a folder or a hub repository, whole weights or a peft adapter."""

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.files import sha256
from pyiqa_rali.core.hub import commit_of, from_hub, is_hub_name
from pyiqa_rali.core.messages import bars_of_transformers
from pyiqa_rali.vlm.prompts import ReasoningCard, read_card

ADAPTER_FILE = 'adapter_config.json'
EXPORT = ('models', 'reasoning')  # below an experiment's folder
DIGITS = 12  # of a digest
DTYPES = ('auto', 'float32', 'bfloat16', 'float16')
CHOICES = ('give the folder of a copy: pretrained_model_path=PATH; take a metric that works offline: '
           'create_metric("rali-lite"); or, with a network, set HF_ENDPOINT to a mirror that can be reached')


@dataclass
class ReasoningModel:
    """A vision-language model, its processor, and what it is to be asked.

    Attributes:
        model: transformers' image-text-to-text model, or a peft model around one; None when another backend runs it. Its
            class is chosen by transformers, so its type is not known here.
        processor: transformers' processor with its chat template; its tokenizer pads on the left.
        card: prompts and rating scale; None when the folder has none.
        folder: where it was loaded from.
        loading: dtype and pixel bounds, as requested.
        reuses_cache: whether expected ratings continue from the cache of the reasoning; None until that was tried.
        read_again: how many begun ratings were read together with picture and reasoning, because the cache could not be reused.
    """

    model: Any
    processor: Any
    card: ReasoningCard | None
    folder: Path
    loading: dict[str, Any] = field(default_factory=dict)
    reuses_cache: bool | None = None
    read_again: int = 0

    @property
    def asked(self) -> ReasoningCard:
        """The card, which must be there.

        Raises:
            CheckpointError: the folder has none, and none was given.
        """
        if self.card is None:
            raise CheckpointError(f'{self.folder}: says nothing about its prompts and the scale of its ratings. Give a card.')
        return self.card


def load_vlm(source: str | os.PathLike, dtype: str = 'auto', attn_implementation: str | None = None,
             device_map: str | dict | None = None, min_pixels: int | None = None, max_pixels: int | None = None,
             merge: bool = False, revision: str | None = None) -> ReasoningModel:
    """Load a model for scoring or training.

    Args:
        source: a folder, or 'owner/name' or 'owner/name:folder' on the hub. An existing folder is never looked up there.
        dtype: of the weights; 'auto' takes the checkpoint's.
        attn_implementation: transformers' name, such as 'sdpa'; None leaves the choice to it.
        device_map: transformers' device map; None loads on the CPU.
        min_pixels: pictures with less are enlarged; None leaves the processor's bound.
        max_pixels: pictures with more are scaled down, which bounds the number of image tokens.
        merge: fold an adapter's weights into the model.
        revision: branch, tag or commit of a hub repository.

    Raises:
        CheckpointError: it cannot be found, or is not an image-text-to-text model.
        OptionError: dtype or pixel bounds cannot be used, or a revision is given for a folder.
    """
    _check_dtype(dtype)
    folder = locate_vlm(source, revision)
    base = adapter_base(folder)
    options = {'dtype': dtype, 'attn_implementation': attn_implementation, 'device_map': device_map}
    model = _load(base, {key: value for key, value in options.items() if value is not None})
    if base != folder:
        model = _with_adapter(model, folder, merge)
    return replace(load_without_weights(folder, dtype, min_pixels, max_pixels), model=model)


def load_without_weights(source: str | os.PathLike, dtype: str = 'auto', min_pixels: int | None = None,
                         max_pixels: int | None = None) -> ReasoningModel:
    """Load processor and card alone, for a backend that loads the weights itself; see `load_vlm`."""
    _check_dtype(dtype)
    folder = locate_vlm(source)
    processor = _load_processor(folder if (folder / 'tokenizer_config.json').exists() else adapter_base(folder))
    _bound_pixels(processor, min_pixels, max_pixels)
    return ReasoningModel(None, processor, read_card(folder), folder,
                          {'dtype': dtype, 'min_pixels': min_pixels, 'max_pixels': max_pixels})


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise OptionError(f'dtype: "{dtype}" is not one of {", ".join(DTYPES)}.')


def locate_vlm(source: str | os.PathLike, revision: str | None = None) -> Path:
    """Return the folder of a model.

    Args:
        source: a folder, or a hub repository.
        revision: branch, tag or commit of a repository; None means the main branch.

    Raises:
        CheckpointError: there is no such folder, and the hub does not provide it.
        OptionError: a revision is given for a folder.
    """
    path = Path(source).expanduser().absolute()  # adapters record where the model below them is
    if path.is_dir():
        if revision is not None:
            raise OptionError(f'revision: {revision} is only for a repository on the hub; {source} is on this machine. Leave '
                              'it out.')
        if not (path / 'config.json').exists() and not (path / ADAPTER_FILE).exists():
            raise CheckpointError(f'{path}: is not a model folder: it has neither config.json nor {ADAPTER_FILE}.')
        return path
    if path.exists() or str(source).startswith(('.', '/', '~')) or str(source).count('/') != 1:
        raise CheckpointError(f'{source}: is not a folder. Give the folder of a vision-language model, or a hub repository as '
                              'owner/name or owner/name:folder.')
    return from_hub(str(source), CHOICES, revision, is_whole=_is_whole)


def cached_vlm(source: str | os.PathLike) -> Path | None:
    """Return the folder of a model without downloading anything; None for a hub repository that is not in the cache.

    Raises:
        CheckpointError: there is no such folder.
    """
    if Path(source).expanduser().is_dir() or not is_hub_name(str(source)):
        return locate_vlm(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    repository, _, subfolder = str(source).partition(':')
    try:
        folder = Path(snapshot_download(repository, local_files_only=True)) / subfolder
    except LocalEntryNotFoundError:
        return None
    return folder if (folder / 'tokenizer_config.json').exists() else None


def identity(folder: Path) -> str:
    """Return a name that no other weights have, such as 'GRPO_demo/models/reasoning@0123456789ab'.

    It is made of the hub's name, the end of an export's path or a folder's name, and the beginning of a SHA-256 of all weights,
    including those below an adapter. Every byte is read, which takes some seconds for a model of 7 B.

    Raises:
        CheckpointError: the model below an adapter cannot be found.
    """
    folder = folder.resolve() if commit_of(folder) is None else folder  # the hub's cache consists of links
    found = hashlib.sha256()
    for part in dict.fromkeys((folder, adapter_base(folder))):
        for path in sorted(part.glob('*.safetensors')) or sorted(part.glob('*.bin')):
            found.update(f'{path.name} {sha256(path)}\n'.encode())
    return f'{_readable_name(folder)}@{found.hexdigest()[:DIGITS]}'


def _readable_name(folder: Path) -> str:
    commit = commit_of(folder)
    if commit is not None:
        cached, below = folder.as_posix().split(f'/snapshots/{commit}')
        return cached.rpartition('models--')[2].replace('--', '/', 1) + below.replace('/', ':', 1)
    return '/'.join(folder.parts[-3:]) if folder.parts[-2:] == EXPORT else folder.name


def _is_whole(folder: Path) -> bool:
    """Whether a download, which may have been interrupted, contains a configuration and all weights."""
    if not (folder / 'config.json').exists():
        return (folder / ADAPTER_FILE).exists() and any(folder.glob('adapter_model.*'))
    index = folder / 'model.safetensors.index.json'
    if not index.exists():
        return any(folder.glob('*.safetensors')) or any(folder.glob('*.bin'))
    shards = set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values())
    return all((folder / shard).exists() for shard in shards)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter."""
    return (folder / ADAPTER_FILE).exists()


def adapter_base(folder: Path) -> Path:
    """Return the folder of the model that an adapter was trained on, or the folder itself when it is not an adapter."""
    if not (folder / ADAPTER_FILE).exists():
        return folder
    base = json.loads((folder / ADAPTER_FILE).read_text(encoding='utf-8')).get('base_model_name_or_path')
    if not base:
        raise CheckpointError(f'{folder / ADAPTER_FILE}: does not name base_model_name_or_path, the model below the adapter.')
    try:
        found = locate_vlm(folder / base if (folder / base).is_dir() else base)
    except CheckpointError as error:
        raise CheckpointError(f'{folder}: the model below this adapter is not available: {error}') from error
    if is_adapter(found):
        raise CheckpointError(f'{folder}: the model below this adapter, {found}, is an adapter itself. Merge that one first.')
    return found


def generation_config_of(folder: Path) -> Any:
    """Return transformers' `GenerationConfig` of a model folder or of the model below an adapter; its defaults without one."""
    from transformers import GenerationConfig
    try:
        return GenerationConfig.from_pretrained(adapter_base(folder), local_files_only=True)
    except OSError:
        return GenerationConfig()


@bars_of_transformers()
def _load(folder: Path, options: dict[str, Any]) -> torch.nn.Module:
    from transformers import AutoModelForImageTextToText
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, output_loading_info=True,
                                                                    **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise CheckpointError(f'{folder}: cannot be loaded as an image-text-to-text model: {error}') from error
    lost = sorted([*report['missing_keys'], *report['mismatched_keys'], *report['unexpected_keys']], key=str)
    if lost:
        raise CheckpointError(f'{folder}: {len(lost)} weights do not fit the architecture that config.json names, such as '
                              f'{lost[0]}; it would run on random numbers. Use the transformers version that wrote it.')
    return model.eval()


def _with_adapter(model: torch.nn.Module, folder: Path, merge: bool) -> torch.nn.Module:
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights
    try:
        adapted = PeftModel.from_pretrained(model, folder, local_files_only=True)
        wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        lost = sorted(set(wanted) - set(load_peft_weights(str(folder), device='cpu')))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f'{folder}: its adapter cannot be loaded: {error}') from error
    if lost:
        raise CheckpointError(f'{folder}: {len(lost)} weights of its adapter are not there, such as {lost[0]}; it would run '
                              'without them. Use the peft and transformers versions that wrote it.')
    return (adapted.merge_and_unload() if merge else adapted).eval()


def _load_processor(folder: Path) -> Any:
    from transformers import AutoProcessor
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f'{folder}: its processor cannot be loaded: {error}') from error
    processor.tokenizer.padding_side = 'left'  # padding on the right would change the completions of a batch
    return processor


def _bound_pixels(processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    if min_pixels is not None and max_pixels is not None and min_pixels > max_pixels:
        raise OptionError(f'min_pixels: {min_pixels} is more than max_pixels: {max_pixels}.')
    images = processor.image_processor
    size = dict(images.size)
    if (min_pixels or max_pixels) and not {'shortest_edge', 'longest_edge'} <= set(size):
        raise OptionError("min_pixels, max_pixels: this model's image processor has a different kind of size "
                          f'({size}); leave both out.')
    if min_pixels is not None:
        size['shortest_edge'] = min_pixels
    if max_pixels is not None:
        size['longest_edge'] = max_pixels
        size['shortest_edge'] = min(size['shortest_edge'], max_pixels)
    images.size = type(images.size)(**size) if not isinstance(images.size, dict) else size
