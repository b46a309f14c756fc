"""Adam's family."""

from tests.optim.mutants.mutant import Mutant, mutants, swap

_DECAY = "add_decayed_weights(weight_decay, mask)"
_RATE = "scale_by_learning_rate(learning_rate)"
_ALIASES = "test_adam.py -k aliases_hand_on"
_EPS = ("eps inside the root", "eps_root) + eps)", "eps_root + eps))")
_M = ("sign of the momentum", "m = (1 - b1) * g + b1 * m", "m = (1 - b1) * g - b1 * m")
_T = ("bias correction one step late", "t = increment(state.count)", "t = increment(increment(state.count))")
_NU = ("nu in bfloat16", "nu=moments_like(params, real=True)", 'nu=moments_like(params, dtype="bfloat16", real=True)')


def _rounded(name: str) -> str:
    return f"test_adam.py -k 'rounded and {name}'"


def _complex(name: str) -> str:
    return f"test_adam.py -k 'complex_parameters and {name}'"


def _trajectory(name: str) -> str:
    return f"test_against_optax.py -k 'trajectory and {name}'"


def _equations(optimizer: str, file: str, *rows: tuple[str, ...]) -> list[Mutant]:
    return mutants(optimizer, file, f"test_adam_equations.py -k {optimizer}", *rows)


