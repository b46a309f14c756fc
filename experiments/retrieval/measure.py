"""Which pairs are held out, and how often the right one is among the first that are found."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.errors import UsageError

Similarities = NDArray[np.floating]
Families = NDArray[np.int32]

KS = (1, 5, 10)


VALIDATED = 0.2
"""The share of the training families that `--validate` holds out."""


class Split(NamedTuple):
    """Indices of pairs."""

    train: NDArray[np.intp]
    held_out: NDArray[np.intp]
    """One of each family that is held out."""
    known: NDArray[np.intp]
    """One of each of some families that are trained on: as many as are held out, or all."""


class Recall(NamedTuple):
    """By how many are looked at (`KS`): the share of queries whose own partner is among them."""

    images: tuple[float, ...]
    """Found by their captions."""
    texts: tuple[float, ...]
    """Found by their images."""


def split(families: NDArray[np.int32], share: float, seed: int, *, validate: bool = False) -> Split:
    """Whole families on either side, so that no near-duplicate of what is asked was trained on.

    Of a family that is held out one pair is asked, drawn by the seed; its others are left out.
    To validate, a part of the families left to train on takes the place of those held out, which
    are not looked at.

    Raises:
      UsageError: if one side would have less than two families.
    """
    rng = np.random.default_rng(seed)
    held, left = _cut(rng.permutation(np.unique(families)), f"--held-out {share}", share)
    held_out = _one_of_each(rng, families, held)
    if validate:
        held, left = _cut(left, "--validate", VALIDATED)
        held_out = _one_of_each(rng, families, held)
    known = _one_of_each(rng, families, left[: len(held)])
    return Split(np.flatnonzero(np.isin(families, left)), held_out, known)


def _cut(order: Families, flag: str, share: float) -> tuple[Families, Families]:
    """The first `share` of the families, and the others."""
    count = round(share * len(order))
    if not 2 <= count <= len(order) - 2:
        raise UsageError(f"{flag} of {len(order)} kinds of pictures leaves less than 2 on one side")
    return order[:count], order[count:]


def _one_of_each(
    rng: np.random.Generator, families: Families, chosen: Families
) -> NDArray[np.intp]:
    drawn = [rng.choice(np.flatnonzero(families == family)) for family in chosen]
    return np.sort(np.array(drawn))


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
