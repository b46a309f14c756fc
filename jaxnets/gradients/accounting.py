"""What a number of noisy steps promises: `(ε, δ)` from the noise, and the noise from `(ε, δ)`.

A run `M` is `(ε, δ)`-private if for any two data sets `D`, `D'` that differ by the presence of one
example, and any set `S` of outcomes, `P(M(D) ∈ S) ≤ e^ε P(M(D') ∈ S) + δ`.

One step is the Gaussian mechanism, of noise `σ C` on a sum that one example moves by at most `C`,
on a batch in which each example is with probability `q` by itself (`privacy.poisson_batch`). Its
composition is computed by dp-accounting (`pip install 'jaxnets[privacy]'`), in one of two ways:

- `"pld"`: the distribution of the privacy loss, discretized pessimistically: tight, slower.
- `"rdp"`: Rényi divergences, `ε` from the best order: looser, fast.

What is counted is each draw of noise. If every microbatch gets noise of its own (`dp_grad` inside
an accumulating optimizer), each is a step at its own rate. If `k` microbatches are summed before
one noise (`privacy.clipped_sum`, then one `privacy.noisy_mean`), they are one step whose rate is
that of all of them: `microbatches=k`. An accountant that goes on with the rate of one microbatch
claims far too little.

References:
  Abadi et al., [Deep learning with differential privacy](https://arxiv.org/abs/1607.00133), 2016.
  Mironov et al., [Rényi differential privacy of the sampled Gaussian
  mechanism](https://arxiv.org/abs/1908.10530), 2019.
  Doroshenko et al., [Connect the dots: tighter discrete approximations of privacy loss
  distributions](https://arxiv.org/abs/2207.04380), 2022.
"""

import math
from collections.abc import Callable
from typing import Literal

Accountant = Literal["pld", "rdp"]

__all__ = ["epsilon", "noise_for"]

_LARGEST_NOISE = 1e6


def epsilon(
    steps: int,
    rate: float,
    noise_multiplier: float,
    delta: float,
    accountant: Accountant = "pld",
    *,
    sampling: str,
    microbatches: int = 1,
    overflow_probability: float = 0.0,
) -> float:
    """The `ε` of `(ε, δ)` after `steps` draws of noise.

    Args:
      steps: how often noise was drawn: calls of `dp_grad` or of `noisy_mean`.
      rate: the probability, in (0, 1], with which an example is in a batch.
      noise_multiplier: `σ ≥ 0`; at 0 `ε` is infinite.
      delta: `δ`, in (0, 1), usually well below one over the size of the data set.
      accountant: `"pld"` (tight) or `"rdp"`.
      sampling: `"poisson"`: that batches were drawn as `privacy.poisson_batch` draws them. What
        it promises is not true of others, which are refused.
      microbatches: how many parts of one Poisson batch were summed before each noise. `rate` is
        then that of one part, and the step's is `microbatches * rate`. The parts must be disjoint:
        batches drawn one by one may hold an example several times, and its share in their sum is
        not bounded by `clip_norm`.
      overflow_probability: of more being drawn than the padded batch can hold, at one step, as
        given to `privacy.padded_size`. It costs `δ` `(1 + e^ε) steps · overflow_probability`.

    Raises:
      ValueError: for numbers outside their range, an unknown accountant, other sampling.
      ImportError: without dp-accounting.

    Example:
      >>> round(epsilon(14_062, 256 / 60_000, 1.1, 1e-5, sampling="poisson"), 2)
      2.38
    """
    _check("epsilon", steps, rate, delta, accountant, sampling, microbatches, overflow_probability)
    if not 0 <= noise_multiplier < math.inf:
        raise ValueError(
            f"epsilon: noise_multiplier must be at least 0 and finite, got {noise_multiplier}"
        )
    rate, overflow = microbatches * rate, steps * overflow_probability
    return _epsilon(accountant, steps, rate, noise_multiplier, delta, overflow)


