"""Submissions for ex03: for each task typical mistakes, and other right solutions."""

WRONG = {
    "weights": {
        "log q added": """
def log_weights(log_likelihood, z, mu, logvar):
    log_prior = -0.5 * z.square()
    log_q = -0.5 * (logvar + (z - mu).square() / logvar.exp())
    return log_likelihood + (log_prior + log_q).sum(dim=2)
""",
        "q without its volume": """
def log_weights(log_likelihood, z, mu, logvar):
    log_q = -0.5 * (z - mu).square() / logvar.exp()
    return log_likelihood + (-0.5 * z.square() - log_q).sum(dim=2)
""",
        "log σ² for log σ": """
def log_weights(log_likelihood, z, mu, logvar):
    log_q = -logvar - 0.5 * (z - mu).square() / logvar.exp()
    return log_likelihood + (-0.5 * z.square() - log_q).sum(dim=2)
""",
        "no prior": """
def log_weights(log_likelihood, z, mu, logvar):
    log_q = -0.5 * (logvar + (z - mu).square() / logvar.exp())
    return log_likelihood - log_q.sum(dim=2)
""",
        "2π in one density": """
def log_weights(log_likelihood, z, mu, logvar):
    log_q = -0.5 * (math.log(2 * math.pi) + logvar + (z - mu).square() / logvar.exp())
    return log_likelihood + (-0.5 * z.square() - log_q).sum(dim=2)
""",
        "variance used as standard deviation": """
def log_weights(log_likelihood, z, mu, logvar):
    q, p = torch.distributions.Normal(mu, logvar.exp()), torch.distributions.Normal(0.0, 1.0)
    return log_likelihood + (p.log_prob(z) - q.log_prob(z)).sum(dim=2)
""",
        "mean over the dimensions": """
def log_weights(log_likelihood, z, mu, logvar):
    log_q = -0.5 * (logvar + (z - mu).square() / logvar.exp())
    return log_likelihood + (-0.5 * z.square() - log_q).mean(dim=2)
""",
    },
    "bound": {
        "mean of the logs": """
def iwae_bound(log_w):
    return log_w.mean(dim=0)
""",
        "without − log k": """
def iwae_bound(log_w):
    return log_w.logsumexp(dim=0)
""",
        "underflow": """
def iwae_bound(log_w):
    return log_w.exp().mean(dim=0).log()
""",
        "the other axis": """
def iwae_bound(log_w):
    return log_w.logsumexp(dim=1) - math.log(log_w.shape[1])
""",
        "divided by k": """
def iwae_bound(log_w):
    return log_w.logsumexp(dim=0) / len(log_w)
""",
        "log B": """
def iwae_bound(log_w):
    return log_w.logsumexp(dim=0) - math.log(log_w.shape[1])
""",
        "a shift that is not undone": """
def iwae_bound(log_w):
    return (log_w - log_w.max(dim=0).values).exp().mean(dim=0).log()
""",
    },
    "gradient": {
        "softmax over losses": """
def normalised_weights(log_w):
    return (-log_w).softmax(dim=0)

def surrogate_loss(log_w):
    return -((-log_w).detach().softmax(dim=0) * log_w).sum(dim=0).mean()
""",
        "softmax over losses, in the loss": """
def normalised_weights(log_w):
    return log_w.softmax(dim=0)

def surrogate_loss(log_w):
    losses = -log_w
    return (losses.detach().softmax(dim=0) * losses).sum(dim=0).mean()
""",
        "weights not detached": """
def normalised_weights(log_w):
    return log_w.softmax(dim=0)

def surrogate_loss(log_w):
    return -(log_w.softmax(dim=0) * log_w).sum(dim=0).mean()
""",
        "softmax over the pictures": """
def normalised_weights(log_w):
    return log_w.softmax(dim=1)

def surrogate_loss(log_w):
    return -(log_w.detach().softmax(dim=0) * log_w).sum(dim=0).mean()
""",
        "sign of the loss": """
def normalised_weights(log_w):
    return log_w.softmax(dim=0)

def surrogate_loss(log_w):
    return (log_w.detach().softmax(dim=0) * log_w).sum(dim=0).mean()
""",
        "mean over the samples": """
def normalised_weights(log_w):
    return log_w.softmax(dim=0)

def surrogate_loss(log_w):
    return -(log_w.detach().softmax(dim=0) * log_w).mean()
""",
        "sum over the pictures": """
def normalised_weights(log_w):
    return log_w.softmax(dim=0)

def surrogate_loss(log_w):
    return -(log_w.detach().softmax(dim=0) * log_w).sum()
""",
        "everything detached": """
def normalised_weights(log_w):
    return log_w.softmax(dim=0)

def surrogate_loss(log_w):
    return -(log_w.softmax(dim=0) * log_w).sum(dim=0).mean().detach()
""",
        "underflow": """
def normalised_weights(log_w):
    w = log_w.exp()
    return w / w.sum(dim=0)

def surrogate_loss(log_w):
    return -(normalised_weights(log_w).detach() * log_w).sum(dim=0).mean()
""",
        "the ELBO's gradient": """
def normalised_weights(log_w):
    return log_w.softmax(dim=0)

def surrogate_loss(log_w):
    return -log_w.mean()
""",
    },
    "ess": {
        "its inverse": """
def effective_sample_size(log_w):
    return log_w.softmax(dim=0).square().sum(dim=0)
""",
        "its share": """
def effective_sample_size(log_w):
    return 1 / log_w.softmax(dim=0).square().sum(dim=0) / len(log_w)
""",
        "not squared": """
def effective_sample_size(log_w):
    return 1 / log_w.softmax(dim=0).sum(dim=0)
""",
        "underflow": """
def effective_sample_size(log_w):
    w = log_w.exp()
    return w.sum(dim=0).square() / w.square().sum(dim=0)
""",
        "the other axis": """
def effective_sample_size(log_w):
    return 1 / log_w.softmax(dim=1).square().sum(dim=1)
""",
    },
    "responsibilities": {
        "no weights": """
def responsibilities(z, log_pi, mu_c, logvar_c):
    squares = (z[:, None] - mu_c).square() / logvar_c.exp()
    return (-0.5 * (logvar_c + squares).sum(dim=2)).softmax(dim=1)
""",
        "no volumes": """
def responsibilities(z, log_pi, mu_c, logvar_c):
    squares = (z[:, None] - mu_c).square() / logvar_c.exp()
    return (log_pi - 0.5 * squares.sum(dim=2)).softmax(dim=1)
""",
        "underflow": """
def responsibilities(z, log_pi, mu_c, logvar_c):
    squares = (z[:, None] - mu_c).square() / logvar_c.exp()
    joint = (log_pi - 0.5 * (logvar_c + squares).sum(dim=2)).exp()
    return joint / joint.sum(dim=1, keepdim=True)
""",
        "variance used as standard deviation": """
def responsibilities(z, log_pi, mu_c, logvar_c):
    log_p = torch.distributions.Normal(mu_c, logvar_c.exp()).log_prob(z[:, None]).sum(dim=2)
    return (log_pi + log_p).softmax(dim=1)
""",
        "softmax over the pictures": """
def responsibilities(z, log_pi, mu_c, logvar_c):
    squares = (z[:, None] - mu_c).square() / logvar_c.exp()
    return (log_pi - 0.5 * (logvar_c + squares).sum(dim=2)).softmax(dim=0)
""",
        "without ½": """
def responsibilities(z, log_pi, mu_c, logvar_c):
    squares = (z[:, None] - mu_c).square() / logvar_c.exp()
    return (log_pi - (0.5 * logvar_c + squares).sum(dim=2)).softmax(dim=1)
""",
        "hard assignment": """
def responsibilities(z, log_pi, mu_c, logvar_c):
    squares = (z[:, None] - mu_c).square() / logvar_c.exp()
    best = (log_pi - 0.5 * (logvar_c + squares).sum(dim=2)).argmax(dim=1)
    return torch.nn.functional.one_hot(best, len(log_pi)).float()
""",
    },
    "vade-term": {
        "no σ̃²": """
def expected_log_p_z_given_c(gamma, mu, logvar, mu_c, logvar_c):
    spread = (mu[:, None] - mu_c).square() / logvar_c.exp()
    return -0.5 * (gamma * (math.log(2 * math.pi) + logvar_c + spread).sum(dim=2)).sum(dim=1)
""",
        "no log 2π": """
def expected_log_p_z_given_c(gamma, mu, logvar, mu_c, logvar_c):
    spread = (logvar.exp()[:, None] + (mu[:, None] - mu_c).square()) / logvar_c.exp()
    return -0.5 * (gamma * (logvar_c + spread).sum(dim=2)).sum(dim=1)
""",
        "sign": """
def expected_log_p_z_given_c(gamma, mu, logvar, mu_c, logvar_c):
    spread = (logvar.exp()[:, None] + (mu[:, None] - mu_c).square()) / logvar_c.exp()
    return 0.5 * (gamma * (math.log(2 * math.pi) + logvar_c + spread).sum(dim=2)).sum(dim=1)
""",
        "clusters not weighed": """
def expected_log_p_z_given_c(gamma, mu, logvar, mu_c, logvar_c):
    spread = (logvar.exp()[:, None] + (mu[:, None] - mu_c).square()) / logvar_c.exp()
    return -0.5 * (math.log(2 * math.pi) + logvar_c + spread).sum(dim=2).sum(dim=1)
""",
        "one log 2π for all dimensions": """
def expected_log_p_z_given_c(gamma, mu, logvar, mu_c, logvar_c):
    spread = (logvar.exp()[:, None] + (mu[:, None] - mu_c).square()) / logvar_c.exp()
    return -0.5 * (gamma * (math.log(2 * math.pi) + (logvar_c + spread).sum(dim=2))).sum(dim=1)
""",
        "logvar for the variance": """
def expected_log_p_z_given_c(gamma, mu, logvar, mu_c, logvar_c):
    spread = (logvar[:, None] + (mu[:, None] - mu_c).square()) / logvar_c.exp()
    return -0.5 * (gamma * (math.log(2 * math.pi) + logvar_c + spread).sum(dim=2)).sum(dim=1)
""",
    },
}

