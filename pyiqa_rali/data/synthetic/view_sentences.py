"""Sentences on what a picture shows that say nothing about its quality: where its light is."""

import numpy as np

PARTS = ('left', 'right', 'upper', 'lower')
VIEW_SENTENCE = 'The {part} half is the lighter one.'


def view_sentence(picture: np.ndarray) -> str:
    """Return a sentence that names the half of a picture that stands out by its light.

    Darkening, noise, blur or compression of the whole picture hardly change which half that is.

    Args:
        picture: (H, W, 3) or (H, W), any unit.
    """
    light = picture.astype(np.float64).reshape(*picture.shape[:2], -1).mean(axis=2)
    height, width = light.shape
    across = light[:, :width // 2].mean() - light[:, -(width // 2):].mean()
    down = light[:height // 2].mean() - light[-(height // 2):].mean()
    part = PARTS[int(np.argmax([across, -across, down, -down]))]
    return VIEW_SENTENCE.format(part=part)
