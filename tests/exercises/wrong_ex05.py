"""Submissions to ex05: WRONG with a typical mistake each, RIGHT written in other ways."""

WRONG = {
    "dstar": {
        "the probability of being generated": """
def optimal_discriminator(p_data, p_g):
    total = p_data + p_g
    return torch.where(total > 0, p_g / total, 0.5)
""",
        "the ratio of the densities": """
def optimal_discriminator(p_data, p_g):
    return torch.where(p_g > 0, p_data / p_g, 0.5)
""",
        "0 by 0": """
def optimal_discriminator(p_data, p_g):
    return p_data / (p_data + p_g)
""",
        "a small number below": """
def optimal_discriminator(p_data, p_g):
    return p_data / (p_data + p_g + 1e-8)
""",
        "the logit": """
def optimal_discriminator(p_data, p_g):
    return torch.where(p_data + p_g > 0, p_data.log() - p_g.log(), 0.0)
""",
        "a hard decision": """
def optimal_discriminator(p_data, p_g):
    return torch.where(p_data == p_g, 0.5, (p_data > p_g).float())
""",
    },
    "value": {
        "0 log 0": """
def value_function(p_data, p_g, d):
    return (p_data * d.log() + p_g * (1 - d).log()).sum()
""",
        "a mean": """
def value_function(p_data, p_g, d):
    return (torch.xlogy(p_data, d) + torch.xlogy(p_g, 1 - d)).mean()
""",
        "minus V": """
def value_function(p_data, p_g, d):
    return -(torch.xlogy(p_data, d) + torch.xlogy(p_g, 1 - d)).sum()
""",
        "no probabilities": """
def value_function(p_data, p_g, d):
    return (d.log() + (1 - d).log()).sum()
""",
        "log D twice": """
def value_function(p_data, p_g, d):
    return (torch.xlogy(p_data, d) + torch.xlogy(p_g, d)).sum()
""",
        "clamped, so that certain mistakes are cheap": """
def value_function(p_data, p_g, d):
    d = d.clamp(1e-7, 1 - 1e-7)
    return (p_data * d.log() + p_g * (1 - d).log()).sum()
""",
    },
    "jsd": {
        "bits": """
def js_divergence(p, q):
    m = 0.5 * (p + q)
    return 0.5 * sum(torch.where(r > 0, r * (r / m).log2(), 0.0).sum() for r in (p, q))
""",
        "no half before the KLs": """
def js_divergence(p, q):
    m = 0.5 * (p + q)
    return sum(torch.where(r > 0, r * (r / m).log(), 0.0).sum() for r in (p, q))
""",
        "no half in m": """
def js_divergence(p, q):
    m = p + q
    return 0.5 * sum(torch.where(r > 0, r * (r / m).log(), 0.0).sum() for r in (p, q))
""",
        "p and q compared with each other": """
def js_divergence(p, q):
    return 0.5 * ((p - q) * (p / q).log()).sum()
""",
        "scipy's square root": """
def js_divergence(p, q):
    from scipy.spatial.distance import jensenshannon
    return float(jensenshannon(p.numpy(), q.numpy()))
""",
        "0 log 0": """
def js_divergence(p, q):
    m = 0.5 * (p + q)
    return 0.5 * (p * (p / m).log() + q * (q / m).log()).sum()
""",
        "KL alone": """
def js_divergence(p, q):
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum()
""",
    },
    "estimate": {
        "the value": """
def jsd_lower_bound(real_logits, fake_logits):
    return F.logsigmoid(real_logits).mean() + F.logsigmoid(-fake_logits).mean()
""",
        "no half": """
def jsd_lower_bound(real_logits, fake_logits):
    return F.logsigmoid(real_logits).mean() + F.logsigmoid(-fake_logits).mean() + math.log(4)
""",
        "log 2": """
def jsd_lower_bound(real_logits, fake_logits):
    return 0.5 * (F.logsigmoid(real_logits).mean() + F.logsigmoid(-fake_logits).mean() + math.log(2))
""",
        "a sigmoid applied twice": """
def jsd_lower_bound(real_logits, fake_logits):
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    bce = F.binary_cross_entropy_with_logits
    value = -bce(real, torch.ones_like(real)) - bce(fake, torch.zeros_like(fake))
    return 0.5 * (value + math.log(4))
""",
        "one mean for both classes": """
def jsd_lower_bound(real_logits, fake_logits):
    value = torch.cat([F.logsigmoid(real_logits), F.logsigmoid(-fake_logits)]).mean()
    return value + math.log(2)
""",
        "the logarithm of a probability": """
def jsd_lower_bound(real_logits, fake_logits):
    d_real, d_fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    return 0.5 * (d_real.log().mean() + (1 - d_fake).log().mean() + math.log(4))
""",
        "clamped by the library": """
def jsd_lower_bound(real_logits, fake_logits):
    d_real, d_fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    bce = F.binary_cross_entropy
    value = -bce(d_real, torch.ones_like(d_real)) - bce(d_fake, torch.zeros_like(d_fake))
    return 0.5 * (value + math.log(4))
""",
    },
    "losses": {
        "E log D is minimised": """
def generator_losses(logits):
    return F.logsigmoid(-logits).mean(), F.logsigmoid(logits).mean()


def generator_slopes(logits):
    return -torch.sigmoid(logits), -torch.sigmoid(-logits)
""",
        "the two in the wrong order": """
def generator_losses(logits):
    return -F.logsigmoid(logits).mean(), F.logsigmoid(-logits).mean()


def generator_slopes(logits):
    return -torch.sigmoid(-logits), -torch.sigmoid(logits)
""",
        "a sigmoid applied twice": """
def generator_losses(logits):
    d = torch.sigmoid(logits)
    return F.logsigmoid(-d).mean(), -F.logsigmoid(d).mean()


def generator_slopes(logits):
    return -torch.sigmoid(logits), -torch.sigmoid(-logits)
""",
        "the logarithm of a probability": """
def generator_losses(logits):
    d = torch.sigmoid(logits)
    return (1 - d).log().mean(), -d.log().mean()


def generator_slopes(logits):
    return -torch.sigmoid(logits), -torch.sigmoid(-logits)
""",
        "slopes exchanged": """
def generator_losses(logits):
    return F.logsigmoid(-logits).mean(), -F.logsigmoid(logits).mean()


def generator_slopes(logits):
    return -(1 - torch.sigmoid(logits)), -torch.sigmoid(logits)
""",
        "slopes in D": """
def generator_losses(logits):
    return F.logsigmoid(-logits).mean(), -F.logsigmoid(logits).mean()


def generator_slopes(logits):
    d = torch.sigmoid(logits)
    return -1 / (1 - d), -1 / d
""",
        "sums": """
def generator_losses(logits):
    return F.logsigmoid(-logits).sum(), -F.logsigmoid(logits).sum()


def generator_slopes(logits):
    return -torch.sigmoid(logits), -torch.sigmoid(-logits)
""",
        "the loss as a number without gradient": """
def generator_losses(logits):
    return F.logsigmoid(-logits.detach()).mean(), -F.logsigmoid(logits.detach()).mean()


def generator_slopes(logits):
    return -torch.sigmoid(logits), -torch.sigmoid(-logits)
""",
    },
    "modes": {
        "far samples cover, too": """
def mode_coverage(samples, means, std):
    distance, nearest = torch.cdist(samples, means).min(dim=1)
    return len(nearest.unique()), (distance <= 3 * std).double().mean().item()
""",
        "within one standard deviation": """
def mode_coverage(samples, means, std):
    distance, nearest = torch.cdist(samples, means).min(dim=1)
    good = distance <= std
    return len(nearest[good].unique()), good.double().mean().item()
""",
        "every mode within reach": """
def mode_coverage(samples, means, std):
    near = torch.cdist(samples, means) <= 3 * std
    return int(near.any(dim=0).sum()), near.any(dim=1).double().mean().item()
""",
        "the share of modes": """
def mode_coverage(samples, means, std):
    distance, nearest = torch.cdist(samples, means).min(dim=1)
    good = distance <= 3 * std
    modes = len(nearest[good].unique())
    return modes, modes / len(means)
""",
        "a squared distance": """
def mode_coverage(samples, means, std):
    distance, nearest = (samples[:, None] - means).square().sum(-1).min(dim=1)
    good = distance <= 3 * std
    return len(nearest[good].unique()), good.double().mean().item()
""",
    },
}

