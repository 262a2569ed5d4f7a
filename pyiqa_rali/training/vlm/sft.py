"""Supervised fine-tuning on reasoning texts, with TRL: the last step of RACT (arXiv 2510.11369), and cold starts."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.messages import bars_of_transformers
from pyiqa_rali.core.options import OptionSource, values_of
from pyiqa_rali.core.processes import is_main
from pyiqa_rali.data.reasoning_texts import join_texts, load_reasoning_texts
from pyiqa_rali.data.sections import LabelledOptions, phase_of
from pyiqa_rali.training.vlm.monitor import SFT_COLUMNS, RecordCallback, watch_validation
from pyiqa_rali.training.vlm.options import SftOptions, sft_options
from pyiqa_rali.training.vlm.run import (
    ReasoningFolder,
    ReasoningResults,
    common_settings,
    first_step,
    load_for_training,
    lora_config,
    note_inputs,
    switch_telemetry_off,
    train_and_export,
)
from pyiqa_rali.training.vlm.run_images import check_images
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.prompts import ReasoningCard
from pyiqa_rali.vlm.tables import Row, rows_of, training_set

# a short max_length would cut off the completion, and the loss would be 0
DEFAULTS = {'bf16': False, 'gradient_checkpointing': False, 'max_length': None, 'completion_only_loss': True}
LONGEST_VALIDATED = 256  # tokens of a completion in validation
FOREIGN_STYLE = 2.5  # nats a token: texts of a model's own style start far below


def train_sft(options: SftOptions | OptionSource, auto_resume: bool = False,
              overrides: Sequence[str] = ()) -> ReasoningResults:
    """Train as options describe.

    Args:
        options: of the run: an option file, or an object.
        auto_resume: resume an interrupted run of the same name.
        overrides: 'section:key=value' entries.

    Raises:
        OptionError, DataError, CheckpointError: before the first step, with what to do.
    """
    values = values_of(options, overrides)
    if isinstance(options, SftOptions) and options.prompts.with_rating:  # this is its default, which with_scores sets
        del values['prompts']['with_rating']
    read = sft_options(values)
    rows, completions, validation = examples_of(read)
    return run_sft(read, rows, completions, validation, auto_resume)


@bars_of_transformers()
def run_sft(options: SftOptions, rows: list[Row], completions: list[str], validation: dict[str, list[Row]],
            auto_resume: bool = False) -> ReasoningResults:
    """Fine-tune on given completions.

    Args:
        options: checked options.
        rows: images, one for each completion.
        completions: what is to be answered.
        validation: rows of each validation set, with scores.
        auto_resume: resume an interrupted run of the same name.
    """
    switch_telemetry_off()
    folder = ReasoningFolder(options)
    if folder.is_finished(options, auto_resume):
        return folder.results()
    config = trainer_config(options, folder)
    adapter = lora_config(options.network)
    reasoner = load_for_training(options)
    images = check_images(rows, validation, reasoner, options)
    if is_main():
        folder.prepare(options, auto_resume)
        images.note(folder)
        note_inputs(folder, {'network: pretrained': reasoner.folder}, (rows, completions), auto_resume)
    checkpoint = folder.last_checkpoint(is_main()) if auto_resume else None
    trainer = make_trainer(options, config, training_set(rows, options.prompts, completions), validation, reasoner, folder,
                           checkpoint, adapter)
    return train_and_export(trainer, reasoner, folder, options, checkpoint, images.record)


def examples_of(options: SftOptions) -> tuple[list[Row], list[str], dict[str, list[Row]]]:
    """Return images, completions and validation rows; every text of an image is an example of its own.

    Raises:
        OptionError, DataError: a training set has no texts, or they do not fit its images.
    """
    rows, completions, validation = [], [], {}
    for section, given in options.datasets.items():
        found = rows_of(section, given, options.prompts, options.manual_seed)
        if phase_of(section) != 'train':
            validation[section] = found[:options.val.max_images]
            continue
        if not isinstance(given, LabelledOptions) or not given.reasoning_texts:
            raise OptionError(f'datasets: {section}: reasoning_texts: must name a JSON-lines file, such as one of python -m '
                              'pyiqa_rali write-texts.')
        texts = join_texts([row.image_path for row in found], load_reasoning_texts(given.reasoning_texts))
        for row, own in zip(found, texts, strict=True):
            rows += [row] * len(own)
            completions += [completion_of(text.text, row.mos, options.prompts, options.with_scores) for text in own]
    return rows, completions, validation


def completion_of(text: str, rating: float, card: ReasoningCard, with_scores: bool, decimals: int = 2) -> str:
    """Return a completion with a reasoning text, and the rating when scores are trained too."""
    if not with_scores:
        return f'<think>{text}</think>'
    return f'<think>{text}</think><answer>{{"{card.rating_key}": {rating:.{decimals}f}}}</answer>'


def trainer_config(options: SftOptions, folder: ReasoningFolder) -> Any:
    """Return TRL's configuration.

    Raises:
        OptionError: TRL refuses a value.
    """
    from trl import SFTConfig
    values = common_settings('sft', options, {**DEFAULTS, **options.sft}, folder)
    try:
        return SFTConfig(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise OptionError(f'sft: {error}') from error


def make_trainer(options: SftOptions, config: Any, dataset: Any, validation: dict[str, list[Row]],
                 reasoner: ReasoningModel, folder: ReasoningFolder, checkpoint: Path | None,
                 adapter: Any) -> Any:
    """Return the trainer with all that watches it."""
    from pyiqa_rali.training.vlm.trainers import ReasoningSFTTrainer
    start_step = first_step(checkpoint)
    callbacks = []
    if is_main():
        callbacks = [RecordCallback(folder.log, list(SFT_COLUMNS), start_step, folder.tb_logger)]
    trainer = ReasoningSFTTrainer(model=reasoner.model, args=config, train_dataset=dataset, callbacks=callbacks,
                                  processing_class=reasoner.processor, peft_config=adapter)
    watch_validation(trainer, reasoner, validation, options, folder, start_step, LONGEST_VALIDATED)
    if checkpoint is None and is_main():
        warn_of_foreign_style(trainer)
    return trainer


@torch.no_grad()
def warn_of_foreign_style(trainer: Any, examples: int = 16) -> float:
    """Return the loss of a few examples before training, and warn when the texts are not in the model's own style.

    Fitting the vision tower to texts that the language model would never write harms it instead.
    """
    count = min(examples, len(trainer.train_dataset))
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(count)])
    inputs = {name: value.to(trainer.model.device) for name, value in batch.items()}
    training = trainer.model.training
    trainer.model.eval()
    loss = float(trainer.model(**inputs).loss)
    trainer.model.train(training)
    if math.isfinite(loss) and loss > FOREIGN_STYLE:
        warnings.warn(f'the texts start with a loss of {loss:.2f} a token (above {FOREIGN_STYLE}): they are not in this '
                      "language model's own style. Let a model of its family write them (python -m pyiqa_rali write-texts), or "
                      'train the language model first.', stacklevel=2)
    return loss
