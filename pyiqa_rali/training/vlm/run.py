"""What GRPO and supervised fine-tuning share: the run's folder, the choice of trained weights, resumption, export."""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import atomic_folder, sha256, write_json
from pyiqa_rali.core.messages import are_shown
from pyiqa_rali.core.processes import barrier, is_main
from pyiqa_rali.core.records import read_record
from pyiqa_rali.core.runs import claim_run, differences, read_claim
from pyiqa_rali.data.sections import phase_of
from pyiqa_rali.data.training_images import TrainingImages
from pyiqa_rali.figures.scored import curves
from pyiqa_rali.figures.style import save_png
from pyiqa_rali.training.vlm.options import GrpoOptions, NetworkOptions, SftOptions
from pyiqa_rali.vlm.chat import rendered_chat
from pyiqa_rali.vlm.loading import EXPORT, ReasoningModel, identity, is_adapter, load_vlm
from pyiqa_rali.vlm.prompts import ReasoningCard
from pyiqa_rali.vlm.reading import BlindReader
from pyiqa_rali.vlm.tables import Row, rows_of

logger = logging.getLogger(__name__)

MAY_CHANGE = ('logger', 'path', 'export', 'val:overlap')
VISION_TOWER = ('.visual.', '.vision_tower.', '.vision_model.')


@dataclass(frozen=True)
class ReasoningResults:
    """What a training run of a reasoning model produces.

    Attributes:
        folder: its files.
        export: the folder of the model, which `create_metric` takes.
        before: the validation before the first step, by column of val.csv; None where there was none.
        after: the last validation.
    """

    folder: Path
    export: Path
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None


class ReasoningFolder:
    """Paths of one run's files.

    Args:
        options: the run's options; its folder is `path: experiments_root` / `name`.
    """

    def __init__(self, options: GrpoOptions | SftOptions):
        self.root = Path(options.path.experiments_root) / options.name
        self.checkpoints = self.root / 'checkpoints'
        self.log = self.root / 'log.csv'
        self.val_log = self.root / 'val.csv'
        self.samples = self.root / 'samples.csv'
        self.export = self.root.joinpath(*EXPORT)
        self.figures = self.root / 'figures'
        self.options = self.root / 'options.yml'
        self.inputs = self.root / 'inputs.json'
        self.training_images = self.root / 'training_images.json'
        self.overlap = self.root / 'overlap.json'
        self.start = self.root / 'start'
        self.tb_logger = self.root / 'tb_logger' if options.logger.use_tb_logger else None

    def prepare(self, options: GrpoOptions | SftOptions, resume: bool) -> None:
        """Make the folder; an earlier run of that name is archived, unless this one resumes it.

        Raises:
            OptionError: the run to resume had other options.
        """
        claim_run(self.root, options, resume, MAY_CHANGE)

    def is_finished(self, options: GrpoOptions | SftOptions, resume: bool) -> bool:
        """Whether the run that is resumed has exported its model already, so that nothing is left to do.

        Raises:
            OptionError: it has, with other options.
        """
        if not (resume and self.export.exists()):
            return False
        self.prepare(options, resume)
        return True

    def results(self) -> 'ReasoningResults':
        """Return what the run has produced."""
        record = read_record(self.val_log) if self.val_log.exists() else []
        return ReasoningResults(self.root, self.export, record[0] if record else None, record[-1] if record else None)

    def last_checkpoint(self, remove: bool = True) -> Path | None:
        """Return the newest checkpoint that was written to its end.

        Args:
            remove: delete incomplete ones after it; only in one of several processes.
        """
        found = sorted(self.checkpoints.glob('checkpoint-*'), key=step_of)
        while found:
            newest = found.pop()
            if is_whole(newest):
                return newest
            if remove:
                shutil.rmtree(newest)
        return None


def step_of(checkpoint: Path) -> int:
    """Return how many steps had been taken when a checkpoint was written."""
    return int(checkpoint.name.rpartition('-')[2])


def first_step(checkpoint: Path | None) -> int:
    """Return the step from which a run records what it does: the one after its checkpoint, or 0."""
    return step_of(checkpoint) + 1 if checkpoint else 0


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint folder was written to its end: the trainer writes its state file last."""
    try:
        json.loads((checkpoint / 'trainer_state.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return False
    return True


def switch_telemetry_off() -> None:
    """Keep packages from reporting this run through the hub's client, which read the environment when it was imported."""
    from huggingface_hub import constants
    os.environ['HF_HUB_DISABLE_TELEMETRY'] = '1'  # for processes that are started from here
    constants.HF_HUB_DISABLE_TELEMETRY = True


