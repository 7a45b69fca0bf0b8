"""Submissions for ex02: for each task typical mistakes, and other right solutions."""

WRONG = {
    "kl": {
        "without −1": """
def gaussian_kl(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - logvar).sum(dim=1)
""",
        "mean over the dimensions": """
def gaussian_kl(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1).mean(dim=1)
""",
        "logvar taken for log σ": """
def gaussian_kl(mu, logvar):
    return 0.5 * (mu**2 + (2 * logvar).exp() - 2 * logvar - 1).sum(dim=1)
""",
        "logvar taken for the variance": """
def gaussian_kl(mu, logvar):
    return 0.5 * (mu**2 + logvar - logvar.log() - 1).sum(dim=1)
""",
        "sign": """
def gaussian_kl(mu, logvar):
    return 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(dim=1)
""",
        "sum over the batch": """
def gaussian_kl(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum()
""",
        "without ½": """
def gaussian_kl(mu, logvar):
    return (mu**2 + logvar.exp() - logvar - 1).sum(dim=1)
""",
    },
    "sample": {
        "variance used as standard deviation": """
def reparameterise(mu, logvar, generator=None):
    return mu + logvar.exp() * torch.randn(mu.shape, generator=generator)
""",
        "logvar used as standard deviation": """
def reparameterise(mu, logvar, generator=None):
    return mu + logvar * torch.randn(mu.shape, generator=generator)
""",
        "no gradient": """
def reparameterise(mu, logvar, generator=None):
    with torch.no_grad():
        return mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=generator)
""",
        "no gradient to logvar": """
def reparameterise(mu, logvar, generator=None):
    return mu + (0.5 * logvar).exp().detach() * torch.randn(mu.shape, generator=generator)
""",
        "one noise for the batch": """
def reparameterise(mu, logvar, generator=None):
    return mu + (0.5 * logvar).exp() * torch.randn(mu.shape[1], generator=generator)
""",
        "one noise for all dimensions": """
def reparameterise(mu, logvar, generator=None):
    return mu + (0.5 * logvar).exp() * torch.randn(len(mu), 1, generator=generator)
""",
        "generator ignored": """
def reparameterise(mu, logvar, generator=None):
    return mu + (0.5 * logvar).exp() * torch.randn_like(mu)
""",
        "uniform noise": """
def reparameterise(mu, logvar, generator=None):
    u = torch.rand(mu.shape, generator=generator)
    return mu + (0.5 * logvar).exp() * (u - 0.5) * 12**0.5
""",
        "always the same noise": """
def reparameterise(mu, logvar, generator=None):
    return mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
""",
    },
    "likelihood": {
        "log of the sigmoid": """
def bernoulli_log_likelihood(logits, x):
    p = logits.sigmoid()
    return (x * p.log() + (1 - x) * (1 - p).log()).sum(dim=1)
""",
        "clamped": """
def bernoulli_log_likelihood(logits, x):
    p = logits.sigmoid().clamp(1e-7, 1 - 1e-7)
    return (x * p.log() + (1 - x) * (1 - p).log()).sum(dim=1)
""",
        "cross-entropy": """
def bernoulli_log_likelihood(logits, x):
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=1)
""",
        "mean over the pixels": """
def bernoulli_log_likelihood(logits, x):
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").mean(dim=1)
""",
        "the white pixels only": """
def bernoulli_log_likelihood(logits, x):
    return (x * F.logsigmoid(logits)).sum(dim=1)
""",
        "binary_cross_entropy of the sigmoid": """
def bernoulli_log_likelihood(logits, x):
    return -F.binary_cross_entropy(logits.sigmoid(), x, reduction="none").sum(dim=1)
""",
    },
    "elbo": {
        "KL added": """
def elbo(x, mu, logvar, noise, decoder):
    z = mu + (0.5 * logvar).exp() * noise
    log_likelihood = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(dim=1)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)
    return {"log_likelihood": log_likelihood, "kl": kl, "elbo": log_likelihood + kl}
""",
        "the loss": """
def elbo(x, mu, logvar, noise, decoder):
    z = mu + (0.5 * logvar).exp() * noise
    log_likelihood = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(dim=1)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)
    return {"log_likelihood": log_likelihood, "kl": kl, "elbo": kl - log_likelihood}
""",
        "variance used as standard deviation": """
def elbo(x, mu, logvar, noise, decoder):
    z = mu + logvar.exp() * noise
    log_likelihood = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(dim=1)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)
    return {"log_likelihood": log_likelihood, "kl": kl, "elbo": log_likelihood - kl}
""",
        "the mean decoded": """
def elbo(x, mu, logvar, noise, decoder):
    log_likelihood = -F.binary_cross_entropy_with_logits(decoder(mu), x, reduction="none").sum(dim=1)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)
    return {"log_likelihood": log_likelihood, "kl": kl, "elbo": log_likelihood - kl}
""",
        "reconstruction averaged over the pixels": """
def elbo(x, mu, logvar, noise, decoder):
    z = mu + (0.5 * logvar).exp() * noise
    log_likelihood = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").mean(dim=1)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)
    return {"log_likelihood": log_likelihood, "kl": kl, "elbo": log_likelihood - kl}
""",
        "z detached": """
def elbo(x, mu, logvar, noise, decoder):
    z = (mu + (0.5 * logvar).exp() * noise).detach()
    log_likelihood = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(dim=1)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)
    return {"log_likelihood": log_likelihood, "kl": kl, "elbo": log_likelihood - kl}
""",
        "fresh noise": """
def elbo(x, mu, logvar, noise, decoder):
    z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
    log_likelihood = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(dim=1)
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)
    return {"log_likelihood": log_likelihood, "kl": kl, "elbo": log_likelihood - kl}
""",
    },
    "generate": {
        "logits": """
def generate(decoder, n, latent_dim, generator=None):
    return decoder(torch.randn(n, latent_dim, generator=generator))
""",
        "uniform codes": """
def generate(decoder, n, latent_dim, generator=None):
    return decoder(torch.rand(n, latent_dim, generator=generator)).sigmoid()
""",
        "one code for all": """
def generate(decoder, n, latent_dim, generator=None):
    return decoder(torch.randn(1, latent_dim, generator=generator).expand(n, -1)).sigmoid()
""",
        "drawn pixels": """
def generate(decoder, n, latent_dim, generator=None):
    z = torch.randn(n, latent_dim, generator=generator)
    return torch.bernoulli(decoder(z).sigmoid(), generator=generator)
""",
        "generator ignored": """
def generate(decoder, n, latent_dim, generator=None):
    return decoder(torch.randn(n, latent_dim)).sigmoid()
""",
        "clamped logits": """
def generate(decoder, n, latent_dim, generator=None):
    return decoder(torch.randn(n, latent_dim, generator=generator)).clamp(0, 1)
""",
    },
}

