"""Write the golden scores of the embedded weights: `python -m tests.regression.write_golden`, after they changed on purpose."""

from pathlib import Path

from pyiqa_rali.core.files import sha256, write_json
from tests.regression.pictures import pictures

GOLDEN = Path(__file__).with_name('rali_lite.json')


def scores() -> dict[str, float]:
    """Return the score of each picture by the metric that users make."""
    import pyiqa

    import pyiqa_rali  # noqa: F401 (registers)
    metric = pyiqa.create_metric('rali-lite', device='cpu')
    return {name: round(metric(picture).item(), 6) for name, picture in pictures().items()}


def weights_digest() -> str:
    """Return the SHA-256 digest of the embedded weights."""
    from pyiqa_rali.model.locate import locate_checkpoint
    return sha256(locate_checkpoint('rali-lite'))


if __name__ == '__main__':
    write_json(GOLDEN, {'weights_sha256': weights_digest(), 'scores': scores()})
    print(GOLDEN.read_text())
