"""What is recorded and watched while a reasoning model is trained: CSV, TensorBoard, samples, validation, alarms."""

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from pyiqa_rali.core.processes import gather, is_main, rank, world_size
from pyiqa_rali.core.records import RunRecord, read_record
from pyiqa_rali.core.runs import rows_of_steps
from pyiqa_rali.measures.correlations import correlations
from pyiqa_rali.training.vlm.options import GrpoOptions, ReasoningValOptions, SftOptions
from pyiqa_rali.training.vlm.run import ReasoningFolder
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.scorer import ReasoningScorer
from pyiqa_rali.vlm.tables import Row

GRPO_COLUMNS = ('reward', 'reward_std', 'kl', 'entropy', 'frac_reward_zero_std', 'completions/clipped_ratio',
                'completions/mean_length', 'loss', 'grad_norm', 'learning_rate')
SFT_COLUMNS = ('loss', 'mean_token_accuracy', 'grad_norm', 'learning_rate')
SAMPLES_EACH_TIME = 4
# signs of a policy that stops exploring or runs out of room
MOST_ZERO_STD, MOST_ENTROPY_LOSS, MOST_CLIPPED = 0.6, 5.0, 0.2

logger = logging.getLogger(__name__)


class RecordCallback(TrainerCallback):
    """Writes the trainer's statistics to a CSV and to TensorBoard.

    Args:
        path: the CSV.
        columns: names as the trainer logs them.
        start_step: the step from which a resumed run continues.
        tb_folder: None switches TensorBoard off.
    """

    def __init__(self, path: Path, columns: list[str], start_step: int, tb_folder: Path | None):
        self.columns = columns
        self.record = RunRecord(path, columns, start_step, tb_folder)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add a row when the trainer logs a step."""
        logs = logs or {}
        values = {name: float(logs[name]) for name in self.columns if logs.get(name) is not None}
        if state.is_world_process_zero and 'loss' in values:
            self.record.add(state.global_step, values)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Flush TensorBoard."""
        self.record.close()


class AlarmCallback(TrainerCallback):
    """Warns, once for each sign, when a policy collapses: no spread of rewards, entropy gone, completions cut off."""

    def __init__(self) -> None:
        self.first_entropy: float | None = None
        self.raised: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the first entropy of a resumed run from its history."""
        self.first_entropy = next((logs['entropy'] for logs in state.log_history if 'entropy' in logs), None)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Check the statistics that were just logged."""
        logs = logs or {}
        for sign in self.signs(logs):
            if sign not in self.raised and state.is_world_process_zero:
                self.raised.add(sign)
                warnings.warn(f'step {state.global_step}: {sign}', stacklevel=2)

    def signs(self, logs: dict[str, Any]) -> list[str]:
        """Return what is wrong with these statistics."""
        found = []
        entropy = logs.get('entropy')
        if self.first_entropy is None and entropy is not None:
            self.first_entropy = entropy
        if logs.get('frac_reward_zero_std', 0) > MOST_ZERO_STD:
            found.append(f'more than {MOST_ZERO_STD:.0%} of the images got one reward for all rollouts, and teach nothing. '
                         'Raise temperature or num_generations, lower learning_rate, or choose images of middling difficulty.')
        if entropy is not None and entropy * MOST_ENTROPY_LOSS < self.first_entropy:
            found.append(f'the entropy fell more than {MOST_ENTROPY_LOSS:g} times: the model writes one answer for all '
                         'pictures. Lower learning_rate, or raise beta.')
        if logs.get('completions/clipped_ratio', 0) > MOST_CLIPPED:
            found.append(f'more than {MOST_CLIPPED:.0%} of the completions are cut off. Raise max_completion_length.')
        return found


