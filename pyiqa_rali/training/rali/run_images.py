"""The images of a RALI run: all of them are read before its first step, recorded for its export, and kept out of its tests."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiqa_rali.core import processes
from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.inspection import InspectedImage, inspect_images, refuse_unusable, sizes_told
from pyiqa_rali.data.sections import DatasetSection
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.data.training_images import (
    Overlap,
    TrainingImages,
    overlap,
    record_in,
    record_in_file,
    refuse_overlap,
)
from pyiqa_rali.model.checkpoint import load_metadata
from pyiqa_rali.model.encoder_file import is_encoder_file
from pyiqa_rali.model.preprocessing import MIN_SIZE, Preprocessing, resized_shape
from pyiqa_rali.training.rali.options import TrainOptions
from pyiqa_rali.training.rali.towers import start_file, start_files


@dataclass
class RunImages:
    """What is known about a run's images before its first step.

    Attributes:
        inspected: of each data set section, its image files; of one that generates its pictures, the photographs.
        record: what the model is trained on.
        overlaps: of each validation set, the images that the model is trained on.
    """

    inspected: dict[str, list[InspectedImage]]
    record: TrainingImages
    overlaps: dict[str, Overlap]


def check_images(sections: Mapping[str, DatasetSection], trained: list[str], tested: list[str],
                 options: TrainOptions) -> RunImages:
    """Read every image of a run; several processes share the work.

    Args:
        sections: the data sets of the run.
        trained: the sections that it is trained on.
        tested: the sections that it is tested on.
        options: of the run.

    Raises:
        DataError: images that cannot be used, all of them named; or images that would be trained on and tested on.
        CheckpointError: the export that the run starts from cannot be read.
    """
    tables = {name: build_table(name, options.datasets[name], options.manual_seed) for name in (*trained, *tested)}
    found = _inspect_all(tables)
    crops = {name: crop_before_resizing(sections[name].values.get('augment') or {}) for name in tables}
    problems = {image.path: problem for name, images in found.items() for image in images
                if (problem := _too_small(image, crops[name]))}
    refuse_unusable([image for images in found.values() for image in images], 'images',
                    lambda image: problems.get(image.path, ''))
    by_path = {image.path: image for images in found.values() for image in images}
    inspected = {name: [by_path[path] for path in table.source_files()] for name, table in tables.items()}
    record = record_of(options, {tables[name].name: inspected[name] for name in trained})
    overlaps = {name: overlap(record, tables[name].source_files()) for name in tested}
    for name, each in overlaps.items():
        refuse_overlap(each, f'datasets: {name}', 'val: overlap', options.val.overlap)
    return RunImages(inspected, record, overlaps)


def record_of(options: TrainOptions, inspected: Mapping[str, Iterable[InspectedImage]]) -> TrainingImages:
    """Return what the run's model is trained on, including what the weights that it starts from were trained on."""
    record = TrainingImages.of(inspected)
    starts = start_files(options.path.pretrain_network)
    if starts:
        for start in starts:
            record = record.and_those_of(_record_of_start(start), start)
        return record
    encoder = options.network.get('image_encoder') or {}
    pretrained = encoder.get('pretrained')
    return record.and_those_of(None, f'{encoder.get("name")} ({pretrained})') if pretrained else record


def _record_of_start(start: str) -> TrainingImages | None:
    """Return what the weights were trained on that a run starts from: those of a run's stage 1 have it in the run's folder."""
    file = Path(start_file(start))
    if file.is_file() and is_encoder_file(file):
        return record_in_file(file.resolve().parents[1] / 'training_images.json')
    return record_in(load_metadata(file), start)


def check_batch_sizes(name: str, images: Iterable[InspectedImage], augment: Mapping[str, Any] | None, batch_size: int,
                      preprocessing: Preprocessing) -> None:
    """Reject pictures that cannot share a batch.

    Args:
        name: of the data set's section.
        images: its images.
        augment: how they are augmented; a crop or resizing gives them one size.
        batch_size: pictures of a step.
        preprocessing: the encoder's.

    Raises:
        DataError: the encoder takes pictures at their own size, and the sizes differ.
    """
    if batch_size < 2 or preprocessing.image_size is not None or set(augment or {}) & {'random_crop', 'center_crop', 'resize'}:
        return
    images = list(images)
    fitted = {resized_shape(image.height, image.width, preprocessing.resize_size, preprocessing.resize_mode)
              for image in images}
    if len(fitted) > 1:
        raise DataError(f'datasets: {name}: the encoder takes pictures at their own size (resize_mode: native), and those of '
                        f'one batch must have one: here they are {sizes_told(images)} (height x width). Set an augment of '
                        'random_crop, batch_size_per_gpu: 1, or an encoder that resizes.')


def crop_before_resizing(augment: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of a random crop that is cut from the original pictures, None without one."""
    for key, value in augment.items():  # pyiqa applies them in their order
        if key == 'random_crop':
            if isinstance(value, Mapping) and (value.get('padding') or value.get('pad_if_needed')):
                return None
            size: Any = value['size'] if isinstance(value, Mapping) else value
            return (size, size) if isinstance(size, int) else (size[0], size[1])
        if key in ('center_crop', 'resize'):
            return None
    return None


def _too_small(image: InspectedImage, crop: tuple[int, int] | None) -> str:
    """Return why a picture that can be read is too small; empty when it is not."""
    if image.error:
        return ''
    if min(image.height, image.width) < MIN_SIZE:
        return f'it is {image.width} x {image.height} pixels; the shorter edge must have at least {MIN_SIZE}'
    if crop and (image.height < crop[0] or image.width < crop[1]):
        return f'it is {image.width} x {image.height} pixels, smaller than the random_crop of {crop[1]} x {crop[0]}'
    return ''


def _inspect_all(tables: Mapping[str, QualityTable]) -> dict[str, list[InspectedImage]]:
    """Return the findings on all files of the tables; each process has read its share of them."""
    found = {}
    for name, table in tables.items():
        files = list(dict.fromkeys(table.files()))
        own = inspect_images(files[processes.rank()::processes.world_size()], table.reading, f'checking {table.name}')
        shares = processes.gather(own)
        found[name] = [shares[number % len(shares)][number // len(shares)] for number in range(len(files))]
    return found
