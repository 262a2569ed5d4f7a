"""What a file of weights is that this package did not export, and what can be done with it: the words of error messages."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

from pyiqa_rali.core.errors import some

EXPORT = 'an export of pyiqa_rali.train, such as models/rali.safetensors'
NAMES_SHOWN = 3
RELEASED_SCORER = 'scorer.pca_scale'  # in the ckpt.pt of the released folder


def what_foreign_tensors_are(names: Iterable[str]) -> str:
    """Return what a state dict without our metadata is, by the names in it."""
    names = [str(name) for name in names]
    if RELEASED_SCORER in names:
        return ('It is a part of the released RALI, whose other files are needed too: convert its folder with `python -m '
                'pyiqa_rali convert FOLDER OUT`.')
    return (f'It holds other weights ({some(names, NAMES_SHOWN)}). Give {EXPORT}, or the released RALI folder. The weights of '
            'an image encoder alone cannot score; a training begins with them by network: image_encoder: pretrained: FILE.')


def why_no_tensors(path: Path) -> str:
    """Return why torch reads no tensors from a file, as far as it tells."""
    if not zipfile.is_zipfile(path):
        return 'The file is truncated or of another format; copy or export it again.'
    with zipfile.ZipFile(path) as archive:
        parts = {part for name in archive.namelist() for part in name.split('/')}
    if {'code', 'constants.pkl'} <= parts:
        return f'It is a program in TorchScript, which is not run here. Give {EXPORT}.'
    if 'data.pkl' in parts:
        return ('It holds objects of Python beside tensors, such as a whole model as other tools save it. They are not loaded, '
                f'since that would run their code. Give {EXPORT}; of a model of your own, save its state_dict() alone.')
    return f'It is an archive of something else. Give {EXPORT}.'
