"""The whole chain on a laptop: photographs, data, a tiny model, cold start, GRPO, reasoning texts, RALI, both scored.

Each step leaves its files in the run's folder, and is skipped when a run goes on with --auto_resume and they are there.
"""

import csv
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pyiqa_rali.chain_report import (
    model_figures,
    reward_figures,
    score_figures,
    time_figures,
    timed,
    words_of,
    written_text_figures,
)
from pyiqa_rali.data.dataset_settings import DatasetSettings
from pyiqa_rali.data.make_dataset import make_dataset
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.data.view_sentences import view_sentence
from pyiqa_rali.errors import OptionError
from pyiqa_rali.evaluation.plots import described_sheet, spread_over_scores
from pyiqa_rali.files import atomic_open, write_json
from pyiqa_rali.options import PathOptions, from_known_keys, override, read_yaml
from pyiqa_rali.pipeline import train as train_rali
from pyiqa_rali.reasoning.cold_start import random_completions
from pyiqa_rali.reasoning.grpo import run_grpo
from pyiqa_rali.reasoning.options import GrpoOptions, grpo_options, sft_options
from pyiqa_rali.reasoning.prompts import ReasoningCard
from pyiqa_rali.reasoning.reading import BlindReader
from pyiqa_rali.reasoning.sft import run_sft
from pyiqa_rali.reasoning.tables import Row, read_picture, rows_of
from pyiqa_rali.reasoning.tiny_vlm import save_tiny_vlm
from pyiqa_rali.reasoning.write_texts import OF_NO_TEXT, WritingOptions, write_texts
from pyiqa_rali.run_folder import claim

SHOWN_IMAGES = 8


@dataclass
class ColdStartOptions:
    """The supervised cold start.

    Attributes:
        examples: images with a random text and rating.
        wordings: in how many ways each sentence is put.
        views: whether a first sentence says where the picture's light is: a model from nothing learns to look.
        impressions: whether a last sentence gives the overall impression.
        sft: keys of TRL's SFTConfig.
    """

    examples: int
    sft: dict[str, Any]
    wordings: int = 2
    views: bool = False
    impressions: bool = False


@dataclass
class ChainOptions:
    """The whole chain, checked.

    Attributes:
        name: of the run.
        seeds: one run for each; figures are medians over them.
        data: options of `make-dataset`.
        vlm: options of the tiny model.
        prompts: what it is asked, and its rating scale.
        cold_start: supervised.
        rewards, grpo, val: of GRPO.
        texts: what is written.
        rali: an option file for RALI without its data sets.
        path: where to write.
    """

    name: str
    seeds: list[int]
    data: dict[str, Any]
    cold_start: ColdStartOptions
    rewards: dict[str, Any]
    grpo: dict[str, Any]
    val: dict[str, Any]
    texts: WritingOptions
    rali: dict[str, Any]
    vlm: dict[str, Any] = field(default_factory=dict)
    prompts: ReasoningCard = field(default_factory=ReasoningCard)
    path: PathOptions = field(default_factory=PathOptions)
    logger: dict[str, Any] = field(default_factory=dict)
    model_type: str = 'CHAIN'


