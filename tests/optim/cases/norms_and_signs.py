"""Signs, norms, factored moments, noise, and the small transformations."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets import optim
from tests.optim.cases.case import OptimizerCase, same_call
from tests.optim.trajectories import make_params


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def _without_scalars(dtype: Any = jnp.float32) -> Any:
    """Optax's SM3 has no accumulators for scalars, and no maximum of nothing."""
    params = make_params(dtype)
    del params["stack"][1], params["empty"]
    return params


def _with_stacks(dtype: Any = jnp.float32) -> Any:
    """Leaves whose two largest dimensions stand in either order, and not side by side."""
    rng = np.random.default_rng(1)
    shapes = {"wide": (2, 4, 6), "tall": (6, 2, 4), "square": (4, 4), "first": (5, 1, 4)}
    return make_params(dtype) | {
        name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()
    }


def _loss(params: Any, updates: Any) -> dict[str, Any]:
    """The loss, for Polyak's step; small, so that the largest rate does not always bound it."""
    return {"value": 1e-2 * optim.global_norm(params) ** 2}


def _old_optimistic_adam() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return optax.optimistic_adam(0.01, 0.1)


def _small(lib: Any) -> Any:
    """The transformations without numbers, in a row."""
    return lib.chain(
        lib.zero_nans(),
        lib.centralize(),
        lib.apply_every(3),
        lib.ema(0.8),
        lib.normalize_by_update_norm(-0.5),
        lib.stateless_with_tree_map(_halve),
    )


def _harmonic(step: Any) -> Any:
    """Of float64 where that is enabled: in float32, Optax's `1 / √(1 + η²) - 1` cancels."""
    return 0.5 / (1.0 + 0.01 * step)


def _halve(g: Any, _: Any) -> Any:
    return g / 2


CASES = [
    same_call("sign_sgd", lambda lib: lib.sign_sgd(0.1)),
    same_call("signum", lambda lib: lib.signum(0.1, 0.8)),
    same_call("lion decay", lambda lib: lib.lion(0.01, mask=_matrices)),
    same_call(
        "lion smooth, then refined",
        lambda lib: lib.chain(
            lib.scale_by_lion(mode="smooth", smooth_beta=2.0),
            lib.scale_by_lion(b1=0.5, mode="refined"),
        ),
    ),
    same_call("lars", lambda lib: lib.lars(1.0)),
    same_call(
        "lars decay masked",
        lambda lib: lib.lars(
            lib.linear_schedule(1.0, 0.1, 100), 0.1, _matrices, 0.01, 1e-3, _matrices, 0.8, True
        ),
    ),
    same_call("lamb decay", lambda lib: lib.lamb(0.01, weight_decay=0.1, mask=_matrices)),
    same_call("fromage decay", lambda lib: lib.fromage(0.1)),
    same_call("fromage decay scheduled", lambda lib: lib.fromage(_harmonic)),
    same_call("adafactor", lambda lib: lib.adafactor(0.1), params=_with_stacks),
    same_call(
        "adafactor decay",
        lambda lib: lib.adafactor(
            0.1,
            min_dim_size_to_factor=3,
            decay_rate=0.7,
            clipping_threshold=0.9,
            momentum=0.9,
            weight_decay_rate=0.01,
            weight_decay_mask=_matrices,
        ),
        params=_with_stacks,
    ),
    same_call(
        "adafactor absolute",
        lambda lib: lib.adafactor(
            lib.linear_schedule(0.1, 0.0, 400),
            min_dim_size_to_factor=4,
            multiply_by_parameter_scale=False,
            clipping_threshold=None,
            eps=1e-6,
        ),
        params=_with_stacks,
    ),
    same_call("sm3", lambda lib: lib.sm3(0.1), params=_without_scalars),
    same_call(
        "sm3 averaged", lambda lib: lib.scale_by_sm3(0.5, 0.9, 1e-3), params=_without_scalars
    ),
    same_call("optimistic_gradient_descent", lambda lib: lib.optimistic_gradient_descent(0.1)),
    OptimizerCase(
        "optimistic_adam", lambda: optim.optimistic_adam(0.01, 0.1), _old_optimistic_adam
    ),
    same_call(
        "optimistic_adam_v2",
        lambda lib: lib.optimistic_adam_v2(0.01, alpha=0.8, beta=0.5, nesterov=False),
    ),
    same_call("polyak_sgd", lambda lib: lib.polyak_sgd(0.05), extra=_loss),
    same_call(
        "polyak_sgd from below",
        lambda lib: lib.polyak_sgd(0.5, 2.0, 0.1, 0.1, "sps+"),
        extra=_loss,
    ),
    same_call("noisy_sgd", lambda lib: lib.noisy_sgd(0.1, key=3), moves_at_zero=True),
    same_call("small transformations", _small),
    same_call(
        "clipped by unit, then by block",
        lambda lib: lib.chain(lib.adaptive_grad_clip(0.1), lib.clip_by_block_rms(0.05)),
    ),
    same_call(
        "scaled by norm and rms, positive decay",
        lambda lib: lib.chain(
            lib.scale(0.01),
            lib.scale_by_param_block_norm(),
            lib.scale_by_param_block_rms(0.1),
            lib.keep_params_nonnegative(),
        ),
    ),
    OptimizerCase("clip_per_leaf", lambda: optim.clip_per_leaf(0.1, _matrices), None),
]

