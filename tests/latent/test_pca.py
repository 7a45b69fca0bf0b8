"""PCA and PPCA: scikit-learn's conventions, every shape of data, ill-conditioned data, and errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hilbert
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA as SklearnPCA

from course_lib.latent.pca import PCA, PPCA

FITTED = ["mean_", "components_", "explained_variance_", "explained_variance_ratio_", "singular_values_"]


@pytest.fixture(scope="module")
def digits():
    return torch.from_numpy(load_digits().data / 16)


def matrix_with(singular_values, rows, columns, seed=0):
    """A centred matrix with exactly these singular values (up to float64 rounding)."""
    generator = torch.Generator().manual_seed(seed)
    r = len(singular_values)
    left = torch.randn(rows, r, generator=generator, dtype=torch.float64)
    left, _ = torch.linalg.qr(left - left.mean(dim=0))  # orthogonal to the constant vector: centred
    right, _ = torch.linalg.qr(torch.randn(columns, r, generator=generator, dtype=torch.float64))
    return left * torch.as_tensor(singular_values, dtype=torch.float64) @ right.T


def is_orthonormal(components, atol):
    identity = torch.eye(len(components), dtype=components.dtype)
    return torch.allclose(components @ components.T, identity, rtol=0, atol=atol)


# --- scikit-learn's conventions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "m"), [(1797, 10), (1797, 60), (40, 10), (64, 20)], ids=["tall", "tall, many", "wide", "square"]
)
def test_agrees_with_scikit_learn_signs_included(digits, rows, m):
    X = digits[:rows]
    ours, theirs = PCA(m).fit(X), SklearnPCA(m, svd_solver="full").fit(X.numpy())
    for name in FITTED:
        assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-7, atol=1e-9), name
    codes = ours.transform(X)
    assert np.allclose(codes, theirs.transform(X.numpy()), atol=1e-8)
    assert np.allclose(ours.inverse_transform(codes), theirs.inverse_transform(codes.numpy()), atol=1e-8)
    assert (ours.n_components_, ours.n_samples_) == (m, rows)


@pytest.mark.parametrize("rows", [1797, 40])
def test_float32_keeps_float32_accuracy(digits, rows):
    """Even 1,000 standard deviations from the origin, where an uncentred product would lose everything."""
    X = (digits[:rows] + 300).float()
    ours, theirs = PCA(10).fit(X), SklearnPCA(10, svd_solver="full").fit(X.double().numpy())
    assert ours.components_.dtype == torch.float32
    assert np.allclose(ours.components_, theirs.components_, atol=2e-4)
    assert np.allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_share_keeps_as_many_components_as_scikit_learn(digits, share):
    ours, theirs = PCA(share).fit(digits), SklearnPCA(share).fit(digits.numpy())
    assert ours.components_.shape == theirs.components_.shape
    assert ours.explained_variance_ratio_.sum() > share
    assert ours.explained_variance_ratio_[:-1].sum() <= share


def test_the_largest_entry_of_each_component_is_positive(digits):
    for data in (digits, -digits, digits[:40]):
        components = PCA(8).fit(data).components_
        assert (components.gather(1, components.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_none_keeps_as_many_components_as_there_can_be():
    X = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    assert PCA().fit(X).components_.shape == (5, 5)
    assert PCA().fit(X.T).components_.shape == (5, 9)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16])
def test_integers_and_half_precision_are_computed_in_float32_or_better(dtype):
    levels = torch.from_numpy(load_digits().data).to(dtype)  # 0 … 16: exact in all of them
    ours, reference = PCA(5).fit(levels), PCA(5).fit(levels.double())
    assert ours.components_.dtype == torch.float32
    assert torch.allclose(ours.components_.double(), reference.components_, atol=1e-6)
    assert torch.allclose(ours.transform(levels).double(), reference.transform(levels.double()), atol=1e-4)


# --- Difficult data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(60, 12), (12, 60), (13, 12)])
def test_small_components_of_ill_conditioned_data_are_right(rows, columns):
    """Singular values from 1 to 1e-10: their squares span 20 decades, more than a covariance can hold."""
    exact = torch.logspace(0, -10, 11, dtype=torch.float64)
    pca = PCA(11).fit(matrix_with(exact, rows, columns))
    assert torch.allclose(pca.singular_values_, exact, rtol=1e-4, atol=0)
    assert is_orthonormal(pca.components_, 1e-12)


def test_the_hilbert_matrix():
    X = hilbert(12)
    _, singular_values, Vt = np.linalg.svd(X - X.mean(axis=0))
    pca = PCA(9).fit(torch.from_numpy(X))
    assert np.allclose(pca.singular_values_, singular_values[:9], rtol=1e-4, atol=0)
    assert np.allclose(np.abs((pca.components_.numpy() * Vt[:9]).sum(axis=1)), 1, atol=1e-4)


def test_float32_data_with_a_steep_spectrum():
    """λ_m/λ₁ = 1e-5: below what a float32 covariance resolves, so the products are redone in float64."""
    exact = torch.logspace(0, -2.5, 10, dtype=torch.float64)
    pca = PCA(10).fit(matrix_with(exact, 500, 10).float())
    assert torch.allclose(pca.singular_values_.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("dtype", "mean", "tolerance"), [(torch.float32, 300.0, 1e-3), (torch.float64, 3e6, 1e-6)]
)
def test_a_mean_much_larger_than_the_spread(dtype, mean, tolerance):
    """Σxxᵀ − nμμᵀ would leave one digit or none here; the tolerance is what rounding the data itself leaves."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(400, 20, generator=generator, dtype=torch.float64) * torch.linspace(1, 0.3, 20)
    shifted = (X + mean).to(dtype)
    exact = (shifted.double() - shifted.double().mean(dim=0)).numpy()
    variances = PCA(8).fit(shifted).explained_variance_
    expected = np.linalg.svd(exact, compute_uv=False)[:8] ** 2 / 399
    np.testing.assert_allclose(variances, expected, rtol=tolerance)


