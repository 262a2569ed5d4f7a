"""One training run: the three stages in order, each reading the files that the one before wrote."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pyiqa_rali.core import processes
from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.core.files import atomic_path, write_json
from pyiqa_rali.core.options import OptionSource, plain, values_of
from pyiqa_rali.core.records import read_record
from pyiqa_rali.core.seeds import seed_everything
from pyiqa_rali.core.versions import versions
from pyiqa_rali.data.reasoning_texts import ReasoningText
from pyiqa_rali.data.sections import sections_for
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.data.training_images import KEY, Overlap, overlap, record_in_file
from pyiqa_rali.figures.scored import draw_run
from pyiqa_rali.measures.correlations import correlations
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.checkpoint import (
    FORMAT_VERSION,
    OWN_TEMPERATURE,
    OWN_TEMPERATURE_FORMAT,
    save_checkpoint,
    save_pth,
)
from pyiqa_rali.model.checkpoint_bank import with_bank
from pyiqa_rali.model.checkpoint_diagnosis import with_diagnosis
from pyiqa_rali.model.checkpoint_interval import with_interval
from pyiqa_rali.model.encoder_file import as_loaded, load_encoder, round_to_half, save_encoder
from pyiqa_rali.model.image_encoder import ImageEncoder
from pyiqa_rali.model.prompt_scorer import PromptScorer
from pyiqa_rali.model.text_bank import loaded_bank
from pyiqa_rali.training.rali.alignment import align
from pyiqa_rali.training.rali.bank import bank_of_run, load_bank, save_bank
from pyiqa_rali.training.rali.batches import (
    AlignmentDataset,
    alignment_dataset,
    join_datasets,
    pictures_of_each,
)
from pyiqa_rali.training.rali.compression import compress, enough_for_basis
from pyiqa_rali.training.rali.diagnosis import diagnosis_of_run
from pyiqa_rali.training.rali.feature_store import FeatureStore
from pyiqa_rali.training.rali.features import FeatureTable, embed, load_features, save_features
from pyiqa_rali.training.rali.fine_tuning import fine_tune
from pyiqa_rali.training.rali.intervals import check_count, chosen_datasets, fit_interval
from pyiqa_rali.training.rali.options import IntervalOptions, TrainOptions, train_options
from pyiqa_rali.training.rali.picture_rows import Embedding
from pyiqa_rali.training.rali.run_checks import check_sections, choosing_sections
from pyiqa_rali.training.rali.run_folder import RunFolder, exported_scale, write_scores
from pyiqa_rali.training.rali.run_images import RunImages, check_batch_sizes, check_images
from pyiqa_rali.training.rali.run_prompts import RunPrompts
from pyiqa_rali.training.rali.towers import Towers, build_towers
from pyiqa_rali.training.rali.zero_shot import AlignmentValidation

FEATURE_BATCH = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResults:
    """What a training run of RALI leaves.

    Attributes:
        name: of the run.
        folder: its files.
        best: the validation of the exported model: '<data set>/<metric>', of alignment with prompts
            '<data set>/alignment/<metric>', and 'key', which chose it. Empty without stage 3.
        export: the checkpoint; None without stage 3, and in other processes than the first.
        overlap: for each validation set, how many of its images the run was trained on.
    """

    name: str
    folder: Path
    best: dict[str, float] = field(default_factory=dict)
    export: Path | None = None
    overlap: dict[str, dict[str, Any]] = field(default_factory=dict)


def train(options: TrainOptions | OptionSource, auto_resume: bool = False, launcher: str = 'none',
          overrides: Sequence[str] = ()) -> TrainingResults:
    """Run the stages of a training run.

    Args:
        options: of the run: an option file, or an object.
        auto_resume: resume an interrupted run of the same name.
        launcher: 'none', or 'pytorch' under torchrun.
        overrides: 'section:key=value' entries.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    read = train_options(values_of(options, overrides))
    with processes.process_group(launcher):
        run = Run(read)
        run.check_images()
        if processes.is_main():
            run.folder.prepare(read, auto_resume)
            run.note_images()
        processes.barrier()
        if 'align' in read.stages:
            run.align(auto_resume)
        if processes.is_main():
            return run.rest(auto_resume)
    return TrainingResults(read.name, run.folder.root)


