"""The whole chain on a laptop: photographs, data, a tiny model, cold start, GRPO, reasoning texts, RALI, both scored.

Each step writes its files into the run's folder, and is skipped when a run is resumed with --auto_resume and they exist.
"""

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import some
from pyiqa_rali.core.files import without_nan, write_json, write_yaml
from pyiqa_rali.core.options import OptionSource, values_of
from pyiqa_rali.core.runs import claim_run
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.synthetic.dataset import as_tensor
from pyiqa_rali.data.synthetic.make_dataset import make_dataset
from pyiqa_rali.data.synthetic.view_sentences import view_sentence
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.figures.scored import picture_sheet, spread_over_scores
from pyiqa_rali.figures.style import save_png
from pyiqa_rali.studies.chain.options import ChainOptions, ChainSteps, chain_options, check_steps
from pyiqa_rali.studies.chain.results import (
    model_statistics,
    reward_statistics,
    score_statistics,
    time_statistics,
    timed,
    words_of,
    written_text_statistics,
)
from pyiqa_rali.training.rali.run import train as train_rali
from pyiqa_rali.training.vlm.cold_start import random_completions
from pyiqa_rali.training.vlm.grpo import check_before_training, run_grpo, trainer_config
from pyiqa_rali.training.vlm.run import ReasoningFolder
from pyiqa_rali.training.vlm.sft import run_sft
from pyiqa_rali.vlm.loading import load_vlm
from pyiqa_rali.vlm.reading import BlindReader
from pyiqa_rali.vlm.tables import Row, read_picture, rows_of
from pyiqa_rali.vlm.tiny_vlm import save_tiny_vlm
from pyiqa_rali.vlm.write_texts import OF_NO_TEXT, write_texts

SHOWN_IMAGES = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChainResults:
    """What a run of the chain produces.

    Attributes:
        folder: its files.
        medians: of every statistic over the seeds that have a value of it; None where none has.
        seeds_without_value: by statistic, the seeds that have no value of it.
        seeds: by seed, every statistic; None for those without a value.
    """

    folder: Path
    medians: dict[str, float | None]
    seeds_without_value: dict[str, list[int]]
    seeds: dict[str, dict[str, float | None]]


def run_chain(options: ChainOptions | OptionSource, auto_resume: bool = False, overrides: Sequence[str] = ()) -> ChainResults:
    """Run the chain for each of its seeds.

    Args:
        options: of the run: an option file, or an object.
        auto_resume: keep the steps that an interrupted run has finished.
        overrides: 'section:key=value' entries.

    Raises:
        OptionError, DataError, CheckpointError: with what to do; options of every step are checked before the first one.
    """
    read = chain_options(values_of(options, overrides))
    root = Path(read.path.experiments_root) / read.name
    check_steps(ChainSteps(read, read.seeds[0], root))
    claim_run(root, read, auto_resume, ('seeds', 'path', *OF_NO_TEXT))
    found = {seed: Chain(read, seed, root / f'seed_{seed}', auto_resume).run() for seed in read.seeds}
    medians, without = medians_of(found)
    if without:
        told = some(f'{name} (seed {", ".join(map(str, seeds))})' for name, seeds in without.items())
        logger.warning('medians: %d statistics have no value for some seeds, which are left out: %s', len(without), told)
    results = without_nan({'medians': medians, 'seeds_without_value': without,
                           'seeds': {str(seed): values for seed, values in found.items()}})
    write_json(root / 'results.json', results)
    return ChainResults(root, **results)


def medians_of(found: dict[int, dict[str, float]]) -> tuple[dict[str, float], dict[str, list[int]]]:
    """Return the median of every statistic over the seeds that have a value, and by statistic the seeds that have none.

    Args:
        found: statistics by seed; NaN, or no entry, is no value. Without a value for any seed the median is NaN.
    """
    medians, without = {}, {}
    for name in dict.fromkeys(name for values in found.values() for name in values):
        there = {seed: values[name] for seed, values in found.items() if math.isfinite(values.get(name, math.nan))}
        medians[name] = statistics.median(there.values()) if there else math.nan
        if len(there) < len(found):
            without[name] = [seed for seed in found if seed not in there]
    return medians, without


