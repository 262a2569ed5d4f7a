"""Options of the reasoning model's training: GRPO and supervised fine-tuning, in the style of the other option files."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.options import from_known_keys
from pyiqa_rali.training.rali.options import LoggerOptions, PathOptions
from pyiqa_rali.vlm.prompts import ReasoningCard

REWARDS = ('format', 'score', 'continuous_score', 'rank', 'degradation', 'reading', 'naming')
TRAINED_PARTS = ('all', 'vision', 'language', 'lora')
# where the trainer's own arguments would contradict a section of the option file
ELSEWHERE = {'output_dir': 'path: experiments_root and name', 'seed': 'manual_seed', 'reward_weights': 'rewards',
             'logging_steps': 'logger: print_freq', 'save_steps': 'logger: save_checkpoint_freq',
             'report_to': 'logger: use_tb_logger', 'eval_strategy': 'val: val_freq', 'eval_steps': 'val: val_freq',
             'save_strategy': 'logger: save_checkpoint_freq', 'model_init_kwargs': 'network',
             'remove_unused_columns': 'nothing', 'log_completions': 'nothing: samples.csv holds samples'}
NOT_RESUMABLE = ('save_only_model', 'ignore_data_skip', 'sync_ref_model')  # a run that is gone on with would end elsewhere


@dataclass
class NetworkOptions:
    """The vision-language model that is trained.

    Attributes:
        pretrained: a folder, or 'owner/name' or 'owner/name:folder' on the hub.
        type: 'ReasoningScorer'.
        dtype: of the weights while training.
        attn_implementation: transformers' name; None leaves the choice to it.
        min_pixels: smaller pictures are enlarged.
        max_pixels: larger ones are made smaller; bounds the image tokens.
        train: 'all', 'vision' (the vision tower alone), 'language' (all but it) or 'lora'.
        lora: with `train: lora`, keys of peft's LoraConfig.
    """

    pretrained: str
    type: str = 'ReasoningScorer'
    dtype: str = 'float32'
    attn_implementation: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    train: str = 'all'
    lora: dict[str, Any] | None = None


@dataclass
class RewardOptions:
    """Weights of the rewards; a weight of 0 leaves a reward out.

    Attributes:
        format: of 1 for the exact format, else 0.
        score: of 1 when the rating is within `score_threshold` of the MOS, else 0.
        continuous_score: of a reward that falls with the distance to 0 at `score_width`.
        rank: of the Thurstone rank reward.
        degradation: of class and severity; for rows of the degradation task alone.
        reading: of the continuous score reward for the rating that a frozen reader finds in the text, without the picture;
            it keeps the text from saying anything while the rating comes from the picture.
        naming: of 1 when the text names the picture's class of distortion, and no other, else 0; for rows with a class
            (`class_column` of their data set, or the degradation task) that has words.
        score_threshold: in the unit of the ratings.
        score_width: of the continuous and the reading reward, in the unit of the ratings.
        most_surprise: texts with a token that surprises the reader more than this, in nats, earn nothing by reading: what it
            would never write itself it cannot read either, and may take for anything. None has no bound.
        reader: the model that reads; None takes the one that training starts from.
        class_words: for naming, the words that name each class.
    """

    format: float = 1.0
    score: float = 0.0
    continuous_score: float = 0.0
    rank: float = 0.0
    degradation: float = 0.0
    reading: float = 0.0
    naming: float = 0.0
    score_threshold: float = 0.35
    score_width: float = 4.0
    most_surprise: float | None = None
    reader: str | None = None
    class_words: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class ReasoningValOptions:
    """Validation on held-out images.

    Attributes:
        val_freq: steps between validations; there is one before the first step and one after the last. None has none.
        num_samples: completions for the sampled mean; 0 leaves it out.
        temperature: of those samples.
        batch_size: images at once.
        max_images: the first so many of each set; None takes all.
        metrics: pyiqa's metric sections, by name.
    """

    val_freq: int | None = None
    num_samples: int = 5
    temperature: float = 1.0
    batch_size: int = 16
    max_images: int | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=lambda: {
        name: {'type': f'calculate_{name}'} for name in ('srcc', 'plcc')})

    def __post_init__(self):
        if self.val_freq is not None and self.val_freq < 1:
            raise OptionError(f'val: val_freq: {self.val_freq} must be 1 step at least, or ~ for no validation.')


@dataclass
class ReasoningExportOptions:
    """The exported model.

    Attributes:
        merge: fold a trained adapter into the model; otherwise the adapter alone is exported.
        training: a sentence on how the model was trained.
    """

    merge: bool = True
    training: str = 'unspecified'


@dataclass
class GrpoOptions:
    """One run of GRPO, checked."""

    name: str
    manual_seed: int
    datasets: dict[str, dict[str, Any]]
    network: NetworkOptions
    prompts: ReasoningCard
    rewards: RewardOptions
    grpo: dict[str, Any]
    path: PathOptions
    val: ReasoningValOptions
    logger: LoggerOptions
    export: ReasoningExportOptions
    model_type: str = 'GRPO'


@dataclass
class SftOptions:
    """One run of supervised fine-tuning, checked."""

    name: str
    manual_seed: int
    datasets: dict[str, dict[str, Any]]
    network: NetworkOptions
    prompts: ReasoningCard
    sft: dict[str, Any]
    path: PathOptions
    val: ReasoningValOptions
    logger: LoggerOptions
    export: ReasoningExportOptions
    with_scores: bool = True
    model_type: str = 'SFT'


SECTIONS = {'network': NetworkOptions, 'prompts': ReasoningCard, 'path': PathOptions, 'val': ReasoningValOptions,
            'logger': LoggerOptions, 'export': ReasoningExportOptions}


def grpo_options(values: dict[str, Any]) -> GrpoOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown, missing, or has a value that cannot be used.
    """
    options = _typed_options(GrpoOptions, {'rewards': {}, **values}, {**SECTIONS, 'rewards': RewardOptions})
    from trl import GRPOConfig
    check_trainer_keys('grpo', options.grpo, GRPOConfig)
    if not options.prompts.with_rating:
        raise OptionError('prompts: with_rating: False is for models that were trained on texts alone; rewards need the answer '
                          'behind the text. Remove it.')
    check_rewards(options.rewards)
    return options


