"""The losses again, independently: float64 NumPy, by another formula where there is one.

Infinities are taken as limits: equal infinities differ by 0, and 0 · ∞ = 0.
"""

import numpy as np
from scipy import special


def _difference(a, b):
    return np.where(a == b, 0.0, a - np.where(a == b, 0.0, b))


def _times(weight, x):
    return np.where(weight == 0, 0.0, weight * np.where(weight == 0, 0.0, x))


def squared_error(p, t):
    return (p - t) ** 2


def l2_loss(p, t):
    return (p - t) ** 2 / 2


def absolute_error(p, t):
    return np.abs(p - t)


def huber(p, t, delta):
    e = np.abs(p - t)
    return np.where(e <= delta, e**2 / 2, delta * (e - delta / 2))


def log_cosh(p, t):
    return np.log(np.cosh(p - t))


def negative_log_softmax(x):
    """`-log p_c = log(1 + e^z)` with the margin `z = log Σ_{k≠c} e^{x_k - x_c}`."""
    columns = []
    for c in range(x.shape[-1]):
        lead = _difference(np.delete(x, c, axis=-1), x[..., c : c + 1])
        columns.append(np.logaddexp(0, np.logaddexp.reduce(lead, axis=-1)))
    return np.stack(columns, axis=-1)


def softmax(x, q, smoothing=0.0, weights=None):
    n = x.shape[-1]
    q = (1 - smoothing) * q + smoothing / n
    return _times(q * (1 if weights is None else weights), negative_log_softmax(x)).sum(-1)


def softmax_integer(x, y, smoothing=0.0, weights=None):
    return softmax(x, np.eye(x.shape[-1])[y], smoothing, weights)


def sigmoid(z, y):
    return _times(y, np.logaddexp(0, -z)) + _times(1 - y, np.logaddexp(0, z))


def focal(z, y, alpha, gamma):
    wrong = (1 - y) * special.expit(z) + y * special.expit(-z)
    return (alpha * y + (1 - alpha) * (1 - y)) * _times(wrong**gamma, sigmoid(z, y))


def hinge(f, y):
    return np.where(y == 1, np.clip(1 - f, 0, None), np.clip(1 + f, 0, None))


def multiclass_hinge(s, y):
    label = np.take_along_axis(s, y[..., None], -1)
    wrong = np.arange(s.shape[-1]) != y[..., None]
    return (_difference(s, label) + wrong).max(-1)


def kl(log_p, t):
    return special.rel_entr(t, np.exp(log_p)).sum(-1)


def kl_log(log_p, log_t):
    return kl(log_p, np.exp(log_t))


def gaussian_kl(mean, log_variance):
    """The integral itself, of polynomials by Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    z = mean[..., None] + np.exp(log_variance / 2)[..., None] * nodes
    log_ratio = -log_variance[..., None] / 2 - nodes**2 / 2 + z**2 / 2
    return log_ratio @ weights / np.sqrt(2 * np.pi)


def non_saturating(real, fake):
    return sigmoid(real, 1.0) + sigmoid(fake, 0.0)


def hinge_of_pairs(real, fake):
    return hinge(real, 1) + hinge(fake, -1)


def cosine(a, b):
    return np.einsum("...i,...i", a, b) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def clip(a, b, scale):
    z = scale * np.einsum("...in,...jn->...ij", a, b)
    rows = np.einsum("...ii->...i", negative_log_softmax(z))
    return (rows + np.einsum("...ii->...i", negative_log_softmax(z.swapaxes(-1, -2)))) / 2


def siglip(a, b, scale, bias):
    z = scale * np.einsum("...in,...jn->...ij", a, b) + bias
    own = np.eye(a.shape[-2])
    return sigmoid(z, np.broadcast_to(own, z.shape)).sum(-1)


def ntxent(x, labels, temperature):
    """Pair by pair, of one batch after the other."""
    if x.ndim > 2:
        return np.stack([ntxent(*pair, temperature) for pair in zip(x, labels, strict=True)])
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    found = []
    for i, label in enumerate(labels):
        z = x @ x[i] / temperature
        for j in np.flatnonzero(labels == label):
            others = np.exp(z[labels != label]).sum()
            found += [] if i == j else [-np.log(np.exp(z[j]) / (np.exp(z[j]) + others))]
    return np.mean(found)


def triplet(a, p, n, degree, margin):
    def distance(x, y):
        return (np.sum(np.abs(x - y) ** degree, -1) + 1e-6) ** (1 / degree)

    return np.clip(distance(a, p) - distance(a, n) + margin, 0, None)
