"""Adding a diagnosis to a checkpoint that has none, from the pictures of the option file of its training."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.core.options import checked
from pyiqa_rali.data.sections import dataset_section
from pyiqa_rali.model.checkpoint import load_checkpoint, write_checkpoint
from pyiqa_rali.model.checkpoint_diagnosis import with_diagnosis
from pyiqa_rali.model.explanation import NO_BANK
from pyiqa_rali.model.image_encoder import ImageEncoderConfig, build_image_encoder
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.model.text_bank import loaded_bank
from pyiqa_rali.training.rali.diagnosis import diagnosis_of_run
from pyiqa_rali.training.rali.feature_store import FeatureStore
from pyiqa_rali.training.rali.options import DiagnosisOptions, train_options

ENCODER = 'image_encoder.'


@dataclass
class AddedDiagnosis:
    """A checkpoint with its new diagnosis.

    Attributes:
        path: the file that was written.
        classes: how many classes the votes know.
        report: see `MadeDiagnosis`.
        megabytes: what the diagnosis adds to the file.
    """

    path: Path
    classes: int
    report: dict[str, Any]
    megabytes: float


def add_diagnosis(checkpoint: str | os.PathLike, out: str | os.PathLike, options: Mapping[str, Any], *,
                  num_pictures: int | None = None, device: str = 'cpu') -> AddedDiagnosis:
    """Fit a diagnosis on the training pictures of an option file, and write the checkpoint with it; scores stay as they are.

    Args:
        checkpoint: file or folder of an export with a text bank, or 'rali-lite'.
        out: the .safetensors or .pth file to write.
        options: the option file of the checkpoint's training, as read from YAML: its data sets are used, its folder of kept
            features, and its section `diagnosis`, if it has one.
        num_pictures: at most so many training pictures of each set; None takes what the options say.
        device: where pictures are encoded whose features are not kept.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    tensors, metadata = load_checkpoint(locate_checkpoint(str(checkpoint)))
    bank = loaded_bank(tensors, metadata)
    if bank is None:
        raise CheckpointError(f'{checkpoint}: {NO_BANK}')
    read = train_options({**options, 'bank': options.get('bank') or {}})
    own = read.diagnosis or DiagnosisOptions()
    read.diagnosis = checked(own if num_pictures is None else replace(own, num_pictures=num_pictures), 'diagnosis')
    encoder = build_image_encoder(ImageEncoderConfig.from_dict(metadata['image_encoder']))
    encoder.load_state_dict({name.removeprefix(ENCODER): tensor for name, tensor in tensors.items()
                             if name.startswith(ENCODER)})
    encoder.to(torch.device(device)).eval()
    sections = {name: dataset_section(name, values) for name, values in read.datasets.items()}
    cache = read.path.feature_cache
    if cache is None and read.align.cache_backbone:
        cache = str(Path(read.path.experiments_root) / 'feature_cache')
    made = diagnosis_of_run(encoder, FeatureStore(cache), torch.device(device), sections, bank, read)
    write_checkpoint(out, *with_diagnosis(tensors, metadata, made.tensors, made.values))
    size = sum(tensor.numel() * tensor.element_size() for tensor in made.tensors.values())
    return AddedDiagnosis(Path(out), len(made.values['classes']), made.report, size / 1e6)
