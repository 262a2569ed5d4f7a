"""Options of the reasoning model's training: GRPO and supervised fine-tuning, in the style of the other option files."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.options import Count, NotNegative, Positive, Seed, Whole, from_known_keys
from pyiqa_rali.data.sections import DatasetOptions, refuse_keys, sections_for
from pyiqa_rali.training.rali.options import LoggerOptions, PathOptions
from pyiqa_rali.vlm.prompts import ReasoningCard

REWARDS = ('format', 'score', 'continuous_score', 'rank', 'margin', 'degradation', 'reading', 'naming')
# where the trainer's own arguments would contradict a section of the option file
ELSEWHERE = {'output_dir': 'path: experiments_root and name', 'seed': 'manual_seed', 'reward_weights': 'rewards',
             'logging_steps': 'logger: print_freq', 'save_steps': 'logger: save_checkpoint_freq',
             'report_to': 'logger: use_tb_logger', 'eval_strategy': 'val: val_freq', 'eval_steps': 'val: val_freq',
             'save_strategy': 'logger: save_checkpoint_freq', 'model_init_kwargs': 'network',
             'remove_unused_columns': 'nothing', 'log_completions': 'nothing: samples.csv holds samples'}
NOT_RESUMABLE = ('save_only_model', 'ignore_data_skip', 'sync_ref_model')  # a resumed run would end with other weights


@dataclass
class NetworkOptions:
    """The vision-language model that is trained.

    Attributes:
        pretrained: a folder, or 'owner/name' or 'owner/name:folder' on the hub.
        type: 'ReasoningScorer'.
        dtype: of the weights while training.
        attn_implementation: transformers' name; None leaves the choice to it.
        min_pixels: smaller pictures are enlarged.
        max_pixels: larger ones are scaled down, which bounds the number of image tokens.
        train: 'all', 'vision' (only the vision tower), 'language' (everything else) or 'lora'.
        lora: with `train: lora`, keys of peft's LoraConfig.
    """

    pretrained: str
    type: Literal['ReasoningScorer'] = 'ReasoningScorer'
    dtype: str = 'float32'
    attn_implementation: str | None = None
    min_pixels: Count | None = None
    max_pixels: Count | None = None
    train: Literal['all', 'vision', 'language', 'lora'] = 'all'
    lora: dict[str, Any] | None = None


@dataclass
class RewardOptions:
    """Weights of the rewards; a weight of 0 leaves a reward out.

    Attributes:
        format: of the reward that is 1 for the exact format, else 0.
        score: of the reward that is 1 when the rating is within `score_threshold` of the MOS, else 0.
        continuous_score: of the reward that falls with the distance from the MOS, to 0 at `score_width`.
        rank: of the Thurstone rank reward.
        margin: of the margin reward, which falls with how far the distances between the ratings of two images are from those
            between their MOS, `exp(-(d / margin_width)^2 / 2)`: it ranks like `rank`, and also calibrates.
        degradation: of the reward for class and severity; only for rows of the degradation task.
        reading: of the continuous score reward for the rating that a frozen reader finds in the text, without the picture;
            it keeps the text from becoming meaningless while the rating comes from the picture.
        naming: of the reward that is 1 when the text names the picture's class of distortion and no other, else 0; for rows
            with a class (`class_column` of their data set, or the degradation task) that has words.
        score_threshold: in the unit of the ratings.
        margin_width: of the margin reward, in the unit of the ratings.
        score_width: of the continuous and the reading reward, in the unit of the ratings.
        most_surprise: texts with a token that surprises the reader more than this, in nats, earn no reading reward: the reader
            cannot make sense of what it would never write itself. None sets no bound.
        reader: the model that reads the texts; None takes the one that training starts from.
        class_words: for naming, the words that name each class.
        functions: functions of your own, by 'module:function', with their weights; they are called as TRL calls its reward
            functions.
    """

    format: NotNegative = 1.0
    score: NotNegative = 0.0
    continuous_score: NotNegative = 0.0
    rank: NotNegative = 0.0
    margin: NotNegative = 0.0
    degradation: NotNegative = 0.0
    reading: NotNegative = 0.0
    naming: NotNegative = 0.0
    score_threshold: NotNegative = 0.35
    margin_width: Positive = 1.0
    score_width: Positive = 4.0
    most_surprise: Positive | None = None
    reader: str | None = None
    class_words: dict[str, Annotated[list[str], MinLen(1)]] = field(default_factory=dict)
    functions: dict[str, Positive] = field(default_factory=dict)


@dataclass
class ReasoningValOptions:
    """Validation on held-out images.

    Attributes:
        val_freq: steps between validations; there is one before the first step and one after the last. None has none.
        num_samples: completions for the sampled mean; 0 leaves that out.
        temperature: of those samples.
        batch_size: images at once.
        max_images: the first so many of each set; None takes all.
        metrics: pyiqa's metric sections, by name.
        overlap: what to do about validation images that are trained on: 'fail' ends the run before its first step, 'count'
            continues and reports their number with the validation.
    """

    val_freq: Count | None = None
    num_samples: Whole = 5
    temperature: Positive = 1.0
    batch_size: Count = 16
    max_images: Count | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=lambda: {
        name: {'type': f'calculate_{name}'} for name in ('srcc', 'plcc')})

    overlap: Literal['fail', 'count'] = 'fail'

@dataclass
class ReasoningExportOptions:
    """The exported model.

    Attributes:
        merge: fold a trained adapter into the model; otherwise the adapter alone is exported.
        training: a sentence on how the model was trained.
    """

    merge: bool = True
    training: str = 'unspecified'


@dataclass(kw_only=True)
class ReasoningOptions:
    """What GRPO and supervised fine-tuning have in common.

    Attributes:
        name: of the run's folder.
        manual_seed: of everything that is drawn.
        datasets: by name: train and val, train_1, train_2 and so on for several.
        network: the model, and which of its weights are trained.
        prompts: what the model is asked, and its rating scale.
        path: where to write.
        val: validation.
        logger: logging and saving.
        export: what the run exports at the end.
    """

    name: str
    manual_seed: Seed
    datasets: dict[str, DatasetOptions]
    network: NetworkOptions
    prompts: ReasoningCard = field(default_factory=ReasoningCard)
    path: PathOptions = field(default_factory=PathOptions)
    val: ReasoningValOptions = field(default_factory=ReasoningValOptions)
    logger: LoggerOptions = field(default_factory=LoggerOptions)
    export: ReasoningExportOptions = field(default_factory=ReasoningExportOptions)


@dataclass(kw_only=True)
class GrpoOptions(ReasoningOptions):
    """One run of GRPO.

    Attributes:
        model_type: GRPO.
        rewards: their weights.
        grpo: keys of TRL's GRPOConfig.
    """

    model_type: Literal['GRPO'] = 'GRPO'
    rewards: RewardOptions = field(default_factory=RewardOptions)
    grpo: dict[str, Any]


@dataclass(kw_only=True)
class SftOptions(ReasoningOptions):
    """One run of supervised fine-tuning.

    Attributes:
        model_type: SFT.
        with_scores: whether the rating after the text is trained too; it sets `prompts: with_rating`.
        sft: keys of TRL's SFTConfig.
    """

    model_type: Literal['SFT'] = 'SFT'
    with_scores: bool = True
    sft: dict[str, Any]


def grpo_options(values: Mapping[str, Any]) -> GrpoOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown, missing, or has a value that cannot be used.
    """
    options = from_known_keys(GrpoOptions, values)
    _check_common(options)
    from trl import GRPOConfig
    check_trainer_keys('grpo', options.grpo, GRPOConfig)
    if not options.prompts.with_rating:
        raise OptionError('prompts: with_rating: False is for models that were trained on texts alone; rewards need the answer '
                          'behind the text. Remove it.')
    check_rewards(options.rewards)
    return options


