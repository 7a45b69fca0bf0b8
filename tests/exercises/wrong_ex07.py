"""Submissions to ex07: WRONG with a typical mistake each, RIGHT written in other ways."""

CONDITIONAL = """
def conditional_discriminator_loss(discriminator, x, y, fake):
    {before}
    real = discriminator({real})
    generated = discriminator({generated})
    return {loss}
"""
CONDITIONAL_PARTS = {
    "before": "fake = fake.detach()",
    "real": "torch.cat([x, y], dim=1)",
    "generated": "torch.cat([x, fake], dim=1)",
    "loss": "F.softplus(-real).mean() + F.softplus(generated).mean()",
}


def conditional(**changes):
    return CONDITIONAL.format(**{**CONDITIONAL_PARTS, **changes})


PIX2PIX = """
def pix2pix_generator_loss(discriminator, x, y, fake, l1_weight=100.0):
    logits = discriminator({pair})
    gan = {gan}
    l1 = {l1}
    return {{"loss": {loss}, "gan": gan, "l1": l1}}
"""
PIX2PIX_PARTS = {
    "pair": "torch.cat([x, fake], dim=1)",
    "gan": "F.softplus(-logits).mean()",
    "l1": "(y - fake).abs().mean()",
    "loss": "gan + l1_weight * l1",
}


def pix2pix(**changes):
    return PIX2PIX.format(**{**PIX2PIX_PARTS, **changes})


CYCLE = """
def cycle_losses(g_ab, g_ba, a, b):
    distance = {distance}
    return {{
        "cycle_a": distance({cycle_a}, a),
        "cycle_b": distance({cycle_b}, b),
        "identity_a": distance({identity_a}, a),
        "identity_b": distance({identity_b}, b),
    }}
"""
CYCLE_PARTS = {
    "distance": "F.l1_loss",
    "cycle_a": "g_ba(g_ab(a))",
    "cycle_b": "g_ab(g_ba(b))",
    "identity_a": "g_ba(a)",
    "identity_b": "g_ab(b)",
}


def cycle(**changes):
    return CYCLE.format(**{**CYCLE_PARTS, **changes})


SQUARES = """
def least_squares_losses(real_scores, fake_scores):
    return {d}, {g}
"""
SQUARES_PARTS = {
    "d": "0.5 * ((real_scores - 1).square().mean() + fake_scores.square().mean())",
    "g": "(fake_scores - 1).square().mean()",
}


def squares(**changes):
    return SQUARES.format(**{**SQUARES_PARTS, **changes})


POOL = """
class ImagePool:
    def __init__(self, capacity):
        self.capacity = capacity
        self.pool = []

    def exchange(self, pictures):
        passed_on = []
        for picture in pictures.detach():
            if len(self.pool) < self.capacity:
                self.pool.append(picture.clone())
{later}
            passed_on.append(picture)
        return torch.stack(passed_on)
"""


def pool(later):
    return POOL.format(later="\n".join("            " + line for line in later.strip().splitlines()))


