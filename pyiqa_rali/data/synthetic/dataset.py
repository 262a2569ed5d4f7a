"""Distorted crops of photographs, drawn anew for every training step, as a pyiqa data set."""

import copy
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

STAGES = ('blur', 'brightness', 'contrast', 'color', 'spatial', 'sharpness', 'noise', 'processing', 'upscaling', 'compression')


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

    Item i depends on the seed and i alone; any i from 0 on can be asked for. The labels are synthetic. What a label is the
    mean of is in the item too, as `agreement`: see `PseudoMos.opinions`. With `siblings: n` the items n k to n k + n - 1
    are of group k: one crop with the same distortions, in the same places, at n levels in random order. A group's types
    become stronger together, so that of any two siblings one has the lower level of every distortion.

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
        self.draws_anew, self.siblings = options.levels is None, options.siblings
        self.photographs = _photographs(options)
        check_sizes(self.photographs, self.crop, self.reading)
        self.labels = PseudoMos(options.metrics, load_calibration(options.calibration), options.label_noise)
        self.labels.measure.check_size(self.crop)
        self._pictures: dict[int, np.ndarray] = {}
        self._kept: tuple[int, int, np.ndarray, np.random.Generator] | None = None  # of the last group, for its siblings

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
        severity = [severity_of([level for _, level in draw.distortions]) for draw in draws]
        measured = self.labels.measure(as_tensor([draw.reference for draw in draws]), distorted)
        mos = self.labels.label_measured(measured, severity, [draw.rng for draw in draws])
        opinions = torch.from_numpy(self.labels.opinions(measured, severity)).float()
        return [{**self._item(draw, image, float(label), int(index)), 'agreement': agreement}
                for draw, image, label, index, agreement in zip(draws, distorted, mos, indices, opinions, strict=True)]

    def draw(self, index: int) -> Draw:
        """Return the pictures of item `index` without its label."""
        options = self.options
        if options.levels is not None:
            return self._grid_draw(index)
        group, member = divmod(index, options.siblings)
        position, reference, rng = self._group(group)
        if options.siblings > 1:
            distorted, distortions = self._sibling(reference, group, member, rng)
            rng = np.random.default_rng([options.seed, group, 2 + member])  # siblings differ in noise of labels and wording
        else:
            share, pristine = rng.random(), options.pristine_probability
            count = 0 if share < pristine else self._count(share > 1 - options.composite_probability, rng)
            distorted, distortions = distort_visibly(reference, self._choose(count, rng), rng)
        return Draw(self.photographs[position].photograph_id, reference, distorted, distortions, rng)

    def _group(self, group: int) -> tuple[int, np.ndarray, np.random.Generator]:
        """Return a photograph's number, its crop, and the generator that they were drawn from, of one group of siblings."""
        if self._kept is None or self._kept[0] != group:
            rng = np.random.default_rng([self.options.seed, group])
            position = int(rng.integers(len(self.photographs)))
            self._kept = group, position, self._cut(self._picture(position), rng), rng
        _, position, reference, rng = self._kept
        return position, reference, copy.deepcopy(rng)  # the next sibling draws the same from it

    def _sibling(self, reference: np.ndarray, group: int, member: int,
                 rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, float]]]:
        """Return the distorted picture and the distortions of one member of a group, whose generator is `rng`.

        The shares of pristine and composite pictures are those of the options: of a group so many of the mildest are pristine.
        """
        options, siblings = self.options, self.options.siblings
        strength = int(rng.permutation(siblings)[member])  # 0 is the mildest
        pristine = int(siblings * options.pristine_probability + rng.random())
        distorted_share = 1 - options.pristine_probability
        composite = rng.random() * distorted_share < options.composite_probability
        if strength < pristine:
            return reference, []
        # a level from each of as many equal parts of the range as there are siblings, so that no two of them look the same;
        # all members draw the same numbers from `rng`, and so the same types at the same place in their parts
        steps = self._choose(self._count(composite, rng), rng, (strength, siblings))
        picture, effective = reference, []
        for number, step in enumerate(steps, 1):
            # a generator for each distortion: how much one draws depends on its level, what the next one draws must not
            picture, done = distort_visibly(picture, [step], np.random.default_rng([options.seed, group, 1, number]))
            effective += done
        return picture, effective

    def _count(self, composite: bool, rng: np.random.Generator) -> int:
        """Return how many distortions a picture gets that is not pristine."""
        counts = self.options.composite_counts
        if not composite:
            return 1
        # the draw is left out where nothing is to choose: pictures remain what they were before there was a choice
        return min(counts[0] if len(counts) == 1 else int(rng.choice(counts)), len(self.types))

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

    def _choose(self, count: int, rng: np.random.Generator, part: tuple[int, int] = (0, 1)) -> list[tuple[str, float]]:
        """Return `count` distortions with levels from the range, or from part (number, of how many) of it."""
        options = self.options
        names = [self.types[position] for position in rng.choice(len(self.types), count, replace=False)]
        low, high = options.composite_level_range if count > 1 and options.composite_level_range else options.level_range
        number, parts = part
        if parts > 1:
            low, high = low + (high - low) * number / parts, low + (high - low) * (number + 1) / parts
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
            self._pictures[position] = self._shrunk(read_rgb(self.photographs[position].path, self.reading))
        return self._pictures[position]

    def _shrunk(self, picture: np.ndarray) -> np.ndarray:
        """Return a photograph with `longest_side` at most, but no smaller than the crop."""
        height, width = picture.shape[:2]
        if self.options.longest_side is None:
            return picture
        scale = max(self.options.longest_side / max(height, width), self.crop[0] / height, self.crop[1] / width)
        if scale >= 1:
            return picture
        size = max(self.crop[1], round(width * scale)), max(self.crop[0], round(height * scale))
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)

    def _item(self, draw: Draw, image: Tensor, mos: float, index: int) -> dict[str, Any]:
        low, high = MOS_RANGE
        texts = write_texts(draw.distortions, (mos - low) / (high - low), draw.rng, self.options.texts_per_image)
        distortion = '+'.join(name for name, _ in draw.distortions) or PRISTINE
        level = max((level for _, level in draw.distortions), default=0.0)
        return {'img': image, 'mos_label': torch.tensor([mos], dtype=torch.float32), 'reasoning_texts': texts,
                'img_path': f'{draw.photograph}|{distortion}|{level:.2f}#{index}', 'distortion': distortion, 'level': level,
                'levels': '+'.join(f'{value:.4g}' for _, value in draw.distortions) or '0',
                'group': index // self.options.siblings}


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
    """Return distortions in the order in which a camera would bring them: optics, light, sensor, processing, file."""
    return sorted(names, key=lambda name: STAGES.index(DISTORTIONS[name].stage or DISTORTIONS[name].family))


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
    """Return pictures (H, W, 3) of one size, uint8 or float32 in [0, 1], as a float tensor (N, 3, H, W) in [0, 1]."""
    pictures = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    return pictures.float().div(255) if pictures.dtype == torch.uint8 else pictures