def load_for_training(options: GrpoOptions | SftOptions) -> ReasoningModel:
    """Load the model, give it the run's prompts, and choose which of its weights are trained.

    Raises:
        OptionError: an adapter is to be exported alone, but the run starts from another one.
    """
    network = options.network
    reasoner = load_vlm(network.pretrained, network.dtype, network.attn_implementation, None, network.min_pixels,
                        network.max_pixels, merge=True)
    if is_adapter(reasoner.folder) and network.lora is not None and not options.export.merge:
        raise OptionError(f'export: merge: false: {reasoner.folder} is an adapter, and one trained on top of it would be lost '
                          'without it. Set merge: true.')
    tell_other_prompts(reasoner.card, options.prompts)
    reasoner.card = options.prompts
    rendered_chat(reasoner.processor, options.prompts.prompt())  # a template that takes no system message raises here
    choose_trained(reasoner.model, network)
    return reasoner


def tell_other_prompts(before: ReasoningCard | None, now: ReasoningCard) -> None:
    """Warn when a model that training starts from was trained with other prompts: it has to learn the new ones first."""
    for name in ('system_prompt', 'score_prompt'):
        was, value = getattr(before, name, None), getattr(now, name)
        if before is not None and was != value:
            logger.warning('prompts: %s: the model that training starts from was trained with another one: %r, now %r', name,
                           was, value)


def keep_merged_start(reasoner: ReasoningModel, folder: ReasoningFolder, writes: bool) -> None:
    """Write the model with its merged adapter to the run's folder, where the trainer looks for its reference.

    The trainer loads the reference model of the KL divergence by the name in the configuration, which is that of the model
    below the adapter unless another one is written there.
    """
    if not is_adapter(reasoner.folder):
        return
    if writes and not folder.start.exists():
        with atomic_folder(folder.start) as temporary:
            reasoner.model.save_pretrained(temporary)
    barrier()
    reasoner.model.config._name_or_path = reasoner.model.name_or_path = str(folder.start)


def note_inputs(folder: ReasoningFolder, models: dict[str, Path], examples: Any, resume: bool) -> None:
    """Record the weights that a run starts from and its training examples, or compare them with those it was begun with.

    Args:
        folder: of the run.
        models: by option, folders of models, and single files.
        examples: what is trained on.
        resume: whether this run resumes an earlier one.

    Raises:
        OptionError: a run would be resumed with other ones.
    """
    found = {option: identity(model) if model.is_dir() else sha256(model) for option, model in models.items()}
    found['datasets'] = hashlib.sha256(repr(examples).encode()).hexdigest()
    before = read_claim(folder.inputs) if resume else None
    if before is not None:
        changed = differences(before, found)
        if changed:
            raise OptionError(f'{changed[0].name}: is no longer what {folder.root} was begun with: weights, tables or texts '
                              'have changed under the same name. Restore them, or start anew without --auto_resume.')
    else:
        write_json(folder.inputs, found)


def load_reader(options: GrpoOptions, device: torch.device) -> BlindReader:
    """Load the model that reads texts for the reading reward: by default the one that training starts from, frozen.

    Raises:
        CheckpointError: it cannot be found or loaded.
    """
    network = options.network
    reasoner = load_vlm(options.rewards.reader or network.pretrained, network.dtype, network.attn_implementation, None,
                        network.min_pixels, network.max_pixels, merge=True)
    reasoner.model.requires_grad_(False).to(device)
    return BlindReader(reasoner, options.prompts, options.rewards.most_surprise)


def choose_trained(model: torch.nn.Module, network: NetworkOptions) -> int:
    """Set which parameters are trained, by tower, and return how many numbers they hold.

    Raises:
        OptionError: the model has no vision tower under a known name.
    """
    model.requires_grad_(True)  # merging an adapter leaves everything frozen
    if network.train in ('all', 'lora'):
        return sum(parameter.numel() for parameter in model.parameters())
    trained = 0
    for name, parameter in model.named_parameters():
        in_vision = any(part in f'.{name}' for part in VISION_TOWER)
        parameter.requires_grad_(in_vision == (network.train == 'vision'))
        trained += parameter.numel() if parameter.requires_grad else 0
    if not 0 < trained < sum(parameter.numel() for parameter in model.parameters()):
        raise OptionError(f'network: train: {network.train}: this model has no parameters named {", ".join(VISION_TOWER)}, '
                          'so its towers cannot be told apart. Use train: all or lora.')
    return trained