WRONG = {
    "field": {
        "from the picture to the output": """
def judged_pixels(layers, i):
    first = last = i
    for kernel, stride, padding in layers:
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return first, last
""",
        "the padding forgotten": """
def judged_pixels(layers, i):
    first = last = i
    for kernel, stride, _ in reversed(layers):
        first, last = first * stride, last * stride + kernel - 1
    return first, last
""",
        "one too far": """
def judged_pixels(layers, i):
    first = last = i
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride - padding, last * stride - padding + kernel
    return first, last
""",
        "kernels added up": """
def judged_pixels(layers, i):
    first, size = i, 1
    for kernel, stride, padding in reversed(layers):
        first, size = first * stride - padding, size + kernel - 1
    return first, first + size - 1
""",
        "the padding added": """
def judged_pixels(layers, i):
    first = last = i
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride + padding, last * stride + padding + kernel - 1
    return first, last
""",
    },
    "conditional": {
        "the picture first": conditional(
            real="torch.cat([y, x], dim=1)", generated="torch.cat([fake, x], dim=1)"
        ),
        "the real and the generated picture as a pair": conditional(generated="torch.cat([y, fake], dim=1)"),
        "no detach": conditional(before="pass"),
        "labels exchanged": conditional(loss="F.softplus(real).mean() + F.softplus(-generated).mean()"),
        "halved": conditional(loss="0.5 * (F.softplus(-real).mean() + F.softplus(generated).mean())"),
        "sums": conditional(loss="F.softplus(-real).sum() + F.softplus(generated).sum()"),
        "the logarithm of a probability": conditional(
            loss="-real.sigmoid().log().mean() - (1 - generated.sigmoid()).log().mean()"
        ),
        "everything detached": conditional(
            loss="F.softplus(-real.detach()).mean() + F.softplus(generated.detach()).mean()"
        ),
        "without x": conditional(real="torch.cat([y, y], dim=1)", generated="torch.cat([fake, fake], dim=1)"),
    },
    "pix2pix": {
        "the weight on the wrong term": pix2pix(loss="l1_weight * gan + l1"),
        "the sum of the pixels": pix2pix(l1="(y - fake).abs().sum()"),
        "squares": pix2pix(l1="F.mse_loss(fake, y)"),
        "the saturating loss": pix2pix(gan="-F.softplus(logits).mean()"),
        "learns to be caught": pix2pix(gan="F.softplus(logits).mean()"),
        "detached before D": pix2pix(pair="torch.cat([x, fake.detach()], dim=1)"),
        "the real picture judged": pix2pix(pair="torch.cat([x, y], dim=1)"),
        "the weight ignored": pix2pix(loss="gan + 100 * l1"),
        "the picture first": pix2pix(pair="torch.cat([fake, x], dim=1)"),
        "signs kept": pix2pix(l1="(y - fake).mean()"),
    },
    "cycle": {
        "the cycles in the wrong order": cycle(cycle_a="g_ab(g_ba(a))", cycle_b="g_ba(g_ab(b))"),
        "identity with the wrong generator": cycle(identity_a="g_ab(a)", identity_b="g_ba(b)"),
        "only there": cycle(cycle_a="g_ab(a)", cycle_b="g_ba(b)"),
        "squares": cycle(distance="F.mse_loss"),
        "sums": cycle(distance="lambda p, q: (p - q).abs().sum()"),
        "detached": cycle(cycle_a="g_ba(g_ab(a).detach())", cycle_b="g_ab(g_ba(b).detach())"),
    },
    "least-squares": {
        "targets exchanged": squares(
            d="0.5 * (real_scores.square().mean() + (fake_scores - 1).square().mean())"
        ),
        "not halved": squares(d="(real_scores - 1).square().mean() + fake_scores.square().mean()"),
        "a sigmoid": squares(
            d="0.5 * ((real_scores.sigmoid() - 1).square().mean() + fake_scores.sigmoid().square().mean())"
        ),
        "the generator drawn to 0": squares(g="fake_scores.square().mean()"),
        "the generator halved, too": squares(g="0.5 * (fake_scores - 1).square().mean()"),
        "sums": squares(d="0.5 * ((real_scores - 1).square().sum() + fake_scores.square().sum())"),
    },
    "pool": {
        "never an old one": pool("""
elif torch.rand(()) < 0.5:
    self.pool[int(torch.randint(self.capacity, ()))] = picture.clone()
"""),
        "always an old one": pool("""
else:
    place = int(torch.randint(self.capacity, ()))
    self.pool[place], picture = picture.clone(), self.pool[place]
"""),
        "nothing taken in later": pool("""
elif torch.rand(()) < 0.5:
    picture = self.pool[int(torch.randint(self.capacity, ()))]
"""),
        "the oldest": pool("""
elif torch.rand(()) < 0.5:
    self.pool.append(picture.clone())
    picture = self.pool.pop(0)
"""),
        "always the same place": pool("""
elif torch.rand(()) < 0.5:
    self.pool[0], picture = picture.clone(), self.pool[0]
"""),
        "stored and passed on": pool("""
else:
    place = int(torch.randint(self.capacity, ()))
    old, self.pool[place] = self.pool[place], picture.clone()
    if torch.rand(()) < 0.5:
        picture = old
"""),
        "a rare exchange": pool("""
elif torch.rand(()) < 1 / self.capacity:
    place = int(torch.randint(self.capacity, ()))
    self.pool[place], picture = picture.clone(), self.pool[place]
"""),
    },
}

