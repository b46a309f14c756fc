"""One trouble of a net, in words with its numbers."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.gradients.site_flow import SiteFlow

LAYERS = ("dot", "conv")


class Finding(NamedTuple):
    """One trouble; as a string, a sentence."""

    trouble: str
    """`non-finite`, `symmetric`, `dead units`, `saturation`, `exploding`, `vanishing`,
    `no gradient`, `learning rate too high`, `learning rate too low`, `plateau` or `overfitting`."""
    where: str
    """The site, or what of the run."""
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.trouble} at {self.where}: {self.evidence}. {self.advice}."


def largest(values: ArrayLike) -> float:
    """Over turns."""
    values = np.asarray(values, np.float64)
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else float("nan")


def layers_of(sites: Mapping[str, SiteFlow]) -> dict[str, SiteFlow]:
    """Matrix products and convolutions with parameters."""
    return {n: s for n, s in sites.items() if s.about.kind in LAYERS}
