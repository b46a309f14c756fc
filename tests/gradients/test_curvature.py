"""Curvature against dense Hessians in float64, and eigenvalues against NumPy's and SciPy's."""

from functools import partial

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

from jaxnets import gradients, nn
from jaxnets.gradients import likelihoods
from tests.numerics import assert_trees_close, normal, relative_error

N, CLASSES = 6, 3


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    is_shape = lambda s: isinstance(s, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s)), shapes, is_leaf=is_shape)


def layer(*kernel):
    return {"kernel": kernel, "bias": kernel[-1:]}


def mlp(p, x):
    return nn.dense(p["last"], jnp.tanh(nn.dense(p["first"], x)))


def cnn(p, x):
    y = nn.max_pool(nn.gelu(nn.conv(p["first"], x)), 2, 2)
    return nn.dense(p["last"], y.reshape(*y.shape[:-3], -1))


class Flax(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.LayerNorm()(linen.Conv(2, (2, 2), strides=2)(x))
        return linen.Dense(CLASSES)(jnp.tanh(x).reshape(*x.shape[:-3], -1))


def flax(p, x):
    return Flax().apply(p, x)


def flax_params():
    shapes = jax.eval_shape(Flax().init, jax.random.key(0), jnp.zeros((4, 4, 1)))
    return draw(jax.tree.map(lambda s: s.shape, shapes))


NETS = {
    "mlp": (mlp, (4,), lambda: draw({"first": layer(4, 5), "last": layer(5, CLASSES)})),
    "cnn": (cnn, (4, 4, 1), lambda: draw({"first": layer(3, 3, 1, 2), "last": layer(8, CLASSES)})),
    "flax": (flax, (4, 4, 1), flax_params),
}


def mean_loss(z, y):
    return jnp.mean(jax.vmap(likelihoods.categorical.loss)(z, y))


class Case:
    """A net with its data, and its dense Hessian and Gauss-Newton matrices."""

    def __init__(self, name):
        self.outputs, shape, params = NETS[name]
        rng = np.random.default_rng(1)
        self.params = params()
        self.x = jnp.asarray(rng.normal(size=(N, *shape)))
        self.y = jnp.asarray(rng.integers(0, CLASSES, N))
        flat, self.unravel = ravel_pytree(self.params)

        @jax.jit
        def matrices(flat):
            def outputs(flat):
                return self.outputs(self.unravel(flat), self.x)

            jacobian = jax.jacrev(outputs)(flat)
            by_outputs = jax.hessian(mean_loss)(outputs(flat), self.y)
            hessian = jax.hessian(lambda flat: mean_loss(outputs(flat), self.y))(flat)
            return hessian, jnp.einsum("bip,bicj,cjq->pq", jacobian, by_outputs, jacobian)

        self.hessian, self.ggn = map(np.asarray, matrices(flat))
        self.vector = rng.normal(size=flat.shape)

    def loss(self, params, x, y):
        return mean_loss(self.outputs(params, x), y)

    def flat(self, tree):
        return np.asarray(ravel_pytree(tree)[0])


THOROUGH = pytest.mark.thorough


@pytest.fixture(
    scope="module",
    params=["mlp", pytest.param("cnn", marks=THOROUGH), pytest.param("flax", marks=THOROUGH)],
)
def case(request):
    with jax.enable_x64(True):
        yield Case(request.param)


@pytest.fixture(scope="module")
def small():
    with jax.enable_x64(True):
        yield Case("mlp")


def test_products_are_those_of_the_dense_matrices(case, x64):
    @jax.jit
    def products(params, v):
        hessian = gradients.hvp(case.loss)(params, case.x, case.y)
        ggn = gradients.ggn_vp(case.outputs, mean_loss)(params, case.x, case.y)
        return hessian(v), ggn(v)

    got = products(case.params, case.unravel(case.vector))
    assert relative_error(case.flat(got[0]), case.hessian @ case.vector) < 1e-11
    assert relative_error(case.flat(got[1]), case.ggn @ case.vector) < 1e-11


def test_the_gauss_newton_product_needs_no_forward_derivative(x64):
    """Through a `custom_vjp`, of which `jvp` knows nothing, inside a loop."""

    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, error: (3 * x**2 * error,))

    def product(power, w, v):
        def outputs(w, x):
            return jax.lax.scan(lambda c, x: (c, power(c * x)), w, x)[1]

        x, y = jnp.arange(6.0).reshape(2, 3) / 6, jnp.array([0, 1])
        return gradients.ggn_vp(outputs, mean_loss)(w, x, y)(v)

    w, v = jnp.array([0.5, -1.0, 2.0]), jnp.array([1.0, 2.0, -0.5])
    want = product(lambda x: x**3, w, v)
    assert relative_error(jax.jit(partial(product, cube))(w, v), want) < 1e-12


