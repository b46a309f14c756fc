"""Signs, trust ratios, factored moments, optimism, noise."""

from tests.optim.mutants.mutant import mutants, swap

_NUMPY = "test_norms_and_signs.py::test_numpy"
_DTYPES = "test_norms_and_signs.py -k mu_dtype_of_lion"
_COMPLEX = "test_norms_and_signs.py -k complex_parameters"
_DECAY = "add_decayed_weights(weight_decay, mask)"
_RATE = "scale_by_learning_rate(learning_rate)"
_SIGNS = "scale_by_sign()"
_ADAM = "scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype)"
_ALIASES = "test_precision.py -k aliases_hand_on"


def _trajectory(name: str) -> str:
    return f"test_against_optax.py -k 'trajectory and {name}'"


MUTANTS = [
    *mutants(
        "sign_sgd",
        "sign.py",
        _NUMPY,
        ("no sign", "map_updates(jnp.sign, updates)", "updates"),
        ("sign of the step", "map_updates(jnp.sign, updates)", "map_updates(lambda g: -jnp.sign(g), updates)"),
        ("moves at 0", "map_updates(jnp.sign, updates)", "map_updates(lambda g: jnp.where(g >= 0, 1, -1), updates)", "test_precision.py -k 'half_precision_steps and sign_sgd'"),
    ),
    *mutants("signum", "sign.py", _NUMPY, swap("sign before the momentum", "ema(beta, debias=False, accumulator_dtype=accumulator_dtype)", _SIGNS), ("accumulator_dtype ignored", "ema(beta, debias=False, accumulator_dtype=accumulator_dtype)", "ema(beta, debias=False)", _DTYPES)),
    *mutants(
        "ema",
        "averages.py",
        _NUMPY,
        ("no bias correction", "m / correction if debias else m", "m"),
        ("bias correction always", "m / correction if debias else m", "m / correction", _trajectory("adafactor")),
        ("sum instead of average", "m = (1 - decay) * g + decay * m", "m = g + decay * m"),
        ("accumulator_dtype ignored", "moments_like(params, dtype=accumulator_dtype)", "moments_like(params)", _DTYPES),
        ("sign of the momentum", "m = (1 - decay) * g + decay * m", "m = (1 - decay) * g - decay * m"),
    ),
    *mutants(
        "lion",
        "sign.py",
        _NUMPY,
        ("betas swapped", "direction((1 - b1) * g + b1 * m), (1 - b2) * g + b2 * m", "direction((1 - b2) * g + b2 * m), (1 - b1) * g + b1 * m"),
        ("sign of the momentum", "direction((1 - b1) * g + b1 * m)", "direction((1 - b1) * g - b1 * m)"),
        ("momentum of the step stored", "(1 - b2) * g + b2 * m", "(1 - b1) * g + b1 * m"),
        ("no sign", "return jnp.sign(x)", "return x"),
        ("mu_dtype ignored", "moments_like(params, dtype=mu_dtype)", "moments_like(params)", _DTYPES),
        ("mu_dtype not handed on", "scale_by_lion(b1, b2, mu_dtype)", "scale_by_lion(b1, b2)", _DTYPES),
        swap("decay after the rate", _DECAY, _RATE),
        swap("decay before Lion", "scale_by_lion(b1, b2, mu_dtype)", _DECAY),
    ),
    *mutants(
        "lars",
        "trust_ratio.py",
        _NUMPY,
        ("ratio upside down", "trust_coefficient * param_norm / divisor", "trust_coefficient * divisor / param_norm"),
        ("eps lost", "update_norm + eps)", "update_norm)"),
        ("norm of the gradient's squares", "jnp.maximum(norm(g), min_norm)", "jnp.maximum(norm(g) ** 2, min_norm)"),
        ("0 / 0 without gradients", "(param_norm == 0) | (update_norm == 0)", "param_norm == 0", _trajectory("lars")),
        ("parameters of 0 stay", "(param_norm == 0) | (update_norm == 0)", "update_norm == 0", "test_norms_and_signs.py -k parameters_of_0"),
        (
            "decay after the ratio",
            "add_decayed_weights(weight_decay, weight_decay_mask),\n        scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps, mask=trust_ratio_mask),",
            "scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps, mask=trust_ratio_mask),\n        add_decayed_weights(weight_decay, weight_decay_mask),",
        ),
        swap("momentum before the rate", _RATE, "trace(momentum, nesterov)", _trajectory("lars")),
        ("no Nesterov", "trace(momentum, nesterov)", "trace(momentum)", _trajectory("lars")),
        ("mask of the ratio ignored", "eps=eps, mask=trust_ratio_mask", "eps=eps", _trajectory("lars")),
    ),
    *mutants(
        "lamb",
        "trust_ratio.py",
        _NUMPY,
        swap("decay after the ratio", _DECAY, "scale_by_trust_ratio()"),
        swap("decay before Adam", "scale_by_adam(b1, b2, eps, eps_root)", _DECAY),
        ("no trust ratio", "scale_by_trust_ratio(),\n        scale_by", "scale_by"),
        ("eps lost", "scale_by_adam(b1, b2, eps, eps_root)", "scale_by_adam(b1, b2)"),
    ),
    *mutants(
        "fromage",
        "trust_ratio.py",
        _NUMPY,
        ("sign of the shrinking", "factor = -(learning_rate**2)", "factor = learning_rate**2"),
        ("step not shrunk", "shortened = learning_rate / _hypotenuse(learning_rate)", "shortened = learning_rate"),
        ("no root", "(1 + learning_rate**2) ** 0.5", "1 + learning_rate**2"),
        ("sign in the root", "(1 + learning_rate**2) ** 0.5", "(1 - learning_rate**2) ** 0.5"),
    ),
    *mutants(
        "adafactor",
        "factored.py",
        "test_norms_and_signs.py -k adafactor_numpy",
        ("eps after the average", "squares = abs_sq(g) + epsilon", "squares = abs_sq(g)"),
        ("rows and columns swapped", "average(row, squares.mean(first))", "average(row, squares.mean(first)[::-1])"),
        ("mean of the rows lost", "tall / jnp.where(mean == 0, 1, mean)", "tall"),
        ("square instead of root", "** -0.5)", "** -1.0)"),
        ("decay of the second moment", "1 - jnp.maximum(step + 1, 1)", "1 - jnp.maximum(step + 2, 1)"),
        ("average upside down", "beta * old + (1 - beta) * new", "(1 - beta) * old + beta * new"),
        ("momentum corrected", "ema(momentum, debias=False,", "ema(momentum,"),
        ("dtype_momentum ignored", ", accumulator_dtype=dtype_momentum", "", _DTYPES),
        ("sign", "scale(-1),", "scale(1),"),
        (
            "decay times the parameters' scale",
            "scale_by_param_block_rms() if multiply_by_parameter_scale else None,\n        None if momentum is None else ema(momentum, debias=False, accumulator_dtype=dtype_momentum),\n        None\n        if weight_decay_rate is None\n        else add_decayed_weights(weight_decay_rate, weight_decay_mask),",
            "None\n        if weight_decay_rate is None\n        else add_decayed_weights(weight_decay_rate, weight_decay_mask),\n        scale_by_param_block_rms() if multiply_by_parameter_scale else None,\n        None if momentum is None else ema(momentum, debias=False, accumulator_dtype=dtype_momentum),",
        ),
        ("not clipped", "clip_by_block_rms(clipping_threshold)", "None"),
        ("v in bfloat16", "return moments_like(shapes, real=True)", 'return moments_like(shapes, dtype="bfloat16")'),
        ("complex v", "return moments_like(shapes, real=True)", "return moments_like(shapes)", _COMPLEX),
    ),
    *mutants("adafactor", "clip_blocks.py", "test_norms_and_signs.py -k adafactor_numpy", ("sum instead of mean", "jnp.maximum(1, rms(g) / threshold)", "jnp.maximum(1, norm(g) / threshold)"), ("clipped always", "jnp.maximum(1, rms(g) / threshold)", "rms(g) / threshold")),
    *mutants(
        "sm3",
        "sm3.py",
        _NUMPY,
        ("maximum of the covers", "functools.reduce(jnp.minimum, covers)", "functools.reduce(jnp.maximum, covers)"),
        ("minimum over the other axes", "jnp.max(s, axis, initial=0)", "jnp.min(s, axis, initial=jnp.inf)"),
        ("eps outside the root", "rsqrt(s + eps)", "1 / (jnp.sqrt(s) + eps)"),
        ("sum instead of average", "m = (1 - b1) * scaled + b1 * m", "m = scaled + b1 * m"),
        ("sign of the momentum", "m = (1 - b1) * scaled + b1 * m", "m = (1 - b1) * scaled - b1 * m"),
        ("average instead of sum", "jnp.where(b2 == 1, 1, 1 - b2)", "1 - b2"),
        ("NaN where nothing was seen", "jnp.where(s > 0, rsqrt(s + eps), 0)", "rsqrt(s + eps)", "test_norms_and_signs.py -k sm3_stands_still"),
        ("covers in bfloat16", "jax.tree.map(accumulators, params), real=True", 'jax.tree.map(accumulators, params), dtype="bfloat16"'),
        ("complex covers", "jax.tree.map(accumulators, params), real=True", "jax.tree.map(accumulators, params)", _COMPLEX),
    ),
    *mutants(
        "optimistic_gradient_descent",
        "optimistic.py",
        _NUMPY,
        ("sign of the last gradient", "- beta * previous, g", "+ beta * previous, g"),
        ("beta lost", "(alpha + beta) * g", "alpha * g"),
        ("first gradient taken for a change", "jnp.where(state.is_initial_step, g, previous)", "previous"),
        ("first step forever", "ScaleByOptimisticGradientState(jnp.array(False), gradients)", "ScaleByOptimisticGradientState(state.is_initial_step, gradients)"),
        ("gradient in bfloat16", "jnp.array(True), moments_like(params)", 'jnp.array(True), moments_like(params, dtype="bfloat16")'),
    ),
    *mutants(
        "optimistic_adam",
        "optimistic.py",
        _NUMPY,
        ("optimism by default 1", "learning_rate if optimism is None else optimism", "1.0 if optimism is None else optimism"),
        ("rate not in alpha", "        learning_rate, learning_rate if", "        1.0, learning_rate if"),
        swap("optimism before Adam", _ADAM, "_extrapolated(learning_rate, optimism)"),
        ("eps lost", f"{_ADAM},\n        _extrapolated", "scale_by_adam(b1, b2, 1e-8, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype),\n        _extrapolated"),
        ("dtypes not handed on", f"{_ADAM},\n        _extrapolated", "scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov),\n        _extrapolated", _ALIASES),
        ("no Nesterov", f"{_ADAM},\n        _extrapolated", "scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype=nu_dtype),\n        _extrapolated"),
        ("sign", "scale(-1.0)", "scale(1.0)"),
    ),
    *mutants(
        "optimistic_adam_v2",
        "optimistic.py",
        _NUMPY,
        swap("optimism before Adam", _ADAM, "scale_by_optimistic_gradient(alpha, beta)"),
        ("eps lost", f"{_ADAM},\n        scale_by_opt", "scale_by_adam(b1, b2, 1e-8, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype),\n        scale_by_opt"),
        ("dtypes not handed on", f"{_ADAM},\n        scale_by_opt", "scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov),\n        scale_by_opt", _ALIASES),
        ("no Nesterov", f"{_ADAM},\n        scale_by_opt", "scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype=nu_dtype),\n        scale_by_opt"),
    ),
    *mutants(
        "polyak_sgd",
        "polyak.py",
        "test_norms_and_signs.py -k polyak_numpy",
        ("sign of the gap", "jnp.asarray(value - f_min", "jnp.asarray(value + f_min"),
        ("eps lost", "jnp.where(still, 1, square + eps)", "jnp.where(still, 1, square)"),
        ("rate not bounded", "jnp.minimum(gap / jnp.where(still, 1, square + eps), max_learning_rate)", "gap / jnp.where(still, 1, square + eps)"),
        ("norm not squared", "square = dot(updates, updates)", "square = dot(updates, updates) ** 0.5"),
        ("moves without a gradient", "jnp.where(still, 0, rate)", "rate", "test_norms_and_signs.py -k no_gradients"),
        ("sps+ ignored", 'if variant == "sps+":', "if False:"),
        ("scaled after the measurement", "chain(_scaled(scaling), scale_by_polyak(f_min, max_learning_rate, eps, variant))", "chain(scale_by_polyak(f_min, max_learning_rate, eps, variant), _scaled(scaling))"),
    ),
    *mutants(
        "noisy_sgd",
        "noise.py",
        _trajectory("noisy_sgd"),
        ("variance for deviation", "jnp.sqrt(eta / t**gamma)", "eta / t**gamma"),
        ("variance does not fall", "eta / t**gamma", "eta"),
        ("falls one step early", "t = increment(state.count)", "t = increment(increment(state.count))"),
        ("the same noise each step", "return updates, AddNoiseState(t, next_key)", "return updates, AddNoiseState(t, state.rng_key)"),
        ("the same noise in each leaf", "list(jax.random.split(key, len(leaves)))", "[key] * len(leaves)"),
        ("sign", "g + deviation *", "g - deviation *"),
    ),
]
