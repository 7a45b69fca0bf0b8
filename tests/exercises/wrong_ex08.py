"""Submissions to ex08: WRONG with a typical mistake each, RIGHT written in other ways."""

MASK = """
def pixel_mask(size, kind):
    mask = torch.zeros(size, size)
    centre = size // 2
    {rows} = 1
    {left} = 1
    if {centre}:
        mask[centre, centre] = 1
    return mask
"""
MASK_PARTS = {"rows": "mask[:centre]", "left": "mask[centre, :centre]", "centre": 'kind == "B"'}


def mask(**changes):
    return MASK.format(**{**MASK_PARTS, **changes})


COLOURS = """
def colour_mask(in_channels, out_channels, size, kind, colours=3):
    mask = torch.zeros(out_channels, in_channels, size, size)
    centre = size // 2
    mask[:, :, :centre] = 1
    mask[:, :, centre, :centre] = 1
    to = {to}
    source = {source}
    mask[:, :, centre, centre] = ({centre}).float()
    return mask
"""
COLOURS_PARTS = {
    "to": "torch.arange(out_channels)[:, None] * colours // out_channels",
    "source": "torch.arange(in_channels) * colours // in_channels",
    "centre": 'source < to if kind == "A" else source <= to',
}


def colour(**changes):
    return COLOURS.format(**{**COLOURS_PARTS, **changes})


MIXTURE = """
def mixture_log_prob(x, logits, means, log_scales, levels=256):
    x = x[:, None].to(means.dtype)
    inverse = {inverse}
    above, below = {above} * inverse, {below} * inverse
    inside = {inside}
    log_p = {ends}
    return {result}
"""
MIXTURE_PARTS = {
    "inverse": "torch.exp(-log_scales)",
    "above": "(x + 0.5 - means)",
    "below": "(x - 0.5 - means)",
    "inside": "F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(below - above))",
    "ends": "torch.where(x == 0, F.logsigmoid(above), torch.where(x == levels - 1, F.logsigmoid(-below), inside))",
    "result": "(logits.log_softmax(dim=1) + log_p).logsumexp(dim=1)",
}


def mixture(**changes):
    return MIXTURE.format(**{**MIXTURE_PARTS, **changes})


LIKELIHOOD = """
def image_log_prob(logits, x):
    chosen = {log_p}.gather(1, x[:, None])[:, 0]
    log_prob = {log_prob}
    return log_prob, {bits}
"""
LIKELIHOOD_PARTS = {
    "log_p": "logits.log_softmax(dim=1)",
    "log_prob": "chosen.flatten(1).sum(dim=1)",
    "bits": "-log_prob / (x[0].numel() * math.log(2))",
}


def likelihood(**changes):
    return LIKELIHOOD.format(**{**LIKELIHOOD_PARTS, **changes})


DEPENDS = """
def depends_on(network, inputs, position):
    x = inputs.detach().clone().requires_grad_()
    outputs = {outputs}
    (slope,) = torch.autograd.grad({scalar}, x)
    return {seen}
"""

SAMPLE = """
def sample(network, n, levels, height, width, generator):
    x = torch.zeros(n, 1, height, width, dtype=torch.int64)
    for i, j in {order}:
        with torch.no_grad():
            p = network({inputs})[:, :, i, j].softmax(1)
        x[:, 0, i, j] = {draw}
    return x
"""
SAMPLE_PARTS = {
    "order": "[(i, j) for i in range(height) for j in range(width)]",
    "inputs": "x.float()",
    "draw": "torch.multinomial(p, 1, generator=generator)[:, 0]",
}


def sampler(**changes):
    return SAMPLE.format(**{**SAMPLE_PARTS, **changes})


