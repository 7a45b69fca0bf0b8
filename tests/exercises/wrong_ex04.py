"""Submissions for ex04: for each task typical mistakes, and other right solutions."""

WRONG = {
    "gumbel": {
        "one logarithm": """
def gumbel_softmax(logits, u, temperature):
    return ((logits - u.log()) / temperature).softmax(dim=1)
""",
        "outer minus forgotten": """
def gumbel_softmax(logits, u, temperature):
    return ((logits + (-u.log()).log()) / temperature).softmax(dim=1)
""",
        "times the temperature": """
def gumbel_softmax(logits, u, temperature):
    return ((logits - (-u.log()).log()) * temperature).softmax(dim=1)
""",
        "temperature for the logits only": """
def gumbel_softmax(logits, u, temperature):
    return (logits / temperature - (-u.log()).log()).softmax(dim=1)
""",
        "noise added to probabilities": """
def gumbel_softmax(logits, u, temperature):
    return ((logits.softmax(dim=1) - (-u.log()).log()) / temperature).softmax(dim=1)
""",
        "softmax over the variables": """
def gumbel_softmax(logits, u, temperature):
    return ((logits - (-u.log()).log()) / temperature).softmax(dim=0)
""",
        "fresh noise": """
def gumbel_softmax(logits, u, temperature):
    return F.gumbel_softmax(logits, tau=temperature, dim=1)
""",
        "detached": """
def gumbel_softmax(logits, u, temperature):
    return ((logits.detach() - (-u.log()).log()) / temperature).softmax(dim=1)
""",
    },
    "hard": {
        "no gradient": """
def straight_through_one_hot(soft):
    return F.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft.dtype)
""",
        "soft": """
def straight_through_one_hot(soft):
    return soft
""",
        "the soft part not taken off": """
def straight_through_one_hot(soft):
    return soft + F.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft.dtype)
""",
        "nothing detached": """
def straight_through_one_hot(soft):
    hard = F.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft.dtype)
    return soft + hard - soft
""",
        "largest of each column": """
def straight_through_one_hot(soft):
    hard = F.one_hot(soft.argmax(dim=0), soft.shape[0]).T.to(soft.dtype)
    return soft + (hard - soft).detach()
""",
        "the gradient of the chosen entry only": """
def straight_through_one_hot(soft):
    hard = F.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft.dtype)
    return hard * (soft - soft.detach() + 1)
""",
    },
    "quantise": {
        "no gradient to the encoder": """
def quantise(z_e, codebook):
    indices = torch.cdist(z_e, codebook).argmin(dim=1)
    return codebook.detach()[indices], indices
""",
        "looked up, so the codebook gets the gradient": """
def quantise(z_e, codebook):
    indices = torch.cdist(z_e, codebook).argmin(dim=1)
    return codebook[indices], indices
""",
        "code not detached": """
def quantise(z_e, codebook):
    indices = torch.cdist(z_e, codebook).argmin(dim=1)
    return codebook[indices] + z_e - z_e.detach(), indices
""",
        "largest scalar product": """
def quantise(z_e, codebook):
    indices = (z_e @ codebook.T).argmax(dim=1)
    return z_e + (codebook[indices] - z_e).detach(), indices
""",
        "farthest": """
def quantise(z_e, codebook):
    indices = torch.cdist(z_e, codebook).argmax(dim=1)
    return z_e + (codebook[indices] - z_e).detach(), indices
""",
        "half the cross term": """
def quantise(z_e, codebook):
    indices = (codebook.square().sum(dim=1) - z_e @ codebook.T).argmin(dim=1)
    return z_e + (codebook[indices] - z_e).detach(), indices
""",
        "detached too much": """
def quantise(z_e, codebook):
    indices = torch.cdist(z_e, codebook).argmin(dim=1)
    return (z_e + codebook[indices] - z_e).detach(), indices
""",
        "the vector itself": """
def quantise(z_e, codebook):
    indices = torch.cdist(z_e, codebook).argmin(dim=1)
    return z_e, indices
""",
    },
    "losses": {
        "stop-gradients exchanged": """
def vq_losses(z_e, e, beta):
    codebook = (z_e - e.detach()).square().sum(dim=1).mean()
    commitment = (z_e.detach() - e).square().sum(dim=1).mean()
    return {"codebook": codebook, "commitment": commitment, "loss": codebook + beta * commitment}
""",
        "stop-gradients forgotten": """
def vq_losses(z_e, e, beta):
    codebook = commitment = (z_e - e).square().sum(dim=1).mean()
    return {"codebook": codebook, "commitment": commitment, "loss": codebook + beta * commitment}
""",
        "one stop-gradient forgotten": """
def vq_losses(z_e, e, beta):
    codebook = (z_e.detach() - e).square().sum(dim=1).mean()
    commitment = (z_e - e).square().sum(dim=1).mean()
    return {"codebook": codebook, "commitment": commitment, "loss": codebook + beta * commitment}
""",
        "β on the codebook term": """
def vq_losses(z_e, e, beta):
    codebook = (z_e.detach() - e).square().sum(dim=1).mean()
    commitment = (z_e - e.detach()).square().sum(dim=1).mean()
    return {"codebook": codebook, "commitment": commitment, "loss": beta * codebook + commitment}
""",
        "mean over all entries": """
def vq_losses(z_e, e, beta):
    codebook, commitment = F.mse_loss(e, z_e.detach()), F.mse_loss(z_e, e.detach())
    return {"codebook": codebook, "commitment": commitment, "loss": codebook + beta * commitment}
""",
        "sum over the vectors": """
def vq_losses(z_e, e, beta):
    codebook = (z_e.detach() - e).square().sum()
    commitment = (z_e - e.detach()).square().sum()
    return {"codebook": codebook, "commitment": commitment, "loss": codebook + beta * commitment}
""",
        "β forgotten": """
def vq_losses(z_e, e, beta):
    codebook = (z_e.detach() - e).square().sum(dim=1).mean()
    commitment = (z_e - e.detach()).square().sum(dim=1).mean()
    return {"codebook": codebook, "commitment": commitment, "loss": codebook + commitment}
""",
    },
    "ema": {
        "γ and 1 − γ exchanged": """
def ema_update(sizes, sums, z_e, indices, decay):
    chosen = F.one_hot(indices, len(sizes)).to(z_e.dtype)
    sizes = (1 - decay) * sizes + decay * chosen.sum(dim=0)
    sums = (1 - decay) * sums + decay * chosen.T @ z_e
    return sizes, sums, sums / sizes[:, None]
""",
        "means for sums": """
def ema_update(sizes, sums, z_e, indices, decay):
    chosen = F.one_hot(indices, len(sizes)).to(z_e.dtype)
    n = chosen.sum(dim=0)
    sizes = decay * sizes + (1 - decay) * n
    sums = decay * sums + (1 - decay) * (chosen.T @ z_e) / n.clamp(min=1)[:, None]
    return sizes, sums, sums / sizes[:, None]
""",
        "index assignment": """
def ema_update(sizes, sums, z_e, indices, decay):
    sizes = decay * sizes + (1 - decay) * torch.bincount(indices, minlength=len(sizes))
    sums = decay * sums
    sums[indices] += (1 - decay) * z_e
    return sizes, sums, sums / sizes[:, None]
""",
        "unused codes not decayed": """
def ema_update(sizes, sums, z_e, indices, decay):
    chosen = F.one_hot(indices, len(sizes)).to(z_e.dtype)
    n = chosen.sum(dim=0)
    new_sizes = torch.where(n > 0, decay * sizes + (1 - decay) * n, sizes)
    new_sums = torch.where((n > 0)[:, None], decay * sums + (1 - decay) * chosen.T @ z_e, sums)
    return new_sizes, new_sums, new_sums / new_sizes[:, None]
""",
        "divided by the counts of the batch": """
def ema_update(sizes, sums, z_e, indices, decay):
    chosen = F.one_hot(indices, len(sizes)).to(z_e.dtype)
    n = chosen.sum(dim=0)
    sizes = decay * sizes + (1 - decay) * n
    sums = decay * sums + (1 - decay) * chosen.T @ z_e
    return sizes, sums, sums / n.clamp(min=1)[:, None]
""",
        "codes averaged": """
def ema_update(sizes, sums, z_e, indices, decay):
    chosen = F.one_hot(indices, len(sizes)).to(z_e.dtype)
    n, total, old = chosen.sum(dim=0), chosen.T @ z_e, sums / sizes[:, None]
    mean = torch.where((n > 0)[:, None], total / n.clamp(min=1)[:, None], old)
    sizes, sums = decay * sizes + (1 - decay) * n, decay * sums + (1 - decay) * total
    return sizes, sums, decay * old + (1 - decay) * mean
""",
        "shares for numbers": """
def ema_update(sizes, sums, z_e, indices, decay):
    chosen = F.one_hot(indices, len(sizes)).to(z_e.dtype)
    sizes = decay * sizes + (1 - decay) * chosen.mean(dim=0)
    sums = decay * sums + (1 - decay) * chosen.T @ z_e
    return sizes, sums, sums / sizes[:, None]
""",
    },
    "perplexity": {
        "NaN for unused codes": """
def perplexity(indices, num_codes):
    f = torch.bincount(indices.flatten(), minlength=num_codes) / indices.numel()
    return (-(f * f.log()).sum()).exp()
""",
        "the entropy": """
def perplexity(indices, num_codes):
    f = torch.bincount(indices.flatten(), minlength=num_codes) / indices.numel()
    return torch.special.entr(f).sum()
""",
        "bits in exp": """
def perplexity(indices, num_codes):
    f = torch.bincount(indices.flatten(), minlength=num_codes) / indices.numel()
    return (torch.special.entr(f).sum() / math.log(2)).exp()
""",
        "codes in use": """
def perplexity(indices, num_codes):
    return float(len(indices.unique()))
""",
        "sign": """
def perplexity(indices, num_codes):
    f = torch.bincount(indices.flatten(), minlength=num_codes) / indices.numel()
    return (-torch.special.entr(f).sum()).exp()
""",
        "a small ε that moves the result": """
def perplexity(indices, num_codes):
    f = torch.bincount(indices.flatten(), minlength=num_codes) / indices.numel() + 1e-3
    return (-(f * f.log()).sum()).exp()
""",
    },
}