def check_rewards(options: RewardOptions) -> None:
    """Check that there is a reward, and what only some rewards need.

    Raises:
        OptionError: a value cannot be used.
    """
    weights = {name: getattr(options, name) for name in REWARDS} | options.functions
    if not any(weights.values()):
        raise OptionError(f'rewards: {weights}: at least one of these weights must be above 0.')
    for name in ('reader', 'most_surprise'):
        if getattr(options, name) is not None and not options.reading:
            raise OptionError(f'rewards: {name}: {getattr(options, name)} is only for the reading reward. Give reading a '
                              f'weight, or leave {name} out.')
    if bool(options.naming) != bool(options.class_words):
        raise OptionError('rewards: class_words: must be given with a weight of naming above 0, and only then; for example '
                          '{blur: [blur, soft], noise: [noise, noisy]}.')
    empty = [name for name, words in options.class_words.items() if not all(map(str.strip, words))]
    if empty:
        raise OptionError(f'rewards: class_words: {", ".join(empty)} must have words, none of them empty.')
    own = [name.rpartition(':')[2] for name in options.functions]
    taken = [name for name in own if own.count(name) > 1 or name in REWARDS]
    if taken:
        raise OptionError(f'rewards: functions: {taken[0]} names two rewards, which the log could not tell apart. Rename '
                          'yours.')


def sft_options(values: Mapping[str, Any]) -> SftOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown, missing, or has a value that cannot be used.
    """
    options = from_known_keys(SftOptions, values)
    _check_common(options)
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
            raise OptionError(f'{section}: unknown key "{key}": it is not a field of {config_class.__name__}.'
                              f'{did_you_mean(key, known)}')
        if key in NOT_RESUMABLE and values[key]:
            raise OptionError(f'{section}: {key}: {values[key]}: a run that is interrupted cannot be resumed to the '
                              'same weights. Remove it.')
        if type(defaults[key]) in (int, float) and isinstance(values[key], str | bool | list):
            raise OptionError(f'{section}: {key}: {values[key]!r} must be a number.')


def _check_common(options: ReasoningOptions) -> None:
    network = options.network
    if (network.train == 'lora') != (network.lora is not None):
        raise OptionError('network: lora: must be given with train: lora, and only then.')
    refuse_keys(options.datasets, ('paper_name', 'share', 'supervision', 'aspects', 'prompt_column'),
                'has no effect in training')
    if not sections_for(options.datasets, 'train'):
        raise OptionError('datasets: train: must be given.')
    for task in ('score', 'degradation'):
        options.prompts.prompt(task)  # before a model is loaded