def test_eigenvalues_are_numpys_and_scipys(case, x64):
    @jax.jit
    def top(params):
        product = gradients.hvp(case.loss)(params, case.x, case.y)
        return gradients.top_eigenvalues(product, params, jax.random.key(0), 3, steps=40)

    found = top(case.params)
    want, vectors = np.linalg.eigh(case.hessian)
    assert relative_error(found.values, want[:-4:-1]) < 1e-10
    operator = LinearOperator(case.hessian.shape, matvec=lambda v: case.hessian @ v)
    scipys = eigsh(operator, 3, which="LA", return_eigenvectors=False)
    assert relative_error(np.sort(found.values), np.sort(scipys)) < 1e-10
    rows = np.stack([case.flat(jax.tree.map(lambda x, i=i: x[i], found.vectors)) for i in range(3)])
    assert relative_error(rows @ rows.T, np.eye(3)) < 1e-10
    apart = np.abs(case.hessian @ rows.T - rows.T * np.asarray(found.values)).max()
    assert apart < 1e-8
    assert relative_error(np.abs(rows @ vectors[:, :-4:-1]), np.eye(3)) < 1e-7
    # the residuals are what they say, long before they are small
    few = gradients.top_eigenvalues(
        lambda v: case.unravel(jnp.asarray(case.hessian) @ ravel_pytree(v)[0]),
        case.params, jax.random.key(1), 2, steps=4,
    )  # fmt: skip
    for i in range(2):
        u = case.flat(jax.tree.map(lambda x, i=i: x[i], few.vectors))
        apart = np.linalg.norm(case.hessian @ u - few.values[i] * u)
        assert abs(few.residuals[i] - apart) < 1e-10 * np.abs(want).max()


def test_sharpness_starts_where_it_was(small, x64):
    sharpest = np.linalg.eigvalsh(small.hessian)[-1]
    at = jax.jit(gradients.sharpness(small.loss, steps=30))
    found = at(small.params, small.x, small.y)
    assert abs(found.value - sharpest) < 1e-10 * sharpest
    again = jax.jit(gradients.sharpness(small.loss, steps=2))
    zeros = jax.tree.map(jnp.zeros_like, small.params)
    warm, cold = (again(small.params, small.x, small.y, start=v) for v in (found.vector, zeros))
    assert abs(warm.value - sharpest) < 1e-10 * sharpest < 1e-3 * sharpest < sharpest - cold.value


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_eigenvalues_of_parameters_in_half_precision(dtype):
    """Products are rounded, the process is not: within a hundredth of the dense Hessian's."""
    matrix = normal(1, (24, 24)) / 5
    matrix = (matrix + matrix.T).astype(dtype)

    def loss(p):
        w = jnp.concatenate([p["a"], p["b"]])
        return 0.5 * (w @ matrix @ w).astype(jnp.float32)

    params = {"a": jnp.ones(16, dtype), "b": jnp.ones(8, dtype)}
    want = np.linalg.eigvalsh(np.asarray(matrix, np.float64))[::-1]

    @jax.jit
    def measured(params):
        found = gradients.sharpness(loss, steps=24)(params)
        again = gradients.sharpness(loss, steps=3)(params, start=found.vector)
        product = gradients.hvp(loss)(params)
        top = gradients.top_eigenvalues(product, params, jax.random.key(0), 3, steps=24)
        density = gradients.spectrum(product, params, jax.random.key(0), probes=2, steps=24)
        return found, again, top, density

    found, again, top, density = measured(params)
    assert abs(found.value - want[0]) < 0.01 * want[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(found.vector)} == {jnp.dtype("float32")}
    assert abs(again.value - want[0]) < 0.01 * want[0]
    assert relative_error(top.values, want[:3]) < 0.01
    assert relative_error(density.nodes[:, -1], want[:1].repeat(2)) < 0.01