def lora_config(network: NetworkOptions) -> Any:
    """Return peft's configuration, or None.

    Raises:
        OptionError: peft does not know a key, or rejects a value.
    """
    if network.lora is None:
        return None
    from peft import LoraConfig
    try:
        return LoraConfig(**{'task_type': 'CAUSAL_LM', **network.lora})
    except (TypeError, ValueError) as error:
        raise OptionError(f"network: lora: {error}. The keys are those of peft's LoraConfig.") from error


def collect_rows(options: GrpoOptions | SftOptions) -> tuple[list[Row], dict[str, list[Row]]]:
    """Return the rows of all training sets together, and those of each validation set by its name."""
    training, validation = [], {}
    for section, given in options.datasets.items():
        rows = rows_of(section, given, options.prompts, options.manual_seed)
        if phase_of(section) == 'train':
            training += rows
        elif any(row.task != 'score' for row in rows):
            raise OptionError(f'datasets: {section}: validation needs scores; a DegradationTable can only be trained on.')
        else:
            validation[section] = rows[:options.val.max_images]
    if options.val.val_freq is not None and not validation:
        raise OptionError('val: val_freq: there is no data set to validate on. Add datasets: val, or set val_freq to ~.')
    return training, validation


def export_model(model: Any, reasoner: ReasoningModel, folder: Path, merge: bool, training: str,
                 record: TrainingImages) -> Path:
    """Write the model, its processor, its card and what it was trained on to a folder that `create_metric` loads.

    The folder is complete, or does not exist at all.
    """
    if hasattr(model, 'merge_and_unload') and merge:
        model = model.merge_and_unload()
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        reasoner.processor.save_pretrained(temporary)
        replace(reasoner.asked, training=training).save(temporary)
        record.save(temporary)
    return folder


def common_settings(section: str, options: GrpoOptions | SftOptions, given: dict[str, Any],
                    folder: ReasoningFolder) -> dict[str, Any]:
    """Return the trainer's arguments that follow from the other sections, over those that are given.

    Raises:
        OptionError: bf16 is requested, and no GPU supports it.
    """
    if given.get('bf16') and not (torch.cuda.is_available() and torch.cuda.is_bf16_supported()):
        raise OptionError(f'{section}: bf16: true needs a GPU with bfloat16, and none was found. Set bf16: false.')
    quiet = {} if are_shown() else {'disable_tqdm': True}
    return {'use_cpu': not torch.cuda.is_available(), **quiet, **given, 'output_dir': str(folder.checkpoints),
            'seed': options.manual_seed, 'logging_steps': options.logger.print_freq,
            'save_steps': options.logger.save_checkpoint_freq, 'save_strategy': 'steps', 'report_to': [],
            'remove_unused_columns': False}


def train_and_export(trainer: Any, reasoner: ReasoningModel, folder: ReasoningFolder, options: GrpoOptions | SftOptions,
                     checkpoint: Path | None, record: TrainingImages) -> ReasoningResults:
    """Train from the checkpoint, if there is one, draw the curves and export the model."""
    if not are_shown():
        from transformers import PrinterCallback
        trainer.remove_callback(PrinterCallback)  # it prints what is logged where there is no progress bar
    if checkpoint and is_last(checkpoint) and not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        end_from(trainer, checkpoint)
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if is_main():
        draw_curves(folder)
        export_model(trainer.accelerator.unwrap_model(trainer.model), reasoner, folder.export, options.export.merge,
                     options.export.training, record)
    barrier()
    return folder.results()


def is_last(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of the last step, from which the trainer would take one step more."""
    state = json.loads((checkpoint / 'trainer_state.json').read_text(encoding='utf-8'))
    return state['global_step'] >= state['max_steps'] > 0


def end_from(trainer: Any, checkpoint: Path) -> None:
    """Load the weights of the last step, and do what comes after it."""
    from transformers import TrainerState
    trainer.state = TrainerState.load_from_json(str(checkpoint / 'trainer_state.json'))
    trainer.state.is_world_process_zero = is_main()
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)


def draw_curves(folder: ReasoningFolder) -> None:
    """Draw rewards and validation against the step."""
    folder.figures.mkdir(parents=True, exist_ok=True)
    records = {name: read_record(path) for name, path in (('train', folder.log), ('val', folder.val_log)) if path.exists()}
    drawn = curves(records)
    if drawn is not None:
        save_png(drawn, folder.figures / 'training_curves.png')


