"""Where pictures of a run are good and bad, from its lowest score to its highest."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.image_files import UnreadableImage
from pyiqa_rali.data.synthetic.dataset import as_tensor
from pyiqa_rali.figures.quality_maps import MappedPicture, map_figure
from pyiqa_rali.figures.style import svg_and_png
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.report.blocks import Block, Figure, Section
from pyiqa_rali.report.scored import LONGEST_EDGE

MAPPED = 3  # pictures of each validation set


def maps_section(export: Path, scored: Mapping[str, tuple[Sequence[str], np.ndarray]],
                 read: Callable[[str, int], np.ndarray], command: str) -> Section | None:
    """Return a section of pictures with their maps; None where there are none, or the encoder has no positions.

    Args:
        export: the run's.
        scored: names (n,) and scores (n,) of each validation set.
        read: from a set's name and a position to the picture, uint8 (H, W, 3), or UnreadableImage.
        command: makes the scores again.
    """
    if not export.exists() or not scored:
        return None
    net, blocks = RALI(pretrained_model_path=export), list[Block]()
    for name, (images, scores) in scored.items():
        order = np.argsort(scores, kind='stable')
        chosen = dict.fromkeys(np.linspace(0, len(order) - 1, min(MAPPED, len(order))).round().astype(int).tolist())
        try:
            pictures = [mapped for position in chosen for mapped in _mapped(net, read, name, images, scores, order[position])]
        except OptionError:  # the encoder has no positions
            return None
        if pictures:
            svg, png = svg_and_png(map_figure(pictures, net.metadata['mos_range'], net.lower_better))
            blocks.append(Figure(f'{name}: orange is bad, blue is good; each map has colours of its own.', svg, png, command))
    return Section('Where pictures are good and bad', blocks) if blocks else None


def _mapped(net: RALI, read: Callable[[str, int], np.ndarray], name: str, images: Sequence[str], scores: np.ndarray,
            position: int) -> list[MappedPicture]:
    """Return a picture with its map; nothing for one whose file no longer exists."""
    try:
        pixels = read(name, int(position))
    except UnreadableImage:
        return []
    values = net.quality_map(as_tensor([pixels]))[0].numpy()
    step = max(1, max(pixels.shape[:2]) // (2 * LONGEST_EDGE))  # a page stays small
    region = tuple(edge / step for edge in net.map_region(*pixels.shape[:2]))
    title = f'{Path(images[position]).name}, score {scores[position]:.3g}'
    return [MappedPicture(pixels[::step, ::step], values, region, title)]