RIGHT = {
    "dstar": {
        "by the logit": """
def optimal_discriminator(p_data, p_g):
    d = torch.sigmoid(p_data.double().log() - p_g.double().log())
    return torch.where((p_data == 0) & (p_g == 0), 0.5, d)
""",
        "in place, in float64": """
def optimal_discriminator(p_data, p_g):
    d = torch.full(p_data.shape, 0.5, dtype=torch.float64)
    some = (p_data + p_g) > 0
    d[some] = p_data[some].double() / (p_data[some] + p_g[some])
    return d
""",
        "nan to one half": """
def optimal_discriminator(p_data, p_g):
    return torch.nan_to_num(p_data / (p_data + p_g), nan=0.5)
""",
    },
    "value": {
        "a loop over floats": """
def value_function(p_data, p_g, d):
    value = 0.0
    for p, q, di in zip(p_data.tolist(), p_g.tolist(), d.tolist()):
        for weight, probability in ((p, di), (q, 1 - di)):
            if weight > 0:
                value += weight * (math.log(probability) if probability > 0 else -math.inf)
    return value
""",
        "numpy": """
def value_function(p_data, p_g, d):
    from scipy.special import xlogy
    p_data, p_g, d = (t.double().numpy() for t in (p_data, p_g, d))
    return xlogy(p_data, d).sum() + xlogy(p_g, 1 - d).sum()
""",
        "only where there is mass": """
def value_function(p_data, p_g, d):
    real, fake = p_data > 0, p_g > 0
    return p_data[real] @ d[real].log() + p_g[fake] @ torch.log1p(-d[fake])
""",
    },
    "jsd": {
        "entropies": """
def js_divergence(p, q):
    p, q = p.double(), q.double()
    entropy = lambda r: -torch.xlogy(r, r).sum()
    return entropy((p + q) / 2) - entropy(p) / 2 - entropy(q) / 2
""",
        "scipy, squared": """
def js_divergence(p, q):
    from scipy.spatial.distance import jensenshannon
    return float(jensenshannon(p.numpy(), q.numpy())) ** 2
""",
        "a loop in float32": """
def js_divergence(p, q):
    total = torch.zeros(())
    for a, b in zip(p.float(), q.float()):
        m = (a + b) / 2
        for r in (a, b):
            if r > 0:
                total = total + 0.5 * r * torch.log(r / m)
    return total
""",
    },
    "estimate": {
        "softplus": """
def jsd_lower_bound(real_logits, fake_logits):
    return math.log(2) - 0.5 * (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean())
""",
        "cross-entropies": """
def jsd_lower_bound(real_logits, fake_logits):
    bce = F.binary_cross_entropy_with_logits
    value = -bce(real_logits, torch.ones_like(real_logits)) - bce(fake_logits, torch.zeros_like(fake_logits))
    return (value + 2 * math.log(2)) / 2
""",
        "logaddexp in float64": """
def jsd_lower_bound(real_logits, fake_logits):
    zero = torch.zeros((), dtype=torch.float64)
    real = -torch.logaddexp(zero, -real_logits.double())
    fake = -torch.logaddexp(zero, fake_logits.double())
    return math.log(2) + real.mean() / 2 + fake.mean() / 2
""",
    },
    "losses": {
        "softplus and autograd": """
def generator_losses(logits):
    return -F.softplus(logits).mean(), F.softplus(-logits).mean()


def generator_slopes(logits):
    a = logits.detach().clone().requires_grad_()
    first = torch.autograd.grad(-F.softplus(a).sum(), a)[0]
    return first, torch.autograd.grad(F.softplus(-a).sum(), a)[0]
""",
        "cross-entropies with swapped labels": """
def generator_losses(logits):
    bce = F.binary_cross_entropy_with_logits
    return -bce(logits, torch.zeros_like(logits)), bce(logits, torch.ones_like(logits))


def generator_slopes(logits):
    d = torch.sigmoid(logits)
    return [-d, d - 1]
""",
        "float64": """
def generator_losses(logits):
    a = logits.double()
    return torch.nn.LogSigmoid()(-a).mean(), -torch.nn.LogSigmoid()(a).mean()


def generator_slopes(logits):
    a = logits.double()
    return -1 / (1 + torch.exp(-a)), -1 / (1 + torch.exp(a))
""",
    },
    "modes": {
        "loops": """
def mode_coverage(samples, means, std):
    covered, good = set(), 0
    for x in samples.tolist():
        distances = [math.dist(x, m) for m in means.tolist()]
        best = min(range(len(distances)), key=distances.__getitem__)
        if distances[best] <= 3 * std:
            covered.add(best)
            good += 1
    return len(covered), good / len(samples)
""",
        "squared distances and counts": """
def mode_coverage(samples, means, std):
    squared, nearest = (samples[:, None, :] - means[None]).pow(2).sum(-1).min(1)
    good = squared <= 9 * std**2
    counts = torch.bincount(nearest[good], minlength=len(means))
    return (counts > 0).sum(), good.float().mean()
""",
    },
}
