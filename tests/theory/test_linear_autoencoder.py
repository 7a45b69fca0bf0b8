"""A linear autoencoder learns PCA's subspace, and not PCA's axes (Baldi & Hornik, 1989)."""

import math

import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.datasets import load_digits

from course_lib.latent.autoencoder import linear_autoencoder
from course_lib.latent.pca import PCA

M = 4


@pytest.fixture(scope="module")
def trained():
    """(data, PCA, autoencoder): digits, 4 latent dimensions, full-batch L-BFGS in float64 from the default start."""
    X = torch.from_numpy(load_digits().data / 16)
    torch.manual_seed(0)
    model = linear_autoencoder((64,), M).double()
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = model.loss(X)["loss"]
        loss.backward()
        return loss

    optimiser.step(closure)
    return X, PCA(M).fit(X), model


def decoder_axes(model):
    return next(layer for layer in model.decoder if isinstance(layer, torch.nn.Linear)).weight.detach()


def test_the_decoder_spans_the_principal_subspace(trained):
    """All principal angles below one degree; between random 4-dimensional subspaces they are near 90°."""
    _, pca, model = trained
    angles = subspace_angles(decoder_axes(model).numpy(), pca.components_.T.numpy())
    assert angles.max() < math.radians(1)


def test_the_loss_reaches_the_discarded_eigenvalues_and_no_less(trained):
    X, pca, model = trained
    n = len(X)
    discarded = (X.var(dim=0).sum() - pca.explained_variance_.sum()) * (n - 1) / n
    loss = model.loss(X)["loss"].item()
    assert discarded.item() - 1e-9 <= loss <= discarded.item() * 1.001


def test_the_axes_are_neither_orthogonal_nor_of_unit_length(trained):
    _, pca, model = trained
    identity = torch.eye(M, dtype=torch.float64)
    axes = decoder_axes(model)
    cosines = torch.nn.functional.normalize(axes, dim=0)
    assert (axes.T @ axes - identity).abs().max() > 0.1
    assert (cosines.T @ cosines - identity).abs().max() > 0.1
    assert torch.allclose(pca.components_ @ pca.components_.T, identity, atol=1e-12)