class Chain:
    """The chain for one seed.

    Args:
        options: of the chain.
        seed: of data, weights, training and texts.
        root: the folder for its files.
        resume: keep finished steps.
    """

    def __init__(self, options: ChainOptions, seed: int, root: Path, resume: bool):
        self.options, self.seed, self.root, self.resume = options, seed, root, resume
        self.steps = ChainSteps(options, seed, root)
        self.rali = self.steps.rali / 'models' / 'rali.safetensors'

    def run(self) -> dict[str, float]:
        """Run all steps and return the statistics of this seed."""
        seconds = {}
        for step in (self.make_data, self.make_vlm, self.check_batches, self.start_cold, self.reinforce, self.write,
                     self.align):
            seconds[step.__name__] = timed(step)
        results = self.compare()
        write_json(self.root / 'results.json', without_nan({**results, 'seconds': seconds}))
        return results

    def make_data(self) -> None:
        """Photographs -> distorted images with labels, split by photograph."""
        make_dataset(self.steps.data_settings())

    def make_vlm(self) -> None:
        """A tiny vision-language model with random weights, and a tokenizer for the cold start's texts."""
        if not self.steps.vlm.exists():
            save_tiny_vlm(self.steps.vlm, self._completions(self._rows('train')), self.seed, **asdict(self.options.vlm))

    def check_batches(self) -> None:
        """Reject now, when images and tokens can be counted, what GRPO would reject after the cold start."""
        options = self.steps.grpo()
        config = trainer_config(options, ReasoningFolder(options))
        check_before_training(options, config, self._rows('train'), load_vlm(self.steps.vlm))

    def start_cold(self) -> None:
        """The format, with ratings that are unrelated to the image."""
        rows = self._rows('train')
        completions = self._completions(rows)
        images = [rows[number % len(rows)] for number in range(len(completions))]
        run_sft(self.steps.cold_start(), images, completions, {}, self.resume)

    def reinforce(self) -> None:
        """GRPO: quality, from rewards alone."""
        run_grpo(self.steps.grpo(), self.resume)

    def write(self) -> None:
        """Reasoning texts of the trained model on the training images."""
        if self.steps.texts.exists():
            return
        table = build_table('train', self.steps.table('train'), self.seed)
        images = [Path(path) for path in table.image_names()]
        report = write_texts(load_vlm(self.steps.reasoning / 'models' / 'reasoning'), images, self.steps.texts,
                             self.steps.writing(), distortions=table.distortions())
        write_json(self.root / 'texts_report.json', asdict(report))

    def align(self) -> None:
        """RALI's three stages from those texts."""
        opt_path = self.root / 'rali.yml'
        write_yaml(opt_path, self.steps.rali_values())
        if not (self.resume and self.rali.exists()):
            train_rali(str(opt_path), auto_resume=self.resume and self.steps.rali.exists())

    def compare(self) -> dict[str, float]:
        """Score the held-out photographs with both metrics, measure the texts, and draw."""
        rows = self._rows('test')
        paths, mos = [row.image_path for row in rows], np.array([row.mos for row in rows])
        reasoner, rali = self._metric(self.steps.reasoning), pyiqa_metric('rali', self.rali)
        rali_scores = np.array([float(rali(as_tensor([read_rgb(path)]))) for path in paths])
        described = reasoner.net.describe([read_picture(path) for path in paths])
        found = {f'rali_test_{name}': value for name, value in score_statistics(rali_scores, rows).items()}
        found |= reward_statistics(self.steps.reasoning / 'log.csv', self.steps.grpo().logger.print_freq)
        found |= self._models_compared(reasoner, rows) | time_statistics(reasoner, rali, paths)
        shown = spread_over_scores(rali_scores, min(SHOWN_IMAGES, len(paths)))
        sheet = picture_sheet([(np.asarray(read_picture(paths[each])), f'MOS {mos[each]:.2f}   RALI {rali_scores[each]:.2f}   '
                                f'rating {described[each].rating:.2f}', described[each].reasoning_text) for each in shown],
                              'held-out photographs')
        save_png(sheet, self.root / 'figures' / 'texts_and_scores.png')
        return found

    def _models_compared(self, reasoner: Any, rows: list[Row]) -> dict[str, float]:
        """Return ratings and texts of the cold-started model and of the trained one, and the texts that RALI learned from."""
        cold = self._metric(self.steps.cold)
        reader, words = BlindReader(cold.net.reasoner, self.options.prompts), words_of(self.steps.data_settings().types)
        found = {f'reasoning_{when}_test_{name}': value for when, metric in (('before', cold), ('after', reasoner))
                 for name, value in model_statistics(metric.net, reader, rows, words).items()}
        return found | written_text_statistics(self.steps.texts, self._rows('train'), reader)

    def _rows(self, section: str) -> list[Row]:
        """Return the rows of one data set, with their classes of distortion."""
        return rows_of(section, {**self.steps.table(section), 'class_column': 'distortion'}, self.options.prompts, self.seed)

    def _completions(self, rows: list[Row]) -> list[str]:
        """Return the completions of the cold start; example n belongs to image n, and so on from the first again."""
        cold = self.options.cold_start
        views = [view_sentence(np.asarray(read_picture(row.image_path))) for row in rows] if cold.views else None
        return random_completions(cold.examples, self.steps.data_settings().types, self.options.prompts, self.seed,
                                  cold.wordings, cold.impressions, views)

    def _metric(self, run: Path) -> Any:
        """Return the model that a run has exported as a metric."""
        options = self.steps.grpo()
        return pyiqa_metric('rali-reasoning', run / 'models' / 'reasoning', batch_size=options.val.batch_size,
                            max_new_tokens=options.grpo['max_completion_length'], num_samples=options.val.num_samples)


def pyiqa_metric(name: str, weights: Path, **options: Any) -> Any:
    """Return a metric of pyiqa on the CPU."""
    import pyiqa
    return pyiqa.create_metric(name, device='cpu', pretrained_model_path=str(weights), **options)
