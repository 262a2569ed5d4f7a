"""Colour and brightness."""

import cv2
import numpy as np

from pyiqa_rali.data.distortions.kinds import DistortionType, Image


def _to_lab(image: Image) -> Image:
    return cv2.cvtColor(np.clip(image, 0, 255) / np.float32(255), cv2.COLOR_RGB2LAB)


def _from_lab(lab: Image) -> Image:
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255


def color_diffusion(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Gaussian blur of the colour channels of Lab, `sigma` pixels."""
    lab = _to_lab(image)
    lab[..., 1:] = cv2.GaussianBlur(lab[..., 1:], (0, 0), sigma, borderType=cv2.BORDER_REFLECT) * 1.1
    return _from_lab(lab)


def color_shift(image: Image, distance: float, rng: np.random.Generator) -> Image:
    """One colour channel displaced by `distance` pixels in a random direction."""
    angle, channel = rng.uniform(0, 2 * np.pi), int(rng.integers(3))
    matrix = np.array([[1, 0, distance * np.cos(angle)], [0, 1, distance * np.sin(angle)]], dtype=np.float32)
    shifted = image.copy()
    shifted[..., channel] = cv2.warpAffine(image[..., channel], matrix, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    return shifted


def desaturate(image: Image, kept: float, rng: np.random.Generator) -> Image:
    """Colours pulled towards gray; `kept` is the share of colour that stays."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return gray + (image - gray) * np.float32(kept)


def oversaturate(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """Colour channels of Lab multiplied by `factor`."""
    lab = _to_lab(image)
    lab[..., 1:] = np.clip(lab[..., 1:] * factor, -127, 127)
    return _from_lab(lab)


def color_cast(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """A wrong white balance: the colour channels of Lab moved by `strength` in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    lab = _to_lab(image)
    lab[..., 1] += np.float32(strength * np.cos(angle))
    lab[..., 2] += np.float32(strength * np.sin(angle))
    return _from_lab(lab)


def brighten(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Tone curve bent upwards: x ** (1 / (1 + strength)), then lifted a little."""
    relative = np.clip(image, 0, 255) / 255
    return relative ** (1 / (1 + strength)) * 255 * (1 + 0.06 * strength)


def darken(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Light taken away: x ** (1 + strength / 2) / (1 + strength)."""
    relative = np.clip(image, 0, 255) / 255
    return relative ** (1 + strength / 2) / (1 + strength) * 255


def mean_shift(image: Image, shift: float, rng: np.random.Generator) -> Image:
    """All values moved by `shift` (of 255), up or down."""
    return image + (shift if rng.random() < 0.5 else -shift)


def overexpose(image: Image, stops: float, rng: np.random.Generator) -> Image:
    """Light multiplied by 2 ** `stops`, highlights cut off."""
    return image * np.float32(2 ** stops)


def vignette(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Corners darkened; `strength` is the light lost at the corners."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) * 2
    return image * (1 - strength * distance)[..., None]


def low_contrast(image: Image, kept: float, rng: np.random.Generator) -> Image:
    """Values pulled towards the mean; `kept` is the share of contrast that stays."""
    mean = image.mean()
    return mean + (image - mean) * np.float32(kept)


def high_contrast(image: Image, gain: float, rng: np.random.Generator) -> Image:
    """Values pushed away from the mean by a factor, clipped at both ends."""
    mean = image.mean()
    return mean + (image - mean) * np.float32(gain)


def haze(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """A bright veil, uneven over the picture, of mean opacity `strength`."""
    height, width = image.shape[:2]
    veil = cv2.resize(rng.uniform(0.6, 1.4, (4, 5)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    opacity = np.clip(veil * strength, 0, 0.97)[..., None]
    return image * (1 - opacity) + 225 * opacity


TYPES = (
    DistortionType('color_diffusion', 'color', 'colour bleeding', 'colour boundaries', (2, 4, 7, 12, 20),
                   color_diffusion),
    DistortionType('color_shift', 'color', 'colour fringes', 'the alignment of the colours', (1, 2, 3.5, 6, 10),
                   color_shift),
    DistortionType('desaturate', 'color', 'faded colours', 'colourfulness', (0.7, 0.5, 0.33, 0.18, 0.02), desaturate),
    DistortionType('oversaturate', 'color', 'oversaturated colours', 'natural colours', (1.4, 1.8, 2.4, 3.4, 5),
                   oversaturate),
    DistortionType('color_cast', 'color', 'a colour cast', 'white balance', (6, 11, 18, 28, 42), color_cast),
    DistortionType('brighten', 'brightness', 'excessive brightness', 'highlights', (0.25, 0.5, 0.85, 1.4, 2.3),
                   brighten),
    DistortionType('darken', 'brightness', 'darkness', 'shadows', (0.25, 0.5, 0.9, 1.6, 3), darken),
    DistortionType('mean_shift', 'brightness', 'a brightness shift', 'tonal balance', (15, 28, 45, 65, 90), mean_shift),
    DistortionType('overexpose', 'brightness', 'overexposure', 'bright areas', (0.2, 0.4, 0.65, 1, 1.5), overexpose),
    DistortionType('vignette', 'brightness', 'dark corners', 'evenness of the light', (0.2, 0.35, 0.52, 0.72, 0.95),
                   vignette),
    DistortionType('low_contrast', 'contrast', 'low contrast', 'tonal depth', (0.75, 0.58, 0.42, 0.28, 0.16),
                   low_contrast),
    DistortionType('high_contrast', 'contrast', 'excessive contrast', 'tones at both ends', (1.3, 1.6, 2.1, 3, 5),
                   high_contrast),
    DistortionType('haze', 'contrast', 'haze', 'contrast and depth', (0.15, 0.28, 0.42, 0.57, 0.75), haze),
)
