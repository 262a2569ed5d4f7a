"""TRL's trainers with what exact resumption needs, and nothing else of our own.

Two overrides: weights are restored strictly (the stock path loads Qwen2.5-VL's checkpoints with strict=False, matches none
of their keys and goes on from the initial weights), and the order of prompts depends on the epoch alone (the stock sampler
restarts its shuffle when a run is resumed).
"""

from typing import Any

from trl import GRPOTrainer, SFTTrainer
from trl.trainer.utils import RepeatSampler


class EpochRepeatSampler(RepeatSampler):
    """TRL's sampler with a shuffle that is the same for an epoch whether or not the run was interrupted."""

    def set_epoch(self, epoch: int) -> None:
        """Seed the shuffle of an epoch; the trainer calls it before each."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class ExactResume:
    """Loads the weights of a checkpoint with `from_pretrained`, strictly; adapters, DeepSpeed and FSDP keep their way.

    To be mixed into a trainer of transformers, in front of it.
    """

    model: Any
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        plain = hasattr(model, 'save_pretrained') and not hasattr(model, 'peft_config')
        if not plain or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]  # the trainer's
            return
        saved = type(model).from_pretrained(resume_from_checkpoint, local_files_only=True, dtype=model.dtype)
        model.load_state_dict(saved.state_dict(), strict=True)


class ReasoningGRPOTrainer(ExactResume, GRPOTrainer):
    """`trl.GRPOTrainer`, resumable to the bit."""

    def _get_train_sampler(self, dataset: Any = None) -> EpochRepeatSampler:
        stock = super()._get_train_sampler(dataset)
        return EpochRepeatSampler(stock.data_source, stock.mini_repeat_count, stock.batch_size, stock.repeat_count,
                                  stock.shuffle, stock.seed)


class ReasoningSFTTrainer(ExactResume, SFTTrainer):
    """`trl.SFTTrainer`, resumable to the bit."""
