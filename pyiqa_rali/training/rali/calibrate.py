"""Adding intervals to a checkpoint that exists, on validation images that people scored."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyiqa_rali.core.errors import CheckpointError, DataError, some
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.sections import dataset_section, sections_for
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.data.training_images import overlap
from pyiqa_rali.model.checkpoint import load_checkpoint, write_checkpoint
from pyiqa_rali.model.checkpoint_interval import INTERVAL_KEY, with_interval, without_interval
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.feature_store import FeatureStore
from pyiqa_rali.training.rali.features import FeatureTable, embed
from pyiqa_rali.training.rali.intervals import chosen_datasets, fit_interval
from pyiqa_rali.training.rali.options import IntervalOptions, TrainOptions, train_options
from pyiqa_rali.training.rali.picture_rows import Embedding


@dataclass(frozen=True)
class Calibrated:
    """A checkpoint with its intervals.

    Attributes:
        path: the file that was written.
        calibrated_on: the data sets.
        images: how many of their images.
        references: how many of them the checkpoint keeps.
        half_width: of intervals of 90 %, in the unit of the scores, on average over the calibration images.
        srcc: of width signal and absolute error over the calibration images, each judged by a signal learned without it.
        megabytes: what the intervals add to the file.
    """

    path: Path
    calibrated_on: list[str]
    images: int
    references: int
    half_width: float
    srcc: float
    megabytes: float


def calibrate(checkpoint: str | os.PathLike, options: Mapping[str, Any], out: str | os.PathLike) -> Calibrated:
    """Calibrate intervals and write the checkpoint with them; its scores stay as they are.

    Features that the same weights have computed before, in training or here, are taken from `path: feature_cache` of the
    options.

    Args:
        checkpoint: file or folder of an export, or 'rali-lite'.
        options: an option file of a training, as read from YAML: its validation sets, and its section `interval` if it has one.
        out: the .safetensors or .pth file to write.

    Raises:
        OptionError, DataError, CheckpointError: with what to do; such as calibration images that it was trained on.
    """
    read = train_options(dict(options))
    path = locate_checkpoint(str(checkpoint))
    tensors, metadata = load_checkpoint(path)
    net = RALI(pretrained_model_path=path)
    wanted = read.interval or IntervalOptions()
    known = [*sections_for(read.datasets, 'val'), *sections_for(read.datasets, 'test')]  # by default no test set is taken
    calibration = chosen_datasets('interval: datasets', wanted.datasets, known)
    for name in calibration:
        _refuse_trained_on(net, build_table(name, read.datasets[name], read.manual_seed), str(checkpoint))
    scale = MosScale(metadata['mos_range'], metadata['lower_better'])
    with torch.no_grad():  # the width signal speaks of labels in [0, 1], higher better, as in training
        net.scorer.basis_scores.copy_(scale.normalise(net.scorer.basis_scores))
    features = FeatureTable.join([features_of(net, read, name) for name in calibration])
    state, values = fit_interval(net.scorer, features, wanted, read.manual_seed)
    names = [str(read.datasets[name].name) for name in calibration]
    write_checkpoint(out, *with_interval(tensors, metadata, state, {**values, 'calibrated_on': names}))
    low, high = scale.mos_range
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    return Calibrated(Path(out), names, values['images'], values['references'], values['half_width'] * (high - low),
                      values['srcc'], size / 1e6)


def remove_interval(checkpoint: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Write a checkpoint without its intervals.

    Raises:
        CheckpointError: it has none.
    """
    tensors, metadata = load_checkpoint(locate_checkpoint(str(checkpoint)))
    if INTERVAL_KEY not in metadata:
        raise CheckpointError(f'{checkpoint}: has no interval. Leave --remove out.')
    write_checkpoint(out, *without_interval(tensors, metadata))
    return Path(out)


def features_of(net: RALI, options: TrainOptions, section: str) -> FeatureTable:
    """Return the image features of a data set of an option file, kept ones where the same weights have computed them.

    Args:
        net: the weights.
        options: of the option file.
        section: name of the data set.
    """
    table = build_table(section, options.datasets[section], options.manual_seed)
    workers = dataset_section(section, options.datasets[section]).options.num_worker_per_gpu or 0
    cache = options.path.feature_cache or str(Path(options.path.experiments_root) / 'feature_cache')
    return features_of_table(net, table, cache, workers)


def features_of_table(net: RALI, table: QualityTable, cache: str, num_workers: int = 0) -> FeatureTable:
    """Return the image features of a data set, kept ones where the same weights have computed them.

    Args:
        net: the weights.
        table: the data set.
        cache: folder where features are kept.
        num_workers: processes that read.
    """
    encoder, device = net.image_encoder, net.scorer.basis_vectors.device
    kept = Embedding.of_backbone(encoder, FeatureStore(cache), device).features(table, num_workers, encoder.project)
    return kept or embed(encoder, table, device, num_workers=num_workers)


def _refuse_trained_on(net: RALI, table: QualityTable, checkpoint: str) -> None:
    """Raise DataError for calibration images that the weights were trained on: errors are smaller there."""
    found = overlap(net.training_images, table.source_files())
    if found.trained_on:
        raise DataError(f'{table.name}: {len(found.trained_on)} of {found.images} images were trained on by {checkpoint}: '
                        f'{some(found.trained_on, 3)}. Errors are smaller there, and intervals would be too narrow. Calibrate '
                        'on others: interval: datasets.')