RIGHT = {
    "gumbel": {
        "numbers one by one": """
def gumbel_softmax(logits, u, temperature):
    rows = []
    for l, v in zip(logits, u):
        scores = [(l[k] - math.log(-math.log(v[k]))) / temperature for k in range(len(l))]
        weights = torch.exp(torch.stack(scores) - max(scores).detach())
        rows.append(weights / weights.sum())
    return torch.stack(rows)
""",
        "powers": """
def gumbel_softmax(logits, u, temperature):
    # e^((l + g)/τ) = (e^l / −log u)^(1/τ)
    weights = (logits.double().exp() / -u.double().log()) ** (1 / temperature)
    return weights / weights.sum(dim=-1, keepdim=True)
""",
    },
    "hard": {
        "scatter": """
def straight_through_one_hot(soft):
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
    return hard + soft - soft.detach()
""",
        "an autograd function": """
class Hard(torch.autograd.Function):
    @staticmethod
    def forward(ctx, soft):
        return (soft == soft.max(dim=1, keepdim=True).values).to(soft.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient

def straight_through_one_hot(soft):
    return Hard.apply(soft)
""",
    },
    "quantise": {
        "expanded square": """
def quantise(z_e, codebook):
    with torch.no_grad():
        scores = codebook.square().sum(1) - 2 * z_e @ codebook.T
        indices = scores.argmin(1)
        code = codebook[indices]
    return code + z_e - z_e.detach(), indices
""",
        "a loop": """
def quantise(z_e, codebook):
    indices = []
    for z in z_e:
        distances = [float((z - e).square().sum()) for e in codebook]
        indices.append(distances.index(min(distances)))
    indices = torch.tensor(indices)
    return z_e + (codebook[indices] - z_e).detach(), indices
""",
        "an autograd function, int32 indices": """
class Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z_e, code):
        return code.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None

def quantise(z_e, codebook):
    distances = (z_e[:, None] - codebook[None]).norm(dim=2)
    indices = distances.argmin(dim=1)
    return Copy.apply(z_e, codebook[indices]), indices.to(torch.int32)
""",
    },
    "losses": {
        "no_grad copies and a mean over vectors": """
def vq_losses(z_e, e, beta):
    with torch.no_grad():
        still_z, still_e = z_e.clone(), e.clone()
    codebook = torch.stack([(z - c) @ (z - c) for z, c in zip(still_z, e)]).mean()
    commitment = torch.stack([(z - c) @ (z - c) for z, c in zip(z_e, still_e)]).mean()
    return dict(loss=beta * commitment + codebook, commitment=commitment, codebook=codebook)
""",
        "mse_loss times D": """
def vq_losses(z_e, e, beta):
    D = z_e.shape[1]
    codebook, commitment = D * F.mse_loss(e, z_e.detach()), D * F.mse_loss(z_e, e.detach())
    return {"codebook": codebook, "commitment": commitment, "loss": codebook + beta * commitment}
""",
    },
    "ema": {
        "index_add, in place": """
def ema_update(sizes, sums, z_e, indices, decay):
    sizes.mul_(decay).add_((1 - decay) * torch.bincount(indices, minlength=len(sizes)))
    sums.mul_(decay).index_add_(0, indices, z_e, alpha=1 - decay)
    return sizes, sums, sums / sizes.unsqueeze(1)
""",
        "a loop over the codes": """
def ema_update(sizes, sums, z_e, indices, decay):
    new_sizes, new_sums = sizes.clone(), sums.clone()
    for k in range(len(sizes)):
        mine = z_e[indices == k]
        new_sizes[k] = decay * sizes[k] + (1 - decay) * len(mine)
        new_sums[k] = decay * sums[k] + (1 - decay) * mine.sum(dim=0)
    return [new_sizes, new_sums, torch.stack([m / N for m, N in zip(new_sums, new_sizes)])]
""",
        "the lecture's step": """
def ema_update(sizes, sums, z_e, indices, decay):
    n = torch.bincount(indices, minlength=len(sizes)).double()
    old = (sums / sizes[:, None]).double()
    mean = torch.zeros_like(old).index_add_(0, indices, z_e.double()) / n.clamp(min=1)[:, None]
    new_sizes = decay * sizes.double() + (1 - decay) * n
    rate = (1 - decay) * n / new_sizes
    codebook = old + rate[:, None] * (mean - old)
    return new_sizes, codebook * new_sizes[:, None], codebook
""",
    },
    "perplexity": {
        "counted in a dict": """
def perplexity(indices, num_codes):
    counts = {}
    for index in indices.flatten().tolist():
        counts[index] = counts.get(index, 0) + 1
    total = sum(counts.values())
    return math.exp(-sum(n / total * math.log(n / total) for n in counts.values()))
""",
        "torch.distributions, base 2 throughout": """
def perplexity(indices, num_codes):
    f = F.one_hot(indices.flatten(), num_codes).double().mean(dim=0)
    f = f[f > 0]
    return 2 ** float(-(f * f.log2()).sum())
""",
        "a tiny ε": """
def perplexity(indices, num_codes):
    f = torch.bincount(indices.flatten(), minlength=num_codes) / indices.numel()
    return torch.exp(-torch.sum(f * torch.log(f + 1e-10)))
""",
    },
}
