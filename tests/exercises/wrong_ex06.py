"""Submissions to ex06: WRONG with a typical mistake each, RIGHT written in other ways."""

GENERATOR_BLOCK = """
class GeneratorBlock(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return {forward}
"""

DISCRIMINATOR_BLOCK = """
class DiscriminatorBlock(nn.Module):
    def __init__(self, in_channels, out_channels, normalise=True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=not normalise)
        self.norm = nn.BatchNorm2d(out_channels) if normalise else nn.Identity()

    def forward(self, x):
        return {forward}
"""

STEP_LOSSES = """
def discriminator_loss(generator, discriminator, real, z):
    {d}


def generator_loss(generator, discriminator, z):
    {g}
"""
RIGHT_D = """fake = generator(z).detach()
    return F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()"""
RIGHT_G = "return F.softplus(-discriminator(generator(z))).mean()"

TRAIN = """
def train(generator, discriminator, real, codes, lr):
    d_sgd = torch.optim.SGD(discriminator.parameters(), lr=lr)
    g_sgd = torch.optim.SGD(generator.parameters(), lr=lr)
    losses = []
    for x, z in zip(real, codes):
{step}
        losses.append([d_loss.item(), g_loss.item()])
    return losses
"""

CRITIC = """
def critic_loss(real_scores, fake_scores):
    return {critic}


def wgan_generator_loss(fake_scores):
    return {generator}


def clip_weights(weights, limit):
    return {clip}
"""
RIGHT_CRITIC = {
    "critic": "fake_scores.mean() - real_scores.mean()",
    "generator": "-fake_scores.mean()",
    "clip": "{name: weight.clamp(-limit, limit) for name, weight in weights.items()}",
}

PENALTY = """
class GradientPenalty(nn.Module):
    def __init__(self, critic):
        super().__init__()
        self.critic = critic

    def forward(self, real, fake, t):
        t = t.view({t})
        between = ({between}).detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph={graph})
        return {penalty}
"""


def penalty(
    t="-1, *[1] * (real.ndim - 1)",
    between="t * real + (1 - t) * fake",
    graph="True",
    penalty="(slope.flatten(1).norm(dim=1) - 1).square().mean()",
):
    return PENALTY.format(t=t, between=between, graph=graph, penalty=penalty)


def train(step):
    return TRAIN.format(step="\n".join("        " + line for line in step.strip().splitlines()))