RIGHT = {
    "kl": {
        "loops": """
def gaussian_kl(mu, logvar):
    result = []
    for i in range(mu.shape[0]):
        total = 0.0
        for j in range(mu.shape[1]):
            m, s = mu[i, j].item(), logvar[i, j].item()
            total += 0.5 * (m * m + math.exp(s) - s - 1)
        result.append(total)
    return torch.tensor(result)
""",
        "torch.distributions": """
def gaussian_kl(mu, logvar):
    q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return torch.distributions.kl_divergence(q, p).sum(-1)
""",
        "the other order, float64": """
def gaussian_kl(mu, logvar):
    mu, logvar = mu.double(), logvar.double()
    return -0.5 * (1 + logvar - mu.pow(2) - torch.exp(logvar)).sum(1)
""",
    },
    "sample": {
        "normal_ into an empty tensor": """
def reparameterise(mu, logvar, generator=None):
    noise = torch.empty(mu.shape, dtype=mu.dtype).normal_(generator=generator)
    return torch.addcmul(mu, torch.exp(logvar / 2), noise)
""",
        "a loop over the examples, float64 noise": """
def reparameterise(mu, logvar, generator=None):
    sigma = logvar.exp().sqrt()
    rows = torch.randn(mu.shape[0], mu.shape[1], dtype=torch.float64, generator=generator)
    return torch.stack([m + s * e for m, s, e in zip(mu, sigma, rows)])
""",
        "the other sign of the noise": """
def reparameterise(mu, logvar, generator=None):
    return mu - torch.randn(mu.size(), generator=generator) * torch.exp(0.5 * logvar)
""",
    },
    "likelihood": {
        "logsigmoid": """
def bernoulli_log_likelihood(logits, x):
    return (x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)).sum(-1)
""",
        "softplus, loop over the pixels": """
def bernoulli_log_likelihood(logits, x):
    total = 0
    for d in range(logits.shape[1]):
        total = total + x[:, d] * logits[:, d] - F.softplus(logits[:, d])
    return total
""",
        "torch.distributions": """
def bernoulli_log_likelihood(logits, x):
    return torch.distributions.Bernoulli(logits=logits.double()).log_prob(x.double()).sum(dim=1)
""",
    },
    "elbo": {
        "torch.distributions": """
def elbo(x, mu, logvar, noise, decoder):
    q = torch.distributions.Normal(mu, torch.exp(0.5 * logvar))
    p = torch.distributions.Normal(0.0, 1.0)
    logits = decoder(q.loc + q.scale * noise)
    log_likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(1)
    kl = torch.distributions.kl_divergence(q, p).sum(1)
    return {"elbo": log_likelihood - kl, "kl": kl, "log_likelihood": log_likelihood}
""",
        "one example at a time": """
def elbo(x, mu, logvar, noise, decoder):
    log_likelihoods, kls = [], []
    for i in range(len(x)):
        z = mu[i] + logvar[i].exp().sqrt() * noise[i]
        logits = decoder(z[None])[0]
        log_likelihoods.append((x[i] * logits - F.softplus(logits)).sum())
        kls.append(((mu[i] ** 2 + logvar[i].exp() - logvar[i] - 1) / 2).sum())
    log_likelihood, kl = torch.stack(log_likelihoods), torch.stack(kls)
    return dict(log_likelihood=log_likelihood, kl=kl, elbo=log_likelihood - kl)
""",
    },
    "generate": {
        "one at a time": """
def generate(decoder, n, latent_dim, generator=None):
    with torch.no_grad():
        z = torch.stack([torch.randn(latent_dim, generator=generator) for _ in range(n)])
        return 1 / (1 + torch.exp(-decoder(z)))
""",
        "torch.normal": """
def generate(decoder, n, latent_dim, generator=None):
    z = torch.normal(0.0, 1.0, size=(n, latent_dim), generator=generator)
    return torch.distributions.Bernoulli(logits=decoder(z)).probs
""",
    },
}
