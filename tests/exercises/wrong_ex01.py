"""Submissions for ex01: for each task typical mistakes, and other right solutions."""

WRONG = {
    "pca": {
        "not centred": """
def fit_pca(X, m):
    covariance = X.T @ X / (len(X) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    return X.mean(dim=0), vectors.flip(1)[:, :m].T, values.flip(0)[:m]
""",
        "divided by n": """
def fit_pca(X, m):
    mean = X.mean(dim=0)
    values, vectors = torch.linalg.eigh((X - mean).T @ (X - mean) / len(X))
    return mean, vectors.flip(1)[:, :m].T, values.flip(0)[:m]
""",
        "ascending order": """
def fit_pca(X, m):
    values, vectors = torch.linalg.eigh(torch.cov(X.T))
    return X.mean(dim=0), vectors[:, :m].T, values[:m]
""",
        "the largest, smallest of them first": """
def fit_pca(X, m):
    values, vectors = torch.linalg.eigh(torch.cov(X.T))
    return X.mean(dim=0), vectors[:, -m:].T, values[-m:]
""",
        "rows of the matrix of eigenvectors": """
def fit_pca(X, m):
    values, vectors = torch.linalg.eigh(torch.cov(X.T))
    return X.mean(dim=0), vectors.flip(0)[:m], values.flip(0)[:m]
""",
        "components as columns": """
def fit_pca(X, m):
    values, vectors = torch.linalg.eigh(torch.cov(X.T))
    return X.mean(dim=0), vectors.flip(1)[:, :m], values.flip(0)[:m]
""",
        "singular values for variances": """
def fit_pca(X, m):
    mean = X.mean(dim=0)
    _, S, Vh = torch.linalg.svd(X - mean, full_matrices=False)
    return mean, Vh[:m], S[:m]
""",
        "components scaled by their standard deviations": """
def fit_pca(X, m):
    values, vectors = torch.linalg.eigh(torch.cov(X.T))
    values, vectors = values.flip(0)[:m], vectors.flip(1)[:, :m].T
    return X.mean(dim=0), vectors * values.sqrt()[:, None], values
""",
    },
    "project": {
        "mean not subtracted": """
def encode(X, mean, components):
    return X @ components.T

def decode(Z, mean, components):
    return Z @ components + mean
""",
        "mean not added back": """
def encode(X, mean, components):
    return (X - mean) @ components.T

def decode(Z, mean, components):
    return Z @ components
""",
        "transposed where it fits": """
def encode(X, mean, components):
    if components.shape[0] == components.shape[1]:
        return (X - mean) @ components
    return (X - mean) @ components.T

def decode(Z, mean, components):
    return Z @ components + mean
""",
        "mean subtracted again": """
def encode(X, mean, components):
    return (X - mean) @ components.T

def decode(Z, mean, components):
    return Z @ components - mean
""",
    },
    "error": {
        "mean over the features too": """
def reconstruction_error(X, X_hat):
    return (X - X_hat).square().mean()

def discarded_variance(eigenvalues, m):
    return eigenvalues[: len(eigenvalues) - m].sum()
""",
        "divided by n": """
def reconstruction_error(X, X_hat):
    return (X - X_hat).square().sum(dim=1).mean()

def discarded_variance(eigenvalues, m):
    return eigenvalues[: len(eigenvalues) - m].sum()
""",
        "the kept eigenvalues": """
def reconstruction_error(X, X_hat):
    return (X - X_hat).square().sum() / (len(X) - 1)

def discarded_variance(eigenvalues, m):
    return eigenvalues[len(eigenvalues) - m :].sum()
""",
        "the largest discarded": """
def reconstruction_error(X, X_hat):
    return (X - X_hat).square().sum() / (len(X) - 1)

def discarded_variance(eigenvalues, m):
    return eigenvalues[m:].sum()
""",
        "a slice to -0": """
def reconstruction_error(X, X_hat):
    return (X - X_hat).square().sum() / (len(X) - 1)

def discarded_variance(eigenvalues, m):
    return eigenvalues[:-m].sum()
""",
        "norms not squared": """
def reconstruction_error(X, X_hat):
    return (X - X_hat).norm(dim=1).sum() / (len(X) - 1)

def discarded_variance(eigenvalues, m):
    return eigenvalues[: len(eigenvalues) - m].sum()
""",
    },
    "choose": {
        "one too few": """
def choose_m(eigenvalues, share):
    explained = eigenvalues.sort(descending=True).values.cumsum(dim=0) / eigenvalues.sum()
    return int((explained < share).sum())
""",
        "more than the share": """
def choose_m(eigenvalues, share):
    explained = eigenvalues.sort(descending=True).values.cumsum(dim=0) / eigenvalues.sum()
    return min(int((explained <= share).sum()) + 1, len(eigenvalues))
""",
        "not sorted": """
def choose_m(eigenvalues, share):
    explained = eigenvalues.cumsum(dim=0) / eigenvalues.sum()
    return min(int((explained < share).sum()) + 1, len(eigenvalues))
""",
        "standard deviations": """
def choose_m(eigenvalues, share):
    roots = eigenvalues.sqrt().sort(descending=True).values
    return min(int((roots.cumsum(dim=0) / roots.sum() < share).sum()) + 1, len(eigenvalues))
""",
        "smallest first": """
def choose_m(eigenvalues, share):
    explained = eigenvalues.sort().values.cumsum(dim=0) / eigenvalues.sum()
    return min(int((explained < share).sum()) + 1, len(eigenvalues))
""",
    },
    "linear-ae": {
        "mean over the features too": """
def autoencoder_loss(X, W_e, W_d):
    return (X @ W_e.T @ W_d.T - X).square().mean()

def autoencoder_gradients(X, W_e, W_d):
    codes = X @ W_e.T
    residual = codes @ W_d.T - X
    return 2 / len(X) * W_d.T @ residual.T @ X, 2 / len(X) * residual.T @ codes
""",
        "factor 2 forgotten": """
def autoencoder_loss(X, W_e, W_d):
    return (X @ W_e.T @ W_d.T - X).square().sum(dim=1).mean()

def autoencoder_gradients(X, W_e, W_d):
    codes = X @ W_e.T
    residual = codes @ W_d.T - X
    return 1 / len(X) * W_d.T @ residual.T @ X, 1 / len(X) * residual.T @ codes
""",
        "not divided by n": """
def autoencoder_loss(X, W_e, W_d):
    return (X @ W_e.T @ W_d.T - X).square().sum(dim=1).mean()

def autoencoder_gradients(X, W_e, W_d):
    codes = X @ W_e.T
    residual = codes @ W_d.T - X
    return 2 * W_d.T @ residual.T @ X, 2 * residual.T @ codes
""",
        "sign of the residual": """
def autoencoder_loss(X, W_e, W_d):
    return (X @ W_e.T @ W_d.T - X).square().sum(dim=1).mean()

def autoencoder_gradients(X, W_e, W_d):
    codes = X @ W_e.T
    residual = X - codes @ W_d.T
    return 2 / len(X) * W_d.T @ residual.T @ X, 2 / len(X) * residual.T @ codes
""",
        "tied weights": """
def autoencoder_loss(X, W_e, W_d):
    return (X @ W_e.T @ W_e - X).square().sum(dim=1).mean()

def autoencoder_gradients(X, W_e, W_d):
    codes = X @ W_e.T
    residual = codes @ W_d.T - X
    return 2 / len(X) * W_d.T @ residual.T @ X, 2 / len(X) * residual.T @ codes
""",
    },
    "subspace": {
        "columns taken for orthonormal": """
def subspace_distance(A, B):
    return (A @ A.T - B @ B.T).norm()
""",
        "columns of length 1 but not orthogonal": """
def subspace_distance(A, B):
    A, B = A / A.norm(dim=0), B / B.norm(dim=0)
    return (A @ A.T - B @ B.T).norm()
""",
        "bases compared": """
def subspace_distance(A, B):
    return (torch.linalg.qr(A).Q - torch.linalg.qr(B).Q).norm()
""",
        "squared": """
def subspace_distance(A, B):
    A, B = torch.linalg.qr(A).Q, torch.linalg.qr(B).Q
    return (A @ A.T - B @ B.T).square().sum()
""",
        "largest singular value": """
def subspace_distance(A, B):
    A, B = torch.linalg.qr(A).Q, torch.linalg.qr(B).Q
    return torch.linalg.norm(A @ A.T - B @ B.T, ord=2)
""",
    },
}

