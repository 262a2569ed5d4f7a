"""Writes the small PCA files beside it: run it once with each set of versions whose files shall be read.

    python3 -m venv old && old/bin/pip install scikit-learn==1.2.2 joblib==1.1.1 numpy==1.23.5
    old/bin/python tests/data/write_pca_files.py

The versions stand in the names of the files. The features are the same for all, and so are the values to be read.
"""

from pathlib import Path

import joblib
import numpy as np
import sklearn
from sklearn.decomposition import PCA, IncrementalPCA

FOLDER = Path(__file__).parent / 'pca'


def features() -> np.ndarray:
    """Return 24 rows of 6 features without a random generator, whose numbers may change between versions."""
    row, column = np.mgrid[0:24, 0:6].astype(np.float64)
    return np.sin(row * (column + 1) * 0.7) + column / 10


def main() -> None:
    """Write a PCA and an incremental one, plain and compressed."""
    FOLDER.mkdir(exist_ok=True)
    versions = f'sklearn{sklearn.__version__}_joblib{joblib.__version__}_numpy{np.__version__}'
    for kind, estimator in (('pca', PCA(n_components=3)), ('incremental', IncrementalPCA(n_components=3, batch_size=12))):
        estimator.fit(features())
        for compress in (0, 3):
            joblib.dump(estimator, FOLDER / f'{kind}_{versions}_compress{compress}.pkl', compress=compress)
        estimator.fit(np.asfortranarray(features().astype(np.float32)))
        joblib.dump(estimator, FOLDER / f'{kind}_float32_{versions}_compress0.pkl', protocol=2)


if __name__ == '__main__':
    main()
