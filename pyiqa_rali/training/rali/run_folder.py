"""The folder of one RALI training run: where its files are, and whether it can be resumed."""

from pathlib import Path

from pyiqa_rali.core.runs import MAY_CHANGE, claim_run
from pyiqa_rali.training.rali.options import TrainOptions

# sections that earlier stages took no part in: they may change when a later stage is run alone, and not resumed
OF_LATER_STAGES = {'align': (), 'compress': ('compress', 'score', 'val', 'export'), 'score': ('score', 'val', 'export')}


class RunFolder:
    """Paths of one run's files.

    Args:
        options: the run's options; its folder is `path: experiments_root` / `name`.
    """

    def __init__(self, options: TrainOptions):
        self.root = Path(options.path.experiments_root) / options.name
        self.align = self.root / 'align'
        self.bank = self.align / 'bank.safetensors'
        self.aligned_encoder = self.align / 'image_encoder.safetensors'
        self.compress = self.root / 'compress'
        self.basis = self.compress / 'basis.safetensors'
        self.compression_report = self.compress / 'report.json'
        self.training_images = self.root / 'training_images.json'
        self.score = self.root / 'score'
        self.score_log = self.score / 'log.csv'
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
