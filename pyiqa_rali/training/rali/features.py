"""Image features of whole data sets, computed once and kept in files for the later stages."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.model.image_encoder import ImageEncoder
from pyiqa_rali.model.preprocessing import Preprocessing, fit_to_encoder
from pyiqa_rali.scoring.decoded import Decoded
from pyiqa_rali.scoring.score_table import ImageScore
from pyiqa_rali.training.rali.quality import Labels, padded


@dataclass
class FeatureTable:
    """Features of one data set.

    Attributes:
        image_features: (n, C) float32.
        mos_label: (n,) float32 MOS in [0, 1], higher better.
        image_names: n names, paths or descriptions of draws.
        mos: (n,) float64 MOS as the data set's table has them; None in files of version 0.1.
        agreement: (n, M) what several judges say of each picture (see `Labels`); None where there are none.
        sets: (n,) which data set a picture is of, where several are joined; None for one.
    """

    image_features: Tensor
    mos_label: Tensor
    image_names: list[str]
    mos: Tensor | None = None
    agreement: Tensor | None = None
    sets: Tensor | None = None

    @classmethod
    def of(cls, items: Sequence[Mapping[str, Any]], image_features: Tensor) -> 'FeatureTable':
        """Return the table of items of one data set, whose pictures have these features (n, C)."""
        judged = [item['agreement'] for item in items if 'agreement' in item]
        return cls(image_features, torch.tensor([float(item['mos_label']) for item in items]),
                   [str(item['img_path']) for item in items],
                   torch.tensor([item['mos'] for item in items], dtype=torch.float64),
                   torch.stack(judged) if judged else None)

    @classmethod
    def join(cls, tables: Sequence['FeatureTable']) -> 'FeatureTable':
        """Return one table for several data sets, numbered in their order."""
        width = max((table.agreement.shape[1] for table in tables if table.agreement is not None), default=0)
        agreement = torch.cat([padded(table.agreement, table.mos_label, width) for table in tables])
        mos = [table.mos for table in tables if table.mos is not None]
        return cls(torch.cat([table.image_features for table in tables]), torch.cat([table.mos_label for table in tables]),
                   [name for table in tables for name in table.image_names],
                   torch.cat(mos) if len(mos) == len(tables) else None, agreement if width else None,
                   torch.cat([torch.full((len(table.image_names),), number) for number, table in enumerate(tables)]))

    @property
    def labels(self) -> Labels:
        """What is known of the pictures."""
        sets = torch.zeros(len(self.image_names), dtype=torch.int64) if self.sets is None else self.sets
        return Labels(self.mos_label, sets, self.agreement)

    def mos_on(self, own: MosScale, scale: MosScale | None = None) -> np.ndarray:
        """Return the MOS (n,).

        Args:
            own: the data set's scale.
            scale: the scale to return them on; None takes the data set's own.
        """
        mos = own.denormalise(self.mos_label.double()) if self.mos is None else self.mos
        return own.on(scale or own, mos).numpy()


class _Fitted(Dataset):
    """Some items of a table, whose pictures already have the encoder's size."""

    def __init__(self, table: 'Pictured', preprocessing: Preprocessing, indices: Sequence[int] | None):
        self.table, self.preprocessing = table, preprocessing
        self.indices = range(len(table)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        items = self.table.__getitems__([self.indices[place] for place in places])
        for item in items:
            item['img'] = fit_to_encoder(item['img'].unsqueeze(0), self.preprocessing)[0]
        return items

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])[0]


class Pictured(Protocol):
    """What is embedded: a `QualityTable`, or a part of one."""

    name: str

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]: ...


def embed(encoder: ImageEncoder, table: Pictured, device: torch.device, batch_size: int = 16,
          num_workers: int = 0) -> FeatureTable:
    """Return the image features of every item of a table; pictures of one size share a batch."""
    batches = list(encoded(encoder, encoder.config.preprocessing, table, device, batch_size, num_workers))
    return FeatureTable.of([item for items, _ in batches for item in items], torch.cat([rows for _, rows in batches]))


def encoded(encode: Callable[[Tensor], Tensor], preprocessing: Preprocessing, table: Pictured, device: torch.device,
            batch_size: int = 16, num_workers: int = 0,
            indices: Sequence[int] | None = None) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
    """Yield items of a table without their pictures, a batch at a time, and what becomes of the pictures.

    Args:
        encode: from pictures (N, 3, H, W) of one size on the device to rows (N, W).
        preprocessing: of the encoder, whose resizing is done by the loader's processes.
        table: the items.
        device: where to encode.
        batch_size: items at once; pictures of one size among them are encoded together.
        num_workers: processes that read.
        indices: the items that are wanted; None takes all.
    """
    loader = DataLoader(_Fitted(table, preprocessing, indices), batch_size, num_workers=num_workers, collate_fn=_decoded)
    with torch.inference_mode():
        for decoded, items in progress_bar(loader, desc=f'features: {table.name}', unit='batch'):
            found: dict[int, Tensor] = {}
            for places, (images,) in decoded.equal_sizes(device):
                found |= zip(places, encode(images.contiguous()).float().cpu(), strict=True)
            yield items, torch.stack([found[place] for place in range(len(items))])


def _decoded(items: list[dict[str, Any]]) -> tuple[Decoded, list[dict[str, Any]]]:
    """Return the pictures of one batch, grouped by size as for scoring, and what else the items hold."""
    read = [(ImageScore(str(item['img_path'])), (item.pop('img').permute(1, 2, 0).numpy(),)) for item in items]
    for item in items:
        item.pop('ref_img', None)
    return Decoded.of(read), items


def save_features(path: Path, table: FeatureTable) -> None:
    """Write a feature table as safetensors, atomically."""
    from safetensors.torch import save_file
    with atomic_path(path) as temporary:
        further = {name: tensor for name, tensor in (('mos', table.mos), ('agreement', table.agreement)) if tensor is not None}
        save_file({'image_features': table.image_features.contiguous(), 'mos_label': table.mos_label, **further}, temporary,
                  metadata={'image_names': json.dumps(table.image_names)})


def load_features(path: Path) -> FeatureTable:
    """Read a feature table.

    Raises:
        CheckpointError: the file is missing: the stage before has not been run.
    """
    from safetensors import safe_open
    if not path.exists():
        raise CheckpointError(f'{path}: does not exist. Run the stages before this one first (stages: [align, compress, '
                              'score]).')
    with safe_open(path, framework='pt') as stream:
        names = json.loads(stream.metadata()['image_names'])
        mos, agreement = (stream.get_tensor(name) if name in stream.keys() else None  # noqa: SIM118  it is not a dictionary
                          for name in ('mos', 'agreement'))
        return FeatureTable(stream.get_tensor('image_features'), stream.get_tensor('mos_label'), names, mos, agreement)
