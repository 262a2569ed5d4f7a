"""The folder of one RALI training run: where its files are, and whether it can be resumed."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.runs import MAY_CHANGE, claim_run
from pyiqa_rali.core.tables import write_csv
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.sections import dataset_section, sections_for
from pyiqa_rali.training.rali.options import TrainOptions

# sections that earlier stages do not depend on: they may change when a later stage is run alone, not when it is resumed
OF_LATER_STAGES = {'align': (), 'compress': ('compress', 'score', 'val', 'interval', 'diagnosis', 'export'),
                   'score': ('score', 'val', 'interval', 'diagnosis', 'export')}


ALIGNMENT_MOS, ALIGNMENT = 'alignment_mos', 'alignment'  # further columns of a set's scores, where it has prompts


class RunFolder:
    """Paths of one run's files.

    Args:
        options: the run's options; its folder is `path: experiments_root` / `name`.
    """

    def __init__(self, options: TrainOptions):
        self.root = Path(options.path.experiments_root) / options.name
        self.align = self.root / 'align'
        self.bank = self.align / 'bank.safetensors'
        self.text_tower = self.align / 'text_tower.safetensors'
        self.aligned_encoder = self.align / 'image_encoder.safetensors'
        self.compress = self.root / 'compress'
        self.basis = self.compress / 'basis.safetensors'
        self.compression_report = self.compress / 'report.json'
        self.training_images = self.root / 'training_images.json'
        self.score = self.root / 'score'
        self.score_log = self.score / 'log.csv'
        self.alignment_log = self.score / 'log_alignment.csv'
        self.diagnosis_report = self.root / 'diagnosis.json'
        self.models = self.root / 'models'
        self.export = self.models / 'rali.safetensors'
        self.export_pth = self.models / 'rali.pth'
        self.figures = self.root / 'figures'
        self.results = self.root / 'results.json'
        self.options = self.root / 'options.yml'
        self.versions = self.root / 'versions.json'
        self.tb_logger = self.root / 'tb_logger' if options.logger.use_tb_logger else None

    def features(self, section: str) -> Path:
        """Return the file of a data set's image features."""
        return self.compress / f'features_{section}.safetensors'

    def prompts(self, section: str) -> Path:
        """Return the file of a data set's prompts: their features, and the MOS of alignment."""
        return self.compress / f'prompts_{section}.safetensors'

    def scores(self, section: str) -> Path:
        """Return the table of a validation set's scores."""
        return self.score / f'{section}.csv'

    def prepare(self, options: TrainOptions, resume: bool) -> None:
        """Make the folder; an earlier run of that name is archived, unless this one resumes it.

        Raises:
            OptionError: the run to resume, or whose files are read, had other options.
        """
        continues = resume or options.stages[0] != 'align'
        free = (*MAY_CHANGE, 'val:overlap') if resume else (*MAY_CHANGE, *OF_LATER_STAGES[options.stages[0]])
        claim_run(self.root, options, continues, free)


def write_scores(path: Path, image_names: list[str], mos: np.ndarray, mos_label: np.ndarray, scores: np.ndarray,
                 further: Mapping[str, np.ndarray] | None = None) -> None:
    """Write the scores of a validation set as CSV.

    Args:
        path: the file.
        image_names: n names.
        mos: (n,) as the data set's table has them.
        mos_label: (n,) the same in [0, 1], higher better.
        scores: (n,) on the scale of the model.
        further: (n,) by the name of a further column.
    """
    further = further or {}
    # 'nan' is a score, no empty cell
    numbers = (map(repr, values.tolist()) for values in (mos, mos_label, scores, *further.values()))
    write_csv(path, ['image', 'mos', 'mos_label', 'score', *further], zip(image_names, *numbers, strict=True))


def read_scores(path: Path, options: TrainOptions | None = None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return image names, MOS (n,) and scores (n,) of a run's table.

    Args:
        path: the table, named after the data set section.
        options: of the run, to return the MOS on the scale of the scores; None returns them as the table has them.

    Raises:
        DataError: the file is not such a table.
    """
    with open(path, encoding='utf-8', newline='') as stream:
        rows = list(csv.DictReader(stream))
    try:
        mos, scores = (np.array([float(row[name]) for row in rows]) for name in ('mos', 'score'))
        names = [row['image'] for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f'{path}: is not a table of image, mos and score ({error!r}).') from error
    if options is None or not rows or 'mos_label' not in rows[0]:  # tables of version 0.1 are on that scale already
        return names, mos, scores
    own = dataset_section(path.stem, options.datasets[path.stem]).scale
    return names, own.on(exported_scale(options), mos), scores


def read_alignment(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Return MOS (n,), in the data set's unit, and scores (n,) of alignment with prompts; None where a set has none.

    Args:
        path: the table of a set's scores.
    """
    with open(path, encoding='utf-8', newline='') as stream:
        rows = list(csv.DictReader(stream))
    if not rows or ALIGNMENT not in rows[0]:
        return None
    mos, scores = (np.array([float(row[name]) for row in rows]) for name in (ALIGNMENT_MOS, ALIGNMENT))
    return mos, scores


def exported_scale(options: TrainOptions) -> MosScale:
    """Return the scale of an exported model's scores: that of the first set it is built from, or what the options ask for."""
    first = (sections_for(options.datasets, 'basis') or sections_for(options.datasets, 'train'))[0]
    own = dataset_section(first, options.datasets[first]).scale
    return own if options.export.mos_range is None else MosScale(options.export.mos_range, own.lower_better)
