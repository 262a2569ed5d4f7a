"""Shares of a map of quality: what a position must weigh so that half of a picture scores as if all of it were so.

The model teaches itself. A photograph and the same photograph with a distortion have scores. Where one half of a picture is
distorted, positions in that half should score as the picture that is distorted everywhere, the others as the photograph: what
differs between the positions of one half is content, of which a share that fits takes little. No labels are needed.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset, as_tensor
from pyiqa_rali.model.checkpoint import load_checkpoint, write_checkpoint
from pyiqa_rali.model.checkpoint_map import with_map
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.model.positions import SHARE, position_rows
from pyiqa_rali.model.rali import RALI

HALVES = ('left', 'right', 'top', 'bottom')
POSITIONS = 48  # of each picture that are kept
LEAST_DIFFERENCE = 0.005  # of the scale, between scores of two halves: below it there is no order to learn
SOFTNESS = 0.025  # of the scale, of the loss on order


@dataclass(frozen=True)
class MapOptions:
    """How shares are fitted.

    Attributes:
        photos: folders of photographs; None takes those that the dependencies install.
        pictures: how many half-distorted pictures.
        size: (height, width) of the crops, in pixels.
        longest_side: larger photographs are scaled down to it.
        only: distortions or groups of them.
        split_seed: of the split, of which the training part is taken.
        split_ratios: shares of training, validation and test.
        steps: of Adam.
        lr: its learning rate.
        batch_size: pictures a step.
        order_weight: of the order of two positions in different halves, beside the squared error.
        seed: of everything that is drawn.
    """

    photos: Sequence[str] | None = None
    pictures: int = 400
    size: Sequence[int] = (384, 512)
    longest_side: int | None = 1024
    only: str | Sequence[str] = 'all'
    split_seed: int = 0
    split_ratios: Sequence[float] = (0.8, 0.05, 0.15)
    steps: int = 360
    lr: float = 1e-2
    batch_size: int = 24
    order_weight: float = 1.0
    seed: int = 0


@dataclass
class Halves:
    """What is known of pictures of which one half is distorted.

    Attributes:
        whole: (n, W) the backbone's output.
        differences: (n, P, W) of some positions.
        targets: (n, P) the score, on a scale from 0 to 1, that a position should have.
    """

    whole: Tensor
    differences: Tensor
    targets: Tensor


@dataclass(frozen=True)
class FittedMap:
    """A checkpoint with fitted shares.

    Attributes:
        path: the file that was written.
        pictures: how many taught.
        error_before: mean absolute error of positions with one share of `SHARE`, in the unit of the score.
        error: the same with the fitted shares.
    """

    path: Path
    pictures: int
    error_before: float
    error: float


def fit_map(checkpoint: str | os.PathLike, out: str | os.PathLike, options: MapOptions | None = None) -> FittedMap:
    """Fit the shares of maps of quality, and write the checkpoint with them; its scores stay as they are.

    Args:
        checkpoint: file or folder of an export, or 'rali-lite'.
        out: the .safetensors or .pth file to write.
        options: of the fit.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    options = options or MapOptions()
    if min(options.pictures, options.steps, options.batch_size) < 1:
        raise OptionError('pictures, steps, batch_size: must be at least 1.')
    path = locate_checkpoint(str(checkpoint))
    tensors, metadata = load_checkpoint(path)
    net = RALI(pretrained_model_path=path)
    halves = observed(net, options)
    shares = fit_shares(net, halves, options)
    made: dict[str, Any] = {'pictures': len(halves.whole), 'steps': options.steps, 'seed': options.seed,
                            'order_weight': options.order_weight}
    write_checkpoint(out, *with_map(tensors, metadata, shares, made))
    low, high = metadata['mos_range']
    start = torch.full_like(shares, SHARE)
    errors = [float((scores_of(net, halves, each) - halves.targets).abs().mean()) * (high - low) for each in (start, shares)]
    return FittedMap(Path(out), len(halves.whole), *errors)