WRONG = {
    "generator-block": {
        "ReLU before the norm": GENERATOR_BLOCK.format(forward="self.norm(torch.relu(self.conv(x)))"),
        "leaky ReLU": GENERATOR_BLOCK.format(forward="F.leaky_relu(self.norm(self.conv(x)), 0.2)"),
        "no activation": GENERATOR_BLOCK.format(forward="self.norm(self.conv(x))"),
        "the batch's statistics always": GENERATOR_BLOCK.format(
            forward="torch.relu(F.batch_norm(self.conv(x), None, None, self.norm.weight, self.norm.bias, True))"
        ),
        "a convolution that shrinks": """
class GeneratorBlock(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))
""",
        "no padding": """
class GeneratorBlock(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))
""",
        "a bias": """
class GeneratorBlock(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))
""",
    },
    "discriminator-block": {
        "ReLU": DISCRIMINATOR_BLOCK.format(forward="torch.relu(self.norm(self.conv(x)))"),
        "PyTorch's slope": DISCRIMINATOR_BLOCK.format(forward="F.leaky_relu(self.norm(self.conv(x)))"),
        "activation before the norm": DISCRIMINATOR_BLOCK.format(
            forward="self.norm(F.leaky_relu(self.conv(x), 0.2))"
        ),
        "no activation": DISCRIMINATOR_BLOCK.format(forward="self.norm(self.conv(x))"),
        "always a norm": """
class DiscriminatorBlock(nn.Module):
    def __init__(self, in_channels, out_channels, normalise=True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=not normalise)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)
""",
        "never a bias": """
class DiscriminatorBlock(nn.Module):
    def __init__(self, in_channels, out_channels, normalise=True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels) if normalise else nn.Identity()

    def forward(self, x):
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)
""",
    },
    "step-losses": {
        "no detach": STEP_LOSSES.format(d=RIGHT_D.replace(".detach()", ""), g=RIGHT_G),
        "the generator's fakes detached": STEP_LOSSES.format(
            d=RIGHT_D, g="return F.softplus(-discriminator(generator(z).detach())).mean()"
        ),
        "labels exchanged": STEP_LOSSES.format(
            d="""fake = generator(z).detach()
    return F.softplus(discriminator(real)).mean() + F.softplus(-discriminator(fake)).mean()""",
            g=RIGHT_G,
        ),
        "saturating": STEP_LOSSES.format(
            d=RIGHT_D, g="return -F.softplus(discriminator(generator(z))).mean()"
        ),
        "the sign": STEP_LOSSES.format(
            d=RIGHT_D, g="return -F.softplus(-discriminator(generator(z))).mean()"
        ),
        "a sigmoid applied twice": STEP_LOSSES.format(
            d="""fake = generator(z).detach()
    bce = F.binary_cross_entropy_with_logits
    a, b = torch.sigmoid(discriminator(real)), torch.sigmoid(discriminator(fake))
    return bce(a, torch.ones_like(a)) + bce(b, torch.zeros_like(b))""",
            g=RIGHT_G,
        ),
        "one mean": STEP_LOSSES.format(
            d="""both = torch.cat([-discriminator(real), discriminator(generator(z).detach())])
    return F.softplus(both).mean()""",
            g=RIGHT_G,
        ),
        "the logarithm of a probability": STEP_LOSSES.format(
            d="""a, b = (torch.sigmoid(discriminator(x)) for x in (real, generator(z).detach()))
    return -a.log().mean() - (1 - b).log().mean()""",
            g=RIGHT_G,
        ),
        "everything detached": STEP_LOSSES.format(
            d="""with torch.no_grad():
        a, b = discriminator(real), discriminator(generator(z))
    return F.softplus(-a).mean() + F.softplus(b).mean()""",
            g=RIGHT_G,
        ),
    },
    "train": {
        "the discriminator's gradients not cleared": train("""
d_loss = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(generator(z).detach())).mean()
d_loss.backward()
d_sgd.step()
g_sgd.zero_grad()
g_loss = F.softplus(-discriminator(generator(z))).mean()
g_loss.backward()
g_sgd.step()
"""),
        "the generator's gradients not cleared": train("""
d_sgd.zero_grad()
d_loss = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(generator(z).detach())).mean()
d_loss.backward()
d_sgd.step()
g_loss = F.softplus(-discriminator(generator(z))).mean()
g_loss.backward()
g_sgd.step()
"""),
        "no detach": train("""
d_sgd.zero_grad()
g_sgd.zero_grad()
d_loss = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(generator(z))).mean()
d_loss.backward()
d_sgd.step()
g_loss = F.softplus(-discriminator(generator(z))).mean()
g_loss.backward()
g_sgd.step()
"""),
        "against the old discriminator": train("""
d_sgd.zero_grad()
g_sgd.zero_grad()
fake = generator(z)
g_loss = F.softplus(-discriminator(fake)).mean()
g_loss.backward()
g_sgd.step()
d_sgd.zero_grad()
d_loss = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(fake.detach())).mean()
d_loss.backward()
d_sgd.step()
"""),
        "both move in the generator's part": train("""
d_sgd.zero_grad()
d_loss = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(generator(z).detach())).mean()
d_loss.backward()
d_sgd.step()
d_sgd.zero_grad()
g_sgd.zero_grad()
g_loss = F.softplus(-discriminator(generator(z))).mean()
g_loss.backward()
g_sgd.step()
d_sgd.step()
"""),
        "the saturating loss": train("""
d_sgd.zero_grad()
d_loss = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(generator(z).detach())).mean()
d_loss.backward()
d_sgd.step()
g_sgd.zero_grad()
g_loss = -F.softplus(discriminator(generator(z))).mean()
g_loss.backward()
g_sgd.step()
"""),
        "no steps": train("""
d_loss = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(generator(z).detach())).mean()
d_loss.backward()
g_loss = F.softplus(-discriminator(generator(z))).mean()
g_loss.backward()
"""),
        "the generator learns to be caught": train("""
d_sgd.zero_grad()
d_loss = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(generator(z).detach())).mean()
d_loss.backward()
d_sgd.step()
g_sgd.zero_grad()
g_loss = F.softplus(discriminator(generator(z))).mean()
g_loss.backward()
g_sgd.step()
"""),
    },
    "critic": {
        "the critic's sign": CRITIC.format(
            **{**RIGHT_CRITIC, "critic": "real_scores.mean() - fake_scores.mean()"}
        ),
        "the generator's sign": CRITIC.format(**{**RIGHT_CRITIC, "generator": "fake_scores.mean()"}),
        "a cross-entropy": CRITIC.format(
            **{**RIGHT_CRITIC, "critic": "F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()"}
        ),
        "sums": CRITIC.format(**{**RIGHT_CRITIC, "critic": "fake_scores.sum() - real_scores.sum()"}),
        "clipped from above": CRITIC.format(
            **{**RIGHT_CRITIC, "clip": "{name: weight.clamp(max=limit) for name, weight in weights.items()}"}
        ),
        "the norm limited": CRITIC.format(
            **{
                **RIGHT_CRITIC,
                "clip": "{n: w * min(1, limit / float(w.norm() + 1e-12)) for n, w in weights.items()}",
            }
        ),
    },
    "penalty": {
        "one norm for the batch": penalty(penalty="(slope.norm() - 1).square()"),
        "the norm over channels only": penalty(penalty="(slope.norm(dim=1) - 1).square().mean()"),
        "the square of the norm": penalty(penalty="(slope.flatten(1).square().sum(1) - 1).square().mean()"),
        "no graph": penalty(graph="False"),
        "at the real examples": penalty(between="real + 0 * t * fake"),
        "t on the columns": penalty(t="-1"),
        "t and 1 − t exchanged": penalty(between="t * fake + (1 - t) * real"),
        "not squared": penalty(penalty="(slope.flatten(1).norm(dim=1) - 1).mean()"),
        "the mean's gradient": penalty(
            penalty="(slope.flatten(1).norm(dim=1) / len(real) - 1).square().mean()"
        ),
    },
}