def noise_for(
    epsilon: float,
    steps: int,
    rate: float,
    delta: float,
    accountant: Accountant = "pld",
    *,
    sampling: str,
    microbatches: int = 1,
    overflow_probability: float = 0.0,
    tolerance: float = 1e-4,
) -> float:
    """The smallest noise multiplier `σ` that keeps `steps` steps within `(ε, δ)`.

    By bisection, to a relative `tolerance`, and never too small: `epsilon` of it is at most the one
    asked for.

    Args:
      epsilon: `ε > 0`.
      steps, rate, delta, accountant, sampling, microbatches, overflow_probability: as for
        `epsilon`.
      tolerance: in (0, 1).

    Raises:
      ValueError: as for `epsilon`, and if no noise achieves it: by Rényi divergences of finite
        orders a very small `ε` cannot be shown, and overflow may use up `δ`.
      ImportError: without dp-accounting.
    """
    _check(
        "noise_for", steps, rate, delta, accountant, sampling, microbatches, overflow_probability
    )
    if not 0 < epsilon < math.inf:
        raise ValueError(f"noise_for: epsilon must be positive and finite, got {epsilon}")
    if not 0 < tolerance < 1:
        raise ValueError(f"noise_for: tolerance must be in (0, 1), got {tolerance}")
    rate, overflow = microbatches * rate, steps * overflow_probability

    def suffices(by: Accountant) -> Callable[[float], bool]:
        return lambda sigma: _epsilon(by, steps, rate, sigma, delta, overflow) <= epsilon

    # loose but fast, and near enough: with much less noise losses are large, and pld slow
    start = _smallest(suffices("rdp"), 1.0, 2.0, 1e-2)
    if accountant == "pld":
        found = _smallest(suffices("pld"), 1.0 if start is None else start, 1.25, tolerance)
    else:
        found = start and _smallest(suffices("rdp"), start, 1.05, tolerance)
    if found is None:
        raise ValueError(
            f"noise_for: no noise multiplier up to {_LARGEST_NOISE:g} gives epsilon {epsilon} by "
            f"accountant {accountant!r} with delta {delta} and overflow_probability "
            f"{overflow_probability}"
        )
    return found


def _smallest(
    suffices: Callable[[float], bool], start: float, factor: float, tolerance: float
) -> float | None:
    """The least number that suffices, from above; `None` if it is too large."""
    high = start
    while not suffices(high):
        high *= factor
        if high > _LARGEST_NOISE:
            return None
    low = high / factor
    while low > 1 / _LARGEST_NOISE and suffices(low):
        low, high = low / factor, low
    while high > low * (1 + tolerance):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _epsilon(
    accountant: Accountant, steps: int, rate: float, sigma: float, delta: float, overflow: float
) -> float:
    """`overflow` is the probability that it occurs at any step."""
    at = _composed(accountant, steps, rate, sigma)
    found = at(delta)
    if overflow == 0:
        return found
    # δ has to pay for the overflow, by an amount that grows with ε
    while math.isfinite(found) and found < 700:
        left = delta - (1 + math.exp(found)) * overflow
        if left <= 0:
            break
        needed = at(left)
        if needed <= found:
            return found
        found = needed * (1 + 1e-6)
    return math.inf


def _composed(
    accountant: Accountant, steps: int, rate: float, sigma: float
) -> Callable[[float], float]:
    """`δ -> ε` after all steps."""
    try:
        import dp_accounting
        from dp_accounting import pld, rdp
    except ImportError as error:
        raise ImportError(
            "jaxnets.gradients.accounting needs dp-accounting: pip install 'jaxnets[privacy]'"
        ) from error
    if steps == 0:
        return lambda delta: 0.0
    if sigma == 0:
        return lambda delta: math.inf
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    composed = (pld.PLDAccountant if accountant == "pld" else rdp.RdpAccountant)()
    composed.compose(step, steps)
    return lambda delta: float(composed.get_epsilon(delta))


def _check(
    function: str,
    steps: int,
    rate: float,
    delta: float,
    accountant: str,
    sampling: str,
    microbatches: int,
    overflow_probability: float,
) -> None:
    if sampling != "poisson":
        raise ValueError(
            f"{function}: sampling must be 'poisson', got {sampling!r}: batches of a fixed size, "
            "shuffled or drawn, do not include each example by itself with probability rate, and "
            "what is accounted for Poisson batches is too little for them; draw batches by "
            "jaxnets.gradients.privacy.poisson_batch"
        )
    if accountant not in ("pld", "rdp"):
        raise ValueError(f"{function}: accountant must be 'pld' or 'rdp', got {accountant!r}")
    if steps != int(steps) or steps < 0:
        raise ValueError(f"{function}: steps must be a whole number of at least 0, got {steps}")
    if microbatches != int(microbatches) or microbatches < 1:
        raise ValueError(
            f"{function}: microbatches must be a whole number of at least 1, got {microbatches}"
        )
    if not 0 < rate <= 1:
        raise ValueError(f"{function}: rate must be in (0, 1], got {rate}")
    if microbatches * rate > 1:
        raise ValueError(
            f"{function}: microbatches * rate must be at most 1, got {microbatches} * {rate}"
        )
    if not 0 < delta < 1:
        raise ValueError(f"{function}: delta must be in (0, 1), got {delta}")
    if not 0 <= overflow_probability < 1:
        raise ValueError(
            f"{function}: overflow_probability must be in [0, 1), got {overflow_probability}"
        )
