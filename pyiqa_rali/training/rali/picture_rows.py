"""Data sets whose pictures were encoded once: their items have the encoder's row in the place of the picture."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyiqa_rali.core import processes
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.tables import QualityTable
from pyiqa_rali.model.image_encoder import ImageEncoder
from pyiqa_rali.training.rali.feature_store import FeatureStore, Stored, identity_of, picture_keys
from pyiqa_rali.training.rali.features import FeatureTable, encoded

ROWS_A_FILE = 256  # what an interrupted run computes again is less

logger = logging.getLogger(__name__)


class PictureRows(Dataset):
    """A table of encoded pictures; items have `img` (W,) float32, and everything else as the table's own items have it.

    Args:
        table: what was encoded; of a set that draws its pictures anew, the first draws of its length.
        items: its items without pictures.
        rows: (n, W).
    """

    draws_anew = False

    def __init__(self, table: QualityTable, items: Sequence[dict[str, Any]], rows: Tensor):
        self.name, self.seed, self.scale, self.siblings = table.name, table.seed, table.scale, table.siblings
        self.items, self.rows = list(items), rows

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Any]) -> list[dict[str, Any]]:
        """Return items for indices, or (index, draw) pairs: every draw of a picture is the same."""
        indices = [key[0] if isinstance(key, tuple) else key for key in keys]
        return [{**self.items[index], 'img': self.rows[index]} for index in indices]


class Embedding:
    """One way from pictures to rows, and where its rows are kept.

    Args:
        encoder: whose preprocessing it is.
        encode: from pictures (N, 3, H, W) to rows (N, W).
        identity: digest of the two.
        store: keeps rows.
        device: where to encode.
        batch_size: pictures at once.
    """

    def __init__(self, encoder: ImageEncoder, encode: Callable[[Tensor], Tensor], identity: str, store: FeatureStore,
                 device: torch.device, batch_size: int = 16):
        self.preprocessing, self.encode = encoder.config.preprocessing, encode
        self.identity, self.store, self.device, self.batch_size = identity, store, device, batch_size
        self.prepare: Callable[[], None] = lambda: None  # before the first pictures

    @classmethod
    def of_encoder(cls, encoder: ImageEncoder, store: FeatureStore, device: torch.device) -> 'Embedding':
        """Return the way to image features (N, C)."""
        return cls(encoder, encoder, identity_of(encoder, encoder.config.to_dict(), device), store, device)

    @classmethod
    def of_backbone(cls, encoder: ImageEncoder, store: FeatureStore, device: torch.device) -> 'Embedding':
        """Return the way to the backbone's output (N, W), which stays the same whatever the projection learns."""
        encoder.eval().backbone.requires_grad_(False)
        of_projection = ('embed_dim', 'projection_dim')
        settings = {name: value for name, value in encoder.config.to_dict().items() if name not in of_projection}
        found = cls(encoder, lambda images: encoder.backbone_rows(encoder.preprocess(images)),
                    identity_of(encoder.backbone, settings, device), store, device)
        found.prepare = encoder.fold
        return found

    def all_rows(self, table: QualityTable, section: str, num_workers: int = 0) -> PictureRows:
        """Return the encoded table of a section; all processes of the run are asked, and share the work.

        Raises:
            OptionError: the pictures are not the same each time.
        """
        found = self.rows(table, num_workers, together=True)
        if found is None:
            raise OptionError(f'datasets: {section}: type: {type(table.base).__name__} makes its pictures in its own way, and '
                              'align: cache_backbone: true needs pictures that stay as they are. Set it to false.')
        return found

    def rows(self, table: QualityTable, num_workers: int = 0, together: bool = False,
             only: Sequence[int] | None = None) -> PictureRows | None:
        """Return the encoded table, with what was not in the store computed and added to it.

        Args:
            table: the pictures.
            num_workers: processes that read.
            together: all processes of the run are asked for the same rows, and share the work.
            only: the indices of the items that are wanted; None takes all.

        Returns:
            None where the pictures are not the same each time.
        """
        keys = picture_keys(table)
        if keys is None:
            return None
        wanted = list(range(len(keys)) if only is None else only)
        stored = self.store.get(self.identity, [keys[index] for index in wanted])
        missing = list({keys[index]: index for index in reversed(wanted) if keys[index] not in stored}.values())[::-1]
        logger.info('features of %s: %d of %d pictures were there', table.name, len(wanted) - len(missing), len(wanted))
        shared = together and processes.world_size() > 1
        if shared:  # the first process's list counts: who lists the folder later may find what another one has just added
            missing = processes.gather(missing)[0]
        own = missing[processes.rank()::processes.world_size()] if shared else missing
        state = torch.get_rng_state()  # the loader draws a number, and a run must not depend on what was kept
        for found in self._computed(table, keys, own, num_workers):
            self.store.add(self.identity, found)
            stored |= found
        torch.set_rng_state(state)
        if shared:
            processes.barrier()
            self.store.look_again(self.identity)
            stored |= self.store.get(self.identity, [keys[index] for index in wanted if keys[index] not in stored])
        rows = torch.stack([stored[keys[index]].row for index in wanted])
        return PictureRows(table, [_item(table, index, stored[keys[index]].note) for index in wanted], rows)

    def features(self, table: QualityTable, num_workers: int = 0,
                 project: Callable[[Tensor], Tensor] | None = None) -> FeatureTable | None:
        """Return the table's features: the rows, or what is made of them; None as `rows`."""
        found = self.rows(table, num_workers)
        if found is None:
            return None
        if project is None:
            return FeatureTable.of(found.items, found.rows)
        with torch.inference_mode():
            features = torch.cat([project(part.to(self.device)).float().cpu() for part in found.rows.split(1024)])
        return FeatureTable.of(found.items, features)

    def _computed(self, table: QualityTable, keys: Sequence[str], indices: Sequence[int],
                  num_workers: int) -> Iterator[dict[str, Stored]]:
        """Yield the rows of items, a file of the store at a time."""
        if not indices:
            return
        self.prepare()
        pending: dict[str, Stored] = {}
        batches = encoded(self.encode, self.preprocessing, table, self.device, self.batch_size, num_workers, indices)
        places = iter(indices)
        for items, rows in batches:
            for item, row in zip(items, rows, strict=True):
                pending[keys[next(places)]] = Stored(row.clone(), _note(table, item))
            if len(pending) >= ROWS_A_FILE:
                yield pending
                pending = {}
        if pending:
            yield pending


def _note(table: QualityTable, item: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an item holds that its row of a table does not tell: all, of a set that draws its pictures."""
    if hasattr(table.base, 'paths_mos'):
        return None
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in item.items() if name != 'mos_label'}


def _item(table: QualityTable, index: int, note: dict[str, Any] | None) -> dict[str, Any]:
    """Return an item without its picture, as `QualityTable` makes it."""
    if note is None:
        path, mos = table.image_and_mos(index)
        item: dict[str, Any] = {'img_path': path, 'mos': mos}
    else:
        item = dict(note)
        if 'agreement' in item:
            item['agreement'] = torch.tensor(item['agreement'])
    return {**item, 'mos_label': torch.tensor([table.scale.normalise(item['mos'])], dtype=torch.float32)}