SWEEPS = {
    "signum beta": (lambda x: optim.signum(0.1, x), [0.5, 0.95]),
    "lion b1": (lambda x: optim.scale_by_lion(x, mode="smooth"), [0.5, 0.9]),
    "lion b2": (lambda x: optim.scale_by_lion(b2=x, mode="smooth"), [0.5, 0.9]),
    "lion smooth_beta": (lambda x: optim.scale_by_lion(mode="smooth", smooth_beta=x), [0.5, 2.0]),
    "trust_coefficient": (lambda x: optim.lars(1.0, trust_coefficient=x), [1e-3, 1e-2]),
    "trust eps": (lambda x: optim.scale_by_trust_ratio(eps=x), [0.0, 1e-2]),
    "min_norm": (lambda x: optim.scale_by_trust_ratio(x), [0.0, 10.0]),
    "fromage": (lambda x: optim.fromage(x), [1e-2, 0.1]),
    "decay_rate": (
        lambda x: optim.scale_by_factored_rms(True, x, min_dim_size_to_factor=3),
        [0.5, 0.8],
    ),
    "decay_offset": (lambda x: optim.adafactor(0.1, decay_offset=x), [0, -5]),
    "adafactor momentum": (lambda x: optim.adafactor(0.1, momentum=x), [0.5, 0.9]),
    "adafactor eps": (lambda x: optim.adafactor(0.1, eps=x), [1e-30, 1e-3]),
    "clipping_threshold": (lambda x: optim.adafactor(0.1, clipping_threshold=x), [1.0, 0.5]),
    "sm3 momentum": (lambda x: optim.sm3(0.1, x), [0.5, 0.9]),
    "sm3 b2": (lambda x: optim.scale_by_sm3(b2=x), [0.9, 1.0]),
    "sm3 eps": (lambda x: optim.scale_by_sm3(eps=x), [1e-8, 1e-2]),
    "optimism": (lambda x: optim.optimistic_gradient_descent(0.1, x, 0.5), [1.0, 2.0]),
    "optimism beta": (lambda x: optim.optimistic_adam(0.1, x), [0.5, 1.0]),
    "noise eta": (lambda x: optim.add_noise(x, 0.55, 0), [0.01, 0.1]),
    "noise gamma": (lambda x: optim.add_noise(0.1, x, 0), [0.55, 0.9]),
    "ema": (lambda x: optim.ema(x), [0.5, 0.9]),
    "apply_every": (lambda x: optim.apply_every(x), [1, 3]),
    "min_scale": (lambda x: optim.scale_by_param_block_norm(x), [0.1, 10.0]),
    "min_scale of rms": (lambda x: optim.scale_by_param_block_rms(x), [0.1, 10.0]),
    "scale_factor": (lambda x: optim.normalize_by_update_norm(x), [-1.0, 1.0]),
    "normalize eps": (lambda x: optim.normalize_by_update_norm(eps=x), [1e-6, 1.0]),
    "clip_by_block_rms": (lambda x: optim.clip_by_block_rms(x), [0.1, 0.3]),
    "clip_per_leaf": (lambda x: optim.clip_per_leaf(x, "kernel$"), [0.1, 0.3]),
    "clipping": (lambda x: optim.adaptive_grad_clip(x), [0.01, 0.1]),
    "clipping eps": (lambda x: optim.adaptive_grad_clip(0.1, x), [1e-3, 10.0]),
}