class SampleCallback(TrainerCallback):
    """Keeps a table of sample completions with their rewards.

    Args:
        path: the CSV.
        start_step: the step from which a resumed run continues; rows from there on are written again.
    """

    def __init__(self, path: Path, start_step: int):
        self.latest: list[dict[str, Any]] = []
        self._rows = rows_of_steps(path, ['image', 'task', 'mos', 'completion'], start_step)

    def watch(self, completions: list[str], image_path: list[str], task: list[str], mos: list[float]) -> None:
        """Remember a few completions of the current generation, of different images where possible."""
        chosen = np.linspace(0, len(completions) - 1, min(SAMPLES_EACH_TIME, len(completions))).astype(int)
        self.latest = [{'image': Path(image_path[each]).name, 'task': task[each], 'completion': completions[each],
                        'mos': f'{mos[each]:.3f}' if task[each] == 'score' else ''} for each in chosen]

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write them down."""
        if state.is_world_process_zero and self.latest:
            self._rows.add([{'step': state.global_step, **row} for row in self.latest])
            self.latest = []


class ValidationCallback(TrainerCallback):
    """Scores held-out images before, during and after training; every process of the run must have one.

    The processes share the images batch by batch, so that none waits for long and the results do not depend on their number.

    Args:
        reasoner: the model that is trained.
        sets: rows of each validation set.
        options: how often and how.
        path: the CSV.
        start_step: the step from which a resumed run continues.
        tb_folder: None switches TensorBoard off.
        max_new_tokens: longest completion.
        writes: whether this process writes the CSV, which only the main one does.
    """

    def __init__(self, reasoner: ReasoningModel, sets: dict[str, list[Row]], options: ReasoningValOptions, path: Path,
                 start_step: int, tb_folder: Path | None, max_new_tokens: int, writes: bool):
        self.sets, self.options = sets, options
        self.scorer = ReasoningScorer(reasoner, resamples=0, batch_size=options.batch_size, max_new_tokens=max_new_tokens,
                                      num_samples=max(options.num_samples, 1), temperature=options.temperature)
        self.modes = ('expectation', 'mean') if options.num_samples else ('expectation',)
        columns = [f'{name}/{mode}_{metric}' for name in sets for mode in self.modes for metric in options.metrics]
        columns += [f'{name}/unparsed' for name in sets if options.num_samples]
        self.record = RunRecord(path, columns, start_step, tb_folder) if writes else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model before training."""
        if state.global_step == 0:
            self.measure(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every `val_freq` steps."""
        if state.global_step % self.options.val_freq == 0:
            self.measure(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the trained model."""
        if state.global_step % self.options.val_freq:
            self.measure(state)
        if self.record is not None:
            self.record.close()

    def measure(self, state: Any) -> dict[str, float]:
        """Score all sets, and record their correlations in the process that writes."""
        model = self.scorer.model
        training = model.training
        model.eval()
        values: dict[str, float] = {}
        for name, rows in self.sets.items():
            values |= {f'{name}/{key}': value for key, value in self._of_set(name, rows).items()}
        model.train(training)
        if self.record is not None:
            self._write(self.record, state, values)
        return values

    def _write(self, record: RunRecord, state: Any, values: dict[str, float]) -> None:
        if any(row['step'] == state.global_step for row in read_record(record.path)):
            return  # a run that was killed at its end has this row already
        record.add(state.global_step, {key: value for key, value in values.items() if not math.isnan(value)})
        shown = ', '.join(f'{key} {value:.3f}' for key, value in values.items())
        logger.info('step %d: %s', state.global_step, shown)

    def _of_set(self, name: str, rows: list[Row]) -> dict[str, float]:
        mos = np.array([row.mos for row in rows])
        found: dict[str, float] = {}
        for mode in self.modes:
            self.scorer.mode = mode
            described = self._describe(rows)
            ratings = np.array([rating for rating, _ in described])
            values = self._correlations(ratings, mos, name)
            found |= {f'{mode}_{metric}': value for metric, value in values.items()}
            if mode == 'mean':
                found['unparsed'] = float(sum(status == 'expectation' for _, status in described))
        return found

    def _correlations(self, ratings: np.ndarray, mos: np.ndarray, name: str) -> dict[str, float]:
        """Return the correlations; NaN when pictures have no rating, which must not end a run that takes days."""
        unrated = int(np.isnan(ratings).sum())
        if unrated:
            logger.warning('%s: %d of %d images have no rating; no correlation is computed at this step', name, unrated,
                           len(mos))
            return dict.fromkeys(self.options.metrics, math.nan)
        return correlations(ratings, mos, self.options.metrics, name)

    def _describe(self, rows: list[Row]) -> list[tuple[float, str]]:
        """Return rating and status of each row, in order; this process reads and scores its share of the batches."""
        size = self.options.batch_size
        own = []
        for start in range(size * rank(), len(rows), size * world_size()):
            described = self.scorer.describe([row.picture() for row in rows[start:start + size]])
            own += [(start + number, each.rating, each.status) for number, each in enumerate(described)]
        everyone = [each for share in gather(own) for each in share]
        return [(rating, status) for _, rating, status in sorted(everyone, key=lambda each: each[0])]


def watch_validation(trainer: Any, reasoner: ReasoningModel, sets: dict[str, list[Row]], options: GrpoOptions | SftOptions,
                     folder: ReasoningFolder, start_step: int, max_new_tokens: int) -> None:
    """Add the validation of the trainer's model to a trainer, if the options ask for it.

    Args:
        trainer: whose model may be an adapter around the one that was loaded.
        reasoner: what was loaded, with processor and card.
        sets: rows of each validation set.
        options: of the run.
        folder: of the run.
        start_step: the step from which a resumed run continues.
        max_new_tokens: longest completion.
    """
    if options.val.val_freq is not None:
        trained = ReasoningModel(trainer.model, reasoner.processor, reasoner.card, reasoner.folder)
        trainer.add_callback(ValidationCallback(trained, sets, options.val, folder.val_log, start_step, folder.tb_logger,
                                                max_new_tokens, is_main()))