WRONG = {
    "mask-one": {
        "B first": mask(centre='kind == "A"'),
        "the whole row": mask(left="mask[centre]", centre="True"),
        "rows below": mask(rows="mask[centre + 1 :]", left="mask[centre, centre + 1 :]"),
        "to the right": mask(left="mask[centre, centre + 1 :]"),
        "columns for rows": mask(rows="mask[:, :centre]", left="mask[:centre, centre]"),
        "a quarter": mask(rows="mask[:centre, : centre + 1]"),
    },
    "mask-colours": {
        "B first": colour(centre='source < to if kind == "B" else source <= to'),
        "B, G, R": colour(centre='source > to if kind == "A" else source >= to'),
        "channels in turns": colour(
            to="torch.arange(out_channels)[:, None] % colours", source="torch.arange(in_channels) % colours"
        ),
        "the centre open for all": colour(centre='torch.full((out_channels, in_channels), kind == "B")'),
        "only its own colour": colour(centre='(source == to) & (kind == "B")'),
        "by channels, not by colours": colour(
            to="torch.arange(out_channels)[:, None]", source="torch.arange(in_channels)"
        ),
    },
    "depends": {
        "slopes of the channels summed": DEPENDS.format(
            outputs="network(x)[0, :, position[0], position[1]]",
            scalar="outputs.sum()",
            seen="(slope[0] != 0).any(0)",
        ),
        "slopes of the inputs summed": DEPENDS.format(
            outputs="network(x)[0, :, position[0], position[1]]",
            scalar="(outputs * torch.arange(1, len(outputs) + 1)).sum()",
            seen="slope[0].sum(0) != 0",
        ),
        "positive slopes": DEPENDS.format(
            outputs="network(x)[0, :, position[0], position[1]]",
            scalar="(outputs * torch.arange(1, len(outputs) + 1)).sum()",
            seen="(slope[0] > 0).any(0)",
        ),
        "row and column exchanged": DEPENDS.format(
            outputs="network(x)[0, :, position[1], position[0]]",
            scalar="(outputs * torch.arange(1, len(outputs) + 1)).sum()",
            seen="(slope[0] != 0).any(0)",
        ),
        "all outputs": DEPENDS.format(
            outputs="network(x)", scalar="outputs.sum()", seen="(slope[0] != 0).any(0)"
        ),
        "the first channel only": DEPENDS.format(
            outputs="network(x)[0, 0, position[0], position[1]]", scalar="outputs", seen="slope[0, 0] > 0"
        ),
    },
    "mixture": {
        "edges not open": mixture(ends="inside"),
        "the density": mixture(
            inside="F.logsigmoid(x * inverse - means * inverse) + F.logsigmoid((means - x) * inverse) - log_scales"
        ),
        "two levels wide": mixture(above="(x + 1 - means)", below="(x - 1 - means)"),
        "from x to x + 1": mixture(above="(x + 1 - means)", below="(x - means)"),
        "logarithms averaged": mixture(result="(logits.softmax(dim=1) * log_p).sum(dim=1)"),
        "no softmax": mixture(result="(logits + log_p).logsumexp(dim=1)"),
        "log-scale as scale": mixture(inverse="1 / log_scales"),
        "a difference of sigmoids": mixture(inside="(torch.sigmoid(above) - torch.sigmoid(below)).log()"),
        "a clamped difference": mixture(
            inside="(torch.sigmoid(above) - torch.sigmoid(below)).clamp(min=1e-12).log()"
        ),
    },
    "likelihood": {
        "nats per dimension": likelihood(bits="-log_prob / x[0].numel()"),
        "bits of the whole picture": likelihood(bits="-log_prob / math.log(2)"),
        "divided by the pixels": likelihood(bits="-log_prob / (x.shape[2] * x.shape[3] * math.log(2))"),
        "a mean": likelihood(log_prob="chosen.flatten(1).mean(dim=1)", bits="-log_prob / math.log(2)"),
        "not normalised": likelihood(log_p="logits"),
        "the sign": likelihood(
            log_prob="-chosen.flatten(1).sum(dim=1)", bits="log_prob / (x[0].numel() * math.log(2))"
        ),
        "the logarithm of a softmax": likelihood(log_p="logits.softmax(dim=1).log()"),
        "one number for the batch": likelihood(log_prob="chosen.flatten(1).sum(dim=1).mean()"),
    },
    "sample": {
        "one pass": """
def sample(network, n, levels, height, width, generator):
    with torch.no_grad():
        p = network(torch.zeros(n, 1, height, width)).softmax(1).permute(0, 2, 3, 1)
    drawn = torch.multinomial(p.reshape(-1, levels), 1, generator=generator)
    return drawn.view(n, 1, height, width)
""",
        "argmax": sampler(draw="p.argmax(1)"),
        "column by column": sampler(order="[(i, j) for j in range(width) for i in range(height)]"),
        "uniform levels": sampler(draw="torch.randint(levels, (n,), generator=generator)"),
        "softmax twice": sampler(draw="torch.multinomial(p.softmax(1), 1, generator=generator)[:, 0]"),
        "the network sees intensities": sampler(inputs="x.float() / (levels - 1) * 0.1"),
        "the generator ignored": sampler(draw="torch.multinomial(p, 1)[:, 0]"),
    },
}

