import math
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest
from dp_accounting import dp_event, pld, rdp
from scipy.special import gammaln, logsumexp

from jaxnets.gradients.accounting import epsilon, noise_for
from jaxnets.gradients.privacy import padded_size

# n = 60,000, batches of 256, 60 epochs: the example of TensorFlow Privacy's tutorial
MNIST = {"steps": 60 * 60_000 // 256, "rate": 256 / 60_000, "delta": 1e-5}
ACCOUNTANTS = {"rdp": rdp.RdpAccountant, "pld": pld.PLDAccountant}
accountants = pytest.mark.parametrize(
    "accountant", ["rdp", pytest.param("pld", marks=pytest.mark.thorough)]
)


def spent(*args, **kwargs):
    return epsilon(*args, sampling="poisson", **kwargs)


def needed(*args, **kwargs):
    return noise_for(*args, sampling="poisson", **kwargs)


def renyi(order, rate, sigma):
    """Of the sampled Gaussian mechanism, at a whole order: Mironov et al. 2019, section 3.3."""
    k = np.arange(order + 1)
    log_binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    terms = (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) / (2 * sigma**2)
    return logsumexp(log_binomial + terms) / (order - 1)


def by_moments(steps, rate, sigma, delta, orders=range(2, 65)):
    """`ε` as published until 2020: `min over orders of RDP + log(1/δ) / (order - 1)`."""
    return min(steps * renyi(a, rate, sigma) + math.log(1 / delta) / (a - 1) for a in orders)


def by_improved_conversion(steps, rate, sigma, delta, orders=range(2, 65)):
    """Canonne, Kamath and Steinke 2020, proposition 12."""
    return min(
        steps * renyi(a, rate, sigma) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1)
        for a in orders
    )


