"""Principal component analysis, the best linear encoder–decoder pair, and its probabilistic twin.

PCA: the m orthonormal directions of largest variance, which are also those of smallest squared reconstruction
error; the error is the sum of the discarded eigenvalues of the covariance. PPCA is the linear-Gaussian model
z ~ N(0, I), x|z ~ N(Wz + μ, σ²I), whose maximum-likelihood W spans the same subspace. Its evidence and
posterior are exact, which makes it the yardstick of the variational bounds of lectures 03 and 04.

Papers: K. Pearson (1901), On lines and planes of closest fit to systems of points in space; H. Hotelling (1933);
M. Tipping and C. Bishop (1999), Probabilistic principal component analysis, J. R. Statist. Soc. B 61(3).

Conventions are scikit-learn's (names with a trailing underscore, n−1 in the variances, sign by `svd_flip` on the
components). Departures: the covariance is formed without centring, centred in float64, or not at all (SVD), depending
on how small the wanted eigenvalues are; scikit-learn's covariance solver takes the first of these whatever the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.linalg.blas
import torch
from torch import Tensor

# Squaring the data squares its condition number: an eigenvalue of the covariance carries an error of about ε·λ₁,
# and of ε·(λ₁ + n‖μ‖²) where the mean is subtracted after squaring. Down to these shares that leaves four digits
# in float32, eight in float64. Below them the next more accurate way takes over: squares of the data as it is → of
# the centred data in float64 → SVD of the centred data itself.
SAFE_EIGENVALUE_RATIO = {torch.float32: 1e-3, torch.float64: 1e-8}


class PCA:
    """Principal component analysis by covariance, Gram matrix or SVD, whichever suits the data's shape.

    n_components: number m of components, 1 ≤ m ≤ min(n, D); None keeps min(n, D); a float in (0, 1) keeps the
    fewest components whose variances add up to more than that share.

    After `fit`: `mean_` (D,), `components_` (m, D) with orthonormal rows, `explained_variance_` (m,) with n−1 in
    the denominator, `explained_variance_ratio_` (m,), `singular_values_` (m,) of the centred data,
    `n_components_`, `n_samples_`. They have the data's device, and its dtype if that is float64, else float32.
    """

    def __init__(self, n_components: int | float | None = None):
        _check_n_components(n_components)
        self.n_components = n_components

    def fit(self, X: Tensor) -> PCA:
        """Fit to X (n, D), n ≥ 2. Raises ValueError for another shape, NaN or Inf, or m > min(n, D)."""
        _check_data(X)
        m = _resolve_n_components(self.n_components, X)
        mean, variances, components, discarded = principal_axes(X, m)
        total = variances.sum() + discarded
        if isinstance(self.n_components, float):
            share = torch.cumsum(variances / total, dim=0)
            m = min(int((share <= self.n_components).sum()) + 1, len(variances))
            components = components[:m]
        self.n_samples_, self.n_components_ = len(X), m
        self.mean_ = _like(mean, X)
        self.components_ = _like(components, X)
        self.explained_variance_ = _like(variances[:m], X)
        # Constant data has no variance to share out; 0/0 would put NaN into every plot.
        self.explained_variance_ratio_ = _like(variances[:m] / total if total > 0 else variances[:m], X)
        self.singular_values_ = _like((variances[:m] * (len(X) - 1)).sqrt(), X)
        return self

    def transform(self, X: Tensor) -> Tensor:
        """The encoder: codes (n, m) of X (n, D), coordinates along the components of the centred data."""
        self._check_fitted()
        _check_matrix(X, self.mean_.shape[0], "features")
        return (X.to(self.mean_.dtype) - self.mean_) @ self.components_.T

    def inverse_transform(self, Z: Tensor) -> Tensor:
        """The decoder: points (n, D) of the principal subspace from codes Z (n, m)."""
        self._check_fitted()
        _check_matrix(Z, self.n_components_, "components")
        return torch.addmm(self.mean_, Z.to(self.mean_.dtype), self.components_)

    def fit_transform(self, X: Tensor) -> Tensor:
        """`fit(X)`, then `transform(X)`."""
        return self.fit(X).transform(X)

    def _check_fitted(self) -> None:
        if not hasattr(self, "mean_"):
            raise ValueError("this PCA is not fitted yet: call fit(X) first")


class PPCA:
    """Probabilistic PCA: z ~ N(0, I_m), x|z ~ N(Wz + μ, σ²I_D) (Tipping & Bishop 1999).

    n_components: latent dimension m, 1 ≤ m < D (at m = D no direction is left to estimate σ² from).
    After `fit` or `from_parameters`: `W` (D, m), `mu` (D,), `sigma2` (0-dimensional tensor).

    The fit is maximum likelihood: covariance with 1/n. scikit-learn's `PCA.score` is the same model
    with the 1/(n−1) covariance, so its likelihood differs a little.
    """

    def __init__(self, n_components: int):
        if isinstance(n_components, bool) or not isinstance(n_components, int) or n_components < 1:
            raise ValueError(f"n_components should be an integer of at least 1, got {n_components!r}")
        self.n_components = n_components

    @classmethod
    def from_parameters(cls, W: Tensor, mu: Tensor, sigma2: float | Tensor) -> PPCA:
        """The model with given W (D, m), mu (D,) and sigma2 > 0, for exact comparisons without any data."""
        if W.ndim != 2 or mu.shape != W.shape[:1]:
            raise ValueError(f"expected W (D, m) and mu (D,), got {tuple(W.shape)} and {tuple(mu.shape)}")
        if not float(sigma2) > 0:
            raise ValueError(f"sigma2 should be positive, got {float(sigma2)}")
        model = cls(W.shape[1])
        model.W, model.mu = W, mu
        model.sigma2 = torch.as_tensor(sigma2, dtype=W.dtype, device=W.device)
        return model

    def fit(self, X: Tensor) -> PPCA:
        """Maximum likelihood on X (n, D) in closed form (Tipping & Bishop, eqs 7 and 8).

        Raises ValueError if m ≥ D or m > n, or if the data lies in an m-dimensional subspace (then σ² = 0 and
        there is no density).
        """
        _check_data(X)
        (n, D), m = X.shape, self.n_components
        if m >= D or m > n:
            raise ValueError(f"n_components should be below D = {D} and at most n = {n}, got {m}")
        # float64: σ² is what the large eigenvalues leave over, so it needs the digits.
        mean, variances, components, discarded = principal_axes(_double(X), m)
        if discarded / (D - m) <= SAFE_EIGENVALUE_RATIO[torch.float64] * variances[0]:
            mean, variances, components, discarded = principal_axes_by_svd(X, m)
        variances = variances * ((n - 1) / n)  # maximum likelihood: the 1/n covariance
        sigma2 = discarded * ((n - 1) / n) / (D - m)  # average variance of the discarded directions
        if sigma2 <= 1e-12 * variances[0]:
            raise ValueError(f"the data has no variance outside {m} dimensions: σ² = 0, no density exists")
        # W = U (Λ − σ²I)^½: rotating W changes nothing in p(x); without a rotation M is diagonal.
        scale = (variances - sigma2).clamp(min=0).sqrt()
        self.W, self.mu = _like(components.T * scale, X), _like(mean, X)
        self.sigma2 = _like(sigma2, X)
        return self

    @property
    def covariance(self) -> Tensor:
        """Covariance of x: C = WWᵀ + σ²I, (D, D)."""
        self._check_fitted()
        return self.W @ self.W.T + self.sigma2 * torch.eye(len(self.mu)).to(self.W)

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact evidence log N(x; μ, WWᵀ + σ²I) of x (B, D), (B,) in nats, in O(B D m)."""
        z, _ = self.posterior(x)
        residual = x.to(self.W.dtype) - self.mu - z @ self.W.T
        # (x−μ)ᵀC⁻¹(x−μ) = ‖x−μ−Wẑ‖²/σ² + ‖ẑ‖² at the posterior mean ẑ: a sum of squares, so nothing cancels.
        mahalanobis = residual.square().sum(dim=1) / self.sigma2 + z.square().sum(dim=1)
        D, m = self.W.shape
        log_det = (D - m) * self.sigma2.log() + torch.logdet(self._M())  # |C| = σ^{2(D−m)} |M|
        return -0.5 * (D * math.log(2 * math.pi) + log_det + mahalanobis)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """p(z|x) = N(M⁻¹Wᵀ(x−μ), σ²M⁻¹), M = WᵀW + σ²I: mean (B, m), covariance (m, m), the same for all x."""
        self._check_fitted()
        _check_matrix(x, len(self.mu), "features")
        cholesky = torch.linalg.cholesky(self._M())
        mean = torch.cholesky_solve(self.W.T @ (x.to(self.W.dtype) - self.mu).T, cholesky).T
        return mean, self.sigma2 * torch.cholesky_inverse(cholesky)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws (n, D) of x = Wz + μ + σε. `generator`: source of randomness, default torch's own."""
        self._check_fitted()
        D, m = self.W.shape
        device = generator.device if generator is not None else self.W.device
        z, noise = torch.randn(n, m + D, generator=generator, device=device).to(self.W).split([m, D], dim=1)
        return z @ self.W.T + self.mu + self.sigma2.sqrt() * noise

    def _M(self) -> Tensor:
        return self.W.T @ self.W + self.sigma2 * torch.eye(self.W.shape[1]).to(self.W)

    def _check_fitted(self) -> None:
        if not hasattr(self, "W"):
            raise ValueError("this PPCA is not fitted yet: call fit(X) first")


