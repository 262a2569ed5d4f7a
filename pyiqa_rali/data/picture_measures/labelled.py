"""The images of a data set with scores, and their labels, for texts that end with a verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.sections import DatasetOptions, dataset_section
from pyiqa_rali.data.synthetic.options import SyntheticOptions
from pyiqa_rali.data.tables import build_table


@dataclass(frozen=True)
class LabelledImages:
    """Images of a data set section.

    Attributes:
        files: of the section, each once.
        labels: their MOS in [0, 1], higher better.
        of_table: the names of all images of its table, those of other splits among them.
    """

    files: list[Path]
    labels: list[float]
    of_table: list[str]


def labelled_images(section: str, options: DatasetOptions | Mapping[str, Any], with_verdict: bool,
                    any_phase: bool = False) -> LabelledImages:
    """Return the images of a data set section and their labels.

    Args:
        section: its name under `datasets:`.
        options: what it holds.
        with_verdict: whether texts are to tell the MOS, which only training images may.
        any_phase: take images for validation and testing all the same.

    Raises:
        OptionError: the section cannot be used, or its images are for validation or testing.
        DataError: its table cannot be used.
    """
    whole = dataset_section(section, options)
    if isinstance(whole.options, SyntheticOptions):
        raise OptionError(f'datasets: {section}: type: SyntheticNRDataset has no files; write a data set with python -m '
                          'pyiqa_rali make-dataset, whose pictures have texts already.')
    phase = whole.images
    if with_verdict and phase != 'train' and not any_phase:
        raise OptionError(f'--dataset: "{section}" takes images of the phase {phase}, and texts with a verdict tell their MOS: '
                          'a model aligned with them would be tested on what it was told. Write them on training images, '
                          'without a verdict (--verdict none), or give --verdict-on-any-phase.')
    table = build_table(section, options, 0)
    rows = dict(table.images_and_mos())  # an image that appears twice has one MOS, or its table would not be read
    return LabelledImages([Path(path) for path in rows], [float(table.scale.normalise(mos)) for mos in rows.values()],
                          table.table_names())