@pytest.mark.parametrize(
    ("steps", "rate", "sigma", "published"),
    [
        # TensorFlow Privacy's tutorial
        (MNIST["steps"], MNIST["rate"], 1.1, 3.0),
        # Abadi et al. 2016, section 3.2
        (10_000, 0.01, 4.0, 1.26),
        # Bu et al. 2020, figure 4
        (20 * 60_000 // 256, 256 / 60_000, 1.3, 1.34),
        (70 * 60_000 // 256, 256 / 60_000, 0.7, 8.68),
    ],
)
def test_published_values(steps, rate, sigma, published):
    """By the moments they were computed from; those of today's accountants are below them."""
    # whole orders only, so a little above
    assert 0.99 * published < by_moments(steps, rate, sigma, 1e-5) < 1.035 * published
    by_rdp = spent(steps, rate, sigma, 1e-5, "rdp")
    by_pld = spent(steps, rate, sigma, 1e-5, "pld")
    assert by_rdp == pytest.approx(by_improved_conversion(steps, rate, sigma, 1e-5), rel=0.035)
    assert 0.8 * by_rdp < by_pld < by_rdp < published


def test_opacus_published_value():
    """Its documentation's: 1 %, noise 1, 300 steps, orders 2, 5, 10, 20, 100."""
    assert by_improved_conversion(300, 0.01, 1.0, 1e-5, (2, 5, 10, 20)) == pytest.approx(
        2.39, abs=0.01
    )
    assert spent(300, 0.01, 1.0, 1e-5, "rdp") <= 2.39


@accountants
@pytest.mark.parametrize(("rate", "sigma", "steps"), [(0.01, 1.0, 300), (1.0, 5.0, 4)])
def test_it_is_what_dp_accounting_says(accountant, rate, sigma, steps):
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    composed = ACCOUNTANTS[accountant]().compose(event, steps)
    assert spent(steps, rate, sigma, 1e-6, accountant) == composed.get_epsilon(1e-6)


def test_one_unsampled_step_is_the_gaussian_mechanism():
    """Whose `δ(ε)` is known: Balle and Wang 2018."""
    sigma, delta = 2.0, 1e-4
    found = spent(1, 1.0, sigma, delta)

    def phi(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    shift = 1 / (2 * sigma)
    exact = phi(shift - found * sigma) - math.exp(found) * phi(-shift - found * sigma)
    assert exact == pytest.approx(delta, rel=0.01)
    assert exact <= delta


@accountants
def test_sigma_to_epsilon_to_sigma(accountant):
    target = spent(1000, 0.01, 1.1, 1e-5, accountant)
    sigma = needed(target, 1000, 0.01, 1e-5, accountant)
    assert sigma == pytest.approx(1.1, rel=2e-4)
    assert spent(1000, 0.01, sigma, 1e-5, accountant) <= target
    assert spent(1000, 0.01, sigma * (1 - 3e-4), 1e-5, accountant) > target


@accountants
@pytest.mark.parametrize("target", [0.1, 1.0, 8.0])
def test_the_noise_found_suffices_and_hardly_less_does(accountant, target):
    sigma = needed(target, 200, 0.02, 1e-5, accountant, tolerance=1e-2)
    assert spent(200, 0.02, sigma, 1e-5, accountant) <= target
    assert spent(200, 0.02, 0.98 * sigma, 1e-5, accountant) > target


def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise_and_delta():
    for accountant in ACCOUNTANTS:
        base = spent(100, 0.01, 1.0, 1e-5, accountant)
        assert spent(200, 0.01, 1.0, 1e-5, accountant) > base
        assert spent(100, 0.02, 1.0, 1e-5, accountant) > base
        assert spent(100, 0.01, 2.0, 1e-5, accountant) < base
        assert spent(100, 0.01, 1.0, 1e-4, accountant) < base
        assert spent(0, 0.01, 1.0, 1e-5, accountant) == 0
        assert spent(100, 0.01, 0.0, 1e-5, accountant) == math.inf


@accountants
def test_accumulated_microbatches_are_one_step_of_the_larger_rate(accountant):
    got = spent(500, 0.002, 1.0, 1e-5, accountant, microbatches=8)
    assert got == spent(500, 0.016, 1.0, 1e-5, accountant)
    # a bug of others: to go on with the rate of one microbatch
    assert got > 3 * spent(500, 0.002, 1.0, 1e-5, accountant)
    sigma = needed(got, 500, 0.002, 1e-5, accountant, microbatches=8, tolerance=1e-2)
    assert sigma == pytest.approx(1, rel=2e-2)


def test_batches_drawn_one_by_one_are_not_parts_of_one():
    """An example may be in several of them: more is lost than `microbatches` accounts."""
    steps, rate, k, sigma = 4, 0.25, 2, 2.0
    times = np.arange(k + 1)
    chances = [math.comb(k, t) * rate**t * (1 - rate) ** (k - t) for t in times]
    event = dp_event.MixtureOfGaussiansDpEvent(sigma, times.astype(float), chances)
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    one_by_one = accountant.compose(event, steps).get_epsilon(1e-5)
    assert one_by_one > 1.05 * spent(steps, rate, sigma, 1e-5, microbatches=k)


@accountants
def test_overflow_is_paid_for_in_delta(accountant):
    steps, rate, sigma, delta, chance = 1000, 0.01, 1.0, 1e-5, 1e-10
    got = spent(steps, rate, sigma, delta, accountant, overflow_probability=chance)
    assert got > spent(steps, rate, sigma, delta, accountant)
    # it keeps what it claims, and claims hardly more than it must
    left = delta - (1 + math.exp(got)) * steps * chance
    assert spent(steps, rate, sigma, left, accountant) == pytest.approx(got, rel=1e-4)
    assert spent(steps, rate, sigma, left, accountant) <= got
    # overflow that is too likely leaves nothing
    assert spent(steps, rate, sigma, delta, accountant, overflow_probability=1e-8) == math.inf
    with pytest.raises(ValueError, match=r"no noise multiplier up to 1e\+06"):
        needed(1.0, steps, rate, delta, accountant, overflow_probability=1e-7)


def test_overflow_is_paid_for_more_than_fully():
    """Beside an analysis of truncated Poisson batches themselves (arXiv:2508.15089)."""
    n, rate, sigma, steps, chance = 2000, 0.05, 1.5, 300, 1e-10
    event = dp_event.TruncatedSubsampledGaussianDpEvent(
        dataset_size=n,
        sampling_probability=rate,
        truncated_batch_size=padded_size(n, rate, chance),
        noise_multiplier=sigma,
    )
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    truncated = pld.PLDAccountant(neighboring_relation=relation).compose(event, steps)
    got = spent(steps, rate, sigma, 1e-5, overflow_probability=chance)
    assert truncated.get_epsilon(1e-5) <= got * (1 + 1e-3)
    assert got == pytest.approx(spent(steps, rate, sigma, 1e-5), rel=0.05)


def test_what_renyi_divergences_cannot_show_is_said():
    with pytest.raises(ValueError, match="by accountant 'rdp'"):
        needed(0.01, 10, 0.01, 1e-9, "rdp")
    assert spent(10, 0.01, needed(0.01, 10, 0.01, 1e-9), 1e-9) <= 0.01


@pytest.mark.parametrize("sampling", ["fixed", "shuffle", "", None])
def test_other_sampling_is_not_accounted_as_poisson(sampling):
    with pytest.raises(ValueError, match=r"must be 'poisson', got .*poisson_batch"):
        epsilon(10, 0.01, 1.0, 1e-5, sampling=sampling)
    with pytest.raises(ValueError, match=r"must be 'poisson', got .*poisson_batch"):
        noise_for(1.0, 10, 0.01, 1e-5, sampling=sampling)


def test_sampling_has_to_be_said():
    with pytest.raises(TypeError, match="sampling"):
        epsilon(10, 0.01, 1.0, 1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": -1}, "steps must be a whole number"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"rate": 0}, r"rate must be in \(0, 1\], got 0"),
        ({"rate": 1.1}, r"rate must be in"),
        ({"rate": math.nan}, r"rate must be in"),
        ({"noise_multiplier": -1}, "noise_multiplier must be at least 0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier must be at least 0"),
        ({"delta": 0}, r"delta must be in \(0, 1\)"),
        ({"accountant": "moments"}, "accountant must be 'pld' or 'rdp', got 'moments'"),
        ({"microbatches": 0}, "microbatches must be a whole number"),
        ({"microbatches": 3}, r"microbatches \* rate must be at most 1, got 3 \* 0.5"),
        ({"overflow_probability": -1}, "overflow_probability must be in"),
    ],
)
def test_bad_input_is_named(changed, message):
    good = {"steps": 10, "rate": 0.5, "noise_multiplier": 1.0, "delta": 1e-5}
    with pytest.raises(ValueError, match=f"epsilon: {message}"):
        spent(**(good | changed))


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf])
def test_bad_targets_are_named(target):
    with pytest.raises(ValueError, match="epsilon must be positive and finite"):
        needed(target, 10, 0.5, 1e-5)
    with pytest.raises(ValueError, match="tolerance must be in"):
        needed(1.0, 10, 0.5, 1e-5, tolerance=0)


def test_dp_accounting_is_imported_only_when_asked_and_missed_by_name():
    code = (
        "import sys; sys.modules['dp_accounting'] = None\n"
        "from jaxnets.gradients import accounting\n"
        "try: accounting.epsilon(1, 0.1, 1.0, 1e-5, sampling='poisson')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'jaxnets[privacy]'" in done.stdout
