import numpy as np
import pytest


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Ninety-six training images of four bars, an .npz file."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 128).astype(np.int32)
    x = rng.uniform(0, 0.4, (128, 8, 8, 1)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 2] += 0.5
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    np.savez(path, train_x=x[:96], train_y=y[:96], test_x=x[96:], test_y=y[96:])
    return path
