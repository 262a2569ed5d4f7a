"""The public names, for type checkers; see __init__.py."""

from pyiqa_rali.api import Checkpoint as Checkpoint
from pyiqa_rali.api import Scores as Scores
from pyiqa_rali.api import explain as explain
from pyiqa_rali.api import load_checkpoint as load_checkpoint
from pyiqa_rali.api import read_options as read_options
from pyiqa_rali.api import score as score
from pyiqa_rali.api import score_column as score_column
from pyiqa_rali.api import score_metrics as score_metrics
from pyiqa_rali.core.errors import CheckpointError as CheckpointError
from pyiqa_rali.core.errors import DataError as DataError
from pyiqa_rali.core.errors import OptionError as OptionError
from pyiqa_rali.data.arrays import from_array as from_array
from pyiqa_rali.data.fetching import FetchOptions as FetchOptions
from pyiqa_rali.data.image_files import ReadingOptions as ReadingOptions
from pyiqa_rali.data.picture_measures.measures import measure_picture as measure_picture
from pyiqa_rali.data.picture_measures.write_texts import MeasuredTextOptions as MeasuredTextOptions
from pyiqa_rali.data.picture_measures.write_texts import MeasuredTextReport as MeasuredTextReport
from pyiqa_rali.data.picture_measures.write_texts import write_measured_texts as write_measured_texts
from pyiqa_rali.data.sections import ManifestOptions as ManifestOptions
from pyiqa_rali.data.sections import TableOptions as TableOptions
from pyiqa_rali.data.synthetic.make_dataset import make_dataset as make_dataset
from pyiqa_rali.data.synthetic.options import SyntheticOptions as SyntheticOptions
from pyiqa_rali.data.synthetic.settings import DatasetSettings as DatasetSettings
from pyiqa_rali.evaluation.options import EvaluateOptions as EvaluateOptions
from pyiqa_rali.evaluation.options import EvaluatePaths as EvaluatePaths
from pyiqa_rali.evaluation.options import StatisticsOptions as StatisticsOptions
from pyiqa_rali.evaluation.run import EvaluationResults as EvaluationResults
from pyiqa_rali.evaluation.run import evaluate as evaluate
from pyiqa_rali.model.explanation import Explanation as Explanation
from pyiqa_rali.model.rali import RALI as RALI
from pyiqa_rali.scoring.cluster.datasets import score_dataset as score_dataset
from pyiqa_rali.scoring.explaining import ExplainedImage as ExplainedImage
from pyiqa_rali.scoring.score_table import ImageScore as ImageScore
from pyiqa_rali.scoring.selection import Selection as Selection
from pyiqa_rali.scoring.selection import select as select
from pyiqa_rali.scoring.torch_metric import ImageQuality as ImageQuality
from pyiqa_rali.studies.chain.options import ChainOptions as ChainOptions
from pyiqa_rali.studies.chain.run import ChainResults as ChainResults
from pyiqa_rali.studies.chain.run import run_chain as run_chain
from pyiqa_rali.training.rali import run as _rali
from pyiqa_rali.training.rali.options import AlignOptions as AlignOptions
from pyiqa_rali.training.rali.options import BankOptions as BankOptions
from pyiqa_rali.training.rali.options import CompressOptions as CompressOptions
from pyiqa_rali.training.rali.options import ExportOptions as ExportOptions
from pyiqa_rali.training.rali.options import LoggerOptions as LoggerOptions
from pyiqa_rali.training.rali.options import PathOptions as PathOptions
from pyiqa_rali.training.rali.options import ScoreOptions as ScoreOptions
from pyiqa_rali.training.rali.options import TextEncoderOptions as TextEncoderOptions
from pyiqa_rali.training.rali.options import TrainOptions as TrainOptions
from pyiqa_rali.training.rali.options import ValOptions as ValOptions
from pyiqa_rali.training.rali.options import ZeroShotPrompts as ZeroShotPrompts
from pyiqa_rali.training.rali.run import TrainingResults as TrainingResults
from pyiqa_rali.training.vlm import ract as _ract
from pyiqa_rali.training.vlm.grpo import train_grpo as train_grpo
from pyiqa_rali.training.vlm.options import GrpoOptions as GrpoOptions
from pyiqa_rali.training.vlm.options import NetworkOptions as NetworkOptions
from pyiqa_rali.training.vlm.options import ReasoningExportOptions as ReasoningExportOptions
from pyiqa_rali.training.vlm.options import ReasoningValOptions as ReasoningValOptions
from pyiqa_rali.training.vlm.options import RewardOptions as RewardOptions
from pyiqa_rali.training.vlm.options import SftOptions as SftOptions
from pyiqa_rali.training.vlm.ract import RactOptions as RactOptions
from pyiqa_rali.training.vlm.ract import RactResults as RactResults
from pyiqa_rali.training.vlm.run import ReasoningResults as ReasoningResults
from pyiqa_rali.training.vlm.sft import train_sft as train_sft
from pyiqa_rali.vlm.prompts import ReasoningCard as ReasoningCard
from pyiqa_rali.vlm.scorer import ReasoningScorer as ReasoningScorer
from pyiqa_rali.vlm.write_texts import WritingOptions as WritingOptions

train_rali = _rali.train
train_ract = _ract.run_ract

__version__: str
__all__: list[str]