@torch.no_grad()
def principal_axes(X: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (D,), top m variances (n−1, falling), top m components (m, D), sum of the discarded variances; float64.

    Tall data: eigenvectors of the D×D covariance. Wide data: of the n×n Gram matrix XXᵀ, since u ↦ Xᵀu maps its
    eigenvectors to those of the covariance. Where the m-th eigenvalue is too small for that to be accurate: SVD.
    """
    n, D = X.shape
    # On a CPU float32 products take half the time and are often enough; elsewhere float64 from the start.
    fast = X.dtype == torch.float32 and X.device.type == "cpu" and n >= D
    X = X if fast else _double(X)
    for way in (_scatter_without_centring, _scatter) if n >= D else (_gram,):
        mean, centred, scatter, floor = way(X)
        values, vectors = _top_eigenpairs(scatter, m)
        if values[-1] > floor(values[0]):
            components = vectors.T if n >= D else (centred.T @ vectors / values.sqrt()).T
            discarded = (scatter.trace() - values.sum()).clamp(min=0)
            return mean, values / (n - 1), _fix_signs(components), discarded / (n - 1)
    return principal_axes_by_svd(X, m)


@torch.no_grad()
def principal_axes_by_svd(X: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same by singular values of the centred data: slower, and accurate down to the smallest of them."""
    X = _double(X)
    mean = X.mean(dim=0)
    _, singular_values, Vt = torch.linalg.svd(X - mean, full_matrices=False)
    variances = singular_values.square() / (len(X) - 1)
    return mean, variances[:m], _fix_signs(Vt[:m]), variances[m:].sum()


# The three products: each returns the mean, the centred data where it is wanted later, the matrix, and the function
# from λ₁ to the least eigenvalue that came through the rounding.


def _scatter_without_centring(X: Tensor, rows: int = 32768) -> tuple[Tensor, None, Tensor, Callable]:
    """Σ(x−μ)(x−μ)ᵀ as Σxxᵀ − nμμᵀ: no copy of the data, but the rounding of Σxxᵀ, which the mean makes larger."""
    mean = X.mean(dim=0).double()
    scatter = sum(_self_product(chunk).double() for chunk in X.split(rows))
    scatter.addr_(mean, mean, alpha=-len(X))
    return mean, None, scatter, lambda top: SAFE_EIGENVALUE_RATIO[X.dtype] * (top + len(X) * mean @ mean)


def _scatter(X: Tensor, rows: int = 8192) -> tuple[Tensor, None, Tensor, Callable]:
    """Σ(x−μ)(x−μ)ᵀ of X (n, D), in float64, `rows` rows at a time."""
    shift = X.mean(dim=0, dtype=torch.float64)
    scatter, offset = torch.zeros_like(shift).diag(), torch.zeros_like(shift)
    for chunk in X.split(rows):
        centred = _double(chunk) - shift
        scatter += _self_product(centred)
        offset += centred.sum(dim=0)
    # The shift is the mean up to rounding; what it missed is removed exactly (parallel-axis theorem).
    offset /= len(X)
    scatter.addr_(offset, offset, alpha=-len(X))
    return shift + offset, None, scatter, lambda top: SAFE_EIGENVALUE_RATIO[torch.float64] * top


def _gram(X: Tensor) -> tuple[Tensor, Tensor, Tensor, Callable]:
    """Mean, centred data and its Gram matrix (n, n), for X (n, D) in float64 with fewer rows than columns."""
    mean = X.mean(dim=0)
    centred = X - mean
    return mean, centred, _self_product(centred.T), lambda top: SAFE_EIGENVALUE_RATIO[torch.float64] * top


def _self_product(A: Tensor) -> Tensor:
    """AᵀA; on a CPU only its lower triangle, zeros above: half of the work, which torch has no function for."""
    if A.device.type != "cpu":
        return A.T @ A
    A = A.detach().numpy()
    syrk = scipy.linalg.blas.ssyrk if A.dtype == np.float32 else scipy.linalg.blas.dsyrk
    # BLAS counts columns first: it takes A as Aᵀ without a copy, and its upper triangle is our lower one.
    upper = syrk(1.0, A, trans=1) if A.flags.f_contiguous else syrk(1.0, A.T, trans=0)
    return torch.from_numpy(upper.T)


def _top_eigenpairs(S: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The m largest eigenvalues (falling) and their vectors (p, m) of symmetric S (p, p); its lower half is read."""
    if S.device.type != "cpu":
        values, vectors = torch.linalg.eigh(S)
        return values[-m:].flip(0), vectors[:, -m:].flip(1)
    # LAPACK can stop at the m wanted vectors; torch offers only all of them. SciPy's own BLAS for both steps: two
    # libraries' threads would wait for work, spinning, on each other's cores.
    values, vectors = scipy.linalg.eigh(
        S.numpy(), lower=True, subset_by_index=(len(S) - m, len(S) - 1), check_finite=False
    )
    return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)


def _fix_signs(components: Tensor) -> Tensor:
    """Make the entry of largest magnitude in each row positive: a component's sign is arbitrary, ours is not."""
    largest = components.abs().argmax(dim=1, keepdim=True)
    return components * components.gather(1, largest).sign()


def _double(X: Tensor) -> Tensor:
    # Apple's MPS has neither float64 nor eigh: there the algebra runs on the CPU.
    return (X.cpu() if X.device.type == "mps" else X).double()


def _like(value: Tensor, X: Tensor) -> Tensor:
    return value.to(X.device, X.dtype if X.dtype == torch.float64 else torch.float32).contiguous()


def _check_data(X: Tensor) -> None:
    _check_matrix(X, None, "features")
    if X.shape[0] < 2 or X.shape[1] < 1:
        raise ValueError(f"X should have at least 2 rows and 1 column, got {tuple(X.shape)}")
    # NaN passes through the extremes; this is an order of magnitude faster than isfinite(X).all().
    low, high = X.detach().aminmax()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"X should hold finite numbers, got values from {low.item()} to {high.item()}")


def _check_matrix(X: Tensor, columns: int | None, what: str) -> None:
    if not isinstance(X, Tensor):
        raise ValueError(f"expected a torch tensor, got {type(X).__name__}")
    if X.ndim != 2:
        raise ValueError(f"expected a matrix (n, {what}), got shape {tuple(X.shape)}; flatten images first")
    if columns is not None and X.shape[1] != columns:
        raise ValueError(f"expected {columns} {what}, got shape {tuple(X.shape)}")


def _check_n_components(m: int | float | None) -> None:
    if m is None or (isinstance(m, int) and not isinstance(m, bool) and m >= 1):
        return
    if isinstance(m, float) and 0 < m < 1:
        return
    raise ValueError(f"n_components should be None, an integer of at least 1 or a share in (0, 1), got {m!r}")


def _resolve_n_components(m: int | float | None, X: Tensor) -> int:
    limit = min(X.shape)
    if isinstance(m, int) and m > limit:
        raise ValueError(
            f"n_components should be at most min(n, D) = {limit} for X {tuple(X.shape)}, got {m}"
        )
    return m if isinstance(m, int) else limit
