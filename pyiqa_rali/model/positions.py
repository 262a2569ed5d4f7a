"""What an image encoder says of each position of a picture, in the features that it gives of a whole picture.

An encoder ends with a summary of positions: statistics of feature maps, an average, a class token. Here the same layers get the
surroundings of one position in the place of the whole picture. What a position differs from the picture's own features by is
taken by a share only: a place has less variety than a picture, and features of single places lie outside what the scorer knows.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.clip_tower import ClipTower
from pyiqa_rali.model.image_encoder import ImageEncoder, StageStatistics
from pyiqa_rali.model.preprocessing import Preprocessing, resized_shape

CELL = 16  # pixels of the encoder's input, the side of a cell of the map, for statistics of feature maps
WINDOW = 9  # cells, the side of the surroundings that statistics are taken over
SHARE = 0.5  # of a position's difference from its picture, where no shares were fitted


def position_features(encoder: ImageEncoder, prepared: Tensor, share: float | Tensor = SHARE) -> Tensor:
    """Return image features (N, H', W', C) of the positions of preprocessed pictures (N, 3, h, w).

    Args:
        encoder: of the pictures.
        prepared: what its `preprocess` returns.
        share: how much of a position's difference from its picture counts: one number, or one for each of the W outputs of the
            backbone; 0 gives every position the picture's features.

    Raises:
        OptionError: the encoder has no positions (see `position_rows`).
    """
    def shared(part: Tensor) -> Tensor:
        whole, differences = position_rows(encoder.backbone, part)
        return whole[:, None, None] + share * differences

    rows = torch.cat(list(encoder.in_parts(prepared, shared)))
    return encoder.project(rows.flatten(0, 2)).unflatten(0, rows.shape[:3])


def position_rows(backbone: nn.Module, prepared: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a backbone gives of pictures, (N, W), and how far each position differs from it, (N, H', W', W).

    Args:
        backbone: statistics of stages, our CLIP tower, a model of timm, or open_clip's around one.
        prepared: (N, 3, h, w), in the backbone's type.

    Raises:
        OptionError: another backbone, or one whose tokens do not lie on a grid.
    """
    if isinstance(backbone, StageStatistics):
        height, width = prepared.shape[-2:]
        whole, places = local_statistics(backbone.features(prepared), (height, width))
        return whole, places - whole[:, None, None]
    whole, places = _reader_of(backbone)(prepared)
    return whole, places - places.mean(dim=(1, 2), keepdim=True)


def local_statistics(stages: list[Tensor], size: tuple[int, int], cell: int = CELL,
                     window: int = WINDOW) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each stage, over the picture and around each position.

    With the variance v of a channel over the whole picture, v_p over the window around a position p, and a bar for the mean
    over all positions, a position's variance is v_p v / bar v: the variance within windows lacks what windows differ by, and
    without the factor a picture whose places are all alike would look smoother in each place than as a whole.

    Args:
        stages: feature maps (N, C, h, w) of any strides.
        size: height and width of the pictures, in pixels.
        cell: pixels of a cell's side; H' and W' are the picture's size over it, rounded, at least 1.
        window: cells of a window's side, odd; windows are cut off at the picture's edges.

    Returns:
        (N, W) of pictures, as `StageStatistics` has them, and (N, H', W', W) of positions; W is 2 * sum of channels.
    """
    grid = (max(1, round(size[0] / cell)), max(1, round(size[1] / cell)))
    whole, places = [], []
    for stage in stages:
        maps = stage.to(torch.promote_types(stage.dtype, torch.float32))
        mean = maps.mean(dim=(2, 3), keepdim=True)
        centred = maps - mean  # squares of what is far from 0 would lose the digits that tell places apart
        variance = centred.square().mean(dim=(2, 3), keepdim=True)
        local = _averaged(F.adaptive_avg_pool2d(centred, grid), window)
        within = (_averaged(F.adaptive_avg_pool2d(centred.square(), grid), window) - local.square()).clamp(min=0)
        within = within * (variance / within.mean(dim=(2, 3), keepdim=True).clamp(min=1e-12))
        whole += [mean, torch.sqrt(variance + 1e-6)]
        places += [mean + local, torch.sqrt(within + 1e-6)]
    return torch.cat(whole, dim=1).flatten(1), torch.cat(places, dim=1).permute(0, 2, 3, 1)


def _averaged(maps: Tensor, window: int) -> Tensor:
    """Return the mean over a window around each cell of (N, C, H', W'), of the cells that exist."""
    return F.avg_pool2d(maps, window, 1, window // 2, count_include_pad=False)


def _reader_of(backbone: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function from pictures to the backbone's rows (N, W) and those of the positions (N, H', W', W)."""
    if isinstance(backbone, ClipTower):
        return backbone.with_positions
    trunk: Any = getattr(backbone, 'trunk', backbone)  # open_clip's towers around a model of timm have a trunk and a head
    if not hasattr(trunk, 'forward_head'):
        raise OptionError(f'image_encoder: {type(backbone).__name__} has no map of quality: it is neither statistics of '
                          'stages, nor a plain CLIP tower, nor a model of timm.')
    head: Callable[[Tensor], Tensor] = backbone.head if trunk is not backbone else nn.Identity()  # type: ignore[assignment]
    return lambda prepared: _timm_rows(trunk, head, prepared)


