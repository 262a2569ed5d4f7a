"""What a RALI run does for the prompts of generated pictures, beside its stages; nothing where no data set has aspects."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.prompted import Prompted, aspects_of, prompted
from pyiqa_rali.data.sections import DatasetSection, sections_for
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.checkpoint_prompts import with_prompts
from pyiqa_rali.model.prompt_scorer import PromptScorer
from pyiqa_rali.model.text_tower import load_text_tower, save_text_tower, tower_state
from pyiqa_rali.training.rali.features import FeatureTable, load_features
from pyiqa_rali.training.rali.options import TrainOptions
from pyiqa_rali.training.rali.prompts import PromptTable, aligned, embed_prompts, fit_prompt_scorer
from pyiqa_rali.training.rali.run_checks import choosing_sections
from pyiqa_rali.training.rali.run_folder import ALIGNMENT, ALIGNMENT_MOS, RunFolder
from pyiqa_rali.training.rali.text_encoders import OpenClipText
from pyiqa_rali.training.rali.towers import Towers

Correlate = Callable[[np.ndarray, np.ndarray, str], dict[str, float]]

logger = logging.getLogger(__name__)


class RunPrompts:
    """The part of a run that learns alignment with prompts.

    Args:
        options: of the run.
        folder: its files.
        sections: its data sets.

    Attributes:
        learned: names of the sections that alignment is learned from: those of stage 3 with `aspects`.
        validated: names of the validation sets with `aspects`.
    """

    def __init__(self, options: TrainOptions, folder: RunFolder, sections: Mapping[str, DatasetSection]):
        self.options, self.folder, self.sections = options, folder, sections
        of_stage_3 = sections_for(sections, 'basis') or sections_for(sections, 'train')
        self.learned, self.validated = ([name for name in names if aspects_of(sections[name]) is not None]
                                        for names in (of_stage_3, sections_for(sections, 'val', 'test')))
        self._half = options.export.dtype == 'float16'

    @property
    def scale(self) -> MosScale:
        """The unit of alignment: that of the first set that it is learned from."""
        return self.sections[self.learned[0]].scale

    def check(self) -> None:
        """Read prompts and MOS of all sets, so that a column that cannot be used ends the run before its first step."""
        for name in (*self.learned, *self.validated):
            prompted(self._table(name), self.sections[name])

    def write_tower(self, towers: Towers) -> None:
        """Write the text tower as stage 1 leaves it."""
        if self.learned:
            config, text_encoder = towers.image_encoder.config, cast(OpenClipText, towers.text_encoder)
            save_text_tower(self.folder.text_tower, config.name, config.model_config or {}, tower_state(text_encoder.model),
                            self._half)

    def embed(self, device: torch.device, keep: bool) -> None:
        """Write the text features of all prompts.

        Args:
            device: where to encode.
            keep: those that an interrupted run had finished.
        """
        wanted = [name for name in (*self.learned, *self.validated) if not (keep and self.folder.prompts(name).exists())]
        if not wanted:
            return
        tower = load_text_tower(self.folder.text_tower).to(device)
        for name in wanted:
            table = self._table(name)
            found = cast(Prompted, prompted(table, self.sections[name]))
            long = tower.count_long(found.prompts)
            if long:
                logger.warning('datasets: %s: %d of %d different prompts are longer than the %d tokens of the text tower and '
                               'lose their end.', name, long, len(set(found.prompts)), tower.tokenizer.context_length)
            embed_prompts(tower, found, table.image_names(), table.name).save(self.folder.prompts(name))

    def fit(self, scorer: BasisScorer, tables: Mapping[str, FeatureTable],
            correlate: Correlate) -> tuple[PromptScorer | None, dict[str, float]]:
        """Return the alignment over the final basis with its validation; None without prompts.

        The best epoch is chosen by `val: key_metric` on those sets of `val: key_dataset` that have prompts; without any it is
        the last one.

        Args:
            scorer: of the quality, final.
            tables: pictures of the validation sets.
            correlate: scores (n,), labels (n,) and the name of the set to metrics by name.
        """
        if not self.learned:
            return None, {}
        features = torch.cat([load_features(self.folder.features(name)).image_features for name in self.learned])
        train = PromptTable.join([PromptTable.load(self.folder.prompts(name)) for name in self.learned])
        validated = {name: (tables[name].image_features, PromptTable.load(self.folder.prompts(name)))
                     for name in self.validated}

        chosen = choosing_sections(self.options)

        def validate(candidate: PromptScorer) -> dict[str, float]:
            values, keys = {}, []
            for name, (image_features, prompts) in validated.items():
                labels = aligned(scorer, candidate, image_features, prompts.text_features)
                found = correlate(labels.numpy(), prompts.mos_label.numpy(), name)
                values.update({f'{name}/{ALIGNMENT}/{metric}': value for metric, value in found.items()})
                keys += [found[self.options.val.key_metric]] if name in chosen else []
            return {**values, 'key': float(np.mean(keys)) if keys else 0.0}

        return fit_prompt_scorer(scorer, features, train, self.options.score, self.options.manual_seed, validate,
                                 self.folder.alignment_log, self.folder.tb_logger)

    def columns(self, name: str, scorer: BasisScorer, found: PromptScorer | None, table: FeatureTable) -> dict[str, np.ndarray]:
        """Return MOS and scores of alignment of a validation set by their column; none where it has none."""
        if found is None or name not in self.validated:
            return {}
        prompts = PromptTable.load(self.folder.prompts(name))
        labels = aligned(scorer, found, table.image_features, prompts.text_features).double()
        return {ALIGNMENT_MOS: prompts.mos.numpy(), ALIGNMENT: self.scale.denormalise(labels).numpy()}

    def exported(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any],
                 found: PromptScorer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a checkpoint with the alignment, in the unit of its MOS, and the text tower."""
        half = torch.float16 if self._half else torch.float32
        tower = {name: tensor.to(half) if tensor.is_floating_point() else tensor
                 for name, tensor in load_text_tower(self.folder.text_tower).state_dict().items()}
        state = found.state_dict()
        state['basis_scores'] = self.scale.denormalise(state['basis_scores'])
        names = [str(self.sections[name].options.name) for name in self.learned]
        return with_prompts(tensors, metadata, state, tower, {'mos_range': list(self.scale.mos_range),
                                                              'lower_better': self.scale.lower_better, 'learned_from': names})

    def _table(self, name: str) -> QualityTable:
        return build_table(name, self.options.datasets[name], self.options.manual_seed)
