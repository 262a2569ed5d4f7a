"""Write the golden scores of the embedded weights: `python -m tests.regression.write_golden`, after they changed on purpose.

Those of rali-lite-v1 are version 0.1's and never change.
"""

from pathlib import Path

from pyiqa_rali.core.files import sha256, write_json
from tests.regression.pictures import pictures


def golden_file(name: str) -> Path:
    """Return the file of a metric's golden scores."""
    return Path(__file__).with_name(f'{name.replace("-", "_")}.json')


def scores(name: str) -> dict[str, float]:
    """Return the score of each picture by the metric that users make."""
    import pyiqa

    import pyiqa_rali  # noqa: F401 (registers)
    metric = pyiqa.create_metric(name, device='cpu')
    return {picture: round(metric(values).item(), 6) for picture, values in pictures().items()}


def weights_digest(name: str) -> str:
    """Return the SHA-256 digest of embedded weights."""
    from pyiqa_rali.model.locate import locate_checkpoint
    return sha256(locate_checkpoint(name))


if __name__ == '__main__':
    write_json(golden_file('rali-lite'), {'weights_sha256': weights_digest('rali-lite'), 'scores': scores('rali-lite')})
    print(golden_file('rali-lite').read_text())
