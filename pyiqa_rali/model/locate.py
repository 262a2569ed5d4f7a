"""Where a checkpoint is: a path, the embedded file, the user's default, an earlier conversion, the hub, in this order."""

import os
import warnings
from importlib import resources
from pathlib import Path

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.hub import is_hub_name
from pyiqa_rali.model.default import find_default
from pyiqa_rali.model.release import conversion

RELEASED = 'ByteDance/Q-Insight:RALI'
EMBEDDED = {'rali-lite': 'rali_lite.safetensors', 'rali-lite-v1': 'rali_lite_v1.safetensors'}
FOLDER_VARIABLE = 'PYIQA_RALI_RELEASED'
CHOICES = ('use the embedded weights: create_metric("rali-lite"); give a file or folder: pretrained_model_path=PATH, or '
           f'{FOLDER_VARIABLE}=FOLDER for a copy of the released folder; make an export of your own the default: python -m '
           'pyiqa_rali use FILE; or, with a network, set HF_ENDPOINT to a mirror that can be reached')


def locate_checkpoint(source: str, revision: str | None = None, may_be_name: bool = True) -> Path:
    """Return the checkpoint that a name, path or hub repository stands for, in our format.

    Args:
        source: 'rali' (the user's default, otherwise the released checkpoint), 'rali-lite' or 'rali-lite-v1' (embedded), a
            file or folder, or 'owner/name' or 'owner/name:folder' on the hub. An existing path is never looked up on the hub.
        revision: branch, tag or commit of a hub repository; with 'rali' it means the released checkpoint, whatever the
            user's default is.
        may_be_name: whether 'rali', 'rali-lite' and 'rali-lite-v1' mean the metrics even where a file or folder has that name.

    Raises:
        CheckpointError: it cannot be found; the message says what to do.
        OptionError: a revision is given for something that is not on the hub.
    """
    named = may_be_name or not Path(source).exists()
    if source == 'rali' and named and revision is None:
        local = _local_rali()
        if local is not None:
            return conversion.converted(local)
    if source == 'rali' and named:
        return conversion.converted_from_hub(RELEASED, revision, CHOICES)
    path = embedded_file(source) if source in EMBEDDED and named else Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise OptionError(f'revision: {revision} is only for a repository on the hub; {source} is on this machine. Leave '
                              'it out.')
        return conversion.converted(path)
    if path.suffix in ('.safetensors', '.pth', '.pt') or not is_hub_name(source):
        raise CheckpointError(f'{source}: no such file or folder. Give the path of an export of pyiqa_rali.train, a hub '
                              'repository as owner/name or owner/name:folder, or rali-lite.')
    return conversion.converted_from_hub(source, revision, CHOICES)


def embedded_file(name: str) -> Path:
    """Return the weights that come with the package: 'rali-lite', or those of version 0.1, 'rali-lite-v1'."""
    return Path(str(resources.files('pyiqa_rali.model') / 'weights' / EMBEDDED[name]))


def _local_rali() -> Path | None:
    """Return what the user has chosen for `rali` on this machine, if anything."""
    chosen = find_default()
    if chosen is not None:
        warnings.warn(f'rali: the weights are your default, {chosen}, not the released checkpoint.', stacklevel=2)
        return chosen
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    if not Path(folder).expanduser().exists():
        raise CheckpointError(f'{FOLDER_VARIABLE}: {folder} does not exist. Correct or unset it.')
    return Path(folder).expanduser()