@pytest.mark.parametrize(("rows", "columns"), [(50, 20), (20, 50)])
def test_rank_deficient_data(rows, columns):
    X = matrix_with(torch.linspace(5, 1, 4), rows, columns) + 3
    pca = PCA().fit(X)
    assert pca.components_.shape == (20, columns)
    assert is_orthonormal(pca.components_, 1e-10)
    assert (pca.explained_variance_[4:] < 1e-20).all()
    assert torch.allclose(pca.inverse_transform(pca.transform(X)), X, atol=1e-10)


def test_constant_data_has_no_variance_to_share():
    pca = PCA(2).fit(torch.full((5, 3), 0.7))
    assert torch.equal(pca.explained_variance_ratio_, torch.zeros(2))
    assert torch.allclose(pca.inverse_transform(torch.zeros(1, 2)), torch.full((1, 3), 0.7))


def test_data_that_requires_a_gradient_can_be_fitted(digits):
    assert PCA(2).fit(digits.clone().requires_grad_()).components_.requires_grad is False


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 1000))
def test_round_trip_and_shapes(n, D, seed):
    """With all min(n, D) components nothing is lost, whatever the shape."""
    X = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pca = PCA().fit(X)
    codes = pca.transform(X)
    assert codes.shape == (n, min(n, D))
    assert torch.allclose(pca.inverse_transform(codes), X, rtol=0, atol=1e-9)
    assert is_orthonormal(pca.components_, 1e-9)
    assert (pca.explained_variance_.diff() <= 1e-12).all()
    assert pca.explained_variance_ratio_.sum().item() == pytest.approx(1)


# --- Probabilistic PCA ----------------------------------------------------------------------------------------


def test_scikit_learns_score_is_ppca_with_the_n_minus_one_covariance(digits):
    X = digits[:, 20:40]
    n, ours = len(X), PPCA(5).fit(X)
    theirs = SklearnPCA(5, svd_solver="full").fit(X.numpy())
    factor = n / (n - 1)
    rescaled = PPCA.from_parameters(ours.W * factor**0.5, ours.mu, ours.sigma2 * factor)
    assert np.allclose(rescaled.log_prob(X), theirs.score_samples(X.numpy()), atol=1e-8)
    assert ours.log_prob(X).mean().item() > theirs.score(X.numpy())  # ours is the maximum


