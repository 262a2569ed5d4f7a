"""GRPO: a vision-language model learns to reason about quality, from rewards alone (arXiv 2503.22679, 2505.14460)."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.messages import bars_of_transformers
from pyiqa_rali.core.options import OptionSource, values_of
from pyiqa_rali.core.processes import is_main
from pyiqa_rali.data.sections import dataset_section, sections_for
from pyiqa_rali.training.vlm.monitor import (
    GRPO_COLUMNS,
    AlarmCallback,
    RecordCallback,
    SampleCallback,
    watch_validation,
)
from pyiqa_rali.training.vlm.options import GrpoOptions, grpo_options
from pyiqa_rali.training.vlm.own_rewards import own_reward_files
from pyiqa_rali.training.vlm.reward_functions import Reward, reward_functions, text_of
from pyiqa_rali.training.vlm.run import (
    ReasoningFolder,
    ReasoningResults,
    collect_rows,
    common_settings,
    first_step,
    keep_merged_start,
    load_for_training,
    load_reader,
    lora_config,
    note_inputs,
    switch_telemetry_off,
    train_and_export,
)
from pyiqa_rali.training.vlm.run_images import check_images
from pyiqa_rali.vlm.degradations import DegradationOptions
from pyiqa_rali.vlm.generation import placeholder_tokens
from pyiqa_rali.vlm.loading import ReasoningModel, locate_vlm
from pyiqa_rali.vlm.tables import Row, training_set

# the trainer's own defaults suit GPUs and other losses; these apply unless the option file says otherwise
DEFAULTS = {'bf16': False, 'gradient_checkpointing': False, 'use_bias_correction_kl': False, 'loss_type': 'grpo'}
SHORTEST_REASONING = 16  # tokens that a completion must leave for the reasoning


def train_grpo(options: GrpoOptions | OptionSource, auto_resume: bool = False,
               overrides: Sequence[str] = ()) -> ReasoningResults:
    """Train as options describe.

    Args:
        options: of the run: an option file, or an object.
        auto_resume: resume an interrupted run of the same name.
        overrides: 'section:key=value' entries.

    Raises:
        OptionError, DataError, CheckpointError: before the first step, with what to do.
    """
    return run_grpo(grpo_options(values_of(options, overrides)), auto_resume)


@bars_of_transformers()
def run_grpo(options: GrpoOptions, auto_resume: bool = False) -> ReasoningResults:
    """Train with checked options; see `train_grpo`."""
    switch_telemetry_off()
    folder = ReasoningFolder(options)
    if folder.is_finished(options, auto_resume):
        return folder.results()
    rows, validation = collect_rows(options)
    config = trainer_config(options, folder)
    adapter = lora_config(options.network)
    reasoner = load_for_training(options)
    check_before_training(options, config, rows, reasoner)
    config.generation_kwargs = {'suppress_tokens': placeholder_tokens(reasoner.model.config) or None,
                                **(config.generation_kwargs or {})}
    images = check_images(rows, validation, reasoner, options)
    if is_main():
        folder.prepare(options, auto_resume)
        images.note(folder)
        models = {'network: pretrained': reasoner.folder}
        if options.rewards.reader:
            models['rewards: reader'] = locate_vlm(options.rewards.reader)
        models |= own_reward_files(options.rewards.functions)
        note_inputs(folder, models, rows, auto_resume)
    if config.beta and adapter is None:
        keep_merged_start(reasoner, folder, is_main())
    checkpoint = folder.last_checkpoint(is_main()) if auto_resume else None
    trainer = make_trainer(options, config, rows, validation, reasoner, folder, checkpoint, adapter)
    return train_and_export(trainer, reasoner, folder, options, checkpoint, images.record)


def trainer_config(options: GrpoOptions, folder: ReasoningFolder) -> Any:
    """Return TRL's configuration.

    Raises:
        OptionError: TRL rejects a value.
    """
    from trl import GRPOConfig
    _, weights = reward_functions(options.rewards, options.prompts)
    values = {**common_settings('grpo', options, {**DEFAULTS, **options.grpo}, folder), 'reward_weights': weights,
              'log_completions': False}
    try:
        config = GRPOConfig(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise OptionError(f'grpo: {error}') from error
    if config.use_vllm and importlib.util.find_spec('vllm') is None:
        raise OptionError('grpo: use_vllm: true: vllm is not installed. pip install vllm, or set it to false.')
    return config


def check_before_training(options: GrpoOptions, config: Any, rows: list[Row], reasoner: ReasoningModel) -> None:
    """Reject what would waste hours, with the calculation that shows why.

    Raises:
        OptionError: batch, images, saving or completion length do not fit together.
    """
    processes, generations = config.world_size, config.num_generations
    batch = config.per_device_train_batch_size * processes * config.steps_per_generation
    total = (f'per_device_train_batch_size {config.per_device_train_batch_size} x {processes} processes x steps_per_generation '
             f'{config.steps_per_generation} = {batch} rollouts')
    if batch % generations:
        raise OptionError(f'grpo: {total}, which is not divisible by num_generations {generations}. Change one of them.')
    images = batch // generations
    if images > len(rows):
        raise OptionError(f'grpo: {total} / num_generations {generations} = {images} images per generation, but the training '
                          f'sets hold {len(rows)}. Not a single step would be taken. Lower the batch.')
    check_rewards_can_act(options, rows, images)
    phase = max(1, config.steps_per_generation * config.num_iterations // config.gradient_accumulation_steps)
    if config.save_steps % phase:
        raise OptionError(f'logger: save_checkpoint_freq: {int(config.save_steps)} is not a multiple of steps_per_generation '
                          f'{config.steps_per_generation} x num_iterations {config.num_iterations} / '
                          f'gradient_accumulation_steps {config.gradient_accumulation_steps} = {phase} steps, so a resumed run '
                          f'would generate anew in the middle. Take a multiple of {phase}.')
    check_completion_length(options, config.max_completion_length, reasoner)


def check_rewards_can_act(options: GrpoOptions, rows: list[Row], images: int) -> None:
    """Reject rewards without images that they could distinguish, and images without a reward.

    Args:
        options: of the run.
        rows: its training images.
        images: those of one generation.
    """
    degraded = sum(row.task == 'degradation' for row in rows)
    if bool(degraded) != bool(options.rewards.degradation):
        raise OptionError(f'rewards: degradation: {options.rewards.degradation:g}: {degraded} of {len(rows)} training images '
                          'are of a DegradationTable. The reward and such a data set belong together: give both, or neither.')
    comparing = [name for name in ('rank', 'margin') if getattr(options.rewards, name)]
    if comparing and images < 2:
        raise OptionError(f'rewards: {comparing[0]}: compares images, and a generation holds one. Raise '
                          'per_device_train_batch_size, or lower num_generations.')
    scales: dict[Any, Any] = {}
    for section in sections_for(options.datasets, 'train') if comparing else ():
        if isinstance(options.datasets[section], DegradationOptions):
            continue
        whole = dataset_section(section, options.datasets[section])
        scale = whole.options.mos_range, whole.options.lower_better
        if scales.setdefault(whole.options.name, scale) != scale:
            raise OptionError(f'datasets: {section}: name: {whole.options.name}: another training set with another MOS scale '
                              f'has this name, and the {comparing[0]} reward compares the images of one name. Give each '
                              'its own.')


def check_completion_length(options: GrpoOptions, longest: int | None, reasoner: ReasoningModel) -> None:
    """Reject a completion length that the format alone would fill."""
    if longest is None:
        raise OptionError('grpo: max_completion_length: must be a number of tokens, such as 512.')
    low, high = options.prompts.rating_range
    frame = f'<think></think><answer>{{"{options.prompts.rating_key}": {low + 0.605 * (high - low):.2f}}}</answer>'
    needed = len(reasoner.processor.tokenizer.encode(frame, add_special_tokens=False)) + SHORTEST_REASONING
    if longest < needed:
        raise OptionError(f'grpo: max_completion_length: {longest} is too short: tags and answer take '
                          f'{needed - SHORTEST_REASONING} tokens + {SHORTEST_REASONING} for minimal reasoning = {needed}.')


def make_trainer(options: GrpoOptions, config: Any, rows: list[Row], validation: dict[str, list[Row]],
                 reasoner: ReasoningModel, folder: ReasoningFolder, checkpoint: Path | None,
                 adapter: Any) -> Any:
    """Return the trainer with its rewards and callbacks."""
    from pyiqa_rali.training.vlm.trainers import ReasoningGRPOTrainer
    start_step = first_step(checkpoint)
    reader = load_reader(options, config.device).ratings if options.rewards.reading else None
    functions, _ = reward_functions(options.rewards, options.prompts, reader)
    callbacks: list[Any] = [AlarmCallback()]
    if is_main():
        samples = SampleCallback(folder.samples, start_step)
        functions[0] = watched(functions[0], samples)
        columns = [*GRPO_COLUMNS, *(f'rewards/{function.__name__}/mean' for function in functions)]
        callbacks += [samples, RecordCallback(folder.log, columns, start_step, folder.tb_logger)]
    trainer = ReasoningGRPOTrainer(
        model=reasoner.model, reward_funcs=functions, args=config, train_dataset=training_set(rows, options.prompts),
        processing_class=reasoner.processor, callbacks=callbacks, peft_config=adapter)
    watch_validation(trainer, reasoner, validation, options, folder, start_step, config.max_completion_length)
    return trainer


def watched(function: Reward, samples: SampleCallback) -> Reward:
    """Return a reward function that also passes its completions to the table of samples."""
    def reward(completions: list, image_path: list[str], task: list[str], mos: list[float], **columns: Any) -> list:
        samples.watch([text_of(completion) for completion in completions], image_path, task, mos)
        return function(completions=completions, image_path=image_path, task=task, mos=mos, **columns)
    reward.__name__ = function.__name__
    return reward
