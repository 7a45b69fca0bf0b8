"""The discrete VAE: a variational autoencoder whose latent is one or several K-way variables.

The model draws d codes c_j ~ Uniform{1 … K} and then x ~ p_θ(x|c); the encoder's q_φ(c|x) = Π_j Categorical(softmax of
its logits). With d variables KL(q ‖ p) = Σ_j (log K − H(q_j)) exactly, and

    ELBO(x) = E_q[log p_θ(x|c)] + Σ_j H(q_j) − d log K.

The expectation is a sum of K^d terms. Its gradient in φ cannot pass through a drawn code: c = argmax(logits + Gumbel
noise) is an exact draw, but a step function of the logits. The ways round it compared here: the sum itself; the score
function; and a differentiable stand-in for the one-hot code, softmax((logits + noise) / τ) and its relatives.

Papers: E. Jang, S. Gu, B. Poole (2017), Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144;
C. Maddison, A. Mnih, Y. W. Teh (2017), The Concrete Distribution, arXiv:1611.00712; Y. Bengio, N. Léonard,
A. Courville (2013), straight-through, arXiv:1308.3432; R. Williams (1992), REINFORCE, Machine Learning 8; W. Kool
et al. (2019), leave-one-out baselines, ICLR workshop. Departures: the KL is that of the categorical variables, exactly
(Jang et al.; Maddison et al. train the relaxed KL too); τ falls geometrically with the training step.

Logs are natural and all terms are nats per example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.latent.autoencoder import Activation, check_input, mlp_decoder, mlp_encoder
from course_lib.latent.likelihoods import Bernoulli, Likelihood
from course_lib.latent.vae import check_k, full_precision

#: How a code is replaced by something differentiable.
RELAXATIONS = ("gumbel-softmax", "straight-through-gumbel", "straight-through")
#: How the gradient of E_q[log p(x|c)] may be estimated in training.
ESTIMATORS = (*RELAXATIONS, "score-function", "exact")
#: Most codes that are enumerated.
MAX_CODES = 2**16


# --- Categorical variables ----------------------------------------------------------------------------------


def categorical_entropy(logits: Tensor) -> Tensor:
    """H = −Σ_k π_k log π_k with π = softmax(logits): (…, K) → (…), nats, between 0 and log K."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def categorical_kl(logits: Tensor) -> Tensor:
    """KL(q ‖ uniform) = Σ_j (log K − H(q_j)) of independent variables: (…, d, K) → (…), nats, from 0 to d log K."""
    if logits.ndim < 2:
        raise ValueError(f"expected logits (…, variables, categories), got {tuple(logits.shape)}")
    return (math.log(logits.shape[-1]) - categorical_entropy(logits)).sum(dim=-1)


def all_codes(variables: int, categories: int) -> Tensor:
    """Every code, in counting order: int64 (K^d, d). ValueError above 65,536 of them."""
    if variables < 1 or categories < 2 or categories**variables > MAX_CODES:
        raise ValueError(
            f"enumeration needs variables ≥ 1, categories ≥ 2 and at most {MAX_CODES:,} codes, "
            f"got {categories}^{variables} = {categories ** max(variables, 0):,}"
        )
    return torch.cartesian_prod(*[torch.arange(categories)] * variables).view(-1, variables)


def one_hot(codes: Tensor, like: Tensor) -> Tensor:
    """Codes (…) as unit vectors (…, K) with K, dtype and device of `like` (…, K)."""
    return F.one_hot(codes.to(like.device), like.shape[-1]).to(like.dtype)


# --- Gumbel noise: exact draws, and relaxed ones --------------------------------------------------------------


