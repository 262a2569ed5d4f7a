"""Training batches of stage 1: each step's images and texts depend on the seed and the step alone."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pyiqa_rali.core import processes
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.reasoning_texts import ReasoningText, join_texts, load_reasoning_texts
from pyiqa_rali.data.sections import DatasetSection
from pyiqa_rali.data.synthetic.dataset import texts_of_item
from pyiqa_rali.data.tables import QualityTable
from pyiqa_rali.model.preprocessing import Preprocessing, fit_to_encoder
from pyiqa_rali.training.rali.picture_rows import PictureRows
from pyiqa_rali.training.rali.quality import Labels


class AlignmentDataset(Dataset):
    """Images with one of their reasoning texts, drawn anew each time (seed augmentation).

    Args:
        table: the images, or rows of them.
        texts: texts of each image in the order of the items; None when the items bring their own (see `texts_of_item`).
        texts_per_image: only so many of an image's texts are used; None means all.
        preprocessing: the encoder's transform, whose resizing is done here, in the loader's processes.
    """

    def __init__(self, table: QualityTable | PictureRows, texts: list[list[ReasoningText]] | None, texts_per_image: int | None,
                 preprocessing: Preprocessing):
        self.table, self.texts = table, texts
        self.texts_per_image, self.preprocessing = texts_per_image, preprocessing

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, keys: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
        """Return the items of one batch, for (index, draw) each."""
        items = self.table.__getitems__(list(keys))
        return [self._finish(item, *key) for item, key in zip(items, keys, strict=True)]

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def all_texts(self) -> Iterator[ReasoningText]:
        """Yield every text that an image may be given; of sets that draw their images, those of the rows that are there."""
        of_images = map(texts_of_item, getattr(self.table, 'items', ())) if self.texts is None else self.texts
        for texts in of_images:
            yield from texts[:self.texts_per_image]

    def _finish(self, item: dict[str, Any], index: int, draw: int) -> dict[str, Any]:
        texts = (texts_of_item(item) if self.texts is None else self.texts[index])[:self.texts_per_image]
        # a generator for each draw: the text does not depend on which worker reads the item, nor on what it read before
        chosen = np.random.default_rng([self.table.seed, draw]).integers(len(texts))
        image = item['img']
        if image.dim() > 1:  # a picture, and no row of one that was encoded before
            image = fit_to_encoder(image.unsqueeze(0), self.preprocessing)[0]
        return {'img': image, 'mos_label': item['mos_label'], 'text': texts[chosen].text, 'set': 0,
                'agreement': item.get('agreement')}


class JoinedAlignment(Dataset):
    """Several data sets as one: their images and texts share batches, each MOS is on its own set's scale from 0 to 1.

    Args:
        parts: the data sets. Keys are (index, draw) through all of them in their order, or (part, index, draw).
    """

    def __init__(self, parts: list[AlignmentDataset]):
        self.parts, self.table = parts, parts[0].table
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.texts = [texts for part in parts for texts in part.texts or ()]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitems__(self, keys: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
        """Return the items of one batch, each part asked once for all of its own."""
        placed = [self._placed(key) for key in keys]
        found: dict[int, dict[str, Any]] = {}
        for number, part in enumerate(self.parts):
            rows = [row for row, (of, _, _) in enumerate(placed) if of == number]
            if rows:
                items = part.__getitems__([placed[row][1:] for row in rows])
                found |= {row: {**item, 'set': number} for row, item in zip(rows, items, strict=True)}
        return [found[row] for row in range(len(keys))]

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def _placed(self, key: tuple[int, ...]) -> tuple[int, int, int]:
        """Return part, index within it, and draw."""
        if len(key) == 3:
            return key[0], key[1], key[2]
        part = int(np.searchsorted(self.starts, key[0], side='right')) - 1
        return part, key[0] - int(self.starts[part]), key[1]


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
        siblings: so many items in a row stay together in every epoch's order.
    """

    def __init__(self, size: int, batch_size: int, rank: int, world_size: int, seed: int, start_iter: int, total_iter: int,
                 draws_anew: bool = False, siblings: int = 1):
        self.size, self.batch_size, self.rank, self.world_size = size, batch_size, rank, world_size
        self.seed, self.start_iter, self.total_iter, self.draws_anew = seed, start_iter, total_iter, draws_anew
        self.siblings = siblings

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
                order = self._order(epoch)
            # ranks take adjacent slices of one global batch: two of 8 see the images and draws of one of 16
            for position in range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size):
                draw = step * together + position
                within = (step % steps_per_epoch) * together + position
                yield (draw, draw) if self.draws_anew else (int(order[within]), draw)

    def _order(self, epoch: int) -> np.ndarray:
        groups = np.random.default_rng([self.seed, epoch]).permutation(-(-self.size // self.siblings))
        order = (groups[:, None] * self.siblings + np.arange(self.siblings)).ravel()
        return order[order < self.size]


class SharedSampler(Sampler):
    """Yield (part, index, draw) triples: each step holds a fixed number of pictures of every data set, one after the other.

    Args:
        samplers: of the parts; their batch sizes are the numbers. An epoch of a part is its own.
    """

    def __init__(self, samplers: Sequence[ResumableSampler]):
        self.samplers = list(samplers)
        self.batch_size = sum(each.batch_size for each in samplers)
        self.seed = samplers[0].seed

    def __len__(self) -> int:
        return sum(map(len, self.samplers))

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        streams = [iter(each) for each in self.samplers]
        for _ in range(len(self) // self.batch_size):
            for part, (sampler, stream) in enumerate(zip(self.samplers, streams, strict=True)):
                for _ in range(sampler.batch_size):
                    yield part, *next(stream)


def pictures_of_shares(shares: Sequence[float], batch_size: int, names: Sequence[str] = ()) -> list[int]:
    """Return how many pictures of a batch come from each data set: in proportion to the shares, rounded to add up.

    Args:
        shares: of the data sets, above 0.
        batch_size: pictures of all together.
        names: of their sections, for messages.

    Raises:
        OptionError: a set would have none.

    Example:
        >>> pictures_of_shares([0.5, 0.25, 0.25], 10)
        [5, 3, 2]
    """
    wanted = np.asarray(shares, dtype=np.float64) / sum(shares) * batch_size
    counts = np.floor(wanted + 1e-9).astype(int)
    for largest in np.argsort(counts - wanted, kind='stable')[:batch_size - counts.sum()]:  # the largest remainders first
        counts[largest] += 1
    if not counts.all():
        empty = int(counts.argmin())
        raise OptionError(f'datasets: {names[empty] if names else f"training set {empty + 1}"}: share: {shares[empty]:g}, of '
                          f'{sum(shares):g} of all training sets, leaves it without a picture in a batch of {batch_size}. Make '
                          'it or batch_size_per_gpu larger.')
    return counts.tolist()


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
    """Return one data set for all."""
    return parts[0] if len(parts) == 1 else JoinedAlignment(parts)


def shares_of(sections: Sequence[DatasetSection], parts: Sequence[AlignmentDataset]) -> list[float] | None:
    """Return the share of each training set in a step; None where all images are drawn alike.

    Raises:
        OptionError: only some sets have a share, or none has and one of them draws its pictures anew and has no size.
    """
    without = [section.section for section in sections if section.options.share is None]
    endless = [part.table.name for part in parts if part.table.draws_anew]
    if len(sections) == 1 or (len(without) == len(sections) and not endless):
        return None
    if without:
        why = f'{endless[0]} draws its pictures anew, and has no size to go by' if endless else 'other training sets have one'
        raise OptionError(f'datasets: {without[0]}: share: must be given, since {why}. Example: share: 0.5 for each of two '
                          'sets.')
    return [float(section.options.share or 0) for section in sections]


def pictures_of_each(sections: Sequence[DatasetSection], parts: Sequence[AlignmentDataset]) -> list[int]:
    """Return how many pictures of a step each training set gives at most."""
    batch_size = sections[0].options.batch_size_per_gpu or 1
    shares = shares_of(sections, parts)
    return [batch_size] * len(parts) if shares is None else pictures_of_shares(shares, batch_size)


def make_sampler(dataset: AlignmentDataset | JoinedAlignment, shares: Sequence[float] | None, batch_size: int, seed: int,
                 start: int, total: int) -> ResumableSampler | SharedSampler:
    """Return the draws of this process for the steps from `start` to `total`.

    Args:
        dataset: of the run.
        shares: of its parts in each step; None draws from all images alike.
        batch_size: pictures a step on this process.
        seed: the run's.
        start: first step.
        total: one past the last.

    Raises:
        DataError: a data set is smaller than what one step takes of it.
    """
    place = processes.rank(), processes.world_size()
    if shares is None or not isinstance(dataset, JoinedAlignment):
        _check_batch(dataset, 'train', batch_size)
        return ResumableSampler(len(dataset), batch_size, *place, seed, start, total, dataset.table.draws_anew,
                                _siblings_of(dataset))
    samplers = []
    for number, (part, count) in enumerate(zip(dataset.parts, pictures_of_shares(shares, batch_size), strict=True)):
        _check_batch(part, part.table.name, count, 'its share or ')
        samplers.append(ResumableSampler(len(part), count, *place, seed + number, start, total, part.table.draws_anew,
                                         part.table.siblings))
    return SharedSampler(samplers)


def _siblings_of(dataset: AlignmentDataset | JoinedAlignment) -> int:
    return 1 if isinstance(dataset, JoinedAlignment) else dataset.table.siblings  # several sets share one order


def _check_batch(dataset: AlignmentDataset | JoinedAlignment, name: str, batch_size: int, else_smaller: str = '') -> None:
    world = processes.world_size()
    if not dataset.table.draws_anew and len(dataset) < batch_size * world:
        raise DataError(f'datasets: {name}: holds {len(dataset)} images, fewer than the {batch_size * world} of one batch '
                        f'({batch_size} x {world} processes). Make {else_smaller}batch_size_per_gpu smaller.')


def training_loader(dataset: AlignmentDataset | JoinedAlignment, section: DatasetSection,
                    sampler: ResumableSampler | SharedSampler) -> DataLoader:
    """Return pyiqa's loader over the sampler's draws."""
    from pyiqa.data import build_dataloader
    workers = 0 if isinstance(dataset.table, PictureRows) else section.options.num_worker_per_gpu or 0  # rows need no reading
    loader_options = {'phase': 'train', 'batch_size_per_gpu': sampler.batch_size, 'num_worker_per_gpu': workers,
                      'pin_memory': section.options.pin_memory or False,
                      'persistent_workers': False}
    loader = build_dataloader(dataset, loader_options, num_gpu=0, sampler=sampler, seed=sampler.seed)
    loader.collate_fn = collate
    return loader


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the items of one batch together.

    Returns:
        'img', a list of tensors (n, 3, H, W), one for each run of pictures of one size; 'labels', and 'text', a list.

    Raises:
        DataError: the pictures of one data set have different sizes.
    """
    groups: list[list[Tensor]] = []
    size_of: dict[int, torch.Size] = {}
    for item in items:
        size = item['img'].shape
        if size_of.setdefault(item['set'], size) != size:
            sizes = {tuple(other['img'].shape[-2:]) for other in items if other['set'] == item['set']}
            raise DataError(f'pictures of one batch have different sizes ({sorted(sizes)[:3]}, height x width). Set an augment '
                            'of random_crop, or an encoder that resizes to one size.')
        if not groups or groups[-1][0].shape != size:
            groups.append([])
        groups[-1].append(item['img'])
    return {'img': [torch.stack(group) for group in groups], 'labels': labels_of(items),
            'text': [item['text'] for item in items]}


def labels_of(items: Sequence[dict[str, Any]]) -> Labels:
    """Return the labels of items; judges that only some of them have are NaN for the others."""
    judged = [item['agreement'] for item in items]
    width = max((len(each) for each in judged if each is not None), default=0)
    agreement = torch.full((len(items), width), float('nan'))
    for row, each in enumerate(judged):
        if each is not None:
            agreement[row, :len(each)] = each
    return Labels(torch.stack([torch.as_tensor(item['mos_label']).reshape(()) for item in items]),
                  torch.tensor([item['set'] for item in items]), agreement if width else None)