@torch.no_grad()
def observed(net: RALI, options: MapOptions) -> Halves:
    """Return pictures of which one half is distorted, as the backbone sees them.

    Raises:
        DataError: no distortion changed a picture.
    """
    dataset = SyntheticNRDataset({
        'name': 'photographs', 'type': 'SyntheticNRDataset', 'phase': 'train', 'texts_per_image': 0,
        'dataroot_photos': None if options.photos is None else list(options.photos), 'longest_side': options.longest_side,
        'split_seed': options.split_seed, 'split_ratios': list(options.split_ratios), 'crop_size': list(options.size),
        'source_scale': [0.5, 1.0], 'only': options.only if isinstance(options.only, str) else list(options.only),
        'composite_probability': 0.0, 'pristine_probability': 0.0, 'cached_photographs': 8, 'seed': options.seed,
        'samples_per_epoch': options.pictures})
    found = list(_observed(net, dataset, options))
    if not found:
        raise DataError('fit-map: no distortion changed its picture: there is nothing to learn from.')
    return Halves(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def _observed(net: RALI, dataset: SyntheticNRDataset, options: MapOptions) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield whole (W,), differences (P, W) and targets (P,) of each picture."""
    device, encoder = net.scorer.basis_vectors.device, net.image_encoder
    rng = np.random.default_rng([options.seed, 1])
    for index in progress_bar(range(options.pictures), desc='half-distorted pictures', unit='picture'):
        draw = dataset.draw(index)
        half = HALVES[int(rng.integers(len(HALVES)))]
        if not draw.distortions:
            continue
        mixed, where = half_distorted(draw.reference, draw.distorted, half)
        pictures = as_tensor([draw.reference, draw.distorted]).to(device)
        pristine, distorted = _on_unit_scale(net, net(pictures).flatten()).tolist()
        prepared = encoder.preprocess(as_tensor([mixed]).to(device))
        whole, differences = next(encoder.in_parts(prepared, lambda part: position_rows(encoder.backbone, part)))
        inside = torch.from_numpy(positions_inside(where, tuple(differences.shape[1:3]))).flatten()
        chosen = torch.from_numpy(rng.permutation(len(inside)))[:POSITIONS]
        chosen = chosen[torch.arange(POSITIONS) % len(chosen)]  # few positions are taken several times
        targets = torch.where(inside[chosen], distorted, pristine)
        yield whole[0].float().cpu(), differences[0].flatten(0, 1)[chosen.to(device)].float().cpu(), targets


def half_distorted(reference: np.ndarray, distorted: np.ndarray, half: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture of which one half is distorted, and where it is.

    Args:
        reference: uint8 (H, W, 3).
        distorted: the same picture, all of it distorted.
        half: one of `HALVES`.

    Returns:
        The picture, and bool (H, W), true where it is distorted.
    """
    height, width = reference.shape[:2]
    where = np.zeros((height, width), dtype=bool)
    rows = slice(0, height // 2) if half == 'top' else slice(height // 2, None) if half == 'bottom' else slice(None)
    columns = slice(0, width // 2) if half == 'left' else slice(width // 2, None) if half == 'right' else slice(None)
    where[rows, columns] = True
    return np.where(where[..., None], distorted, reference), where


def positions_inside(where: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return whether the middle of each position of a map (H', W') over the whole picture is true in (H, W)."""
    rows, columns = (((np.arange(count) + 0.5) * length / count).astype(int)
                     for count, length in zip(shape, where.shape, strict=True))
    return where[np.ix_(rows, columns)]


def fit_shares(net: RALI, halves: Halves, options: MapOptions) -> Tensor:
    """Return the shares (W,) that let positions score as their half would, starting from `SHARE`.

    Args:
        net: whose projection and scorer score the positions; it stays as it is.
        halves: what teaches.
        options: of the fit.
    """
    shares = torch.full((halves.whole.shape[1],), SHARE, requires_grad=True)
    optimizer = torch.optim.Adam([shares], lr=options.lr)
    generator = torch.Generator().manual_seed(options.seed)
    for _ in progress_bar(range(options.steps), desc='shares', unit='step'):
        rows = torch.randint(len(halves.whole), (options.batch_size,), generator=generator)
        chosen = Halves(halves.whole[rows], halves.differences[rows], halves.targets[rows])
        scores = scores_of(net, chosen, shares)
        loss = F.mse_loss(scores, chosen.targets) + options.order_weight * order_loss(scores, chosen.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return shares.detach()


def order_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Return how far positions of one picture are from the order of their targets; 0 where there is no order.

    The loss of a pair is softplus(-d / s), d the distance of its scores in the right direction and s `SOFTNESS`, times s.

    Args:
        scores: (n, P) on a scale from 0 to 1.
        targets: (n, P).
    """
    distance, wanted = (each[:, :, None] - each[:, None, :] for each in (scores, targets))
    known = (wanted.abs() > LEAST_DIFFERENCE).to(scores.dtype)
    loss = F.softplus(-distance * wanted.sign() / SOFTNESS) * SOFTNESS
    return (loss * known).sum() / known.sum().clamp(min=1)


def scores_of(net: RALI, halves: Halves, shares: Tensor) -> Tensor:
    """Return the scores (n, P), from 0 to 1, of positions with shares (W,)."""
    device = net.scorer.basis_vectors.device
    rows = halves.whole[:, None] + shares * halves.differences
    scores = net.scorer(net.image_encoder.project(rows.flatten(0, 1).to(device))).float().cpu()
    return _on_unit_scale(net, scores).view(rows.shape[:2])


def _on_unit_scale(net: RALI, scores: Tensor) -> Tensor:
    low, high = net.metadata['mos_range']
    return (scores - low) / (high - low)
