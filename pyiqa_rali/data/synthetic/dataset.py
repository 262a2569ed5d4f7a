"""Distorted crops of photographs, drawn anew for every training step, as a pyiqa data set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyiqa_rali.core.options import from_known_keys
from pyiqa_rali.data.distortions import DISTORTIONS, distort
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.photographs import Photograph, check_sizes, list_photographs, split_photographs
from pyiqa_rali.data.reasoning_texts import PRISTINE, ReasoningText, paired
from pyiqa_rali.data.synthetic.options import SyntheticOptions, check_options, crop_of, types_of
from pyiqa_rali.data.synthetic.pseudo_mos import MOS_RANGE, PseudoMos, load_calibration, severity_of
from pyiqa_rali.data.synthetic.quality_texts import WRITER, write_texts

ORDER_OF_FAMILIES = ('blur', 'brightness', 'contrast', 'color', 'spatial', 'sharpness', 'noise', 'compression')


@dataclass
class Draw:
    """One picture before its label: reference and distorted crop, and how it came about."""

    photograph: str
    reference: np.ndarray
    distorted: np.ndarray
    distortions: list[tuple[str, float]]
    rng: np.random.Generator


class SyntheticNRDataset(Dataset):
    """A pyiqa no-reference data set of freshly drawn distorted crops with pseudo-MOS in [1, 5] and reasoning texts.

    Item i depends on the seed and i alone; any i from 0 on can be asked for. The labels are synthetic.

    Args:
        opt: values of `SyntheticOptions`.

    Raises:
        OptionError: an unknown key or a value that cannot be used.
        DataError: photographs that cannot be read or are smaller than the crop.
    """

    def __init__(self, opt: dict[str, Any]):
        options = from_known_keys(SyntheticOptions, opt, f'data set {opt.get("name", "")}')
        check_options(options)
        self.reading = options.reading
        self.options, self.crop, self.types = options, crop_of(options), types_of(options)
        self.draws_anew = options.levels is None
        self.photographs = _photographs(options)
        check_sizes(self.photographs, self.crop, self.reading)
        self.labels = PseudoMos(options.metrics, load_calibration(options.calibration), options.label_noise)
        self.labels.measure.check_size(self.crop)
        self._pictures: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        if self.options.levels is None:
            return self.options.samples_per_epoch
        return len(self.photographs) * len(self.types) * len(self.options.levels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return several items; the label's metrics run on all of them at once."""
        cv2.setNumThreads(1)
        draws = [self.draw(int(index)) for index in indices]
        distorted = as_tensor([draw.distorted for draw in draws])
        mos = self.labels.label(as_tensor([draw.reference for draw in draws]), distorted,
                                [severity_of([level for _, level in draw.distortions]) for draw in draws],
                                [draw.rng for draw in draws])
        return [self._item(draw, image, float(label), int(index))
                for draw, image, label, index in zip(draws, distorted, mos, indices, strict=True)]

    def draw(self, index: int) -> Draw:
        """Return the pictures of item `index` without its label."""
        options = self.options
        if options.levels is not None:
            return self._grid_draw(index)
        rng = np.random.default_rng([options.seed, index])
        position = int(rng.integers(len(self.photographs)))
        reference = self._cut(self._picture(position), rng)
        share = rng.random()
        count = 0 if share < options.pristine_probability else 2 if share > 1 - options.composite_probability else 1
        distorted, distortions = distort_visibly(reference, self._choose(min(count, len(self.types)), rng), rng)
        return Draw(self.photographs[position].photograph_id, reference, distorted, distortions, rng)

    def _grid_draw(self, index: int) -> Draw:
        """Return cell `index` of photographs x types x levels; the levels of one row share their random numbers."""
        if index >= len(self):
            raise IndexError(f'data set {self.options.name}: item {index} of {len(self)}.')
        levels = self.options.levels or []
        row, level = divmod(index, len(levels))
        position, kind = divmod(row, len(self.types))
        picture = self._picture(position)
        top, left = (picture.shape[0] - self.crop[0]) // 2, (picture.shape[1] - self.crop[1]) // 2
        reference = np.ascontiguousarray(picture[top:top + self.crop[0], left:left + self.crop[1]])
        steps = [(self.types[kind], float(levels[level]))]
        distorted, steps = distort_visibly(reference, steps, np.random.default_rng([self.options.seed, row]))
        return Draw(self.photographs[position].photograph_id, reference, distorted, steps,
                    np.random.default_rng([self.options.seed, index]))

    def _choose(self, count: int, rng: np.random.Generator) -> list[tuple[str, float]]:
        names = [self.types[position] for position in rng.choice(len(self.types), count, replace=False)]
        low, high = self.options.level_range
        return [(name, float(rng.uniform(low, high))) for name in by_camera_order(names)]

    def _cut(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a random crop of the photograph at a random scale, flipped or not."""
        height, width = self.crop
        low, high = self.options.source_scale
        smallest = max(height / picture.shape[0], width / picture.shape[1])
        scale = max(smallest, float(np.exp(rng.uniform(np.log(low), np.log(high)))))
        if scale < 1:
            size = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        top = int(rng.integers(picture.shape[0] - height + 1))
        left = int(rng.integers(picture.shape[1] - width + 1))
        crop = picture[top:top + height, left:left + width]
        return np.ascontiguousarray(crop[:, ::-1] if self.options.flips and rng.random() < 0.5 else crop)

    def _picture(self, position: int) -> np.ndarray:
        if position not in self._pictures:
            while self.options.cached_photographs and len(self._pictures) >= self.options.cached_photographs:
                del self._pictures[next(iter(self._pictures))]
            self._pictures[position] = read_rgb(self.photographs[position].path, self.reading)
        return self._pictures[position]

    def _item(self, draw: Draw, image: Tensor, mos: float, index: int) -> dict[str, Any]:
        low, high = MOS_RANGE
        texts = write_texts(draw.distortions, (mos - low) / (high - low), draw.rng, self.options.texts_per_image)
        distortion = '+'.join(name for name, _ in draw.distortions) or PRISTINE
        level = max((level for _, level in draw.distortions), default=0.0)
        return {'img': image, 'mos_label': torch.tensor([mos], dtype=torch.float32), 'reasoning_texts': texts,
                'img_path': f'{draw.photograph}|{distortion}|{level:.2f}#{index}', 'distortion': distortion, 'level': level,
                'levels': '+'.join(f'{value:.4g}' for _, value in draw.distortions) or '0'}


def texts_of_item(item: dict[str, Any]) -> list[ReasoningText]:
    """Return the texts of an item, with what is known of its picture; in items they are strings, as pyiqa's loader wants."""
    known = paired(item['distortion'], item['levels'])
    return [ReasoningText(text, number, WRITER, known) for number, text in enumerate(item['reasoning_texts'])]


def _photographs(options: SyntheticOptions) -> list[Photograph]:
    """Return the photographs of the phase; with `num_photographs`, the first crop of each of the first so many."""
    every = list_photographs(options.dataroot_photos, options.photo_groups)
    train, val, test = options.split_ratios
    photographs = split_photographs(every, options.split_seed, (train, val, test))[options.phase or 'train']
    if options.num_photographs is None:
        return photographs
    first = {item.photograph_id: item for item in reversed(photographs)}
    return [first[name] for name in sorted(first)][:options.num_photographs]


def by_camera_order(names: Iterable[str]) -> list[str]:
    """Return distortions in the order in which a camera would bring them: optics, light, sensor, file."""
    return sorted(names, key=lambda name: ORDER_OF_FAMILIES.index(DISTORTIONS[name].family))


def distort_visibly(image: np.ndarray, steps: list[tuple[str, float]],
                    rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, float]]]:
    """Apply distortions one after the other, and return which had an effect: taking colour from gray has none.

    Args:
        image: uint8 (H, W, 3).
        steps: (name, level) each.
        rng: what the distortions draw from.

    Returns:
        The distorted picture, and the steps that changed some value of it by more than 1 of 255.
    """
    effective: list[tuple[str, float]] = []
    for name, level in steps:
        distorted = distort(image, name, level, rng)
        if cv2.absdiff(distorted, image).max() > 1:
            image, effective = distorted, [*effective, (name, level)]
    return image, effective


def as_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Return uint8 pictures (H, W, 3) of one size as a float tensor (N, 3, H, W) in [0, 1]."""
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images]).float().div(255)