RIGHT = {
    "mask-one": {
        "by the order of the places": """
def pixel_mask(size, kind):
    place = torch.arange(size * size).view(size, size)
    middle = size * size // 2
    return place < middle + (kind == "B")
""",
        "loops, numpy": """
def pixel_mask(size, kind):
    import numpy as np
    mask = np.zeros((size, size))
    for r in range(size):
        for c in range(size):
            if (r, c) < (size // 2, size // 2) or (kind == "B" and r == c == size // 2):
                mask[r, c] = 1
    return mask
""",
    },
    "mask-colours": {
        "loops over colours": """
def colour_mask(in_channels, out_channels, size, kind, colours=3):
    mask = torch.ones(out_channels, in_channels, size, size, dtype=torch.float64)
    centre = size // 2
    mask[:, :, centre + 1 :] = 0
    mask[:, :, centre, centre:] = 0
    a, b = out_channels // colours, in_channels // colours
    for to in range(colours):
        seen = to if kind == "A" else to + 1
        mask[to * a : (to + 1) * a, : seen * b, centre, centre] = 1
    return mask
""",
        "a triangle, enlarged": """
def colour_mask(in_channels, out_channels, size, kind, colours=3):
    triangle = torch.tril(torch.ones(colours, colours), diagonal=-1 if kind == "A" else 0)
    triangle = triangle.repeat_interleave(out_channels // colours, 0).repeat_interleave(in_channels // colours, 1)
    flat = torch.zeros(out_channels, in_channels, size * size)
    flat[:, :, : size * size // 2] = 1
    flat[:, :, size * size // 2] = triangle
    return flat.view(out_channels, in_channels, size, size).bool()
""",
    },
    "depends": {
        "the whole Jacobian": """
def depends_on(network, inputs, position):
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x)[0, :, position[0], position[1]], inputs)
    return jacobian.abs().amax(dim=(0, 1, 2)) > 0
""",
        "small changes of each pixel": """
def depends_on(network, inputs, position):
    channels, height, width = inputs.shape[1:]
    seen = torch.zeros(height, width)
    with torch.no_grad():
        before = network(inputs)[0, :, position[0], position[1]]
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    changed = inputs.clone()
                    changed[0, c, i, j] += 1e-3
                    after = network(changed)[0, :, position[0], position[1]]
                    seen[i, j] += float((after != before).any())
    return seen
""",
    },
    "mixture": {
        "a loop over components, three cases": """
def mixture_log_prob(x, logits, means, log_scales, levels=256):
    x, total = x.double(), None
    log_pi = logits.double() - logits.double().logsumexp(1, keepdim=True)
    for k in range(means.shape[1]):
        s = log_scales[:, k].double().exp()
        a, b = (x + 0.5 - means[:, k]) / s, (x - 0.5 - means[:, k]) / s
        log_p = F.logsigmoid(a) + F.logsigmoid(-b) + torch.log1p(-torch.exp(-1 / s))
        log_p[x == 0] = F.logsigmoid(a)[x == 0]
        log_p[x == levels - 1] = -F.softplus(b)[x == levels - 1]
        part = log_pi[:, k] + log_p
        total = part if total is None else torch.logaddexp(total, part)
    return total
""",
        "float32": """
def mixture_log_prob(x, logits, means, log_scales, levels=256):
    x, logits, means, log_scales = x[:, None].float(), logits.float(), means.float(), log_scales.float()
    upper = torch.where(x == levels - 1, torch.inf, (x + 0.5 - means) / log_scales.exp())
    lower = torch.where(x == 0, -torch.inf, (x - 0.5 - means) / log_scales.exp())
    difference = torch.log(-torch.expm1(lower - upper))
    log_p = F.logsigmoid(upper) + F.logsigmoid(-lower) + difference
    return torch.logsumexp(F.log_softmax(logits, 1) + log_p, 1)
""",
    },
    "likelihood": {
        "cross-entropy": """
def image_log_prob(logits, x):
    log_prob = -F.cross_entropy(logits, x, reduction="none").sum((1, 2, 3))
    return log_prob, -log_prob / math.log(2) / (x.shape[1] * x.shape[2] * x.shape[3])
""",
        "one-hot in float32": """
def image_log_prob(logits, x):
    one_hot = F.one_hot(x, logits.shape[1]).movedim(-1, 1).float()
    log_prob = (one_hot * F.log_softmax(logits.float(), 1)).sum((1, 2, 3, 4))
    return [log_prob, log_prob / (-math.log(2) * x[0].numel())]
""",
    },
    "sample": {
        "by inverting the distribution function": """
def sample(network, n, levels, height, width, generator):
    x = torch.zeros(n, 1, height, width)
    with torch.inference_mode():
        for place in range(height * width):
            i, j = divmod(place, width)
            cumulative = network(x)[:, :, i, j].double().softmax(1).cumsum(1)
            u = torch.rand(n, 1, generator=generator, dtype=torch.float64)
            x[:, 0, i, j] = (u > cumulative).sum(1).clamp(max=levels - 1).float()
    return x.long()
""",
        "Gumbel noise": sampler(
            draw="(p.log() - (-torch.rand(p.shape, generator=generator).clamp(min=1e-20).log()).log()).argmax(1)"
        ),
        "row by row, noise for what is not known": """
def sample(network, n, levels, height, width, generator):
    x = torch.randint(levels, (n, 1, height, width), generator=generator)
    for i in range(height):
        for j in range(width):
            with torch.no_grad():
                logits = network(x.float())[:, :, i, j]
            x[:, 0, i, j] = torch.multinomial(F.softmax(logits, 1), 1, generator=generator)[:, 0]
    return x
""",
    },
}
