"""Figure of a cascade: accuracy against what it costs, for each way to choose what is handed on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.figures.style import BLUE, GRAY, GREEN, ORANGE, panels, save_png, styled

COLOURS = {'width': BLUE, 'ranks': GREEN, 'random': GRAY, 'oracle': ORANGE}
TITLES = {'srcc': 'SRCC', 'rmse': 'RMSE, in the unit of the score'}


@styled
def draw_cascade(rows: Sequence[Mapping[str, Any]], choices: Sequence[str], out: Path, title: str) -> Path:
    """Draw one panel for each measure: a curve for each choice over the share that is handed on.

    Args:
        rows: of the study, with `share`, `choice`, `srcc`, `rmse` and `seconds_per_image`.
        choices: in order.
        out: the PNG.
        title: above the panels.
    """
    figure, axes = panels(len(TITLES), 4.6, 3.6)
    for axis, (measure, name) in zip(axes, TITLES.items(), strict=False):
        for choice in choices:
            own = [row for row in rows if row['choice'] == choice]
            axis.plot([row['share'] for row in own], [row[measure] for row in own], 'o-', color=COLOURS[choice], markersize=3.5,
                      label=choice)
        axis.set(title=name, xlabel='share of the pictures that is handed on')
        seconds = np.array([[row['share'], row['seconds_per_image']] for row in rows])
        if np.isfinite(seconds).all():
            start, slope = seconds[:, 1].min(), np.ptp(seconds[:, 1]) / max(np.ptp(seconds[:, 0]), 1e-9)
            second = axis.secondary_xaxis(-0.3, functions=(lambda share, start=start, slope=slope: start + slope * share,
                                                           lambda cost, start=start, slope=slope: (cost - start) / slope))
            second.set_xlabel('seconds an image')
    axes[0].legend()
    figure.suptitle(title)
    return save_png(figure, out)