RIGHT = {
    "generator-block": {
        "a Sequential with names": """
from collections import OrderedDict


class GeneratorBlock(nn.Sequential):
    def __init__(self, in_channels, out_channels):
        conv = nn.ConvTranspose2d(in_channels, out_channels, (4, 4), stride=(2, 2), padding=(1, 1), bias=False)
        super().__init__(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels), activation=nn.ReLU(inplace=True)))
""",
        "a maximum": GENERATOR_BLOCK.format(forward="self.norm(self.conv(x)).clamp(min=0)"),
    },
    "discriminator-block": {
        "an if in the forward pass": """
class DiscriminatorBlock(nn.Module):
    def __init__(self, in_channels, out_channels, normalise=True):
        super().__init__()
        self.normalise = normalise
        self.conv = nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=not normalise)
        if normalise:
            self.norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x):
        x = self.conv(x)
        return self.activation(self.norm(x) if self.normalise else x)
""",
        "a maximum of two lines": DISCRIMINATOR_BLOCK.format(
            forward="torch.maximum(self.norm(self.conv(x)), 0.2 * self.norm.eval()(self.conv(x))) "
            "if isinstance(self.norm, nn.Identity) else nn.LeakyReLU(negative_slope=0.2)(self.norm(self.conv(x)))"
        ),
    },
    "step-losses": {
        "cross-entropies, the generator without gradient": STEP_LOSSES.format(
            d="""with torch.no_grad():
        fake = generator(z)
    bce = F.binary_cross_entropy_with_logits
    a, b = discriminator(real), discriminator(fake)
    return bce(a, torch.ones_like(a)) + bce(b, torch.zeros_like(b))""",
            g="""logits = discriminator(generator(z))
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))""",
        ),
        "logsigmoid in float64, one batch": STEP_LOSSES.format(
            d="""fake = generator(z).detach()
    a, b = discriminator(torch.cat([real, fake])).double().split([len(real), len(fake)])
    return -F.logsigmoid(a).mean() - F.logsigmoid(-b).mean()""",
            g="return -F.logsigmoid(discriminator(generator(z)).double()).mean()",
        ),
    },
    "train": {
        "no detach, but cleared in time": train("""
fake = generator(z)
d_loss = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(fake)).mean()
d_sgd.zero_grad()
d_loss.backward()
d_sgd.step()
g_loss = F.softplus(-discriminator(generator(z))).mean()
g_sgd.zero_grad()
g_loss.backward()
g_sgd.step()
"""),
        "updates by hand": """
def train(generator, discriminator, real, codes, lr):
    def descend(loss, network):
        weights = list(network.parameters())
        slopes = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, slope in zip(weights, slopes):
                weight -= lr * slope

    losses = torch.zeros(len(real), 2)
    for step in range(len(real)):
        with torch.no_grad():
            fake = generator(codes[step])
        a, b = discriminator(real[step]), discriminator(fake)
        d_loss = -F.logsigmoid(a).mean() - F.logsigmoid(-b).mean()
        descend(d_loss, discriminator)
        g_loss = -F.logsigmoid(discriminator(generator(codes[step]))).mean()
        descend(g_loss, generator)
        losses[step, 0], losses[step, 1] = d_loss.item(), g_loss.item()
    return losses
""",
        "the discriminator frozen": train("""
d_sgd.zero_grad(set_to_none=False)
with torch.no_grad():
    fake = generator(z)
a, b = discriminator(x), discriminator(fake)
bce = F.binary_cross_entropy_with_logits
d_loss = bce(a, torch.ones_like(a)) + bce(b, torch.zeros_like(b))
d_loss.backward()
d_sgd.step()
discriminator.requires_grad_(False)
g_sgd.zero_grad()
logits = discriminator(generator(z))
g_loss = bce(logits, torch.ones_like(logits))
g_loss.backward()
g_sgd.step()
discriminator.requires_grad_(True)
"""),
    },
    "critic": {
        "loops and floats": CRITIC.format(
            critic="sum(fake_scores.tolist()) / len(fake_scores) - sum(real_scores.tolist()) / len(real_scores)",
            generator="(-fake_scores.double()).mean()",
            clip="{n: torch.tensor(w.numpy().clip(-limit, limit)) for n, w in weights.items()}",
        ),
        "where": CRITIC.format(
            critic="-(real_scores.mean() - fake_scores.mean())",
            generator="fake_scores.neg().mean()",
            clip="{n: torch.where(w.abs() > limit, limit * w.sign(), w) for n, w in weights.items()}",
        ),
    },
    "penalty": {
        "a loop over examples": """
class GradientPenalty(nn.Module):
    def __init__(self, critic):
        super().__init__()
        self.critic = critic

    def forward(self, real, fake, t):
        total = 0.0
        for x, y, ti in zip(real, fake, t.tolist()):
            point = (ti * x + (1 - ti) * y)[None].requires_grad_()
            slope = torch.autograd.grad(self.critic(point)[0, 0], point, create_graph=True)[0]
            total = total + ((slope**2).sum() ** 0.5 - 1) ** 2
        return total / len(real)
""",
        "lerp and a vector of ones": """
class GradientPenalty(nn.Module):
    def __init__(self, critic):
        super().__init__()
        self.critic = critic

    def forward(self, real, fake, t):
        points = torch.lerp(fake.flatten(1), real.flatten(1), t[:, None]).view_as(real).requires_grad_(True)
        scores = self.critic(points)
        slope = torch.autograd.grad(scores, points, torch.ones_like(scores), retain_graph=True, create_graph=True)[0]
        return F.mse_loss(torch.linalg.vector_norm(slope.reshape(len(slope), -1), dim=1), torch.ones(len(slope)))
""",
    },
}