def check_rewards(options: RewardOptions) -> None:
    """Check weights, and what only some rewards need.

    Raises:
        OptionError: a value cannot be used.
    """
    weights = {name: getattr(options, name) for name in REWARDS}
    if min(weights.values()) < 0 or not any(weights.values()):
        raise OptionError(f'rewards: {weights} must be weights of 0 or more, and one of them above 0.')
    for name in ('reader', 'most_surprise'):
        if getattr(options, name) is not None and not options.reading:
            raise OptionError(f'rewards: {name}: {getattr(options, name)} is for the reading reward alone. Give reading a '
                              f'weight, or leave {name} out.')
    if options.most_surprise is not None and not options.most_surprise > 0:
        raise OptionError(f'rewards: most_surprise: {options.most_surprise} must be above 0 nats.')
    if bool(options.naming) != bool(options.class_words):
        raise OptionError('rewards: class_words: must be given with a weight of naming above 0, and only then; for example '
                          '{blur: [blur, soft], noise: [noise, noisy]}.')
    empty = [name for name, words in options.class_words.items() if not words or not all(map(str.strip, words))]
    if empty:
        raise OptionError(f'rewards: class_words: {", ".join(empty)} must have words, none of them empty.')


def sft_options(values: dict[str, Any]) -> SftOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown, missing, or has a value that cannot be used.
    """
    options = _typed_options(SftOptions, values, SECTIONS)
    from trl import SFTConfig
    check_trainer_keys('sft', options.sft, SFTConfig)
    if (values.get('prompts') or {}).get('with_rating', options.with_scores) != options.with_scores:
        raise OptionError(f'prompts: with_rating: {options.prompts.with_rating} contradicts with_scores: {options.with_scores}'
                          ', which sets it. Remove it.')
    options.prompts.with_rating = options.with_scores
    return options


def check_trainer_keys(section: str, values: dict[str, Any], config_class: type) -> None:
    """Check the keys of a section against the fields of one of TRL's configurations.

    Raises:
        OptionError: a key is unknown, or is set elsewhere in the file.
    """
    defaults = {item.name: item.default for item in dataclasses.fields(config_class) if item.init}
    known = list(defaults)
    for key in values:
        if key in ELSEWHERE:
            raise OptionError(f'{section}: {key}: is set by {ELSEWHERE[key]}. Remove it here.')
        if key not in known:
            raise OptionError(f'{section}: unknown key "{key}": it is no field of {config_class.__name__}.'
                              f'{did_you_mean(key, known)}')
        if key in NOT_RESUMABLE and values[key]:
            raise OptionError(f'{section}: {key}: {values[key]}: a run that is interrupted could not be gone on with to the '
                              'same weights. Remove it.')
        if type(defaults[key]) in (int, float) and isinstance(values[key], str | bool | list):
            raise OptionError(f'{section}: {key}: {values[key]!r} must be a number.')


def _typed_options(cls: type, values: dict[str, Any], sections: dict[str, type]):
    values = {'prompts': {}, 'path': {}, 'val': {}, 'logger': {}, 'export': {}, **values}
    for name, section in sections.items():
        if name in values:
            values[name] = from_known_keys(section, values[name] or {}, name)
    options = from_known_keys(cls, values, 'options')
    network = options.network
    if network.train not in TRAINED_PARTS:
        raise OptionError(f'network: train: "{network.train}" is not one of {", ".join(TRAINED_PARTS)}.'
                          f'{did_you_mean(network.train, TRAINED_PARTS)}')
    if (network.train == 'lora') != (network.lora is not None):
        raise OptionError('network: lora: must be given with train: lora, and only then.')
    if not any(name.split('_')[0] == 'train' for name in options.datasets):
        raise OptionError('datasets: train: must be given.')
    return options
