"""The 1797 handwritten digits that come with scikit-learn, split once and for all."""

import numpy as np

from experiments.data.dataset import Dataset, validate

SPLIT_SEED = 0
TEST_FRACTION = 0.2


def load_digits() -> Dataset:
    """The digits: 1437 to train and 360 to test, stratified by class.

    The split is scikit-learn's `train_test_split(..., test_size=0.2, random_state=0, stratify=y)`,
    whatever a run's seed is: results of different seeds, and of scikit-learn's own models, compare.
    """
    # imported here: scikit-learn takes a second, which the other data sets need not pay
    from sklearn.datasets import load_digits as load_bunch
    from sklearn.model_selection import train_test_split

    bunch = load_bunch()
    x = (bunch.images[..., None] / 16).astype(np.float32)
    y = bunch.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(y)), test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=y
    )
    classes = tuple(map(str, range(10)))
    return validate(Dataset("digits", x[train], y[train], x[test], y[test], classes))
