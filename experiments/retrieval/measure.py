"""Which pairs are held out, and how often the right one is among the first that are found."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.errors import UsageError

Similarities = NDArray[np.floating]

KS = (1, 5, 10)


class Split(NamedTuple):
    """Indices of pairs."""

    train: NDArray[np.intp]
    held_out: NDArray[np.intp]
    """One of each family that is not trained on."""


class Recall(NamedTuple):
    """By how many are looked at (`KS`): the share of queries whose own partner is among them."""

    images: tuple[float, ...]
    """Found by their captions."""
    texts: tuple[float, ...]
    """Found by their images."""


def split(families: NDArray[np.int32], share: float, seed: int) -> Split:
    """Whole families on either side, so that no near-duplicate of what is asked was trained on.

    Of a family that is held out one pair is asked, drawn by the seed; its others are left out.

    Raises:
      UsageError: if one side would have less than two families.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(families))
    count = round(share * len(order))
    if not 2 <= count <= len(order) - 2:
        raise UsageError(
            f"--held-out {share} of {len(order)} kinds of pictures leaves less than 2 on one side"
        )
    held = order[:count]
    chosen = [rng.choice(np.flatnonzero(families == family)) for family in held]
    return Split(np.flatnonzero(~np.isin(families, held)), np.sort(np.array(chosen)))


def ranks(similarities: Similarities) -> NDArray[np.intp]:
    """For each row, how many others are at least as similar as its own: ties count against it."""
    own = np.diagonal(similarities)[:, None]
    # not less, so that what is not a number is not found
    found: NDArray[np.intp] = np.sum(~(similarities < own), axis=1) - 1
    return found


def recall(u: NDArray[np.floating], v: NDArray[np.floating]) -> Recall:
    """Of images `u` and their captions `v`, unit vectors `[n, d]`, each among all others."""
    similarities = u @ v.T
    by_text, by_image = ranks(similarities.T), ranks(similarities)
    return Recall(*(tuple(float(np.mean(r < k)) for k in KS) for r in (by_text, by_image)))


def chance(n: int) -> tuple[float, ...]:
    """What guessing among n finds."""
    return tuple(min(1.0, k / n) for k in KS)
