"""What guesses about one run prove: a lower bound on its `ε` (Steinke, Nasr, Jagielski, 2023).

Each of `m` canaries is in the data or not, by a fair coin of its own. Who has seen the run guesses
`r` of the coins, and is right about `v`. If the run is `(ε, δ)`-private for the presence of any one
canary, whatever the guesser does (their Theorem 5.2),

    P(V ≥ v) ≤ β + 2 m δ α,   β = P(B ≥ v),   α = max_{1 ≤ i ≤ v} P(v > B ≥ v - i) / i,

where `B` is binomial: `r` guesses, each right with the probability `e^ε / (1 + e^ε)` of randomized
response. An `ε` for which this is below 5 % is refuted at 95 % confidence.

References:
  Steinke, Nasr and Jagielski, [Privacy auditing with one (1) training
  run](https://arxiv.org/abs/2305.08846), 2023: Theorem 5.2, and their appendix's program.
"""

import numpy as np
from scipy.special import expit
from scipy.stats import binom


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The most probable that `right` of `guesses` or more can be, of an `(ε, δ)`-private run.

    Args:
      canaries: `m`.
      guesses: `r ≤ m`, how many coins were guessed; of the others nothing was said.
      right: `v ≤ r`.
      epsilon: `ε ≥ 0`.
      delta: `δ` in [0, 1].

    Raises:
      ValueError: for numbers outside their range.
    """
    if not 0 <= right <= guesses <= canaries:
        raise ValueError(
            "p_value: needs 0 <= right <= guesses <= canaries, "
            f"got {right}, {guesses} and {canaries}"
        )
    if not epsilon >= 0:
        raise ValueError(f"p_value: epsilon must be at least 0, got {epsilon}")
    if not 0 <= delta <= 1:
        raise ValueError(f"p_value: delta must be in [0, 1], got {delta}")
    rate = expit(epsilon)
    beta = binom.sf(right - 1, guesses, rate)
    just_below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, rate))
    alpha = np.max(just_below / np.arange(1, right + 1), initial=0)
    return float(min(1, beta + 2 * canaries * delta * alpha))


def lower_bound(
    canaries: int,
    guesses: int,
    right: int,
    delta: float,
    *,
    confidence: float = 0.95,
    tolerance: float = 1e-6,
) -> float:
    """The `ε` below which no `(ε, δ)` explains the guesses; 0 where they prove nothing.

    Of any `(ε, δ)`-private run it is above `ε` with a probability of at most `1 - confidence`, if
    `guesses` was chosen without looking at the coins.

    Args:
      canaries, guesses, right, delta: as for `p_value`.
      confidence: in (0, 1).
      tolerance: of `ε`; the bound is never too large by it.

    Raises:
      ValueError: for numbers outside their range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"lower_bound: confidence must be in (0, 1), got {confidence}")

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, right, epsilon, delta) < 1 - confidence

    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, high + 1
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
