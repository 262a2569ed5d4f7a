"""Pictures made of formulas and NumPy's seeded noise: the same everywhere, whatever library reads or blurs pictures."""

import numpy as np
import torch
from torch import Tensor


def scene(height: int, width: int) -> np.ndarray:
    """Return (H, W, 3) in [0, 1]: waves, an edge, and texture in the lower half."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 0.45 + 0.2 * np.sin(np.stack([x / 9, y / 11, (x + y) / 14], -1)) + 0.16 * (x > width / 2)[..., None]
    texture = np.random.default_rng(0).normal(0, 0.05, (height, width, 3)) * (y > height / 2)[..., None]
    return np.clip(waves + texture, 0, 1)


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    """Add Gaussian noise."""
    return np.clip(image + np.random.default_rng(1).normal(0, sigma, image.shape), 0, 1)


def blurred(image: np.ndarray, times: int) -> np.ndarray:
    """Average over the four neighbours, several times."""
    for _ in range(times):
        image = (image + sum(np.roll(image, shift, axis) for axis in (0, 1) for shift in (-1, 1))) / 5
    return image


def coarse(image: np.ndarray, steps: int) -> np.ndarray:
    """Keep so many steps of brightness."""
    return np.round(image * steps) / steps


def pictures() -> dict[str, Tensor]:
    """Return (1, 3, H, W) pictures by name, as 8-bit files would give them."""
    small, large = scene(96, 128), scene(384, 512)
    found = {'small': small, 'large': large, 'portrait': scene(300, 201), 'wide': scene(64, 700), 'huge': scene(1100, 1300)}
    found.update({f'noise {sigma:g}': noisy(large, sigma) for sigma in (0.02, 0.06, 0.15)})
    found.update({f'blur {times}': blurred(large, times) for times in (2, 8, 30)})
    found.update({f'steps {steps}': coarse(large, steps) for steps in (4, 12)})
    found['dark'], found['black'], found['white'] = large * 0.2, large * 0, large * 0 + 1
    return {name: torch.from_numpy(np.round(image * 255) / 255).permute(2, 0, 1).unsqueeze(0).float()
            for name, image in found.items()}