RIGHT = {
    "weights": {
        "torch.distributions": """
def log_weights(log_likelihood, z, mu, logvar):
    q = torch.distributions.Normal(mu, torch.exp(0.5 * logvar))
    p = torch.distributions.Normal(0.0, 1.0)
    return log_likelihood + p.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
""",
        "a loop over the samples": """
def log_weights(log_likelihood, z, mu, logvar):
    rows = []
    for sample, log_lik in zip(z, log_likelihood):
        noise = (sample - mu) * torch.exp(-logvar / 2)
        rows.append(log_lik + (noise**2 + logvar - sample**2).sum(1) / 2)
    return torch.stack(rows)
""",
    },
    "bound": {
        "by hand": """
def iwae_bound(log_w):
    largest = log_w.max(dim=0, keepdim=True).values
    return (largest + (log_w - largest).exp().mean(dim=0, keepdim=True).log()).squeeze(0)
""",
        "numpy, one picture at a time": """
import numpy as np

def iwae_bound(log_w):
    values = np.asarray(log_w, dtype=np.float64)
    return np.array([np.logaddexp.reduce(column) - np.log(len(column)) for column in values.T])
""",
    },
    "gradient": {
        "the bound itself as the loss": """
def normalised_weights(log_w):
    return torch.exp(log_w - log_w.logsumexp(dim=0, keepdim=True))

def surrogate_loss(log_w):
    return -(log_w.logsumexp(dim=0) - math.log(len(log_w))).mean()
""",
        "a loop over the pictures": """
def normalised_weights(log_w):
    columns = []
    for column in log_w.T:
        w = (column - column.max()).exp()
        columns.append(w / w.sum())
    return torch.stack(columns, dim=1)

def surrogate_loss(log_w):
    with torch.no_grad():
        weights = normalised_weights(log_w)
    total = 0.0
    for b in range(log_w.shape[1]):
        total = total - weights[:, b] @ log_w[:, b]
    return total / log_w.shape[1]
""",
    },
    "ess": {
        "in the logarithm": """
def effective_sample_size(log_w):
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()
""",
        "a loop, shifted by the largest": """
def effective_sample_size(log_w):
    result = []
    for b in range(log_w.shape[1]):
        w = torch.exp(log_w[:, b] - log_w[:, b].max()).double()
        result.append((w.sum() ** 2 / (w**2).sum()).item())
    return torch.tensor(result)
""",
    },
    "responsibilities": {
        "torch.distributions": """
def responsibilities(z, log_pi, mu_c, logvar_c):
    normal = torch.distributions.Normal(mu_c, (0.5 * logvar_c).exp())
    log_joint = log_pi + normal.log_prob(z.unsqueeze(1)).sum(-1)
    return torch.exp(log_joint - torch.logsumexp(log_joint, dim=1, keepdim=True))
""",
        "two loops": """
def responsibilities(z, log_pi, mu_c, logvar_c):
    rows = []
    for code in z:
        log_joint = []
        for c in range(len(log_pi)):
            noise = (code - mu_c[c]) / torch.sqrt(torch.exp(logvar_c[c]))
            log_joint.append(log_pi[c] - 0.5 * logvar_c[c].sum() - 0.5 * noise @ noise)
        rows.append(torch.softmax(torch.stack(log_joint), dim=0))
    return torch.stack(rows)
""",
    },
    "vade-term": {
        "loops": """
def expected_log_p_z_given_c(gamma, mu, logvar, mu_c, logvar_c):
    result = []
    for b in range(len(mu)):
        total = 0.0
        for c in range(len(mu_c)):
            for j in range(mu.shape[1]):
                second_moment = math.exp(logvar[b, j]) + float(mu[b, j] - mu_c[c, j]) ** 2
                density = math.log(2 * math.pi) + float(logvar_c[c, j]) + second_moment / math.exp(logvar_c[c, j])
                total -= 0.5 * float(gamma[b, c]) * density
        result.append(total)
    return torch.tensor(result)
""",
        "matrix products": """
def expected_log_p_z_given_c(gamma, mu, logvar, mu_c, logvar_c):
    precision = torch.exp(-logvar_c)
    quadratic = (mu**2 + logvar.exp()) @ precision.T - 2 * mu @ (mu_c * precision).T
    constant = (math.log(2 * math.pi) + logvar_c + mu_c**2 * precision).sum(1)
    return -0.5 * (gamma * (quadratic + constant)).sum(1)
""",
        "the density at the mean, less half the trace": """
def expected_log_p_z_given_c(gamma, mu, logvar, mu_c, logvar_c):
    at_mean = torch.distributions.Normal(mu_c, (0.5 * logvar_c).exp()).log_prob(mu[:, None]).sum(2)
    trace = (logvar.exp()[:, None] / logvar_c.exp()).sum(2)
    return torch.einsum("bk,bk->b", gamma, at_mean - 0.5 * trace)
""",
    },
}
