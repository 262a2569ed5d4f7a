"""Options of the whole chain, the options of each of its steps, and the checks before the first one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen, MultipleOf

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.options import Count, Seed, from_known_keys
from pyiqa_rali.data.synthetic.pseudo_mos import MOS_RANGE
from pyiqa_rali.data.synthetic.settings import IMAGES, DatasetSettings, check_settings
from pyiqa_rali.data.synthetic.tables import TABLE, split_name
from pyiqa_rali.studies.chain.results import words_of
from pyiqa_rali.training.rali.options import PathOptions, train_options
from pyiqa_rali.training.rali.run_checks import check_sections
from pyiqa_rali.training.rali.towers import build_towers
from pyiqa_rali.training.vlm import grpo, sft
from pyiqa_rali.training.vlm.options import GrpoOptions, SftOptions, grpo_options, sft_options
from pyiqa_rali.training.vlm.run import ReasoningFolder
from pyiqa_rali.vlm.prompts import ReasoningCard
from pyiqa_rali.vlm.write_texts import WritingOptions

# what the chain itself sets for its steps
SET_BY_CHAIN = {'data': ('out', 'seed', 'split_seed'), 'texts': ('seed',), 'rali': ('name', 'manual_seed', 'datasets', 'path')}
HEAD_WIDTH = 16  # of the tiny model


@dataclass
class TinyVlmOptions:
    """The vision-language model that the chain starts from; see `save_tiny_vlm`.

    Attributes:
        image_size: pictures are resized to about this side, in pixels.
        width: hidden size of both towers, a multiple of 16.
        layers: of the language model; the vision tower has one less.
        vocab_size: tokens, at most.
    """

    image_size: Annotated[int, Ge(16)] = 64
    width: Annotated[int, Ge(HEAD_WIDTH), MultipleOf(HEAD_WIDTH)] = 96
    layers: Annotated[int, Ge(2)] = 3
    vocab_size: Annotated[int, Ge(300)] = 1200


@dataclass
class ColdStartOptions:
    """The supervised cold start.

    Attributes:
        examples: images with a random text and rating.
        wordings: number of ways in which each sentence is put.
        views: whether a first sentence says where the picture's light is, so that a model trained from scratch learns to look.
        impressions: whether a last sentence gives the overall impression.
        sft: keys of TRL's SFTConfig.
    """

    examples: Count
    sft: dict[str, Any]
    wordings: Count = 2
    views: bool = False
    impressions: bool = False


@dataclass(kw_only=True)
class ChainOptions:
    """The whole chain.

    Attributes:
        name: of the run.
        seeds: one run for each; results are medians over them.
        data: options of `make-dataset`.
        vlm: the tiny model.
        prompts: what it is asked, and its rating scale.
        cold_start: the supervised cold start.
        rewards, grpo, val, logger: of GRPO.
        texts: how reasoning texts are written.
        rali: an option file for RALI without its data sets, with the section `loader` of its training set.
        path: where to write.
        logger: of the cold start and of GRPO.
    """

    name: str
    seeds: Annotated[list[Seed], MinLen(1)]
    data: dict[str, Any]
    cold_start: ColdStartOptions
    rewards: dict[str, Any]
    grpo: dict[str, Any]
    val: dict[str, Any]
    texts: WritingOptions
    rali: dict[str, Any]
    vlm: TinyVlmOptions = field(default_factory=TinyVlmOptions)
    prompts: ReasoningCard = field(default_factory=ReasoningCard)
    path: PathOptions = field(default_factory=PathOptions)
    logger: dict[str, Any] = field(default_factory=dict)
    model_type: Literal['CHAIN'] = 'CHAIN'


def chain_options(values: Mapping[str, Any]) -> ChainOptions:
    """Turn plain values into checked options; `check_steps` checks those of the steps.

    Raises:
        OptionError: a key is unknown, missing, set by the chain, or has a value that cannot be used.
    """
    for section, keys in SET_BY_CHAIN.items():
        given = [key for key in keys if key in (values.get(section) or {})]
        if given:
            raise OptionError(f'{section}: {given[0]}: is set by the chain for each seed. Remove it.')
    options = from_known_keys(ChainOptions, values)
    if len(set(options.seeds)) < len(options.seeds):
        raise OptionError(f'seeds: {options.seeds}: must not name a seed twice, such as [0, 1, 2].')
    for section, key in (('grpo', 'max_completion_length'), ('rali', 'loader')):
        if getattr(options, section).get(key) is None:
            raise OptionError(f'{section}: {key}: must be given.')
    return options


class ChainSteps:
    """The options of each step for one seed, and where its files are.

    Args:
        options: of the chain.
        seed: of data, weights, training and texts.
        root: the folder for its files.
    """

    def __init__(self, options: ChainOptions, seed: int, root: Path):
        self.options, self.seed, self.root = options, seed, root
        self.data, self.vlm, self.texts = root / 'data', root / 'vlm', root / 'reasoning_texts.jsonl'
        self.cold, self.reasoning, self.rali = root / 'cold_start', root / 'grpo', root / 'rali'

    def data_settings(self) -> DatasetSettings:
        """Return the settings of `make_dataset`."""
        return from_known_keys(DatasetSettings, {**self.options.data, 'out': str(self.data), 'seed': self.seed,
                                                 'split_seed': self.seed}, 'data')

    def cold_start(self) -> SftOptions:
        """Return the options of the supervised cold start."""
        return sft_options({**self._common('cold_start', self.vlm), 'datasets': {'train': self.table('train')},
                            'sft': self.options.cold_start.sft, 'val': {'val_freq': None}})

    def grpo(self) -> GrpoOptions:
        """Return the options of GRPO; the naming reward gets the words of the data's distortions."""
        rewards, named = dict(self.options.rewards), {}
        if rewards.get('naming'):
            rewards.setdefault('class_words', words_of(self.data_settings().types))
            named = {'class_column': 'distortion'}
        return grpo_options({**self._common('grpo', self.cold / 'models' / 'reasoning'), 'rewards': rewards,
                             'grpo': self.options.grpo, 'val': self.options.val,
                             'datasets': {name: {**self.table(name), **named} for name in ('train', 'val', 'test')}})

    def writing(self) -> WritingOptions:
        """Return how texts are written."""
        return WritingOptions(**{**asdict(self.options.texts), 'seed': self.seed})

    def rali_values(self) -> dict[str, Any]:
        """Return RALI's option file as plain values."""
        values = {**self.options.rali, 'name': self.rali.name, 'manual_seed': self.seed,
                  'path': {'experiments_root': str(self.root), 'pretrain_network': None, 'strict_load': True}}
        loader = values.pop('loader')
        values['datasets'] = {'train': {**self.table('train'), 'reasoning_texts': str(self.texts), **loader},
                              **{name: self.table(name) for name in ('basis', 'val', 'test')}}
        return values

    def table(self, section: str) -> dict[str, Any]:
        """Return the option section of one data set."""
        return {'name': section, 'type': 'GeneralNRDataset', 'dataroot_target': str(self.data / IMAGES),
                'meta_info_file': str(self.data / TABLE), 'split_index': split_name(self.data_settings(), 1),
                'mos_range': list(MOS_RANGE), 'lower_better': False}

    def _common(self, name: str, start: Path) -> dict[str, Any]:
        return {'name': name, 'manual_seed': self.seed, 'network': {'pretrained': str(start)},
                'prompts': asdict(self.options.prompts), 'path': {'experiments_root': str(self.root)},
                'logger': dict(self.options.logger)}


