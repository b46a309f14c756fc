"""Descent, Adagrad, RMSProp, Adam, and what all share."""

from tests.optim.mutants.mutant import mutants, swap

_HAND = "test_by_hand.py"
_HALF = "test_precision.py -k 'half_precision_steps and (adam-float16 or momentum-float16)'"
_COMPLEX = "test_precision.py -k complex_parameters"
_ADAM = "scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype)"
_DECAY = "add_decayed_weights(weight_decay, mask)"
_RATE = "scale_by_learning_rate(learning_rate)"
_ALIASES = "test_adam.py -k aliases_hand_on"
_ROUNDED = "test_adam.py -k 'rounded and scale_by_adam'"

MUTANTS = [
    *mutants(
        "all",
        "leaves.py",
        _HALF,
        ("half-precision arithmetic", "*jax.tree.map(widened, (*read, *leaves))", "*(*read, *leaves)", "test_precision.py -k done_in_float32"),
        ("moments in half precision", "own = dtype or _at_least_float32(", "own = dtype or (", "test_precision.py -k 'half_precision_steps and adam-bfloat16'"),
        ("updates in float32", "return (update.astype(_update_dtype(g, reference)), *stored)", "return (update, *stored)"),
        ("nu's dtype drifts", "lambda leaf, x: x.astype(leaf.dtype), tuple(leaves)", "lambda leaf, x: x, tuple(leaves)", _ROUNDED),
        ("complex moments of squares", "(x.conj() * x).real", "x * x", _COMPLEX),
        ("norms overflow", "x if s is None else times(x, s) for", "x for", "test_blocks.py -k any_size"),
    ),
    *mutants(
        "sgd",
        "descent.py",
        _HAND,
        ("average instead of sum", "v = g + decay * v\n", "v = (1 - decay) * g + decay * v\n"),
        ("sign of the momentum", "v = g + decay * v\n", "v = g - decay * v\n"),
        ("no Nesterov", "(g + decay * v if nesterov else v), v", "v, v"),
        ("velocity in bfloat16", "dtype=accumulator_dtype))", 'dtype="bfloat16"))'),
        ("accumulator_dtype ignored", "moments_like(params, dtype=accumulator_dtype)", "moments_like(params)", "test_precision.py::test_accumulator_dtype"),
        ("accumulator_dtype not handed on", "trace(momentum, nesterov, accumulator_dtype)", "trace(momentum, nesterov)", "test_precision.py::test_accumulator_dtype"),
    ),
    *mutants(
        "sgd",
        "scale.py",
        _HAND,
        ("sign", "scale(-1 * step_size)", "scale(step_size)"),
        ("sign of a schedule", "return -1 * schedule(step)", "return schedule(step)"),
        ("schedule one step early", "step_size_fn(state.count)", "step_size_fn(state.count + 1)"),
        ("schedule stands still", "ScaleByScheduleState(increment(state.count))", "ScaleByScheduleState(state.count)"),
    ),
    *mutants(
        "adagrad",
        "adaptive.py",
        _HAND,
        ("eps outside the root", "rsqrt(v + eps) if", "1 / (jnp.sqrt(v) + eps) if"),
        ("eps inside the root", "else 1 / (jnp.sqrt(v) + eps)", "else rsqrt(v + eps)"),
        ("sign of the squares", "s = abs_sq(g) + s", "s = s - abs_sq(g)"),
        ("forgets", "s = abs_sq(g) + s", "s = abs_sq(g) + 0.9 * s"),
        ("starts at 0", "ScaleByRssState(moments_like(params, initial_accumulator_value", "ScaleByRssState(moments_like(params, 0.0"),
        ("sums in bfloat16", "initial_accumulator_value, real=True", 'initial_accumulator_value, dtype="bfloat16", real=True'),
        ("eps lost", "scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt", "scale_by_rss(initial_accumulator_value, eps_in_sqrt"),
        ("PyTorch's form lost", "initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt", "initial_accumulator_value, eps", "test_adam_equations.py -k adagrad"),
    ),
    *mutants(
        "rmsprop",
        "adaptive.py",
        _HAND,
        ("no bias correction", "_inverse_root(v / correction, eps", "_inverse_root(v, eps", "test_against_optax.py -k 'trajectory and rmsprop and corrected'"),
        ("mean not corrected", "abs_sq(m / correction)", "abs_sq(m)"),
        ("sign of the mean", "- abs_sq(m / correction)", "+ abs_sq(m / correction)"),
        ("negative variance", "jnp.where(variance > least, variance, 0)", "variance", "test_precision.py -k centered_rmsprop"),
        swap("momentum before the rate", _RATE, "identity() if momentum is None else trace(momentum, nesterov)", "test_against_optax.py -k 'trajectory and rmsprop and momentum'"),
        ("no momentum", "trace(momentum, nesterov)", "identity()"),
        ("eps outside the root", "_inverse_root(v / correction, eps, eps_in_sqrt)", "_inverse_root(v / correction, eps, False)"),
        ("eps inside the root", "_inverse_root(v / correction, eps, eps_in_sqrt)", "_inverse_root(v / correction, eps, True)"),
        ("nu in bfloat16", "nu = moments_like(params, initial_scale, real=True)\n        if bias_correction:\n            return ScaleByRmsWith", 'nu = moments_like(params, dtype="bfloat16")\n        if bias_correction:\n            return ScaleByRmsWith'),
        ("nu of stddev in bfloat16", "mu = moments_like(params)\n        nu = moments_like(params, initial_scale, real=True)", 'mu = moments_like(params)\n        nu = moments_like(params, dtype="bfloat16")'),
        ("no decay of v", "v = (1 - decay) * abs_sq(g) + decay * v\n            return", "v = (1 - decay) * abs_sq(g) + v\n            return"),
    ),
    *mutants(
        "adam",
        "adam.py",
        _HAND,
        ("no bias correction of m", "return m / correction", "return m"),
        ("no bias correction of v", "nesterov), 1 - b2**t", "nesterov), 1"),
        ("bias correction one step late", "t = increment(state.count)", "t = increment(increment(state.count))"),
        ("Nesterov's correction", "(m / correction_next)", "(m / correction)"),
        ("Nesterov's gradient not corrected", "(g / correction)", "g"),
        ("eps inside the root", "eps_root) + eps)", "eps_root + eps))"),
        ("eps_root outside the root", "correction + eps_root) + eps)", "correction) + eps_root + eps)"),
        ("sign of the momentum", "m = (1 - b1) * g + b1 * m", "m = (1 - b1) * g - b1 * m"),
        ("v decays with b1", "v = (1 - b2) * abs_sq(g) + b2 * v", "v = (1 - b1) * abs_sq(g) + b1 * v"),
        ("|g| for g²", "v = (1 - b2) * abs_sq(g)", "v = (1 - b2) * jnp.abs(g)"),
        ("mu_dtype ignored", "mu=moments_like(params, dtype=mu_dtype)", "mu=moments_like(params)", _ROUNDED),
        ("nu_dtype ignored", "nu=moments_like(params, dtype=nu_dtype, real=True)", "nu=moments_like(params, real=True)", _ROUNDED),
        ("nu's dtype follows mu's", "dtype=nu_dtype, real=True", "dtype=mu_dtype, real=True", _ROUNDED),
        ("nu in bfloat16", "dtype=nu_dtype, real=True", 'dtype="bfloat16", real=True'),
        ("complex nu", "dtype=nu_dtype, real=True", "dtype=nu_dtype", _COMPLEX),
        ("dtypes not handed on", f"{_ADAM},\n        {_RATE}", f"scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov),\n        {_RATE}", _ALIASES),
    ),
    *mutants(
        "adamw",
        "adam.py",
        _HAND,
        swap("decay before Adam", _ADAM, _DECAY),
        swap("decay after the rate", _DECAY, _RATE),
        ("mask ignored", "add_decayed_weights(weight_decay, mask)", "add_decayed_weights(weight_decay)", "test_decay.py"),
        ("eps lost", f"{_ADAM},\n        {_DECAY}", f"scale_by_adam(b1, b2, 1e-8, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype),\n        {_DECAY}", "test_against_optax.py -k 'trajectory and adamw and masked'"),
        ("dtypes not handed on", f"{_ADAM},\n        {_DECAY}", f"scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov),\n        {_DECAY}", _ALIASES),
    ),
    *mutants("adamw", "decay.py", _HAND, ("sign of the decay", "g + weight_decay * p if decays", "g - weight_decay * p if decays"), ("mask ignored", "g + weight_decay * p if decays else g", "g + weight_decay * p", "test_decay.py")),
]