RIGHT = {
    "field": {
        "forwards, by size and jump": """
def judged_pixels(layers, i):
    size, start, jump = 1, 0, 1
    for kernel, stride, padding in layers:
        size += (kernel - 1) * jump
        start -= padding * jump
        jump *= stride
    return [start + i * jump, start + i * jump + size - 1]
""",
        "recursion": """
def judged_pixels(layers, i):
    if not layers:
        return i, i
    kernel, stride, padding = layers[-1]
    start = stride * i - padding
    return judged_pixels(layers[:-1], start)[0], judged_pixels(layers[:-1], start + kernel - 1)[1]
""",
        "numpy": """
def judged_pixels(layers, i):
    import numpy as np
    ends = np.array([i, i])
    for kernel, stride, padding in layers[::-1]:
        ends = ends * stride - padding + np.array([0, kernel - 1])
    return tuple(ends)
""",
    },
    "conditional": {
        "cross-entropies": conditional(
            loss="F.binary_cross_entropy_with_logits(real, torch.ones_like(real)) "
            "+ F.binary_cross_entropy_with_logits(generated, torch.zeros_like(generated))"
        ),
        "one batch, float64": """
def conditional_discriminator_loss(discriminator, x, y, fake):
    with torch.no_grad():
        second = torch.cat((x, fake), 1)
    real, generated = discriminator(torch.cat([torch.cat((x, y), 1), second])).double().chunk(2)
    return -F.logsigmoid(real).mean() - F.logsigmoid(-generated).mean()
""",
    },
    "pix2pix": {
        "library functions": pix2pix(
            gan="F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))", l1="F.l1_loss(fake, y)"
        ),
        "loops over examples, float64": """
def pix2pix_generator_loss(discriminator, x, y, fake, l1_weight=100.0):
    gans, l1s = [], []
    for xi, yi, fi in zip(x, y, fake):
        logits = discriminator(torch.cat([xi, fi])[None]).double()
        gans.append(-F.logsigmoid(logits).mean())
        l1s.append((yi - fi).double().abs().mean())
    gan, l1 = torch.stack(gans).mean(), torch.stack(l1s).mean()
    return dict(gan=gan, l1=l1, loss=gan + l1_weight * l1)
""",
    },
    "cycle": {
        "by hand": cycle(distance="lambda p, q: torch.abs(q - p).sum() / q.numel()"),
        "one call a generator": """
def cycle_losses(g_ab, g_ba, a, b):
    fake_b, same_b = g_ab(torch.cat([a, b])).split([len(a), len(b)])
    fake_a, same_a = g_ba(torch.cat([b, a])).split([len(b), len(a)])
    losses = {"identity_a": same_a - a, "identity_b": same_b - b}
    losses |= {"cycle_a": g_ba(fake_b) - a, "cycle_b": g_ab(fake_a) - b}
    return {name: difference.double().abs().mean() for name, difference in losses.items()}
""",
    },
    "least-squares": {
        "mse_loss": squares(
            d="(F.mse_loss(real_scores, torch.ones_like(real_scores)) + fake_scores.pow(2).mean()) / 2",
            g="F.mse_loss(fake_scores, torch.ones_like(fake_scores))",
        ),
        "sums divided, float64": squares(
            d="((real_scores.double() - 1) ** 2).sum() / (2 * real_scores.numel()) "
            "+ (fake_scores.double() ** 2).mean() / 2",
            g="((1 - fake_scores.double()) ** 2).sum() / fake_scores.numel()",
        ),
    },
    "pool": {
        "Python's random": """
import random


class ImagePool:
    def __init__(self, capacity):
        self.capacity, self.images = capacity, []

    def exchange(self, pictures):
        out = []
        for p in pictures:
            p = p.detach().clone()
            if len(self.images) < self.capacity:
                self.images.append(p)
                out.append(p)
            elif random.random() > 0.5:
                out.append(p)
            else:
                k = random.randrange(self.capacity)
                out.append(self.images[k])
                self.images[k] = p
        return torch.stack(out)
""",
        "a tensor of places": """
class ImagePool:
    def __init__(self, capacity):
        self.capacity, self.filled, self.store = capacity, 0, None

    def exchange(self, pictures):
        out = pictures.detach().clone()
        if self.store is None:
            self.store = torch.zeros(self.capacity, *pictures.shape[1:])
        for n in range(len(out)):
            if self.filled < self.capacity:
                self.store[self.filled] = out[n]
                self.filled += 1
            elif torch.randint(0, 2, ()).item():
                place = torch.randperm(self.capacity)[0]
                old = self.store[place].clone()
                self.store[place] = out[n]
                out[n] = old
        return out
""",
    },
}