def gumbel_noise(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """g = −log(−log u), u uniform on (0, 1), with dtype and device of `like`; −log u is drawn as an Exp(1) variable."""
    device = like.device if generator is None else generator.device
    exponential = torch.empty(tuple(shape), dtype=like.dtype, device=device)
    return -exponential.exponential_(generator=generator).log().to(like.device)


def gumbel_max(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """argmax_k (logits_k + g_k): exact draws from softmax(logits), (…, K) → int64 (…) (Maddison et al., 2.1)."""
    return (logits + gumbel_noise(logits.shape, logits, generator)).argmax(dim=-1)


def gumbel_softmax(
    logits: Tensor, temperature: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """softmax((logits + g) / τ): points of the simplex (…, K), differentiable in the logits (Jang et al., eq. 2).

    As τ → 0 they go to the one-hot vectors of `gumbel_max` with the same noise, as τ → ∞ to (1/K, …, 1/K).
    """
    _check_temperature(temperature)
    return ((logits + gumbel_noise(logits.shape, logits, generator)) / temperature).softmax(dim=-1)


def straight_through(soft: Tensor, codes: Tensor | None = None) -> Tensor:
    """The one-hot vector of codes (…), default the argmax of `soft` (…, K), with the gradient of `soft`."""
    hard = one_hot(soft.argmax(dim=-1) if codes is None else codes, soft)
    return hard + (soft - soft.detach())  # the bracket is exactly zero, its gradient is not


def concrete_log_prob(y: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """log-density of `gumbel_softmax` at y inside the simplex: (…, K) → (…) (Maddison et al., eq. 10).

    p(y) = Γ(K) τ^(K−1) Π_k (α_k y_k^(−τ−1)) / (Σ_k α_k y_k^(−τ))^K, α = exp(logits), with respect to dy_1 … dy_(K−1).
    """
    _check_temperature(temperature)
    K, log_y = y.shape[-1], y.log()
    normaliser = math.lgamma(K) + (K - 1) * math.log(temperature)
    numerator = (logits - (temperature + 1) * log_y).sum(dim=-1)
    return normaliser + numerator - K * (logits - temperature * log_y).logsumexp(dim=-1)


def relaxed_sample(
    logits: Tensor,
    estimator: str,
    temperature: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A stand-in (…, K) for a one-hot draw from softmax(logits) that passes a gradient to the logits.

    "gumbel-softmax": the relaxed point. "straight-through-gumbel": its argmax, with its gradient (Jang et al., 2.2).
    "straight-through": a draw, with the gradient of the probabilities (Bengio et al. 2013); it has no temperature.
    """
    if estimator not in RELAXATIONS:
        raise ValueError(f"unknown relaxation {estimator!r}; the known ones are: {', '.join(RELAXATIONS)}")
    if estimator == "straight-through":
        return straight_through(logits.softmax(dim=-1), gumbel_max(logits.detach(), generator))
    soft = gumbel_softmax(logits, temperature, generator)
    return soft if estimator == "gumbel-softmax" else straight_through(soft)


# --- The model ------------------------------------------------------------------------------------------------


class DiscreteVAE(nn.Module):
    """A VAE with d = `variables` latent codes of K = `categories` values each, and a uniform prior.

    encoder: (B, *input_shape) → (B, d·K) logits. decoder: (N, d·K), d one-hot (or relaxed) vectors side by side, →
    (N, *likelihood.parameter_shape(input_shape)).

    estimator: of the encoder's gradient in training, one of `ESTIMATORS`; "exact" enumerates all K^d codes.
    temperature: τ at the first step; it falls geometrically to final_temperature over anneal_steps calls of `loss` in
    training mode (the count is part of the state). samples: draws of c for each example and step; "score-function"
    takes the mean of the others as its baseline, and none if there is only one.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        variables: int,
        categories: int,
        estimator: str = "gumbel-softmax",
        temperature: float = 1.0,
        final_temperature: float | None = None,
        anneal_steps: int = 0,
        samples: int = 1,
        input_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        if variables < 1 or categories < 2:
            raise ValueError(f"expected variables ≥ 1 and categories ≥ 2, got {variables} and {categories}")
        if estimator not in ESTIMATORS:
            raise ValueError(f"unknown estimator {estimator!r}; the known ones are: {', '.join(ESTIMATORS)}")
        if estimator == "exact":
            all_codes(variables, categories)  # refuses what cannot be enumerated
        final_temperature = temperature if final_temperature is None else final_temperature
        _check_temperature(temperature)
        _check_temperature(final_temperature)
        if anneal_steps < 0 or (anneal_steps == 0 and final_temperature != temperature):
            raise ValueError(
                f"τ from {temperature} to {final_temperature} needs anneal_steps ≥ 1, got {anneal_steps}"
            )
        check_k(samples)
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.variables, self.categories = variables, categories
        self.estimator, self.samples = estimator, samples
        self.first_temperature, self.final_temperature = float(temperature), float(final_temperature)
        self.anneal_steps = anneal_steps
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def temperature(self) -> Tensor:
        """The present τ, a scalar: first · (final / first)^(step / anneal_steps), then final."""
        progress = (self.steps / max(self.anneal_steps, 1)).clamp(max=1)
        return self.first_temperature * (self.final_temperature / self.first_temperature) ** progress

    def encode(self, x: Tensor) -> Tensor:
        """Logits of q(c|x), (B, d, K)."""
        check_input(x, self.input_shape)
        out = full_precision(self.encoder(self.likelihood.encoder_input(x)))
        if out.shape != (len(x), self.variables * self.categories):
            wanted = self.variables * self.categories
            raise ValueError(f"the encoder should return (B, {wanted}), got {tuple(out.shape)}")
        return out.unflatten(1, (self.variables, self.categories))

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x|c) for one-hot or relaxed z (…, d, K), with the same leading dimensions."""
        if z.ndim < 3 or z.shape[-2:] != (self.variables, self.categories):
            raise ValueError(f"expected codes (…, {self.variables}, {self.categories}), got {tuple(z.shape)}")
        out = full_precision(self.decoder(z.flatten(0, -3).flatten(1)))
        return out.unflatten(0, z.shape[:-2])

    def elbo(self, x: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """{"elbo", "log_likelihood", "kl"}, each (B,): E_q[log p(x|c)] from one draw, the exact KL, their difference.

        Codes are one-hot: it is the bound of the discrete model, whatever relaxation trained it.
        """
        x = self._prepare(x, generator)
        logits = self.encode(x)
        z = one_hot(gumbel_max(logits.detach(), generator), logits)
        return _terms(self.likelihood.log_prob(x, self.decode(z)), categorical_kl(logits))

    def exact_elbo(self, x: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The same with E_q[log p(x|c)] as the sum over all K^d codes, differentiable; ValueError for too many."""
        x = self._prepare(x, generator)
        logits = self.encode(x)
        return _terms(self._exact_expectation(x, logits), categorical_kl(logits))

    def loss(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Scalars, means over the batch: {"loss", "recon", "kl"}, loss = recon + kl. `label` is ignored.

        In training mode recon is what the estimator differentiates, for "gumbel-softmax" at *relaxed* codes, so that
        −loss is no bound of the discrete model; "temperature" is a fourth term where there is one. In evaluation mode
        codes are drawn and −loss estimates the ELBO.
        """
        x = self._prepare(x, generator)
        logits = self.encode(x)
        kl = categorical_kl(logits).mean()
        if not self.training:
            z = one_hot(gumbel_max(logits, generator), logits)
            recon = -self.likelihood.log_prob(x, self.decode(z)).mean()
            return {"loss": recon + kl, "recon": recon, "kl": kl}
        temperature = self.temperature
        recon = -self._log_likelihood(x, logits, temperature, generator).mean()
        terms = {"loss": recon + kl, "recon": recon, "kl": kl}
        if self.estimator in ("gumbel-softmax", "straight-through-gumbel"):
            terms["temperature"] = temperature
        self.steps += 1
        return terms

    def log_weights(self, x: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
        """log w_i = log p(x|c_i) − d log K − log q(c_i|x), c_i ~ q(c|x), i = 1 … k: (k, B)."""
        check_k(k)
        x = self._prepare(x, generator)
        return self._log_weights(x, self.encode(x), k, generator)

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, k: int = 5000, generator: torch.Generator | None = None, max_values: int = 2**21
    ) -> Tensor:
        """log p(x) by importance sampling, log (1/k) Σ_i w_i: (B,), nats; biased low, less so as k grows.

        About max_values decoder outputs exist at a time. A likelihood that binarises draws one binary image.
        """
        check_k(k)
        x = self._prepare(x, generator)
        logits = self.encode(x)
        chunk = self._chunk(x, max_values)
        log_sum = logits.new_full((len(x),), -math.inf)
        for start in range(0, k, chunk):
            log_w = self._log_weights(x, logits, min(chunk, k - start), generator)
            log_sum = torch.logaddexp(log_sum, log_w.logsumexp(dim=0))
        return log_sum - math.log(k)

    def log_joint(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """log p(x, c) of every code in the order of `all_codes`: (K^d, B), nats. ValueError for too many codes.

        Its softmax over the codes is the posterior p(c|x).
        """
        x = self._prepare(x, generator)
        return self._all_log_likelihoods(x) - self.variables * math.log(self.categories)

    def exact_log_prob(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """log p(x) = log Σ_c p(x, c): (B,), nats. ValueError for too many codes."""
        return self.log_joint(x, generator).logsumexp(dim=0)

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, *, draw_pixels: bool = False
    ) -> Tensor:
        """n images (n, C, H, W) in [0, 1], or points: c uniform, then the mean of p(x|c), or a draw (draw_pixels)."""
        if n < 1:
            raise ValueError(f"n should be at least 1, got {n}")
        device = next(self.parameters()).device
        where = device if generator is None else generator.device
        codes = torch.randint(self.categories, (n, self.variables), generator=generator, device=where)
        parameters = self._decode_codes(codes.to(device))
        if draw_pixels:
            return _image(self.likelihood.sample(parameters, generator))
        return _image(self.likelihood.mean(parameters))

    @torch.no_grad()
    def codes(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The most probable code under q(c|x): int64 (B, d). The generator serves to binarise x."""
        return self.encode(self._prepare(x, generator)).argmax(dim=-1)

    @torch.no_grad()
    def decode_codes(self, codes: Tensor) -> Tensor:
        """Mean of p(x|c), an image for each row of integer codes (N, d)."""
        if codes.ndim != 2 or codes.shape[1] != self.variables or codes.is_floating_point():
            raise ValueError(f"expected integer codes (N, {self.variables}), got {tuple(codes.shape)}")
        if codes.min() < 0 or codes.max() >= self.categories:
            raise ValueError(
                f"codes should lie in 0 … {self.categories - 1}, got {codes.min()} to {codes.max()}"
            )
        return _image(self.likelihood.mean(self._decode_codes(codes)))

    def reconstruct(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean of p(x|c) at the most probable code, of x's shape."""
        return self.decode_codes(self.codes(x, generator))

    @torch.no_grad()
    def information(self, x: Tensor) -> dict[str, Tensor]:
        """{"kl", "information", "marginal_kl"}, each (d,): KL_j = I_q(x; c_j) + KL(q̄_j ‖ uniform), averages over x.

        q̄ is the mean of q(c|x) over the examples. I, between 0 and log K, is what a variable tells about x; the rest is
        uneven use of its values (Hoffman & Johnson 2016, ELBO surgery). A collapsed variable has both at zero.
        """
        q = self.encode(self._prepare(x, None)).softmax(dim=-1)  # (B, d, K)
        entropy, log_k = torch.special.entr(q).sum(dim=-1).mean(dim=0), math.log(self.categories)
        marginal_entropy = torch.special.entr(q.mean(dim=0)).sum(dim=-1)
        return {
            "kl": log_k - entropy,
            "information": marginal_entropy - entropy,
            "marginal_kl": log_k - marginal_entropy,
        }

    def _prepare(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        check_input(x, self.input_shape)
        return self.likelihood.prepare(x, generator)

    def _decode_codes(self, codes: Tensor) -> Tensor:
        like = next(self.parameters()).new_empty(0, self.categories)
        return self.decode(one_hot(codes, like))

    def _chunk(self, x: Tensor, max_values: int) -> int:
        outputs = len(x) * math.prod(self.likelihood.parameter_shape(x.shape[1:]))
        return max(1, max_values // outputs)

    def _all_log_likelihoods(self, x: Tensor, max_values: int = 2**21) -> Tensor:
        """log p(x|c) of every code, (K^d, B)."""
        codes = all_codes(self.variables, self.categories)
        parts = [
            self.likelihood.log_prob(x, parameters.unsqueeze(1).expand(-1, len(x), *parameters.shape[1:]))
            for parameters in map(self._decode_codes, codes.split(self._chunk(x, max_values)))
        ]
        return torch.cat(parts)

    def _exact_expectation(self, x: Tensor, logits: Tensor) -> Tensor:
        """Σ_c q(c|x) log p(x|c), (B,)."""
        codes = all_codes(self.variables, self.categories).to(logits.device)
        return (log_q(logits, codes.unsqueeze(1)).exp() * self._all_log_likelihoods(x)).sum(dim=0)

    def _log_likelihood(
        self, x: Tensor, logits: Tensor, temperature: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """A value (…, B) whose mean and gradient are the estimator's of E_q[log p(x|c)]."""
        if self.estimator == "exact":
            return self._exact_expectation(x, logits)
        many = logits.expand(self.samples, *logits.shape)  # (S, B, d, K)
        if self.estimator == "score-function":
            codes = gumbel_max(many.detach(), generator)
            value = self.likelihood.log_prob(x, self.decode(one_hot(codes, logits)))
            advantage = leave_one_out(value.detach()) * log_q(many, codes)
            return value + (advantage - advantage.detach())
        z = relaxed_sample(many, self.estimator, temperature, generator)
        return self.likelihood.log_prob(x, self.decode(z))

    def _log_weights(self, x: Tensor, logits: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
        many = logits.expand(k, *logits.shape)
        codes = gumbel_max(many.detach(), generator)  # (k, B, d)
        log_joint = self.likelihood.log_prob(x, self.decode(one_hot(codes, logits)))
        return log_joint - self.variables * math.log(self.categories) - log_q(many, codes)


def mlp_discrete_vae(
    input_shape: Sequence[int],
    variables: int,
    categories: int,
    hidden: Sequence[int] = (400,),
    *,
    likelihood: Likelihood | None = None,
    activation: Activation = nn.ReLU,
    **options: object,
) -> DiscreteVAE:
    """A fully connected discrete VAE, by default with a Bernoulli likelihood; options are those of `DiscreteVAE`.

    With hidden=() the decoder is linear: each value of each variable adds one template to the logits.
    """
    likelihood = Bernoulli() if likelihood is None else likelihood
    encoder = mlp_encoder(input_shape, variables * categories, hidden, activation)
    decoder = mlp_decoder(variables * categories, likelihood.parameter_shape(input_shape), hidden, activation)
    return DiscreteVAE(
        encoder, decoder, likelihood, variables, categories, input_shape=input_shape, **options
    )


def log_q(logits: Tensor, codes: Tensor) -> Tensor:
    """log q(c) = Σ_j log softmax(logits_j)[c_j]: logits (…, d, K), codes (…, d) → (…). Leading axes broadcast."""
    log_p = logits.log_softmax(dim=-1)
    shape = torch.broadcast_shapes(log_p.shape[:-1], codes.shape)
    log_p, codes = log_p.expand(*shape, -1), codes.expand(shape)
    return log_p.gather(-1, codes.unsqueeze(-1)).squeeze(-1).sum(dim=-1)


def leave_one_out(values: Tensor) -> Tensor:
    """Each of S values less the mean of the others, (S, …) → (S, …) (Kool et al. 2019); for S = 1 the value itself."""
    S = len(values)
    return values if S == 1 else (values - values.mean(dim=0)) * (S / (S - 1))


# --- Estimators of ∇ E_q[f(c)], to be compared ------------------------------------------------------------------


def exact_gradient(f: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """∂/∂logits of E_q[f(c)] = Σ_c q(c) f(c) by enumeration, of the shape (d, K) of the logits.

    f: one-hot codes (n, d, K) → (n,); only its values at the K^d codes enter. For d = 1 it is π_k (f_k − E f).
    """
    _check_gradient_arguments(logits, 1)
    codes = all_codes(*logits.shape).to(logits.device)
    values = f(one_hot(codes, logits)).detach()
    leaf = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad((log_q(leaf, codes).exp() * values).sum(), leaf)
    return gradient


def score_function_gradient(
    f: Callable[[Tensor], Tensor],
    logits: Tensor,
    n: int,
    baseline: float | Tensor = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n single-sample estimates (n, d, K) by (f(c) − baseline) ∇ log q(c), ∇ log q = one-hot(c) − π (Williams 1992).

    Unbiased for every baseline that does not depend on c. f is never differentiated.
    """
    _check_gradient_arguments(logits, n)
    logits = logits.detach()
    z = one_hot(gumbel_max(logits.expand(n, *logits.shape), generator), logits)
    return (f(z).detach() - baseline)[:, None, None] * (z - logits.softmax(dim=-1))


def relaxed_gradient(
    f: Callable[[Tensor], Tensor],
    logits: Tensor,
    n: int,
    estimator: str,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n single-sample estimates (n, d, K) through `relaxed_sample`; in general biased.

    f: (n, d, K) → (n,), differentiable, each value depending on its own row only.
    """
    _check_gradient_arguments(logits, n)
    leaf = logits.detach().expand(n, *logits.shape).clone().requires_grad_()
    z = relaxed_sample(leaf, estimator, temperature, generator)
    return torch.autograd.grad(f(z).sum(), leaf)[0]


def _check_gradient_arguments(logits: Tensor, n: int) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2 or n < 1:
        raise ValueError(
            f"expected logits (variables, categories ≥ 2) and n ≥ 1, got {tuple(logits.shape)}, {n}"
        )


def _check_temperature(temperature: float | Tensor) -> None:
    # A tensor's value is not looked at: reading it back would make an accelerator wait.
    if not isinstance(temperature, Tensor) and not 0 < temperature < math.inf:
        raise ValueError(f"a temperature should be positive and finite, got {temperature}")


def _terms(log_likelihood: Tensor, kl: Tensor) -> dict[str, Tensor]:
    return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}


def _image(x: Tensor) -> Tensor:
    return x.clamp(0, 1) if x.ndim == 4 else x