def test_ppca_samples_have_the_models_mean_and_covariance(digits):
    ppca = PPCA(3).fit(digits[:, 20:28])
    n = 200_000
    samples = ppca.sample(n, torch.Generator().manual_seed(0))
    variance = ppca.covariance.diagonal()
    assert ((samples.mean(dim=0) - ppca.mu).abs() < 5 * (variance / n).sqrt()).all()
    # var of a sample covariance: (C_ii C_jj + C_ij²)/n
    standard_error = ((variance.outer(variance) + ppca.covariance.square()) / n).sqrt()
    assert ((torch.cov(samples.T) - ppca.covariance).abs() < 5 * standard_error).all()
    assert torch.equal(samples, ppca.sample(n, torch.Generator().manual_seed(0)))


def test_ppca_noise_of_ill_conditioned_data():
    """A noise variance of 1e-11 of the leading one: below what the covariance resolves."""
    exact = torch.tensor([1.0, 0.5] + [10**-5.5] * 8, dtype=torch.float64)
    X = matrix_with(exact, 100, 10)
    assert PPCA(2).fit(X).sigma2.item() == pytest.approx(1e-11 / 100, rel=1e-6)


def test_ppca_of_wide_data(digits):
    """D = 64 > n = 40: σ² is averaged over all D − m directions, the empty ones included."""
    X = digits[:40]
    ppca = PPCA(5).fit(X)
    discarded = X.var(dim=0, correction=0).sum() - (ppca.W.square().sum() + 5 * ppca.sigma2)
    assert ppca.sigma2.item() == pytest.approx(discarded.item() / 59, rel=1e-9)


def test_ppca_keeps_the_datas_precision(digits):
    ppca = PPCA(4).fit(digits[:, 20:40].float())
    assert {value.dtype for value in (ppca.W, ppca.mu, ppca.sigma2, ppca.sample(2))} == {torch.float32}
    exact = PPCA(4).fit(digits[:, 20:40])
    assert torch.allclose(
        ppca.log_prob(digits[:50, 20:40].float()).double(), exact.log_prob(digits[:50, 20:40]), rtol=1e-4
    )


# --- Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [0, -1, True, 1.5, 0.0, "3", [2]])
def test_bad_numbers_of_components_are_refused(m):
    with pytest.raises(ValueError, match="n_components should be"):
        PCA(m)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (torch.zeros(5, 1, 8, 8), "expected a matrix"),
        (torch.zeros(5), "expected a matrix"),
        (np.zeros((5, 3)), "torch tensor, got ndarray"),
        (torch.zeros(1, 3), "at least 2 rows"),
        (torch.zeros(3, 0), "1 column"),
        (torch.tensor([[1.0, float("nan")], [0.0, 0.0]]), "finite"),
        (torch.tensor([[1.0, float("inf")], [0.0, 0.0]]), "finite"),
    ],
)
def test_bad_data_is_refused(X, message):
    for model in (PCA(1), PPCA(1)):
        with pytest.raises(ValueError, match=message):
            model.fit(X)


def test_more_components_than_the_data_has_are_refused():
    with pytest.raises(ValueError, match=r"at most min\(n, D\) = 4"):
        PCA(5).fit(torch.rand(4, 9))
    with pytest.raises(ValueError, match="below D = 3"):
        PPCA(3).fit(torch.rand(10, 3))


def test_data_without_noise_has_no_ppca_density():
    X = matrix_with([3.0, 2.0], 50, 6)
    with pytest.raises(ValueError, match="σ² = 0"):
        PPCA(2).fit(X)


def test_use_before_fitting_and_wrong_widths_are_refused(digits):
    with pytest.raises(ValueError, match="not fitted"):
        PCA(2).transform(digits)
    with pytest.raises(ValueError, match="not fitted"):
        PPCA(2).sample(3)
    pca, ppca = PCA(2).fit(digits), PPCA(2).fit(digits)
    for call in (lambda: pca.transform(digits[:, :9]), lambda: ppca.log_prob(digits[:, :9])):
        with pytest.raises(ValueError, match="expected 64 features"):
            call()
    with pytest.raises(ValueError, match="expected 2 components"):
        pca.inverse_transform(torch.zeros(4, 3))


def test_inconsistent_ppca_parameters_are_refused():
    with pytest.raises(ValueError, match="expected W"):
        PPCA.from_parameters(torch.zeros(4, 2), torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="sigma2 should be positive"):
        PPCA.from_parameters(torch.zeros(4, 2), torch.zeros(4), 0.0)
    with pytest.raises(ValueError, match="n_components"):
        PPCA(0)
