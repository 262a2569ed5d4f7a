"""Training batches of stage 1: each step's images and texts depend on the seed and the step alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.reasoning_texts import ReasoningText, join_texts, load_reasoning_texts
from pyiqa_rali.data.sections import DatasetSection
from pyiqa_rali.data.synthetic.dataset import texts_of_item
from pyiqa_rali.data.tables import QualityTable
from pyiqa_rali.model.preprocessing import Preprocessing, fit_to_encoder


class AlignmentDataset(Dataset):
    """Images with one of their reasoning texts, drawn anew each time (seed augmentation).

    Args:
        table: the images.
        texts: texts of each image in the order of the items; None when the items bring their own (see `texts_of_item`).
        texts_per_image: only so many of an image's texts are used; None means all.
        preprocessing: the encoder's transform, whose resizing is done here, in the loader's processes.
    """

    def __init__(self, table: QualityTable, texts: list[list[ReasoningText]] | None, texts_per_image: int | None,
                 preprocessing: Preprocessing):
        self.table, self.texts = table, texts
        self.texts_per_image, self.preprocessing = texts_per_image, preprocessing

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any]]:
        """Return the items of one batch."""
        items = self.table.__getitems__(keys)
        return [self._finish(item, index, draw) for item, (index, draw) in zip(items, keys, strict=True)]

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def _finish(self, item: dict[str, Any], index: int, draw: int) -> dict[str, Any]:
        texts = (texts_of_item(item) if self.texts is None else self.texts[index])[:self.texts_per_image]
        # a generator for each draw: the text does not depend on which worker reads the item, nor on what it read before
        chosen = np.random.default_rng([self.table.seed, draw]).integers(len(texts))
        image = fit_to_encoder(item['img'].unsqueeze(0), self.preprocessing)[0]
        return {'img': image, 'mos_label': item['mos_label'], 'text': texts[chosen].text}


class JoinedAlignment(Dataset):
    """Several data sets as one: their images and texts share batches, each MOS is on its own set's scale from 0 to 1.

    Args:
        parts: the data sets, none of which draws its pictures anew.
    """

    def __init__(self, parts: list[AlignmentDataset]):
        self.parts, self.table = parts, parts[0].table
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.texts = [texts for part in parts for texts in part.texts or ()]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any]]:
        """Return the items of one batch."""
        return [self[key] for key in keys]

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, draw = key
        part = int(np.searchsorted(self.starts, index, side='right')) - 1
        return self.parts[part][index - int(self.starts[part]), draw]


class ResumableSampler(Sampler):
    """Yield this rank's (index, draw) pairs from a given step on; epochs are seeded permutations without remainders.

    Args:
        size: number of items; ignored when each draw is new.
        batch_size: items a step on this rank.
        rank: this process.
        world_size: number of processes.
        seed: seeds each epoch's order.
        start_iter: first step.
        total_iter: one past the last step.
        draws_anew: the draw's own number is the index, so that no picture comes twice.
    """

    def __init__(self, size: int, batch_size: int, rank: int, world_size: int, seed: int, start_iter: int, total_iter: int,
                 draws_anew: bool = False):
        self.size, self.batch_size, self.rank, self.world_size = size, batch_size, rank, world_size
        self.seed, self.start_iter, self.total_iter, self.draws_anew = seed, start_iter, total_iter, draws_anew

    def __len__(self) -> int:
        return (self.total_iter - self.start_iter) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # No state is carried from step to step: order and draw follow from the seed and the step's number alone, so that a run
        # that is resumed at step n sees what the uninterrupted one would have seen, without replaying the first n steps.
        together = self.batch_size * self.world_size
        # what is left of an epoch is skipped: a smaller last batch would have fewer negatives, and another loss
        steps_per_epoch = max(1, self.size // together)
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start_iter, self.total_iter):
            if not self.draws_anew and step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            # ranks take adjacent slices of one global batch: two of 8 see the images and draws of one of 16
            for position in range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size):
                draw = step * together + position
                within = (step % steps_per_epoch) * together + position
                yield (draw, draw) if self.draws_anew else (int(order[within]), draw)


def alignment_dataset(table: QualityTable, section: DatasetSection, texts_per_image: int | None,
                      preprocessing: Preprocessing) -> AlignmentDataset:
    """Join a table with its reasoning texts.

    Raises:
        OptionError: the data set has no texts of its own and `reasoning_texts` is missing.
        DataError: images without texts, texts without images, empty or duplicate texts.
    """
    if table.draws_anew:
        return AlignmentDataset(table, None, texts_per_image, preprocessing)
    if not section.options.reasoning_texts:
        raise OptionError(f'datasets: {section.section}: reasoning_texts: must name the JSON-lines file with the '
                          "images' texts.")
    texts = join_texts(table.image_names(), load_reasoning_texts(section.options.reasoning_texts), table.table_names())
    return AlignmentDataset(table, texts, texts_per_image, preprocessing)


def join_datasets(parts: list[AlignmentDataset]) -> AlignmentDataset | JoinedAlignment:
    """Return one data set for all.

    Raises:
        OptionError: several are given, and one of them draws its pictures anew and has no end.
    """
    if len(parts) == 1:
        return parts[0]
    endless = [part.table.name for part in parts if part.table.draws_anew]
    if endless:
        raise OptionError(f'datasets: {endless[0]}: type: SyntheticNRDataset cannot be joined with other training sets. '
                          'Write a data set with python -m pyiqa_rali make-dataset instead.')
    return JoinedAlignment(parts)


def training_loader(dataset: AlignmentDataset | JoinedAlignment, section: DatasetSection,
                    sampler: ResumableSampler) -> DataLoader:
    """Return pyiqa's loader over the sampler's draws.

    Raises:
        DataError: the data set is smaller than one batch over all ranks.
    """
    from pyiqa.data import build_dataloader
    together = sampler.batch_size * sampler.world_size
    if not sampler.draws_anew and len(dataset) < together:
        raise DataError(f'datasets: train: holds {len(dataset)} images, fewer than the {together} of one batch '
                        f'({sampler.batch_size} x {sampler.world_size} processes). Make batch_size_per_gpu smaller.')
    loader_options = {'phase': 'train', 'batch_size_per_gpu': sampler.batch_size,
                      'num_worker_per_gpu': section.options.num_worker_per_gpu or 0,
                      'pin_memory': section.options.pin_memory or False,
                      'persistent_workers': False}
    loader = build_dataloader(dataset, loader_options, num_gpu=0, sampler=sampler, seed=sampler.seed)
    loader.collate_fn = collate
    return loader


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack the items of one batch; texts stay a list.

    Raises:
        DataError: the pictures have different sizes.
    """
    sizes = {tuple(item['img'].shape[-2:]) for item in items}
    if len(sizes) > 1:
        raise DataError(f'pictures of one batch have different sizes ({sorted(sizes)[:3]}, height x width). Set an augment '
                        'of random_crop, or an encoder that resizes to one size.')
    images: Tensor = torch.stack([item['img'] for item in items])
    labels = torch.stack([torch.as_tensor(item['mos_label']) for item in items])
    return {'img': images, 'mos_label': labels, 'text': [item['text'] for item in items]}