MUTANTS = [
    *_equations(
        "nadam",
        "nadam.py",
        _EPS,
        _M,
        _T,
        ("no bias correction of v", "correction = 1 - b2**t", "correction = 1"),
        ("no bias correction of m", "(m / (1 - product * following))", "m"),
        ("no bias correction of g", "(g / (1 - product))", "g"),
        ("momentum constant", "1 - 0.5 * 0.96", "1 - 0.0 * 0.96"),
        ("momentum of this step twice", "now, following = momentum(t), momentum(increment(t))", "now, following = momentum(t), momentum(t)"),
        ("mu_dtype ignored", "mu=moments_like(params, dtype=mu_dtype)", "mu=moments_like(params)", _rounded("scale_by_nadam")),
        ("nu's dtype follows mu's", "dtype=nu_dtype, real=True", "dtype=mu_dtype, real=True", _rounded("scale_by_nadam")),
        ("nu in bfloat16", "dtype=nu_dtype, real=True", 'dtype="bfloat16", real=True'),
        ("complex nu", "dtype=nu_dtype, real=True", "dtype=nu_dtype", _complex("nadam")),
        ("dtypes not handed on", "eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype)", "eps_root, nesterov=nesterov)", _ALIASES),
    ),
    *_equations(
        "nadamw",
        "nadam.py",
        swap("decay after the rate", _DECAY, _RATE),
        swap("decay before NAdam", "_scale_by(b1, b2, eps, eps_root, mu_dtype, nesterov, nu_dtype, momentum_decay)", _DECAY),
        ("mask ignored", _DECAY, "add_decayed_weights(weight_decay)", _trajectory("nadamw")),
        ("eps lost", f"eps, eps_root, mu_dtype, nesterov, nu_dtype, momentum_decay),\n        {_DECAY}", f"1e-8, eps_root, mu_dtype, nesterov, nu_dtype, momentum_decay),\n        {_DECAY}", _trajectory("nadamw")),
        ("dtypes not handed on", f"mu_dtype, nesterov, nu_dtype, momentum_decay),\n        {_DECAY}", f"None, nesterov, None, momentum_decay),\n        {_DECAY}", _ALIASES),
    ),
    *_equations(
        "amsgrad",
        "amsgrad.py",
        _EPS,
        _M,
        _T,
        ("no bias correction of m", "m_hat(g, m) if bias_correction_mu else m", "m"),
        ("bias correction of m always", "m_hat(g, m) if bias_correction_mu else m", "m_hat(g, m)"),
        ("no bias correction of v", "1 - b2**t if bias_correction_nu else 1", "1"),
        ("bias correction of v always", "1 - b2**t if bias_correction_nu else 1", "1 - b2**t"),
        ("corrected always before", "(correction, 1) if correct_before_max else (1, correction)", "(correction, 1)"),
        ("no maximum", "jnp.maximum(largest, v / before)", "v / before"),
        ("minimum", "jnp.maximum(largest, v / before)", "jnp.minimum(largest, v / before)"),
        ("mu_dtype ignored", "mu=moments_like(params, dtype=mu_dtype)", "mu=moments_like(params)", _rounded("scale_by_amsgrad")),
        ("nu's dtype follows mu's", "nu=moments_like(params, dtype=nu_dtype", "nu=moments_like(params, dtype=mu_dtype", _rounded("scale_by_amsgrad")),
        ("maximum in bfloat16", "nu_max=moments_like(params, dtype=nu_dtype", 'nu_max=moments_like(params, dtype="bfloat16"'),
        ("complex nu", "nu=moments_like(params, dtype=nu_dtype, real=True)", "nu=moments_like(params, dtype=nu_dtype)", _complex("amsgrad")),
        ("mu_dtype not handed on", "            mu_dtype,\n", "            None,\n", _ALIASES),
    ),
    *_equations(
        "adamax",
        "adamax.py",
        _M,
        _T,
        _NU,
        ("no bias correction", "m_hat(g, m) / v", "m / v"),
        ("eps after the maximum", "jnp.maximum(jnp.abs(g) + eps, b2 * v)", "jnp.maximum(jnp.abs(g), b2 * v) + eps"),
        ("no decay of v", "b2 * v)", "v)"),
        ("complex nu", "nu=moments_like(params, real=True)", "nu=moments_like(params)", _complex("adamax")),
    ),
    *_equations(
        "adamaxw",
        "adamax.py",
        swap("decay after the rate", _DECAY, _RATE),
        swap("decay before AdaMax", "scale_by_adamax(b1, b2, eps)", _DECAY),
        ("mask ignored", _DECAY, "add_decayed_weights(weight_decay)", _trajectory("adamaxw")),
        ("eps lost", f"scale_by_adamax(b1, b2, eps),\n        {_DECAY}", f"scale_by_adamax(b1, b2),\n        {_DECAY}", _trajectory("adamaxw")),
    ),
    *_equations(
        "adabelief",
        "adabelief.py",
        _M,
        _T,
        _NU,
        ("no bias correction of m", "return m_hat(g, m) /", "return m /"),
        ("no bias correction of s", "nesterov), 1 - b2**t", "nesterov), 1"),
        ("eps inside the root", "(jnp.sqrt(s / correction) + eps)", "jnp.sqrt(s / correction + eps)"),
        ("eps_root not kept in s", "+ b2 * s + eps_root\n            return m_hat(g, m) / (jnp.sqrt(s / correction)", "+ b2 * s\n            return m_hat(g, m) / (jnp.sqrt(s / correction + eps_root)"),
        ("squares of gradients", "abs_sq(g - m)", "abs_sq(g)"),
        ("sign of what was foreseen", "abs_sq(g - m)", "abs_sq(g + m)"),
        ("complex nu", "nu=moments_like(params, real=True)", "nu=moments_like(params)", _complex("adabelief")),
    ),
    *_equations(
        "radam",
        "radam.py",
        (*_EPS[:1], "v / correction + eps_root) + eps", "v / correction + eps_root + eps)"),
        _M,
        _T,
        _NU,
        ("no bias correction of m", "r * m_hat(g, m) / root(v)", "r * m / root(v)"),
        ("no bias correction of v", "jnp.sqrt(v / correction + eps_root)", "jnp.sqrt(v + eps_root)"),
        ("no rectification", "r * m_hat(g, m) / root(v)", "m_hat(g, m) / root(v)"),
        ("divided always", "jnp.where(tractable, r * m_hat(g, m) / root(v), m_hat(g, m))", "r * m_hat(g, m) / root(v)"),
        ("sign in the length", "length = limit - 2", "length = limit + 2"),
        ("PyTorch's eps always", "if eps_before_correction:", "if True:"),
        ("PyTorch's eps never", "if eps_before_correction:", "if False:"),
        ("derivative not finite", "jnp.where(tractable, length, limit)", "length", "test_adam.py -k derivative_through_radam"),
        ("complex nu", "nu=moments_like(params, real=True)", "nu=moments_like(params)", _complex("radam")),
    ),
    *_equations(
        "adan",
        "adan.py",
        _EPS,
        _M,
        ("bias correction one step late", "t = increment(state.t)", "t = increment(increment(state.t))"),
        ("no bias correction of n", "correction = 1 - b3**t", "correction = 1"),
        ("no bias correction of m", "ahead = m_hat(g, m)", "ahead = m"),
        ("no bias correction of v", "v_hat(difference, v)", "v"),
        ("first difference is the gradient", "jnp.where(state.t == 0, 0, g - last)", "g - last"),
        ("sign of the difference", "abs_sq(g + (1 - b2) * difference)", "abs_sq(g - (1 - b2) * difference)"),
        ("no look-ahead", " + (1 - b2) * v_hat(difference, v)", ""),
        ("n in bfloat16", "n=moments_like(params, real=True)", 'n=moments_like(params, dtype="bfloat16")'),
        ("complex n", "n=moments_like(params, real=True)", "n=moments_like(params)", _complex("adan")),
        swap("decay after the rate", _DECAY, _RATE),
        swap("decay before Adan", "scale_by_adan(b1, b2, b3, eps, eps_root)", _DECAY),
    ),
    *_equations(
        "yogi",
        "yogi.py",
        _EPS,
        _M,
        _T,
        ("no bias correction of m", "return m_hat(g, m) /", "return m /"),
        ("no bias correction of v", "t), 1 - b2**t", "t), 1"),
        ("sign of the change", "v = v - (1 - b2)", "v = v + (1 - b2)"),
        ("Adam's change", "jnp.sign(v - abs_sq(g)) * abs_sq(g)", "(v - abs_sq(g))"),
        ("m starts at 0", "mu=moments_like(params, initial_accumulator_value)", "mu=moments_like(params)"),
        ("v starts at 0", "nu=moments_like(params, initial_accumulator_value,", "nu=moments_like(params,"),
        ("nu in bfloat16", "initial_accumulator_value, real=True", 'initial_accumulator_value, dtype="bfloat16"'),
        ("complex nu", "nu=moments_like(params, initial_accumulator_value, real=True)", "nu=moments_like(params, initial_accumulator_value)", _complex("yogi")),
    ),
    *_equations(
        "adadelta",
        "adadelta.py",
        ("eps outside the root", "jnp.sqrt(v + eps)", "(jnp.sqrt(v) + eps)"),
        ("eps outside the other root", "jnp.sqrt(x + eps)", "(jnp.sqrt(x) + eps)"),
        ("sign of v", "v = (1 - rho) * abs_sq(g) + rho * v", "v = (1 - rho) * abs_sq(g) - rho * v"),
        ("squares of gradients", "abs_sq(u) + rho * x", "abs_sq(g) + rho * x"),
        ("x used after the step", "u, v, (1 - rho) * abs_sq(u) + rho * x", "u, v, (1 - rho) * abs_sq(u)"),
        ("averages in bfloat16", "e_g=moments_like(params, real=True)", 'e_g=moments_like(params, dtype="bfloat16")'),
        ("complex averages", "e_g=moments_like(params, real=True)", "e_g=moments_like(params)", _complex("adadelta")),
        swap("decay after Adadelta", "add_decayed_weights(weight_decay, weight_decay_mask)", "scale_by_adadelta(rho, eps)"),
    ),
    *_equations(
        "rprop",
        "rprop.py",
        ("one step late", "return u, size, u", "return last, size, u"),
        ("sign", "scale(-1.0)", "scale(1.0)"),
        ("step where the sign changed", "jnp.where(agreement < 0, 0, size * jnp.sign(g))", "size * jnp.sign(g)"),
        ("factors swapped", "agreement > 0, eta_plus, eta_minus", "agreement < 0, eta_plus, eta_minus"),
        ("no bounds", "jnp.clip(size * factor, min_step_size, max_step_size)", "size * factor"),
        ("grows where nothing is known", "jnp.where(agreement == 0, size, new_size)", "new_size"),
        ("sizes in bfloat16", "moments_like(params, learning_rate)", 'moments_like(params, learning_rate, dtype="bfloat16")'),
        ("small products underflow", "jnp.sign(g) * jnp.sign(last)", "g * last", "test_adam.py -k rprop_is_not_late"),
    ),
    *_equations(
        "novograd",
        "novograd.py",
        _EPS,
        ("first norm averaged", "jnp.where(state.count == 0, norm_sq, (1 - b2) * norm_sq + b2 * v)", "(1 - b2) * norm_sq + b2 * v"),
        ("norm not squared", "norm_sq = jnp.sum(abs_sq(g))", "norm_sq = jnp.sum(abs_sq(g)) ** 0.5"),
        ("sign of the momentum", "m = b1 * m +", "m = -b1 * m +"),
        ("average instead of sum", "m = b1 * m + (", "m = b1 * m + (1 - b1) * ("),
        ("decay before the norm", "(g / (jnp.sqrt(v + eps_root) + eps) + weight_decay * p)", "((g + weight_decay * p) / (jnp.sqrt(v + eps_root) + eps))"),
        ("decay outside the momentum", " + weight_decay * p)\n            return m, m, v", ")\n            return m + weight_decay * p, m, v"),
        ("mu_dtype ignored", "mu=moments_like(params, dtype=mu_dtype)", "mu=moments_like(params)", _rounded("scale_by_novograd")),
        ("nu in bfloat16", "nu=moments_like(scalars, dtype=nu_dtype", 'nu=moments_like(scalars, dtype="bfloat16"'),
        ("complex nu", "nu=moments_like(scalars, dtype=nu_dtype, real=True)", "nu=moments_like(scalars, dtype=nu_dtype)", _complex("novograd")),
    ),
]
