"""The quantile tables that turn metric values into ranks, made once from a seeded sample of distorted crops."""

from pathlib import Path

import numpy as np

from pyiqa_rali import __version__
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.data.photographs import Photograph
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset, as_tensor
from pyiqa_rali.data.synthetic.pseudo_mos import CHUNK, METRICS, FullReferenceMetrics, quantile_table

CROP_SIZE = 144


def calibrate(path: str | Path, photos: str | None = None, groups: str | None = None, draws: int = 1600, seed: int = 99,
              metrics: tuple[str, ...] = tuple(METRICS)) -> None:
    """Measure random crops of all photographs with random distortions, and write the metrics' quantiles.

    Args:
        path: the JSON file to write.
        photos: folder of photographs; None takes those that the dependencies install.
        groups: table of crops and photographs.
        draws: how many crops.
        seed: seeds the draws.
        metrics: which of `pseudo_mos.METRICS`.

    Raises:
        OptionError: an option that cannot be used.
        DataError: photographs that cannot be read or are too small.
    """
    dataset = SyntheticNRDataset({'name': 'calibration', 'dataroot_photos': photos, 'photo_groups': groups,
                                  'split_ratios': [1, 0, 0], 'crop_size': CROP_SIZE, 'seed': seed,
                                  'samples_per_epoch': draws})
    measure = FullReferenceMetrics(metrics)
    measured: dict[str, list[np.ndarray]] = {name: [] for name in measure.names}
    for start in progress_bar(range(0, draws, CHUNK), desc='calibrate', unit='batch'):
        batch = [dataset.draw(index) for index in range(start, min(start + CHUNK, draws))]
        values = measure(as_tensor([draw.reference for draw in batch]), as_tensor([draw.distorted for draw in batch]))
        for name, found in values.items():
            measured[name].append(found)
    quantiles = quantile_table({name: np.concatenate(found) for name, found in measured.items()})
    write_json(path, {'provenance': provenance(dataset.photographs, draws, seed), 'quantiles': quantiles})


def provenance(photographs: list[Photograph], draws: int, seed: int) -> dict[str, str | int]:
    """Return how a calibration was made."""
    return {'photographs': len({item.photograph_id for item in photographs}), 'files': len(photographs), 'draws': draws,
            'seed': seed, 'crop_size': CROP_SIZE,
            'command': f'make-dataset --calibrate FILE --photos PHOTOS --calibration-draws {draws} --seed {seed}',
            'version': __version__}
