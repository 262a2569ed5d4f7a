"""The images of a reasoning model's training: read before its first step, recorded for its export, kept out of its tests."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pyiqa_rali.core import processes
from pyiqa_rali.core.files import write_json
from pyiqa_rali.data.image_files import ReadingOptions
from pyiqa_rali.data.inspection import InspectedImage, inspect_images, refuse_unusable
from pyiqa_rali.data.training_images import Overlap, TrainingImages, overlap, record_beside, refuse_overlap
from pyiqa_rali.training.vlm.options import GrpoOptions, SftOptions
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.tables import Row


@dataclass
class RunImages:
    """What is known about a run's images before its first step.

    Attributes:
        record: what the model is trained on, including what the weights that it starts from were trained on.
        overlaps: of each validation set, the images that the model is trained on.
    """

    record: TrainingImages
    overlaps: dict[str, Overlap]

    def note(self, folder: Any) -> None:
        """Write both to a run's folder (`ReasoningFolder`)."""
        write_json(folder.training_images, self.record.to_dict())
        write_json(folder.overlap, {name: found.plain() for name, found in self.overlaps.items()})


def check_images(rows: list[Row], validation: dict[str, list[Row]], reasoner: ReasoningModel,
                 options: GrpoOptions | SftOptions) -> RunImages:
    """Read every image of a run; several processes share the work.

    Args:
        rows: what is trained on; an image may be in several.
        validation: rows of each validation set.
        reasoner: the model that is trained, as it starts.
        options: of the run.

    Raises:
        DataError: images that cannot be used, all of them named; or images that would be trained on and tested on.
        CheckpointError: the record of the weights that the run starts from cannot be read.
    """
    images = inspect_rows([*rows, *(row for each in validation.values() for row in each)])
    refuse_unusable(images.values(), 'images', size_problem(reasoner.processor))
    sets: dict[str, list[InspectedImage]] = {}
    for row in rows:
        sets.setdefault(row.dataset, []).append(images[row.image_path])
    record = TrainingImages.of(sets).and_those_of(record_beside(reasoner.folder), str(options.network.pretrained))
    overlaps = {section: overlap(record, [row.image_path for row in each]) for section, each in validation.items()}
    for section, found in overlaps.items():
        refuse_overlap(found, f'datasets: {section}', 'val: overlap', options.val.overlap)
    return RunImages(record, overlaps)


def inspect_rows(rows: Iterable[Row]) -> dict[str, InspectedImage]:
    """Return the findings of reading the images of rows, by path; each process reads its share of them."""
    by_reading: dict[ReadingOptions, list[str]] = {}
    for row in rows:
        by_reading.setdefault(ReadingOptions(row.upright, row.pixel_limit), []).append(row.image_path)
    found = {}
    for reading, repeated in by_reading.items():
        paths = list(dict.fromkeys(repeated))
        own = inspect_images(paths[processes.rank()::processes.world_size()], reading)
        found.update({image.path: image for share in processes.gather(own) for image in share})
    return found


def size_problem(processor: Any) -> Callable[[InspectedImage], str]:
    """Return a function that says why a model's processor rejects pictures of an image's size; empty when it accepts them."""
    known: dict[tuple[int, int], str] = {}

    def problem(image: InspectedImage) -> str:
        size = image.height, image.width
        if size not in known:
            known[size] = _refusal(processor.image_processor, *size)
        return known[size]

    return problem


def _refusal(image_processor: Any, height: int, width: int) -> str:
    try:
        if hasattr(image_processor, 'get_number_of_image_patches'):  # Qwen-VL's: the same arithmetic, without a picture
            image_processor.get_number_of_image_patches(height, width, {})
        else:
            image_processor([Image.new('RGB', (width, height))])
    except Exception as error:  # each processor rejects in its own way
        return f"it is {width} x {height} pixels, which the model's processor refuses: {error}"
    return ''
