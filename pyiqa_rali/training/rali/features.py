"""Image features of whole data sets, computed once and kept in files for the later stages."""

import json
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
from pyiqa_rali.scoring.engine import Decoded
from pyiqa_rali.scoring.score_table import ImageScore


@dataclass
class FeatureTable:
    """Features of one data set.

    Attributes:
        image_features: (n, C) float32.
        mos_label: (n,) float32 MOS in [0, 1], higher better.
        image_names: n names, paths or descriptions of draws.
        mos: (n,) float64 MOS as the data set's table has them; None in files of version 0.1.
    """

    image_features: Tensor
    mos_label: Tensor
    image_names: list[str]
    mos: Tensor | None = None

    def mos_on(self, own: MosScale, scale: MosScale | None = None) -> np.ndarray:
        """Return the MOS (n,).

        Args:
            own: the data set's scale.
            scale: the one that they are wanted on; None takes the data set's own.
        """
        mos = own.denormalise(self.mos_label.double()) if self.mos is None else self.mos
        return own.on(scale or own, mos).numpy()


class _Fitted(Dataset):
    """A table whose pictures have the encoder's size already."""

    def __init__(self, table: 'Pictured', preprocessing: Preprocessing):
        self.table, self.preprocessing = table, preprocessing

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        items = self.table.__getitems__(indices)
        for item in items:
            item['img'] = fit_to_encoder(item['img'].unsqueeze(0), self.preprocessing)[0]
        return items

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]


class Pictured(Protocol):
    """What is embedded: a `QualityTable`, or a part of one."""

    name: str

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]: ...


def embed(encoder: ImageEncoder, table: Pictured, device: torch.device, batch_size: int = 16,
          num_workers: int = 0) -> FeatureTable:
    """Return the image features of every item of a table; pictures of one size share a batch."""
    loader = DataLoader(_Fitted(table, encoder.config.preprocessing), batch_size, num_workers=num_workers,
                        collate_fn=_decoded)
    features: list[Tensor] = []
    mos: list[float] = []
    labels: list[float] = []
    names: list[str] = []
    with torch.inference_mode():
        for decoded, mos_of_batch, mos_labels in progress_bar(loader, desc=f'features: {table.name}', unit='batch'):
            found: dict[int, Tensor] = {}
            for indices, (images,) in decoded.equal_sizes(device):
                found |= zip(indices, encoder(images.contiguous()).float().cpu(), strict=True)
            features += [found[index] for index in range(len(mos_labels))]
            mos += mos_of_batch
            labels += mos_labels
            names += [each.image for each in decoded.scores]
    return FeatureTable(torch.stack(features), torch.tensor(labels), names, torch.tensor(mos, dtype=torch.float64))


def _decoded(items: list[dict[str, Any]]) -> tuple[Decoded, list[float], list[float]]:
    """Return the pictures of one batch, grouped by size as for scoring, their MOS, and these normalised."""
    read = [(ImageScore(str(item['img_path'])), (item['img'].permute(1, 2, 0).numpy(),)) for item in items]
    return Decoded.of(read), [item['mos'] for item in items], [float(item['mos_label']) for item in items]


def save_features(path: Path, table: FeatureTable) -> None:
    """Write a feature table as safetensors, atomically."""
    from safetensors.torch import save_file
    with atomic_path(path) as temporary:
        mos = {} if table.mos is None else {'mos': table.mos}
        save_file({'image_features': table.image_features.contiguous(), 'mos_label': table.mos_label, **mos}, temporary,
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
        mos = stream.get_tensor('mos') if 'mos' in stream.keys() else None  # noqa: SIM118  it is not a dictionary
        return FeatureTable(stream.get_tensor('image_features'), stream.get_tensor('mos_label'), names, mos)