def run_chain(opt_path: str | Path, auto_resume: bool = False, overrides: list[str] = ()) -> dict[str, Any]:
    """Run the chain of an option file for each of its seeds, and return the figures.

    Args:
        opt_path: the YAML file.
        auto_resume: keep the steps that an interrupted run has finished.
        overrides: 'section:key=value' entries.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    options = chain_options(override(read_yaml(opt_path), list(overrides)))
    root = Path(options.path.experiments_root) / options.name
    claim(root, asdict(options), auto_resume, ('seeds', 'path', *OF_NO_TEXT))
    found = {seed: Chain(options, seed, root / f'seed_{seed}', auto_resume).run() for seed in options.seeds}
    medians = {name: statistics.median(values[name] for values in found.values()) for name in next(iter(found.values()))}
    results = {'medians': medians, 'seeds': {str(seed): values for seed, values in found.items()}}
    write_json(root / 'results.json', results)
    return results


def chain_options(values: dict[str, Any]) -> ChainOptions:
    """Turn plain values into checked options."""
    sections = {'cold_start': ColdStartOptions, 'texts': WritingOptions, 'prompts': ReasoningCard, 'path': PathOptions}
    typed = {name: from_known_keys(sections[name], value or {}, name) if name in sections else value
             for name, value in values.items()}
    options = from_known_keys(ChainOptions, typed, 'options')
    if not options.seeds:
        raise OptionError('seeds: must name one seed at least, such as [0].')
    return options


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
        self.data, self.vlm, self.texts = root / 'data', root / 'vlm', root / 'reasoning_texts.jsonl'
        self.cold, self.reasoning = root / 'cold_start', root / 'grpo'
        self.rali = root / 'rali' / 'models' / 'rali.safetensors'

    def run(self) -> dict[str, float]:
        """Run all steps and return the figures of this seed."""
        seconds = {}
        for step in (self.make_data, self.make_vlm, self.start_cold, self.reinforce, self.write, self.align):
            seconds[step.__name__] = timed(step)
        results = self.compare()
        write_json(self.root / 'results.json', {**results, 'seconds': seconds})
        return results

    def make_data(self) -> None:
        """Photographs -> distorted images with labels, split by photograph."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in self.options.data.items()}
        make_dataset(from_known_settings({'out': str(self.data), 'seed': self.seed, 'split_seed': self.seed, **values}))

    def make_vlm(self) -> None:
        """A tiny vision-language model with random weights, and a tokenizer for the cold start's texts."""
        if not (self.vlm / 'config.json').exists():
            save_tiny_vlm(self.vlm, self._completions(self._rows('train')), self.seed, **self.options.vlm)

    def start_cold(self) -> None:
        """Format, and ratings that have nothing to do with the image."""
        options = sft_options({**self._common('cold_start', self.vlm), 'sft': self.options.cold_start.sft,
                               'val': {'val_freq': None}})
        rows = self._rows('train')
        completions = self._completions(rows)
        run_sft(options, [rows[number % len(rows)] for number in range(len(completions))], completions, {}, self.resume)

    def reinforce(self) -> None:
        """GRPO: quality, from rewards alone."""
        run_grpo(self._grpo_options(), self.resume)

    def write(self) -> None:
        """Reasoning texts of the trained model on the training images."""
        if self.texts.exists():
            return
        from pyiqa_rali.reasoning.vlm import load_vlm
        images = [Path(path) for path in build_table('train', self.table('train'), self.seed).image_names()]
        options = WritingOptions(**{**asdict(self.options.texts), 'seed': self.seed})
        report = write_texts(load_vlm(self.reasoning / 'models' / 'reasoning'), images, self.texts, options)
        write_json(self.root / 'texts_report.json', asdict(report))

    def align(self) -> None:
        """RALI's three stages from those texts."""
        values = {**self.options.rali, 'name': 'rali', 'manual_seed': self.seed,
                  'path': {'experiments_root': str(self.root), 'pretrain_network': None, 'strict_load': True}}
        loader = values.pop('loader')
        train = {**self.table('train'), 'reasoning_texts': str(self.texts)}
        values['datasets'] = {'train': {**train, **loader}, 'basis': self.table('basis'), 'val': self.table('val'),
                              'test': self.table('test')}
        opt_path = self.root / 'rali.yml'
        with atomic_open(opt_path) as stream:
            yaml.safe_dump(values, stream, sort_keys=False)
        if not (self.resume and self.rali.exists()):
            train_rali(str(opt_path), auto_resume=self.resume and (self.root / 'rali').exists())

    def compare(self) -> dict[str, float]:
        """Score the held-out photographs with both metrics, look at the texts, and draw."""
        rows = self._rows('test')
        paths, mos = [row.image_path for row in rows], np.array([row.mos for row in rows])
        reasoner, rali = self._metric(self.reasoning), pyiqa_metric('rali', self.rali)
        rali_scores = np.array([float(rali(path)) for path in paths])
        described = reasoner.net.describe([read_picture(path) for path in paths])
        found = {f'rali_test_{name}': value for name, value in score_figures(rali_scores, rows).items()}
        found |= reward_figures(self.reasoning / 'log.csv', self.options.logger.get('print_freq', 10))
        found |= self._models_compared(reasoner, rows) | time_figures(reasoner, rali, paths)
        shown = spread_over_scores(rali_scores, min(SHOWN_IMAGES, len(paths)))
        described_sheet([(np.asarray(read_picture(paths[each])), f'MOS {mos[each]:.2f}   RALI {rali_scores[each]:.2f}   '
                          f'rating {described[each].rating:.2f}', described[each].reasoning_text) for each in shown],
                        self.root / 'figures' / 'texts_and_scores.png', 'held-out photographs')
        return found

    def _models_compared(self, reasoner: Any, rows: list[Row]) -> dict[str, float]:
        """Return ratings and texts of the cold-started model and of the trained one, and the texts that RALI learned from."""
        cold = self._metric(self.cold)
        reader, words = BlindReader(cold.net.reasoner, self.options.prompts), words_of(self._types())
        found = {f'reasoning_{when}_test_{name}': value for when, metric in (('before', cold), ('after', reasoner))
                 for name, value in model_figures(metric.net, reader, rows, words).items()}
        return found | written_text_figures(self.texts, self._rows('train'), reader)

    def table(self, section: str) -> dict[str, Any]:
        """Return the option section of one data set."""
        return {'name': section, 'type': 'GeneralNRDataset', 'dataroot_target': str(self.data / 'images'),
                'meta_info_file': str(self.data / 'meta_info.csv'), 'split_index': self._split(), 'mos_range': [1, 5],
                'lower_better': False}

    def _split(self) -> str:
        """Return the name of the table's split column, which tells shares and seed."""
        with open(self.data / 'meta_info.csv', encoding='utf-8', newline='') as stream:
            return next(name for name in next(csv.reader(stream)) if 'split' in name)

    def _rows(self, section: str) -> list[Row]:
        """Return the rows of one data set, with their classes of distortion."""
        return rows_of(section, {**self.table(section), 'class_column': 'distortion'}, self.options.prompts, self.seed)

    def _types(self) -> list[str]:
        return self.options.data.get('types') or list(DatasetSettings(out='').types)

    def _completions(self, rows: list[Row]) -> list[str]:
        """Return the completions of the cold start; example n belongs to image n, and so on from the first again."""
        cold = self.options.cold_start
        views = [view_sentence(np.asarray(read_picture(row.image_path))) for row in rows] if cold.views else None
        return random_completions(cold.examples, self._types(), self.options.prompts, self.seed, cold.wordings,
                                  cold.impressions, views)

    def _grpo_options(self) -> GrpoOptions:
        start = self.cold / 'models' / 'reasoning'
        rewards, named = dict(self.options.rewards), {}
        if rewards.get('naming'):
            rewards.setdefault('class_words', words_of(self._types()))
            named = {'class_column': 'distortion'}
        values = {**self._common('grpo', start), 'rewards': rewards, 'grpo': self.options.grpo, 'val': self.options.val}
        values['datasets'] = {name: {**self.table(name), **named} for name in ('train', 'val', 'test')}
        return grpo_options(values)

    def _common(self, name: str, start: Path) -> dict[str, Any]:
        return {'name': name, 'manual_seed': self.seed, 'datasets': {'train': self.table('train')},
                'network': {'pretrained': str(start)}, 'prompts': asdict(self.options.prompts),
                'path': {'experiments_root': str(self.root)}, 'logger': dict(self.options.logger)}

    def _metric(self, run: Path) -> Any:
        """Return the model that a run has exported as a metric."""
        return pyiqa_metric('rali-reasoning', run / 'models' / 'reasoning', batch_size=self.options.val.get('batch_size', 16),
                            max_new_tokens=self.options.grpo['max_completion_length'],
                            num_samples=self.options.val.get('num_samples', 5))


def pyiqa_metric(name: str, weights: Path, **options: Any) -> Any:
    """Return a metric of pyiqa on the CPU."""
    import pyiqa
    return pyiqa.create_metric(name, device='cpu', pretrained_model_path=str(weights), **options)


def from_known_settings(values: dict[str, Any]) -> DatasetSettings:
    """Build the settings of `make-dataset`; an unknown key is an error."""
    return from_known_keys(DatasetSettings, values, 'data')