def test_what_a_loss_returns_beside_the_scalar_is_dropped():
    w = jnp.array([1.0, 2.0])

    def loss(w):
        return jnp.sum(w**4), {"seen": w}

    product = gradients.hvp(loss, has_aux=True)(w)
    np.testing.assert_allclose(product(jnp.ones(2)), 12 * w**2, rtol=1e-6)
    sharpest = gradients.sharpness(loss, has_aux=True)(w)
    np.testing.assert_allclose(sharpest.value, 48, rtol=1e-5)


@pytest.mark.parametrize("samples", [2, 64])
def test_samples_of_the_fisher_diagonal_are_added_up(samples):
    """As many as wanted, in the memory of a few gradients; equal to their mean one by one."""
    params, x = {"w": jnp.ones((64, 512)) / 64}, jnp.ones((2, 64))

    def at(samples):
        return gradients.fisher_diagonal(
            lambda p, x: x @ p["w"], likelihoods.normal, samples=samples
        )

    key = jax.random.key(0)
    compiled = jax.jit(at(samples)).lower(params, x, key=key).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * params["w"].nbytes
    found = compiled(params, x, key=key)["w"]
    errors = [
        likelihoods.sampled_errors(likelihoods.normal, x @ params["w"], k)
        for k in jax.random.split(key, samples)
    ]
    want = np.mean(np.square(errors), (0, 1))
    np.testing.assert_allclose(found, np.tile(want, (64, 1)), rtol=1e-5)


def test_a_krylov_space_that_is_used_up_does_not_end_the_search(x64):
    """Of a matrix with two eigenvalues it has two dimensions, and multiplicities are not seen."""
    diagonal = jnp.array([2.0, 2, 2, -1, -1, 2])

    def product(v):
        return diagonal * v

    found = gradients.top_eigenvalues(product, diagonal, jax.random.key(0), 6, steps=10)
    np.testing.assert_allclose(found.values, [2, 2, 2, 2, -1, -1], atol=1e-12)
    assert relative_error(found.vectors @ found.vectors.T, np.eye(6)) < 1e-12
    zero = gradients.top_eigenvalues(lambda v: 0 * v, diagonal, jax.random.key(0), 2)
    np.testing.assert_array_equal(zero.values, [0, 0])


def test_the_tridiagonal_matrix_is_the_matrix_in_its_basis(small, x64):
    def product(v):
        return small.unravel(jnp.asarray(small.hessian) @ ravel_pytree(v)[0])

    n = len(small.hessian)
    found = gradients.lanczos(product, small.params, jax.random.key(0), n)
    basis = np.asarray(found.basis)
    assert relative_error(basis @ basis.T, np.eye(n)) < 1e-12
    inside = basis @ small.hessian @ basis.T
    off = found.off_diagonal[:-1]
    wanted = np.diag(found.diagonal) + np.diag(off, 1) + np.diag(off, -1)
    assert np.abs(inside - wanted).max() < 1e-12 * np.abs(inside).max()


