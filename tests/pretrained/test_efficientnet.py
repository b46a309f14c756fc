"""EfficientNet-Lite0: names and back on a small one, and the real weights (`make download`)."""

import jax
import numpy as np
import pytest

from experiments.data.weights import fetch_weights
from jaxnets import models, pretrained
from tests.catalogue import EFFICIENTNET
from tests.downloads import or_skip
from tests.numerics import assert_trees_equal

NAMES = pretrained.EFFICIENTNET_NAMES


@pytest.mark.thorough
def test_there_and_back_bit_for_bit():
    pair = models.init_efficientnet(jax.random.key(0), EFFICIENTNET)
    state_dict = pretrained.to_state_dict(pair, NAMES)
    assert state_dict["_blocks.1._depthwise_conv.weight"].shape == (6, 1, 5, 5)
    assert state_dict["_fc.weight"].shape == (4, 6)
    counted = state_dict | {"_bn0.num_batches_tracked": np.int64(7)}
    ignore = r"\.num_batches_tracked$"
    assert_trees_equal(pretrained.from_state_dict(counted, pair, NAMES, ignore=ignore), pair)
    with pytest.raises(ValueError, match=r"added '_bn0\.num_batches_tracked'"):
        pretrained.from_state_dict(counted, pair, NAMES)
    del state_dict["_fc.bias"]
    with pytest.raises(ValueError, match=r"missing '_fc\.bias'"):
        pretrained.from_state_dict(state_dict, pair, NAMES)
    with pytest.raises(ValueError, match="no rule renames leaf '0/blocks/0/depthwise/norm/bias'"):
        pretrained.to_state_dict(pair, {".*kernel": "kernel"})


@pytest.mark.download
def test_known_answers():
    from skimage import data
    from sklearn.datasets import load_sample_image

    image = pytest.importorskip("PIL.Image")
    (path,) = or_skip(fetch_weights, "efficientnet-lite0")
    params, state = pretrained.load_efficientnet(path)
    stored = pretrained.load_pth(path)
    back = pretrained.to_state_dict((params, state), NAMES)
    assert len(stored) == 296
    assert stored.keys() - back.keys() == {n for n in stored if n.endswith("num_batches_tracked")}
    for name, x in back.items():
        np.testing.assert_array_equal(x, stored[name])

    # the whole photograph as 224×224: of a square from the cat's middle only whiskers remain
    photographs = (data.chelsea(), data.coffee(), load_sample_image("flower.jpg"))
    x = np.stack(
        [np.asarray(image.fromarray(p).resize((224, 224), image.BILINEAR)) for p in photographs]
    )
    config = models.EfficientNetConfig()
    logits, _ = jax.jit(lambda x: models.efficientnet(params, config, x, state=state))(
        pretrained.efficientnet_pixels(x.astype(np.float32))
    )
    # Egyptian cat, espresso, daisy
    np.testing.assert_array_equal(np.argmax(logits, -1), [285, 967, 985])