def check_steps(steps: ChainSteps) -> None:
    """Check the options of every step before the first one: the last ones run only after minutes or hours.

    Raises:
        OptionError, CheckpointError: an option cannot be used, or weights that RALI starts from are missing.
    """
    settings = steps.data_settings()
    check_settings(settings)
    if len(settings.ratios) != 3 or not min(settings.ratios) > 0:
        raise OptionError(f'data: ratios: {list(settings.ratios)} must be three shares above 0: photographs are needed for '
                          'training, validation and test.')
    cold = steps.cold_start()
    sft.trainer_config(cold, ReasoningFolder(cold))
    _check_grpo(steps.grpo())
    rali = train_options(steps.rali_values())
    check_sections(rali)
    build_towers(rali.network, rali.text_encoder, rali.path)


def _check_grpo(options: GrpoOptions) -> None:
    config = grpo.trainer_config(options, ReasoningFolder(options))
    if options.val.num_samples < 1:
        raise OptionError(f'val: num_samples: {options.val.num_samples} must be at least 1, for the chain compares '
                          'sampled ratings.')
    if 0 < config.max_steps < options.logger.print_freq:
        raise OptionError(f'logger: print_freq: {options.logger.print_freq} is more than the {config.max_steps} steps of GRPO '
                          '(grpo: max_steps): no reward would be recorded. Lower it.')