RIGHT = {
    "pca": {
        "singular value decomposition": """
def fit_pca(X, m):
    mean = X.mean(dim=0)
    _, S, Vh = torch.linalg.svd(X - mean, full_matrices=False)
    if len(Vh) < m:
        Vh = torch.linalg.svd(X - mean).Vh
        S = torch.cat([S, torch.zeros(m - len(S))])
    return mean, Vh[:m], S[:m] ** 2 / (len(X) - 1)
""",
        "loops, the other signs": """
def fit_pca(X, m):
    n, D = X.shape
    mean = sum(X) / n
    covariance = torch.zeros(D, D, dtype=X.dtype)
    for x in X:
        covariance += torch.outer(x - mean, x - mean) / (n - 1)
    values, vectors = torch.linalg.eigh(covariance)
    components, variances = [], []
    for j in range(m):
        components.append(-vectors[:, D - 1 - j])
        variances.append(values[D - 1 - j])
    return mean, torch.stack(components), torch.stack(variances)
""",
        "numpy in float64": """
import numpy as np

def fit_pca(X, m):
    X = np.asarray(X, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(X, rowvar=False))
    return X.mean(axis=0), vectors[:, ::-1].T[:m].copy(), values[::-1][:m].copy()
""",
        "scikit-learn": """
def fit_pca(X, m):
    from sklearn.decomposition import PCA

    pca = PCA(m).fit(X.numpy())
    return pca.mean_, pca.components_, pca.explained_variance_
""",
    },
    "project": {
        "loops": """
def encode(X, mean, components):
    return torch.stack([torch.stack([v @ (x - mean) for v in components]) for x in X])

def decode(Z, mean, components):
    rows = []
    for z in Z:
        x = mean.clone()
        for j, v in enumerate(components):
            x += z[j] * v
        rows.append(x)
    return torch.stack(rows)
""",
        "einsum in float64": """
def encode(X, mean, components):
    return torch.einsum("nd,md->nm", (X - mean).double(), components.double())

def decode(Z, mean, components):
    return torch.einsum("nm,md->nd", Z.double(), components.double()) + mean.double()
""",
    },
    "error": {
        "norms and python numbers": """
def reconstruction_error(X, X_hat):
    return sum(torch.dist(x, y).item() ** 2 for x, y in zip(X, X_hat)) / (X.shape[0] - 1)

def discarded_variance(eigenvalues, m):
    return sum(eigenvalues.tolist()[: len(eigenvalues) - m])
""",
        "total less kept, numpy": """
def reconstruction_error(X, X_hat):
    difference = (X - X_hat).numpy()
    return (difference * difference).sum() / (len(difference) - 1)

def discarded_variance(eigenvalues, m):
    return eigenvalues.sum() - eigenvalues.flip(0)[:m].sum()
""",
    },
    "choose": {
        "a loop": """
def choose_m(eigenvalues, share):
    total, kept = sum(eigenvalues.tolist()), 0.0
    for m, value in enumerate(sorted(eigenvalues.tolist(), reverse=True), start=1):
        kept += value
        if kept >= share * total:
            return m
    return len(eigenvalues)
""",
        "searchsorted, a tensor comes back": """
def choose_m(eigenvalues, share):
    explained = eigenvalues.double().sort(descending=True).values.cumsum(0)
    m = torch.searchsorted(explained / explained[-1], share) + 1
    return m.clamp(max=len(eigenvalues))
""",
    },
    "linear-ae": {
        "autograd": """
def autoencoder_loss(X, W_e, W_d):
    return ((X @ W_e.T @ W_d.T - X) ** 2).sum() / len(X)

def autoencoder_gradients(X, W_e, W_d):
    W_e, W_d = W_e.clone().requires_grad_(), W_d.clone().requires_grad_()
    return torch.autograd.grad(autoencoder_loss(X, W_e, W_d), (W_e, W_d))
""",
        "loop over the examples": """
def autoencoder_loss(X, W_e, W_d):
    return sum(float((W_d @ (W_e @ x) - x).square().sum()) for x in X) / len(X)

def autoencoder_gradients(X, W_e, W_d):
    g_e, g_d = torch.zeros_like(W_e), torch.zeros_like(W_d)
    for x in X:
        r = W_d @ W_e @ x - x
        g_d += 2 / len(X) * torch.outer(r, W_e @ x)
        g_e += 2 / len(X) * torch.outer(W_d.T @ r, x)
    return [g_e, g_d]
""",
    },
    "subspace": {
        "pseudo-inverse": """
def subspace_distance(A, B):
    return float((A @ torch.linalg.pinv(A) - B @ torch.linalg.pinv(B)).norm())
""",
        "normal equations": """
def subspace_distance(A, B):
    A, B = A.double(), B.double()
    P = A @ torch.linalg.solve(A.T @ A, A.T)
    Q = B @ torch.linalg.inv(B.T @ B) @ B.T
    return ((P - Q) ** 2).sum().sqrt()
""",
        "principal angles": """
def subspace_distance(A, B):
    Q_A, Q_B = torch.linalg.qr(A.double()).Q, torch.linalg.qr(B.double()).Q
    cosines = torch.linalg.svdvals(Q_A.T @ Q_B).clamp(max=1)
    return (2 * (1 - cosines**2).sum()).sqrt()
""",
    },
}