def test_the_spectrum_has_the_moments_of_the_eigenvalues(small, x64):
    """With as many steps as rows each probe's moments are exact, and their mean is unbiased."""

    def product(v):
        return small.unravel(jnp.asarray(small.hessian) @ ravel_pytree(v)[0])

    found = jax.jit(
        lambda key: gradients.spectrum(product, small.params, key, probes=64, steps=20)
    )(jax.random.key(0))
    np.testing.assert_allclose(jnp.sum(found.weights, 1), 1, atol=1e-12)
    values = np.linalg.eigvalsh(small.hessian)
    for power in (1, 2):
        each = np.sum(np.asarray(found.weights) * np.asarray(found.nodes) ** power, 1)
        error = each.std(ddof=1) / np.sqrt(len(each))
        assert abs(each.mean() - np.mean(values**power)) < 4 * error
    grid = np.linspace(values[0] - 1, values[-1] + 1, 2001)
    total = np.trapezoid(gradients.density(found, grid, 0.05), grid)
    assert abs(total - 1) < 1e-6


def test_hutchinsons_estimates_are_as_far_off_as_they_say(small, x64):
    def product(v):
        return small.unravel(jnp.asarray(small.hessian) @ ravel_pytree(v)[0])

    @jax.jit
    def estimate(key):
        arguments = product, small.params, key, 256
        return gradients.hutchinson_diagonal(*arguments), gradients.hutchinson_trace(*arguments)

    diagonal, trace = jax.device_get(estimate(jax.random.key(0)))
    mean, error = small.flat(diagonal.mean), small.flat(diagonal.standard_error)
    off = (mean - np.diag(small.hessian)) / error
    assert np.abs(off).max() < 4.5
    assert 0.6 < off.std() < 1.5
    others = np.sqrt(np.sum(small.hessian**2, 1) - np.diag(small.hessian) ** 2)
    assert relative_error(error, others / 16) < 0.2
    assert abs(trace.mean - np.trace(small.hessian)) < 4 * trace.standard_error
    # signs leave the diagonal alone
    given = jnp.arange(1.0, 5)

    @jax.jit
    def of_a_diagonal(key):
        arguments = lambda v: given * v, given, key
        few = gradients.hutchinson_diagonal(*arguments, 2)
        return few, gradients.hutchinson_trace(*arguments, 1)

    exact, one = of_a_diagonal(jax.random.key(1))
    np.testing.assert_array_equal(exact.mean, given)
    np.testing.assert_array_equal(exact.standard_error, 0)
    assert one.mean == 10
    assert np.isnan(one.standard_error)


def test_hutchinsons_sums_of_parameters_in_half_precision_are_in_single():
    """In bfloat16 a running mean stops moving, as what one of 4096 adds is rounded away."""
    n, key = 24, jax.random.key(0)
    matrix = jax.random.normal(jax.random.key(1), (n, n), jnp.float32).astype(jnp.bfloat16)

    def product(v):
        return (matrix.astype(jnp.float32) @ v.astype(jnp.float32)).astype(jnp.bfloat16)

    params = jnp.ones(n, jnp.bfloat16)
    diagonal = jax.jit(lambda: gradients.hutchinson_diagonal(product, params, key, 4096))()
    trace = jax.jit(lambda: gradients.hutchinson_trace(product, params, key, 4096))()
    want = np.asarray(matrix, np.float64)
    assert diagonal.mean.dtype == trace.mean.dtype == jnp.float32
    off = (np.asarray(diagonal.mean, np.float64) - np.diag(want)) / diagonal.standard_error
    assert np.abs(off).max() < 4
    others = np.sqrt(np.sum(want**2, 1) - np.diag(want) ** 2)
    assert relative_error(diagonal.standard_error, others / 64) < 0.05
    assert abs(trace.mean - np.trace(want)) < 4 * trace.standard_error