class Run:
    """The stages of one run, tied to its options, folder and device."""

    def __init__(self, options: TrainOptions):
        self.options = options
        self.folder = RunFolder(options)
        self.device = processes.choose_device(options.num_gpu)
        self.sections = check_sections(options)
        self.prompts = RunPrompts(options, self.folder, self.sections)
        if options.interval is not None and 'score' in options.stages:
            self._interval_sections(options.interval)  # what cannot be used is refused before the first step
        self.images: RunImages | None = None
        self.store = FeatureStore(self._feature_cache())
        seed_everything(options.manual_seed)

    def check_images(self) -> None:
        """Read all images of the run before its first step, unless it only continues from features that exist.

        Raises:
            DataError: images that cannot be used, all of them named; validation images that are trained on; or too few of them
                for intervals.
            OptionError: fewer training images than the basis needs.
        """
        if set(self.options.stages) & {'align', 'compress'}:
            trained = list(dict.fromkeys([*self._train_sections(), *self._basis_sections()]))
            self.images = check_images(self.sections, trained, self._val_sections(), self.options)
            self.prompts.check()
        if 'compress' in self.options.stages:
            enough_for_basis(sum(len(build_table(name, self.options.datasets[name], self.options.manual_seed))
                                 for name in self._basis_sections()), self.options.compress)
        if self.options.interval is not None and 'score' in self.options.stages:
            check_count(sum(len(build_table(name, self.options.datasets[name], self.options.manual_seed))
                            for name in self._interval_sections(self.options.interval)))

    def note_images(self) -> None:
        """Write down what the model is trained on, for its export, which may be another process's work."""
        if self.images is not None:
            write_json(self.folder.training_images, self.images.record.to_dict())

    def align(self, resume: bool) -> None:
        """Stage 1: write the aligned image encoder."""
        if resume and self.folder.aligned_encoder.exists():
            return
        options = self.options
        towers = build_towers(options.network, options.text_encoder, options.path)
        parts = [alignment_dataset(build_table(section, options.datasets[section], options.manual_seed), self.sections[section],
                                   options.align.texts_per_image, towers.image_encoder.config.preprocessing)
                 for section in self._train_sections()]
        if options.align.cache_backbone:
            self._take_rows(parts, towers)
        dataset = join_datasets(parts)
        sections = [self.sections[section] for section in self._train_sections()]
        images = cast(RunImages, self.images)  # `check_images` reads them wherever there is a stage 1
        batch_sizes = pictures_of_each(sections, parts)
        for section, batch_size in zip(sections, batch_sizes, strict=True):
            # pictures of synthetic sets have one size, other than their photographs, and rows are of one width
            if section.options.type != 'SyntheticNRDataset' and not options.align.cache_backbone:
                check_batch_sizes(section.section, images.inspected[section.section], section.values.get('augment'),
                                  batch_size, towers.image_encoder.config.preprocessing)
        self._report_long_texts(towers, dataset.texts)
        align(towers, dataset, sections, options.align, options.logger, self.folder.align, options.manual_seed, self.device,
              resume, self.folder.tb_logger, self._validation(towers))
        if processes.is_main():
            self._write_bank(parts, towers)
            self.prompts.write_tower(towers)
            save_encoder(self.folder.aligned_encoder, towers.image_encoder, self._half)
        processes.barrier()

    def rest(self, resume: bool) -> TrainingResults:
        """Stages 2 and 3 and the export, as far as they are wanted."""
        if 'compress' in self.options.stages:
            self.compress(resume)
        return self.score() if 'score' in self.options.stages else TrainingResults(self.options.name, self.folder.root)

    def compress(self, resume: bool) -> None:
        """Stage 2: write features of all data sets, the basis, and a report on the buckets.

        Args:
            resume: keep the features that the interrupted run had finished, as those of this run's own stage 1.
        """
        encoder = load_encoder(self.folder.aligned_encoder).to(self.device).eval()
        keep = resume or 'align' in self.options.stages  # then the folder is new, and stage 1's last validation wrote them
        for section in (*self._basis_sections(), *self._val_sections()):
            if not (keep and self.folder.features(section).exists()):
                save_features(self.folder.features(section), self._embed(encoder, section))
        self.prompts.embed(self.device, keep)
        train_features = self._basis_features()
        found = compress(train_features.image_features.numpy(), train_features.mos_label.numpy(), self.options.compress,
                         self.options.manual_seed, train_features.labels.sets.numpy(), self._ordered(self._basis_sections()))
        write_json(self.folder.compression_report, found.report)
        tensors = {name: torch.from_numpy(getattr(found, name)) for name in
                   ('pca_mean', 'pca_scale', 'pca_components', 'basis_vectors', 'basis_scores')}
        from safetensors.torch import save_file
        with atomic_path(self.folder.basis) as temporary:
            save_file(tensors, temporary)
        report = found.report
        logger.info('stage 2: %d images, %d basis vectors, %d of %d MOS buckets empty (%d if they covered the declared '
                    'mos_range)', report['images'], len(found.basis_scores), report['empty_buckets'], report['num_buckets'],
                    report['empty_buckets_over_mos_range'])

    def score(self) -> TrainingResults:
        """Stage 3: fine-tune, export, validate, draw."""
        scorer = self._scorer_from_basis()
        train_features = self._basis_features()
        val_features = {name: load_features(self.folder.features(name)) for name in self._val_sections()}
        scorer, best = fine_tune(scorer, train_features, self.options.score, self.options.manual_seed,
                                 lambda candidate: self._validate(candidate, val_features), self.folder.score_log,
                                 self.folder.tb_logger, self._ordered(self._basis_sections()))
        prompts, best_prompts = self.prompts.fit(scorer, val_features, self._correlate)
        best |= {name: value for name, value in best_prompts.items() if name != 'key'}
        self._export(scorer, prompts)
        results = TrainingResults(self.options.name, self.folder.root, best, self.folder.export,
                                  {name: found.plain() for name, found in self._overlaps().items()})
        write_json(self.folder.results, plain(results))
        self._write_and_draw(scorer, val_features, prompts)
        return results

    @property
    def _half(self) -> bool:
        """Whether the image encoder is stored in float16, by stage 1 already."""
        return self.options.export.dtype == 'float16'

    def _overlaps(self) -> dict[str, Overlap]:
        """Return the images of each validation set that the model is trained on."""
        if self.images is not None:
            return self.images.overlaps
        record = record_in_file(self.folder.training_images)
        tables = {name: build_table(name, self.options.datasets[name], self.options.manual_seed)
                  for name in self._val_sections()}
        return {name: overlap(record, table.source_files()) for name, table in tables.items()}

    def _embed(self, encoder: ImageEncoder, section: str, final: bool = True) -> FeatureTable:
        """Return the features of a section's pictures; of those that the same weights have encoded before, the kept ones.

        Args:
            encoder: present or final.
            section: of the option file.
            final: whether these weights are asked again.
        """
        table = build_table(section, self.options.datasets[section], self.options.manual_seed)
        workers, kept = self.sections[section].options.num_worker_per_gpu or 0, None
        if self.options.align.cache_backbone:
            kept = Embedding.of_backbone(encoder, self.store, self.device).features(table, workers, encoder.project)
        elif final:
            kept = Embedding.of_encoder(encoder, self.store, self.device).features(table, workers)
        return kept or embed(encoder, table, self.device, FEATURE_BATCH, workers)

    def _feature_cache(self) -> str | None:
        """Return the folder of kept features; None keeps them in memory for this run."""
        path = self.options.path
        if path.feature_cache is None and self.options.align.cache_backbone:
            return str(Path(path.experiments_root) / 'feature_cache')
        return path.feature_cache

    def _take_rows(self, parts: list[AlignmentDataset], towers: Towers) -> None:
        """Put the frozen backbone's rows in the place of the training pictures, and encode their texts ahead."""
        encoder = towers.image_encoder.to(self.device)
        if self._half:  # what is exported, and what the later stages see, is rounded: so is what the projection learns from
            round_to_half(encoder.backbone)
        embedding = Embedding.of_backbone(encoder, self.store, self.device)
        for part, section in zip(parts, self._train_sections(), strict=True):
            part.table = embedding.all_rows(cast(QualityTable, part.table), section,
                                            self.sections[section].options.num_worker_per_gpu or 0)
        text_encoder = towers.text_encoder.to(self.device).eval()
        if processes.is_main():
            text_encoder.remember([text.text for part in parts for text in part.all_texts()], self.store)
        processes.barrier()

    def _scorer_from_basis(self) -> BasisScorer:
        from safetensors.torch import load_file
        if not self.folder.basis.exists():
            raise CheckpointError(f'{self.folder.basis}: does not exist. Run stage 2 first (stages: [compress, score]).')
        tensors = load_file(self.folder.basis)
        pca_dim, feature_dim = tensors['pca_components'].shape
        options = self.options.score
        scorer = BasisScorer(feature_dim, pca_dim, len(tensors['basis_scores']), options.own_temperature)
        start = {'temperature_direction': torch.zeros(pca_dim)} if options.own_temperature else {}
        scorer.load_state_dict({**tensors, 'temperature': torch.tensor(options.temperature), **start})
        return scorer

    @torch.no_grad()
    def _validate(self, scorer: BasisScorer, tables: dict[str, FeatureTable]) -> dict[str, float]:
        """Return every metric of every validation set, and 'key', which the best epoch is chosen by."""
        values, keys, chosen_by = {}, [], choosing_sections(self.options)
        for name, table in tables.items():
            found = self._correlate(scorer(table.image_features).numpy(), table.mos_label.numpy(), name)
            values.update({f'{name}/{metric}': value for metric, value in found.items()})
            if name in chosen_by:
                keys.append(found[self.options.val.key_metric])
        return {**values, 'key': float(np.mean(keys)) if keys else 0.0}

    def _correlate(self, scores: np.ndarray, labels: np.ndarray, name: str) -> dict[str, float]:
        return correlations(scores, labels, self.options.val.metrics, f'datasets: {name}')

    def _export(self, scorer: BasisScorer, prompts: PromptScorer | None) -> None:
        """Write the model with its metadata; scores leave in MOS units of the training set."""
        encoder = load_encoder(self.folder.aligned_encoder)
        scale = exported_scale(self.options)
        half = torch.float16 if self._half else torch.float32
        tensors = {f'image_encoder.{name}': tensor.to(half) if tensor.is_floating_point() else tensor
                   for name, tensor in encoder.state_dict().items()}
        tensors.update({f'scorer.{name}': tensor for name, tensor in scorer.state_dict().items()})
        tensors['scorer.basis_scores'] = scale.denormalise(tensors['scorer.basis_scores'])
        metadata = {'format_version': FORMAT_VERSION, 'name': self.options.name,
                    'image_encoder': encoder.config.to_dict(), 'mos_range': list(scale.mos_range),
                    'lower_better': scale.lower_better, 'temperature': float(scorer.temperature.detach()),
                    'training': self._training_metadata(), 'versions': versions(), 'licence': self.options.export.licence}
        if scorer.temperature_direction is not None:
            metadata.update({OWN_TEMPERATURE: True, 'format_version': OWN_TEMPERATURE_FORMAT})
        record = record_in_file(self.folder.training_images)
        if record is not None:  # a run of version 0.1 has none
            metadata[KEY] = record.to_dict()
        if self.options.bank is not None:
            tensors, metadata = with_bank(tensors, metadata, *load_bank(self.folder.bank))
        if self.options.interval is not None:
            tensors, metadata = self._with_interval(tensors, metadata, scorer, self.options.interval)
        if self.options.diagnosis is not None:
            made = diagnosis_of_run(encoder.to(self.device).eval(), self.store, self.device, self.sections,
                                    loaded_bank(tensors, metadata), self.options)
            write_json(self.folder.diagnosis_report, made.report)
            tensors, metadata = with_diagnosis(tensors, metadata, made.tensors, made.values)
        if prompts is not None:
            tensors, metadata = self.prompts.exported(tensors, metadata, prompts)
        save_checkpoint(self.folder.export, tensors, metadata)
        save_pth(self.folder.export_pth, tensors, metadata)

    def _with_interval(self, tensors: dict[str, torch.Tensor], metadata: dict[str, Any], scorer: BasisScorer,
                       options: IntervalOptions) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the checkpoint with intervals, from the features that stage 2 has written."""
        sections = self._interval_sections(options)
        features = FeatureTable.join([load_features(self.folder.features(section)) for section in sections])
        state, values = fit_interval(scorer, features, options, self.options.manual_seed)
        names = [str(self.sections[section].options.name) for section in sections]
        return with_interval(tensors, metadata, state, {**values, 'calibrated_on': names})

    def _interval_sections(self, options: IntervalOptions) -> list[str]:
        """Return the data sets that intervals are calibrated on."""
        known = [*sections_for(self.sections, 'val'), *sections_for(self.sections, 'test')]  # by default no test set is taken
        return chosen_datasets('interval: datasets', options.datasets, known)

    def _write_bank(self, parts: list[AlignmentDataset], towers: Towers) -> None:
        """Write the text bank while the text encoder is at hand: a trained one is kept nowhere else."""
        if self.options.bank is None:
            return
        sections = [self.sections[section] for section in self._train_sections()]
        save_bank(self.folder.bank, *bank_of_run(parts, sections, towers.text_encoder, self.options.text_encoder,
                                                 self.options.bank, self.options.manual_seed))

    def _training_metadata(self) -> dict[str, Any]:
        options = self.options
        names = ', '.join(str(self.sections[name].options.name) for name in self._train_sections())
        return {'data': options.export.training_data or names, 'seed': options.manual_seed,
                'stages': options.stages, 'align_iterations': options.align.total_iter,
                'text_encoder': options.text_encoder.path or options.text_encoder.library,
                'split_sentences': options.text_encoder.split_sentences, 'pca_dim': options.compress.pca_dim,
                'num_buckets': options.compress.num_buckets, 'num_basis': options.compress.num_basis}

    def _train_sections(self) -> list[str]:
        return sections_for(self.sections, 'train')

    def _basis_sections(self) -> list[str]:
        return sections_for(self.sections, 'basis') or self._train_sections()

    def _basis_features(self) -> FeatureTable:
        return FeatureTable.join([load_features(self.folder.features(section)) for section in self._basis_sections()])

    def _ordered(self, sections: Sequence[str]) -> list[int]:
        """Return the positions of those training sets of which the order alone teaches."""
        return [number for number, name in enumerate(sections) if self.sections[name].options.supervision == 'order']

    def _val_sections(self) -> list[str]:
        return sections_for(self.sections, 'val', 'test')

    def _write_and_draw(self, scorer: BasisScorer, tables: dict[str, FeatureTable], prompts: PromptScorer | None) -> None:
        scale = exported_scale(self.options)
        with torch.no_grad():
            scored = {name: (scale.denormalise(scorer(table.image_features).squeeze(-1)).numpy(),
                             table.mos_on(self.sections[name].scale, scale), table.image_names)
                      for name, table in tables.items()}
        for name, table in tables.items():
            write_scores(self.folder.scores(name), table.image_names, table.mos_on(self.sections[name].scale),
                         table.mos_label.numpy(), scored[name][0], self.prompts.columns(name, scorer, prompts, table))
        if not self.options.logger.figures:
            return
        pictures = {name: self._pictures(name) for name in tables}
        logs = {'align': self.folder.align / 'log.csv', 'score': self.folder.score_log}
        records = {name: read_record(path) for name, path in logs.items() if path.exists()}
        draw_run(self.folder.figures, records, scored, pictures, scale.mos_range, scale.lower_better)

    def _pictures(self, section: str):
        """Return a function from an item's position to its picture (H, W, 3) uint8."""
        table: QualityTable = build_table(section, self.options.datasets[section], self.options.manual_seed)
        return lambda index: (table[index]['img'].permute(1, 2, 0) * 255).round().byte().numpy()

    def _validation(self, towers: Towers) -> AlignmentValidation | None:
        prompts, with_quality = self.options.align.prompts, self.options.align.quality is not None
        if not (prompts or with_quality) or not self._val_sections() or not processes.is_main():
            return None
        return AlignmentValidation(lambda last: self._val_features(towers.image_encoder, last), towers.text_encoder, prompts,
                                   with_quality, self._correlate, self._val_sections(), list(self.options.val.metrics),
                                   self.options.val.val_freq)

    def _val_features(self, encoder: ImageEncoder, last: bool) -> dict[str, FeatureTable]:
        """Return the features of every validation set in stage 1; those of its end are kept for stage 2."""
        if not last:
            return {name: self._embed(encoder, name, final=False) for name in self._val_sections()}
        final = as_loaded(encoder, self._half).to(self.device).eval()
        tables = {name: self._embed(final, name) for name in self._val_sections()}
        for name, table in tables.items():
            save_features(self.folder.features(name), table)
        return tables

    def _report_long_texts(self, towers: Towers, texts: list[list[ReasoningText]] | None) -> None:
        if texts is None or not processes.is_main():
            return
        every = sorted({item.text for each in texts for item in each})
        long = towers.text_encoder.count_long(every)
        if long:
            logger.warning('stage 1: %d of %d texts are longer than the %d tokens of the text encoder and lose their end; '
                           'text_encoder: split_sentences: true encodes them by sentences.', long, len(every),
                           towers.text_encoder.context_length)