def _timm_rows(trunk: Any, head: Callable[[Tensor], Tensor], prepared: Tensor) -> tuple[Tensor, Tensor]:
    features = trunk.forward_features(prepared)
    whole = head(trunk.forward_head(features))
    if features.dim() == 4:  # maps: each position is given to the head as a picture of one position
        maps = features if getattr(trunk, 'output_fmt', 'NCHW') == 'NHWC' else features.permute(0, 2, 3, 1)
        grid, single = maps.shape[1:3], maps.flatten(0, 2)[:, None, None]
        single = single if maps is features else single.permute(0, 3, 1, 2)
    else:
        prefix = getattr(trunk, 'num_prefix_tokens', 0)
        tokens = features[:, prefix:]
        grid = _token_grid(trunk, prepared, tokens.shape[1])
        # each position as a sequence of one token; prefix tokens, such as the class token, are the position's too
        single = tokens.flatten(0, 1)[:, None].expand(-1, prefix + 1, -1)
    return whole, head(trunk.forward_head(single)).unflatten(0, (len(prepared), *grid))


def _token_grid(trunk: Any, prepared: Tensor, count: int) -> tuple[int, int]:
    patch = getattr(getattr(trunk, 'patch_embed', None), 'patch_size', None)
    height, width = prepared.shape[-2:]
    grid = (height // patch[0], width // patch[1]) if patch else (0, 0)
    if grid[0] * grid[1] != count:
        raise OptionError(f'image_encoder: {type(trunk).__name__} has no map of quality: its {count} tokens of a picture of '
                          f'{width} x {height} pixels do not lie on a grid of patches.')
    return grid


def region_of(preprocessing: Preprocessing, height: int, width: int) -> tuple[float, float, float, float]:
    """Return which part of a picture an encoder sees, and its positions cover: (top, left, bottom, right) in its pixels.

    A centre crop leaves out what is outside; where black is padded, the part reaches beyond the picture.

    Example:
        >>> region_of(Preprocessing(image_size=336), 384, 512)
        (0.0, 64.0, 384.0, 448.0)
        >>> region_of(Preprocessing(image_size=336, resize_mode='longest'), 256, 512)
        (-128.0, 0.0, 384.0, 512.0)
    """
    size = preprocessing.image_size
    new_height, new_width = resized_shape(height, width, preprocessing.resize_size or size, preprocessing.resize_mode)
    if size is None:
        return 0.0, 0.0, float(height), float(width)
    top, left = (new_height - size) / 2, (new_width - size) / 2
    rows, columns = height / new_height, width / new_width
    return top * rows, left * columns, (top + size) * rows, (left + size) * columns