LIKELIHOODS = {
    "normal": lambda rng: rng.normal(size=(2000, CLASSES)),
    "bernoulli": lambda rng: rng.uniform(size=(2000, CLASSES)).round(),
    "categorical": lambda rng: rng.integers(0, CLASSES, 2000),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_fisher_matrix_of_the_outputs_is_the_losss_hessian(name, x64):
    """Sampled errors have the covariance that the Hessian by the outputs says, for any target."""
    likelihood = getattr(likelihoods, name)
    z = jnp.array([0.3, -1.2, 0.8])
    targets = LIKELIHOODS[name](np.random.default_rng(0))
    wanted = jax.hessian(likelihood.loss)(z, targets[0])
    assert relative_error(jax.hessian(likelihood.loss)(z, targets[1]), wanted) < 1e-12
    errors = np.asarray(
        likelihoods.sampled_errors(likelihood, jnp.tile(z, (20_000, 1)), jax.random.key(0))
    )
    got = errors[:, :, None] * errors[:, None, :]
    off = (got.mean(0) - wanted) / (got.std(0) / np.sqrt(len(got)) + 1e-12)
    assert np.abs(off).max() < 4.5
    assert np.abs(errors.mean(0) / (errors.std(0) / np.sqrt(len(errors)))).max() < 4.5


@THOROUGH
def test_the_fisher_diagonal_is_that_of_gauss_and_newton(small, x64):
    at = gradients.fisher_diagonal(small.outputs, likelihoods.categorical, samples=400)
    found = small.flat(jax.jit(at)(small.params, small.x, key=jax.random.key(0)))
    wanted = np.diag(small.ggn)
    assert np.abs(found - wanted).max() < 0.12 * wanted.max()
    assert abs(found.sum() / wanted.sum() - 1) < 0.05

    def loss(params, x, y):
        return likelihoods.categorical.loss(small.outputs(params, x), y)

    _, factors = gradients.per_example_grad(loss)(small.params, small.x, small.y)
    own = jax.vmap(jax.grad(loss), (None, 0, 0))(small.params, small.x, small.y)
    squares = jax.tree.map(lambda g: jnp.mean(g**2, 0), own)
    assert_trees_close(gradients.second_moment(factors), squares, 1e-12)


def test_bad_input_is_refused():
    w = jnp.ones(3)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"hvp: loss must return a scalar, got shape \(3,\)"):
        gradients.hvp(lambda w: w)(w)
    with pytest.raises(
        ValueError, match=r"hvp: loss must return a scalar, got shape.*has_aux=True"
    ):
        gradients.sharpness(lambda w: (w @ w, {"seen": w}))(w)
    with pytest.raises(TypeError, match=r"hvp: loss must be real and floating, got int32"):
        gradients.hvp(lambda w: jnp.sum(w).astype(jnp.int32))(w)
    with pytest.raises(ValueError, match=r"for one example, got shape \(\(\), \(3,\)\).*has_aux"):
        gradients.per_example_grad(lambda w, x: (w @ x, x))(w, jnp.ones((2, 3)))
    with pytest.raises(TypeError, match=r"hvp: params must be real and floating, got int32 at 'n'"):
        gradients.hvp(lambda p: p["w"] @ p["w"])({"w": w, "n": jnp.ones(3, jnp.int32)})
    product = gradients.hvp(lambda p: p["w"] @ p["w"])({"w": w})
    with pytest.raises(ValueError, match=r"hvp: the vector must be shaped as params at 'w'"):
        product({"w": jnp.ones(4)})
    with pytest.raises(ValueError, match=r"ggn_vp: loss must return a scalar, got shape \(3,\)"):
        gradients.ggn_vp(lambda w, x: w, lambda z: z)(w, w)
    with pytest.raises(ValueError, match=r"top_eigenvalues: k must be from 1 to 3"):
        gradients.top_eigenvalues(lambda v: v, w, key, 4)
    with pytest.raises(ValueError, match=r"lanczos: steps must be at least 1, got 0"):
        gradients.lanczos(lambda v: v, w, key, 0)
    with pytest.raises(ValueError, match=r"hutchinson_trace: probes must be at least 1, got 0"):
        gradients.hutchinson_trace(lambda v: v, w, key, 0)
    with pytest.raises(ValueError, match=r"normal: outputs and target must have the same shape"):
        likelihoods.normal.loss(w, jnp.ones(2))
    with pytest.raises(TypeError, match="outputs must return one real, floating array"):
        gradients.fisher_diagonal(lambda w, x: (w, w), likelihoods.normal)(w, w, key=key)
