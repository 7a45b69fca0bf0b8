"""Does a wrong formula turn a test red? Break the library on purpose, one formula at a time, and see.

    python tests/mutations.py                  every mutation (about four seconds each)
    python tests/mutations.py --only NAME      one of them
    python tests/mutations.py --list           their names

Each mutation replaces exact pieces of text in one file and names the test that has to fail. The package and the tests
are copied to a temporary folder, the text is replaced there, and the test runs on the copy; the working tree is never
touched. The run fails if a test stays green, if it breaks for another reason than a failed test, if a text is not
found exactly once, or if the tests are not green to begin with.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    """`replacements`: (text, its replacement), each text found exactly once in `file`. `test`: must turn red."""

    name: str
    file: str
    replacements: tuple[tuple[str, str], ...]
    test: str


PCA, VAE, IWAE = "course_lib/latent/pca.py", "course_lib/latent/vae.py", "course_lib/latent/iwae.py"
LIKELIHOODS, AUTOENCODER = "course_lib/latent/likelihoods.py", "course_lib/latent/autoencoder.py"
DIVERGENCES, GAN = "course_lib/adversarial/divergences.py", "course_lib/adversarial/gan.py"
WGAN, DCGAN = "course_lib/adversarial/wgan.py", "course_lib/adversarial/dcgan.py"
DISCRETE_VAE, VADE = "course_lib/latent/discrete_vae.py", "course_lib/latent/vade.py"
VQVAE = "course_lib/latent/vqvae.py"
AUTOREGRESSIVE = "course_lib/autoregressive"
MASKED, PIXEL_MODEL = f"{AUTOREGRESSIVE}/masked.py", f"{AUTOREGRESSIVE}/model.py"
PIXELCNN, GATED_PIXELCNN = f"{AUTOREGRESSIVE}/pixelcnn.py", f"{AUTOREGRESSIVE}/gated_pixelcnn.py"
PIXELRNN = "course_lib/autoregressive/pixelrnn.py"
PIXELCNN_PP = "course_lib/autoregressive/pixelcnn_pp.py"
VQVAE2 = "course_lib/latent/vqvae2.py"
CODE_PRIOR = "course_lib/latent/code_prior.py"
AUGMENT, TRAIN = "course_lib/latent/augmentation.py", "course_lib/train.py"
MODULATION, STYLEGAN = "course_lib/adversarial/modulation.py", "course_lib/adversarial/stylegan.py"
STYLEGAN_STUDY = "course_lib/adversarial/stylegan_study.py"
LIVE, LIVE_CHECK, FLOW, HANDOUT, WORLD = (
    f"course_lib/classroom/{name}.py" for name in ("live", "live_check", "flow", "handout", "world")
)
SITE_PAGES, SITE_HOOKS, SITE_DOCSTRINGS = (
    f"course_lib/site/{name}.py" for name in ("pages", "hooks", "docstrings")
)
WIDGETS, PLOTTING = "course_lib/widgets.py", "course_lib/plotting.py"
PIX2PIX, CYCLEGAN = "course_lib/adversarial/pix2pix.py", "course_lib/adversarial/cyclegan.py"
TRANSLATION, UNPAIRED = "course_lib/adversarial/translation_study.py", "course_lib/data/unpaired.py"
COMPARE, RELEASE = "course_lib/compare.py", "course_lib/classroom/release.py"
JUDGE, REMOTE, TRIAL = (f"course_lib/classroom/{name}.py" for name in ("judge", "remote", "trial"))

MUTATIONS = (
    Mutation(
        "KL without the −1",
        VAE,
        (("mu.square() + torch.expm1(logvar) - logvar", "mu.square() + torch.exp(logvar) - logvar"),),
        "tests/theory/test_kl.py::test_against_torch_distributions",
    ),
    Mutation(
        "KL without the ½",
        VAE,
        (("return 0.5 * (mu.square() + torch.expm1", "return (mu.square() + torch.expm1"),),
        "tests/theory/test_kl.py::test_against_quadrature",
    ),
    Mutation(
        "KL with the sign of log σ² turned",
        VAE,
        (("torch.expm1(logvar) - logvar)", "torch.expm1(logvar) + logvar)"),),
        "tests/theory/test_kl.py::test_against_monte_carlo",
    ),
    Mutation(
        "KL added to the ELBO instead of subtracted",
        VAE,
        (('"elbo": log_likelihood - kl,', '"elbo": log_likelihood + kl,'),),
        "tests/theory/test_elbo.py::test_the_sampled_elbo_is_unbiased_and_its_terms_add_up",
    ),
    Mutation(
        "KL subtracted in the loss instead of added",
        VAE,
        (('{"loss": recon + self.beta * kl,', '{"loss": recon - self.beta * kl,'),),
        "tests/theory/test_elbo.py::test_the_loss_is_the_negative_elbo",
    ),
    Mutation(
        "encoder's mean and variance swapped",
        VAE,
        (("        mu, logvar = full_precision(out)", "        logvar, mu = full_precision(out)"),),
        "tests/theory/test_elbo.py::test_with_the_exact_posterior_the_bound_is_tight",
    ),
    Mutation(
        "encoder's and decoder's variance swapped (PPCA)",
        PCA,
        (
            (
                "return mean, self.sigma2 * torch.cholesky_inverse(cholesky)",
                "return mean, self.sigma2 * self._I()",
            ),
            (
                "def _M(self) -> Tensor:",
                "def _I(self): return torch.eye(self.W.shape[1]).to(self.W)\n\n    def _M(self):",
            ),
            (
                "+ self.sigma2.sqrt() * noise",
                "+ (self.sigma2 * torch.linalg.inv(self._M())[0, 0]).sqrt() * noise",
            ),
        ),
        "tests/theory/test_pca_theory.py::test_ppca_posterior_is_bayes_rule",
    ),
    Mutation(
        "decoder's variance used for the encoder's sample (VAE)",
        VAE,
        (
            (
                "        z = reparameterize(mu, logvar, generator)\n        log_likelihood",
                "        decoders = 2 * self.likelihood.log_sigma(x).expand_as(mu)\n"
                "        z = reparameterize(mu, decoders, generator)\n        log_likelihood",
            ),
        ),
        "tests/theory/test_elbo.py::test_the_sampled_elbo_is_unbiased_and_its_terms_add_up",
    ),
    Mutation(
        "encoder's variance used in the decoder's density (VAE)",
        VAE,
        (
            (
                "        log_likelihood = self.likelihood.log_prob(x, self.decode(z))\n        kl",
                "        log_likelihood = gaussian_log_prob(x, self.decode(z), logvar[:, :1])\n        kl",
            ),
        ),
        "tests/theory/test_elbo.py::test_the_sampled_elbo_is_unbiased_and_its_terms_add_up",
    ),
    Mutation(
        "reparameterised with the variance instead of the standard deviation",
        VAE,
        (
            (
                "return mu + torch.exp(0.5 * logvar) * gaussian_noise(",
                "return mu + torch.exp(logvar) * gaussian_noise(",
            ),
        ),
        "tests/latent/test_vae.py::test_reparameterised_samples_have_the_right_moments",
    ),
    Mutation(
        "log-sum instead of log-mean in the bound",
        VAE,
        (("return log_sum - math.log(k)", "return log_sum"),),
        "tests/theory/test_importance.py::test_log_prob_is_the_log_of_the_mean_however_it_is_cut",
    ),
    Mutation(
        "mean of the logs instead of log of the mean",
        VAE,
        (("log_w.logsumexp(dim=0))", "log_w.mean(dim=0) + math.log(len(log_w)))"),),
        "tests/theory/test_importance.py::test_log_prob_converges_to_the_evidence",
    ),
    Mutation(
        "importance weights without the prior",
        VAE,
        (("log_likelihood + log_prior - gaussian_log_prob(", "log_likelihood - gaussian_log_prob("),),
        "tests/theory/test_importance.py::test_with_the_exact_posterior_every_weight_is_the_evidence",
    ),
    Mutation(
        "log 2π counted once for all dimensions",
        VAE,
        (
            (
                "(squared_error + logvar + LOG_2PI).sum(dim=-1)",
                "((squared_error + logvar).sum(dim=-1) + LOG_2PI)",
            ),
        ),
        "tests/theory/test_kl.py::test_log_prob_against_torch_distributions",
    ),
    Mutation(
        "a new binary image for every importance sample",
        VAE,
        (
            (
                "log_likelihood = self.likelihood.log_prob(x, self.decode(z))\n        log_prior",
                "log_likelihood = torch.stack([self.likelihood.log_prob(torch.rand_like(x).round(), p) for p in "
                "self.decode(z)])\n        log_prior",
            ),
        ),
        "tests/latent/test_vae.py::test_all_importance_samples_see_one_binary_image",
    ),
    Mutation(
        "free bits per example instead of per dimension",
        VAE,
        (
            (
                "kl_of_dimension.clamp(min=self.free_bits).sum()",
                "kl_of_dimension.sum().clamp(min=self.free_bits)",
            ),
        ),
        "tests/latent/test_vae.py::test_free_bits_change_the_loss_and_not_the_elbo",
    ),
    Mutation(
        "score function without the −1",
        VAE,
        (("value * 0.5 * (noise.square() - 1)", "value * 0.5 * noise.square()"),),
        "tests/theory/test_gradient_estimators.py::test_unbiased",
    ),
    Mutation(
        "reparameterised gradient without the ½ of log σ²",
        VAE,
        (("slope * 0.5 * torch.exp(0.5 * logvar) * noise", "slope * torch.exp(0.5 * logvar) * noise"),),
        "tests/theory/test_gradient_estimators.py::test_unbiased",
    ),
    Mutation(
        "Gaussian density without log σ",
        LIKELIHOODS,
        (("-0.5 * error - log_sigma - 0.5 * LOG_2PI", "-0.5 * error - 0.5 * LOG_2PI"),),
        "tests/theory/test_elbo.py::test_with_the_exact_posterior_the_bound_is_tight",
    ),
    Mutation(
        "Gaussian error divided by σ instead of σ²",
        LIKELIHOODS,
        (("torch.exp(-log_sigma)).square()", "torch.exp(-0.5 * log_sigma)).square()"),),
        "tests/latent/test_likelihoods.py::test_gaussian_against_torch_distributions",
    ),
    Mutation(
        "μ and σ of the decoder swapped",
        LIKELIHOODS,
        (("            _, raw = parameters.chunk(2", "            raw, _ = parameters.chunk(2"),),
        "tests/latent/test_likelihoods.py::test_gaussian_against_torch_distributions",
    ),
    Mutation(
        "binarised once, with a threshold",
        LIKELIHOODS,
        (("(torch.rand(x.shape, generator=generator, device=device).to(x.device) < x)", "(x > 0.5)"),),
        "tests/latent/test_likelihoods.py::test_dynamic_binarisation_is_fresh_each_time_and_has_the_grey_level_as_its_mean",
    ),
    Mutation(
        "levels and channels mixed up",
        LIKELIHOODS,
        (
            (
                "torch.stack(self._blocks(x, parameters), dim=-1)",
                "parameters.unflatten(-3, (-1, self.levels)).movedim(-3, -1)",
            ),
        ),
        "tests/latent/test_likelihoods.py::test_categorical_against_torch_distributions",
    ),
    Mutation(
        "IWAE: log of the sum for log of the mean",
        IWAE,
        (("return log_w.logsumexp(dim=0) - math.log(len(log_w))", "return log_w.logsumexp(dim=0)"),),
        "tests/theory/test_importance_weighted_bound.py::test_the_bound_rises_to_the_evidence",
    ),
    Mutation(
        "IWAE: soft-max over losses",
        IWAE,
        (("return log_w.softmax(dim=0)", "return (-log_w).softmax(dim=0)"),),
        "tests/theory/test_importance_weighted_bound.py::test_the_gradient_is_that_of_the_weighted_log_weights",
    ),
    Mutation(
        "DReG with simple instead of squared weights",
        IWAE,
        (("lambda gradient: weights.unsqueeze(-1) * gradient", "lambda gradient: gradient"),),
        "tests/theory/test_importance_weighted_bound.py::test_the_doubly_reparameterised_gradient_is_unbiased",
    ),
    Mutation(
        "DReG that forgets to stop φ in log q",
        IWAE,
        (("z, mu.detach(), logvar.detach())", "z, mu, logvar)"),),
        "tests/theory/test_importance_weighted_bound.py::test_the_doubly_reparameterised_gradient_is_unbiased",
    ),
    Mutation(
        "PCA without centring, tall data",
        PCA,
        (("mean = X.mean(dim=0).double()\n", "mean = 0 * X.mean(dim=0).double()\n"),),
        "tests/theory/test_pca_theory.py::test_the_error_is_the_sum_of_the_discarded_eigenvalues",
    ),
    Mutation(
        "PCA blind to the rounding that a large mean brings",
        PCA,
        (("(top + len(X) * mean @ mean)", "top"),),
        "tests/latent/test_pca.py::test_a_mean_much_larger_than_the_spread",
    ),
    Mutation(
        "PCA without centring, wide data",
        PCA,
        (
            (
                "    mean = X.mean(dim=0)\n    centred = X - mean\n",
                "    mean = X.mean(dim=0)\n    centred = X\n",
            ),
        ),
        "tests/latent/test_pca.py::test_agrees_with_scikit_learn_signs_included",
    ),
    Mutation(
        "PCA without centring, SVD",
        PCA,
        (("torch.linalg.svd(X - mean,", "torch.linalg.svd(X,"),),
        "tests/latent/test_pca.py::test_rank_deficient_data",
    ),
    Mutation(
        "PCA decoder that forgets the mean",
        PCA,
        (("torch.addmm(self.mean_, Z", "torch.addmm(0 * self.mean_, Z"),),
        "tests/theory/test_pca_theory.py::test_the_error_is_the_sum_of_the_discarded_eigenvalues",
    ),
    Mutation(
        "smallest eigenvalues instead of the largest",
        PCA,
        (("subset_by_index=(len(S) - m, len(S) - 1)", "subset_by_index=(0, m - 1)"),),
        "tests/theory/test_pca_theory.py::test_no_other_subspace_has_a_smaller_error_or_a_larger_variance",
    ),
    Mutation(
        "no SVD for ill-conditioned data",
        PCA,
        (("torch.float64: 1e-8}", "torch.float64: -1.0}"),),
        "tests/latent/test_pca.py::test_small_components_of_ill_conditioned_data_are_right",
    ),
    Mutation(
        "signs left as LAPACK gives them",
        PCA,
        (("return components * components.gather(1, largest).sign()", "return components"),),
        "tests/latent/test_pca.py::test_the_largest_entry_of_each_component_is_positive",
    ),
    Mutation(
        "PPCA with the n−1 covariance",
        PCA,
        (("variances * ((n - 1) / n)  #", "variances * 1.0  #"),),
        "tests/theory/test_pca_theory.py::test_ppca_is_a_stationary_point_of_the_likelihood",
    ),
    Mutation(
        "PPCA noise averaged over all dimensions",
        PCA,
        (("discarded * ((n - 1) / n) / (D - m)", "discarded * ((n - 1) / n) / D"),),
        "tests/theory/test_pca_theory.py::test_ppca_noise_is_the_mean_of_the_discarded_eigenvalues",
    ),
    Mutation(
        "PPCA determinant without its noise directions",
        PCA,
        (("(D - m) * self.sigma2.log() + torch.logdet", "torch.logdet"),),
        "tests/theory/test_pca_theory.py::test_ppca_evidence_is_the_integral_over_the_latent",
    ),
    Mutation(
        "denoising towards the noisy image",
        AUTOENCODER,
        (("(reconstruction - x).square().sum()", "(reconstruction - noisy).square().sum()"),),
        "tests/latent/test_autoencoder.py::test_denoising_noises_the_input_and_not_the_target",
    ),
    Mutation(
        "KL to the uniform prior without log K",
        DISCRETE_VAE,
        (
            (
                "return (math.log(logits.shape[-1]) - categorical_entropy(logits)).sum(dim=-1)",
                "return (-categorical_entropy(logits)).sum(dim=-1)",
            ),
        ),
        "tests/theory/test_discrete_elbo.py::test_kl_against_torch_distributions",
    ),
    Mutation(
        "entropy with the sign turned",
        DISCRETE_VAE,
        (("return -(log_p.exp() * log_p).sum(dim=-1)", "return (log_p.exp() * log_p).sum(dim=-1)"),),
        "tests/theory/test_discrete_elbo.py::test_kl_by_the_definition_over_all_codes",
    ),
    Mutation(
        "log K once for all variables",
        DISCRETE_VAE,
        (
            (
                "return self._all_log_likelihoods(x) - self.variables * math.log(self.categories)",
                "return self._all_log_likelihoods(x) - math.log(self.categories)",
            ),
        ),
        "tests/theory/test_discrete_elbo.py::test_the_evidence_is_a_probability",
    ),
    Mutation(
        "importance weights of a discrete VAE without the prior",
        DISCRETE_VAE,
        (
            (
                "return log_joint - self.variables * math.log(self.categories) - log_q(many, codes)",
                "return log_joint - log_q(many, codes)",
            ),
        ),
        "tests/theory/test_discrete_elbo.py::test_importance_sampling_finds_the_evidence",
    ),
    Mutation(
        "expectation over the codes without their probabilities",
        DISCRETE_VAE,
        (
            (
                "(log_q(logits, codes.unsqueeze(1)).exp() * self._all_log_likelihoods(x)).sum(dim=0)",
                "self._all_log_likelihoods(x).mean(dim=0)",
            ),
        ),
        "tests/theory/test_discrete_elbo.py::test_the_exact_bound_is_the_definition_and_its_gap_the_kl_to_the_posterior",
    ),
    Mutation(
        "ELBO at the most probable code instead of a drawn one",
        DISCRETE_VAE,
        (
            (
                "z = one_hot(gumbel_max(logits.detach(), generator), logits)\n        return _terms",
                "z = one_hot(logits.argmax(-1), logits)\n        return _terms",
            ),
        ),
        "tests/theory/test_discrete_elbo.py::test_the_sampled_bound_is_unbiased",
    ),
    Mutation(
        "Gumbel noise with one logarithm",
        DISCRETE_VAE,
        (
            (
                "return -exponential.exponential_(generator=generator).log().to(like.device)",
                "return exponential.exponential_(generator=generator).to(like.device)",
            ),
        ),
        "tests/theory/test_gumbel.py::test_the_argmax_is_an_exact_draw",
    ),
    Mutation(
        "Gumbel noise with the sign turned",
        DISCRETE_VAE,
        (("return -exponential.exponential_(", "return exponential.exponential_("),),
        "tests/theory/test_gumbel.py::test_the_argmax_is_an_exact_draw",
    ),
    Mutation(
        "normal noise in place of Gumbel noise",
        DISCRETE_VAE,
        (
            (
                "return -exponential.exponential_(generator=generator).log().to(like.device)",
                "return exponential.normal_(generator=generator).to(like.device)",
            ),
        ),
        "tests/theory/test_gumbel.py::test_the_noise_is_gumbel",
    ),
    Mutation(
        "temperature on the logits only",
        DISCRETE_VAE,
        (
            (
                "((logits + gumbel_noise(logits.shape, logits, generator)) / temperature)",
                "(logits / temperature + gumbel_noise(logits.shape, logits, generator))",
            ),
        ),
        "tests/theory/test_gumbel.py::test_at_every_temperature_the_largest_entry_is_an_exact_draw",
    ),
    Mutation(
        "concrete density without its power of τ",
        DISCRETE_VAE,
        (("math.lgamma(K) + (K - 1) * math.log(temperature)", "math.lgamma(K)"),),
        "tests/theory/test_gumbel.py::test_the_density_integrates_to_one",
    ),
    Mutation(
        "concrete density without Γ(K)",
        DISCRETE_VAE,
        (("math.lgamma(K) + (K - 1) * math.log(temperature)", "(K - 1) * math.log(temperature)"),),
        "tests/theory/test_gumbel.py::test_the_density_equals_that_of_torch_distributions",
    ),
    Mutation(
        "straight-through without its gradient",
        DISCRETE_VAE,
        (("return hard + (soft - soft.detach())", "return hard + 0 * soft"),),
        "tests/theory/test_gumbel.py::test_straight_through_equals_that_of_torch_in_value_and_gradient",
    ),
    Mutation(
        "straight-through around a hard value that is soft",
        DISCRETE_VAE,
        (("return hard + (soft - soft.detach())", "return soft"),),
        "tests/theory/test_gumbel.py::test_straight_through_is_one_hot_bit_for_bit",
    ),
    Mutation(
        "straight-through that takes the argmax instead of a draw",
        DISCRETE_VAE,
        (
            (
                "straight_through(logits.softmax(dim=-1), gumbel_max(logits.detach(), generator))",
                "straight_through(logits.softmax(dim=-1))",
            ),
        ),
        "tests/theory/test_discrete_gradients.py::test_straight_through_weighs_the_slopes_at_the_ends",
    ),
    Mutation(
        "score function without the − π",
        DISCRETE_VAE,
        (("* (z - logits.softmax(dim=-1))", "* z"),),
        "tests/theory/test_discrete_gradients.py::test_the_score_function_is_unbiased_whatever_the_baseline",
    ),
    Mutation(
        "a baseline that is added",
        DISCRETE_VAE,
        (("(f(z).detach() - baseline)", "(f(z).detach() + baseline)"),),
        "tests/theory/test_discrete_gradients.py::test_the_score_functions_variance_by_enumeration",
    ),
    Mutation(
        "a baseline that contains its own sample",
        DISCRETE_VAE,
        (("(values - values.mean(dim=0)) * (S / (S - 1))", "(values - values.mean(dim=0))"),),
        "tests/theory/test_discrete_elbo.py::test_leave_one_out_is_the_mean_of_the_others",
    ),
    Mutation(
        "score function in training with the sign turned",
        DISCRETE_VAE,
        (
            (
                "return value + (advantage - advantage.detach())",
                "return value - (advantage - advantage.detach())",
            ),
        ),
        "tests/theory/test_discrete_gradients.py::test_training_by_the_score_function_follows_the_exact_gradient",
    ),
    Mutation(
        "temperature that falls linearly",
        DISCRETE_VAE,
        (
            (
                "return self.first_temperature * (self.final_temperature / self.first_temperature) ** progress",
                "return self.first_temperature + (self.final_temperature - self.first_temperature) * progress",
            ),
        ),
        "tests/latent/test_discrete_vae.py::test_the_temperature_falls_geometrically_and_stays",
    ),
    Mutation(
        "information without the marginal",
        DISCRETE_VAE,
        (('"information": marginal_entropy - entropy', '"information": log_k - entropy'),),
        "tests/theory/test_discrete_elbo.py::test_information_and_uneven_use_add_up_to_the_kl",
    ),
    Mutation(
        "optimal discriminator that favours the generator",
        DIVERGENCES,
        (("p_data / torch.where(total > 0, total, 1)", "p_g / torch.where(total > 0, total, 1)"),),
        "tests/theory/test_gan_theory.py::test_a_numerical_optimiser_over_d_finds_the_optimal_discriminator",
    ),
    Mutation(
        "JSD without the ½",
        DIVERGENCES,
        (("return (0.5 * (terms[0] + terms[1])", "return ((terms[0] + terms[1])"),),
        "tests/theory/test_gan_theory.py::test_the_jsd_lies_between_zero_and_log_two_and_is_symmetric",
    ),
    Mutation(
        "JSD to the sum instead of the mean",
        DIVERGENCES,
        (("d * (_log(d) - log_sum + math.log(2))", "d * (_log(d) - log_sum)"),),
        "tests/theory/test_gan_theory.py::test_the_value_at_the_optimal_discriminator_is_two_jsd_minus_two_log_two",
    ),
    Mutation(
        "KL finite where the model has no mass",
        DIVERGENCES,
        (("torch.where((q > 0) | (p == 0), _log(q), -math.inf)", "_log(q)"),),
        "tests/theory/test_gan_theory.py::test_the_kl_is_infinite_where_data_fall_where_the_model_has_none",
    ),
    Mutation(
        "value with log D on generated points",
        DIVERGENCES,
        (("p_data * log_d + p_g * log_not_d", "p_data * log_d + p_g * log_d"),),
        "tests/theory/test_gan_theory.py::test_the_value_against_adaptive_quadrature",
    ),
    Mutation(
        "labels of real and fake swapped",
        GAN,
        (
            (
                "return F.softplus(-real).mean() + F.softplus(fake).mean()",
                "return F.softplus(real).mean() + F.softplus(-fake).mean()",
            ),
        ),
        "tests/theory/test_gan_losses.py::test_the_discriminator_is_a_binary_classifier_its_cross_entropy_is_minus_the_value",
    ),
    Mutation(
        "minimax generator loss that is the non-saturating one",
        GAN,
        (("return -F.softplus(fake).mean()", "return F.softplus(-fake).mean()"),),
        "tests/theory/test_gan_losses.py::test_when_the_discriminator_wins_it_is_the_gradient_that_vanishes_and_only_of_the_minimax_loss",
    ),
    Mutation(
        "discriminator loss by sigmoid and logarithm",
        GAN,
        (
            (
                "return F.softplus(-real).mean() + F.softplus(fake).mean()",
                "return -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()",
            ),
        ),
        "tests/theory/test_gan_losses.py::test_losses_and_gradients_are_finite_for_logits_up_to_ten_thousand",
    ),
    Mutation(
        "least squares with a target of 0 for real examples",
        GAN,
        (("0.5 * ((real - 1).square().mean()", "0.5 * (real.square().mean()"),),
        "tests/theory/test_gan_losses.py::test_the_best_output_is_the_optimal_discriminator",
    ),
    Mutation(
        "hinge without its margin on generated examples",
        GAN,
        (("F.relu(1 + fake).mean()", "F.relu(fake).mean()"),),
        "tests/theory/test_gan_losses.py::test_the_best_discriminator_of_each_loss_measures_its_divergence",
    ),
    Mutation(
        "R1 without its ½",
        GAN,
        (("return 0.5 * slope.square().sum()", "return slope.square().sum()"),),
        "tests/adversarial/test_gan.py::test_r1_of_a_linear_discriminator_by_hand",
    ),
    Mutation(
        "lazy R1 without the larger weight",
        GAN,
        (("self.r1 * self.r1_every * r1_penalty", "self.r1 * r1_penalty"),),
        "tests/adversarial/test_gan.py::test_lazy_r1_is_taken_every_nth_update_with_n_times_the_weight",
    ),
    Mutation(
        "generator step that moves the discriminator's gradients",
        GAN,
        (
            (
                'with self.frozen("discriminator") as discriminator, self.autocast():',
                "discriminator = self.discriminator\n        with self.autocast():",
            ),
        ),
        "tests/adversarial/test_gan.py::test_each_player_learns_only_in_its_own_turn",
    ),
    Mutation(
        "history that doubles what it keeps",
        GAN,
        (("torch.cat([new, torch.where(swap, old, rest)])", "torch.cat([new, rest])"),),
        "tests/adversarial/test_gan.py::test_nothing_is_lost_and_nothing_doubled",
    ),
    Mutation(
        "unrolled steps that carry no gradient",
        GAN,
        (
            (
                "torch.autograd.grad(self.loss.discriminator(*logits), weights, create_graph=True)",
                "torch.autograd.grad(self.loss.discriminator(*logits), weights)",
            ),
        ),
        "tests/adversarial/test_gan.py::test_unrolling_by_sgd_is_one_explicit_step_ahead",
    ),
    Mutation(
        "gradient penalty with normal weights",
        WGAN,
        (("t = torch.rand(", "t = torch.randn("),),
        "tests/theory/test_wasserstein.py::test_its_weights_are_uniform_and_independent",
    ),
    Mutation(
        "gradient penalty with one weight for the whole batch",
        WGAN,
        (("torch.rand(len(real), *[1]", "torch.rand(1, *[1]"),),
        "tests/theory/test_wasserstein.py::test_its_weights_are_uniform_and_independent",
    ),
    Mutation(
        "gradient penalty at real points",
        WGAN,
        (("between = (t * real + (1 - t) * fake)", "between = (0 * t * fake + real)"),),
        "tests/theory/test_wasserstein.py::test_it_is_taken_between_real_and_generated_points",
    ),
    Mutation(
        "gradient penalty beyond the generated points",
        WGAN,
        (("(t * real + (1 - t) * fake)", "(t * real + (1 + t) * fake)"),),
        "tests/theory/test_wasserstein.py::test_it_is_taken_between_real_and_generated_points",
    ),
    Mutation(
        "gradient penalty without the target of 1",
        WGAN,
        (("slope.flatten(1), dim=1) - 1).square()", "slope.flatten(1), dim=1)).square()"),),
        "tests/theory/test_wasserstein.py::test_it_is_zero_for_a_critic_of_unit_gradient_and_counts_the_excess_of_any_other",
    ),
    Mutation(
        "critic's loss with the sign turned",
        WGAN,
        (("return fake.mean() - real.mean()", "return real.mean() - fake.mean()"),),
        "tests/theory/test_wasserstein.py::test_on_parallel_lines_a_trained_critic_estimates_w_within_five_percent",
    ),
    Mutation(
        "W₁ by distribution functions without their sizes",
        WGAN,
        (("torch.full_like(x, 1 / len(x))", "torch.ones_like(x)"),),
        "tests/theory/test_wasserstein.py::test_samples_of_any_sizes_against_scipy",
    ),
    Mutation(
        "generator's tanh left in [−1, 1]",
        DCGAN,
        (
            (
                'torch.tanh(x) if self.output == "tanh" else x) + 0.5',
                'torch.tanh(x) if self.output == "tanh" else x)',
            ),
        ),
        "tests/adversarial/test_dcgan.py::test_pixels_are_in_0_1_outside_and_in_minus_1_1_inside",
    ),
    Mutation(
        "discriminator that sees [0, 1]",
        DCGAN,
        (("return 2 * x - 1 if self.signed else x", "return x"),),
        "tests/adversarial/test_dcgan.py::test_pixels_are_in_0_1_outside_and_in_minus_1_1_inside",
    ),
    Mutation(
        "first map reshaped with the channels first",
        DCGAN,
        ((".view(len(z), 4, 4, -1).permute(0, 3, 1, 2)", ".view(len(z), -1, 4, 4)"),),
        "tests/adversarial/test_dcgan.py::test_the_convolutions_agree_with_those_of_the_plain_chain",
    ),
    Mutation(
        "first weights of variance 0.02",
        DCGAN,
        (("nn.init.normal_(module.weight, 0.0, std)", "nn.init.normal_(module.weight, 0.0, std**0.5)"),),
        "tests/adversarial/test_dcgan.py::test_first_weights_are_normal_with_the_paper_s_deviation",
    ),
    Mutation(
        "features averaged instead of max-pooled",
        DCGAN,
        (("F.adaptive_max_pool2d(h, 4)", "F.adaptive_avg_pool2d(h, 4)"),),
        "tests/adversarial/test_dcgan.py::test_features_are_the_maxima_of_all_hidden_layers_on_a_4_by_4_grid",
    ),
    Mutation(
        "batch norm at the discriminator's input",
        DCGAN,
        (('strided, False), width, "none", slope)]', "strided, False), width, normalise, slope)]"),),
        "tests/adversarial/test_dcgan.py::test_the_paper_s_setting_is_the_paper_s",
    ),
    Mutation(
        "critic with batch norm",
        DCGAN,
        (
            (
                'critic = Discriminator(image_shape, width, normalise="layer")',
                "critic = Discriminator(image_shape, width)",
            ),
        ),
        "tests/adversarial/test_dcgan.py::test_wgan_gp_has_a_critic_that_mixes_no_examples",
    ),
    Mutation(
        "VaDE: E log p(z|c) without the encoder's variance",
        VADE,
        (("squares = (variance + (mu - prior.mu).square())", "squares = (mu - prior.mu).square()"),),
        "tests/theory/test_vade_elbo.py::test_expected_log_p_z_given_c_by_enumeration_and_quadrature",
    ),
    Mutation(
        "VaDE: E log p(z|c) without the component's log σ²",
        VADE,
        (("return -0.5 * (LOG_2PI + prior.logvar + squares)", "return -0.5 * (LOG_2PI + squares)"),),
        "tests/theory/test_vade_elbo.py::test_expected_log_p_z_given_c_by_enumeration_and_quadrature",
    ),
    Mutation(
        "VaDE: E log p(c) with logits that are not normalised",
        VADE,
        (("(gamma * prior.log_weights).sum(dim=-1)", "(gamma * prior.logits).sum(dim=-1)"),),
        "tests/theory/test_vade_elbo.py::test_expected_log_p_c_by_enumeration",
    ),
    Mutation(
        "VaDE: entropy of z without the 1",
        VADE,
        (("0.5 * (1 + LOG_2PI + logvar)", "0.5 * (LOG_2PI + logvar)"),),
        "tests/theory/test_vade_elbo.py::test_entropy_of_z_by_quadrature",
    ),
    Mutation(
        "VaDE: entropy of c with its sign turned",
        VADE,
        (("return -(log_gamma.exp() * log_gamma)", "return (log_gamma.exp() * log_gamma)"),),
        "tests/theory/test_vade_elbo.py::test_entropy_of_c_by_enumeration",
    ),
    Mutation(
        "VaDE: responsibilities without π",
        VADE,
        (
            (
                "return self.log_joint(z).log_softmax(dim=-1)",
                "return (self.log_joint(z) - self.log_weights).log_softmax(dim=-1)",
            ),
        ),
        "tests/theory/test_vade_elbo.py::test_at_a_fixed_z_nothing_is_better_than_the_posterior_of_c",
    ),
    Mutation(
        "VaDE: the best q(c|x) without π",
        VADE,
        (
            (
                "return (prior.log_weights + _log_p_z_given_each_c(mu, logvar, prior)).log_softmax(dim=-1)",
                "return _log_p_z_given_each_c(mu, logvar, prior).log_softmax(dim=-1)",
            ),
        ),
        "tests/theory/test_vade_elbo.py::test_without_knowing_z_the_mean_field_responsibilities_are_the_best",
    ),
    Mutation(
        "VaDE: log p(z) as the largest component",
        VADE,
        (("return self.log_joint(z).logsumexp(dim=-1)", "return self.log_joint(z).amax(dim=-1)"),),
        "tests/theory/test_vade_elbo.py::test_the_weights_average_to_the_evidence",
    ),
    Mutation(
        "VaDE: softmax by exponentials that underflow",
        VADE,
        (
            (
                "return self.log_joint(z).log_softmax(dim=-1)",
                "joint = self.log_joint(z).exp()\n        return (joint / joint.sum(dim=-1, keepdim=True)).log()",
            ),
        ),
        "tests/latent/test_vade.py::test_latents_far_from_every_component_give_finite_terms_and_gradients",
    ),
    Mutation(
        "VaDE: standard deviations of the mixture where variances belong",
        VADE,
        (("(self.prior.logvar, variances)", "(self.prior.logvar, variances**0.5)"),),
        "tests/latent/test_vade.py::test_the_mixture_of_the_codes_becomes_the_prior",
    ),
    Mutation(
        "VaDE: clusters sampled evenly",
        VADE,
        (("weights = self.log_weights.exp().to", "weights = torch.ones_like(self.logits).to"),),
        "tests/latent/test_vade.py::test_samples_of_the_prior_have_its_moments",
    ),
    Mutation(
        "VaDE: pretraining on draws of z",
        VADE,
        (
            (
                'self.decode(mu)).mean()\n        return {"loss": recon, "recon": recon}',
                'self.decode(reparameterize(mu, _))).mean()\n        return {"loss": recon, "recon": recon}',
            ),
        ),
        "tests/latent/test_vade.py::test_pretraining_trains_the_vade_s_own_networks_and_leaves_variances_and_prior",
    ),
    Mutation(
        "nearest code without ‖e‖²",
        VQVAE,
        (("torch.addmm(squares, part,", "torch.addmm(torch.zeros_like(squares), part,"),),
        "tests/theory/test_vector_quantisation.py::test_the_length_of_a_code_counts",
    ),
    Mutation(
        "nearest code without the factor 2",
        VQVAE,
        (("alpha=-2, out=scores", "alpha=-1, out=scores"),),
        "tests/theory/test_vector_quantisation.py::test_the_nearest_code_is_that_of_the_full_distance_matrix",
    ),
    Mutation(
        "perplexity to the base of bits",
        VQVAE,
        (("torch.special.entr(frequencies).sum().exp()", "torch.special.entr(frequencies).sum().exp2()"),),
        "tests/theory/test_vector_quantisation.py::test_perplexity_counts_the_codes_in_use",
    ),
    Mutation(
        "straight-through halved",
        VQVAE,
        (("return gradient, None", "return gradient / 2, None"),),
        "tests/theory/test_vector_quantisation.py::test_straight_through_copies_the_gradient_bit_for_bit",
    ),
    Mutation(
        "straight-through to the codebook too",
        VQVAE,
        (
            (
                "StraightThrough.apply(flat, codes.detach())",
                "StraightThrough.apply(flat, codes.detach()) + (codes - codes.detach())",
            ),
        ),
        "tests/theory/test_vector_quantisation.py::test_straight_through_copies_the_gradient_bit_for_bit",
    ),
    Mutation(
        "commitment moves the codebook",
        VQVAE,
        (("commitment = F.mse_loss(flat, codes.detach())", "commitment = F.mse_loss(flat, codes)"),),
        "tests/theory/test_vector_quantisation.py::test_the_codebook_loss_moves_only_the_codebook_and_the_commitment_only_the_encoder",
    ),
    Mutation(
        "codebook loss moves the encoder",
        VQVAE,
        (("F.mse_loss(codes, flat.detach())", "F.mse_loss(codes, flat)"),),
        "tests/theory/test_vector_quantisation.py::test_the_codebook_loss_moves_only_the_codebook_and_the_commitment_only_the_encoder",
    ),
    Mutation(
        "β on the codebook loss",
        VQVAE,
        (('loss = losses["codebook"] + loss', 'loss = self.beta * losses["codebook"] + commitment'),),
        "tests/theory/test_vector_quantisation.py::test_the_whole_loss_trains_each_part_through_the_right_terms",
    ),
    Mutation(
        "moving averages with γ and 1−γ swapped",
        VQVAE,
        (("self.sums.lerp_(sums, 1 - self.decay)", "self.sums.lerp_(sums, self.decay)"),),
        "tests/theory/test_vector_quantisation.py::test_a_code_is_the_weighted_mean_of_all_vectors_that_ever_chose_it",
    ),
    Mutation(
        "codes not divided by their counts",
        VQVAE,
        (("self.sums / self._smoothed_sizes().unsqueeze(1)", "self.sums / 1"),),
        "tests/theory/test_vector_quantisation.py::test_without_memory_it_is_lloyd_s_algorithm",
    ),
    Mutation(
        "Laplace smoothing without its normaliser",
        VQVAE,
        (("(total + self.num_codes * self.eps)", "(total + self.eps)"),),
        "tests/theory/test_vector_quantisation.py::test_laplace_smoothing_keeps_the_total_and_no_code_at_zero",
    ),
    Mutation(
        "one code's rate for the whole grid",
        VQVAE,
        (("math.prod(self.latent_shape) * math.log(", "math.log("),),
        "tests/theory/test_vector_quantisation.py::test_the_prior_costs_log_k_at_every_place",
    ),
    Mutation(
        "VQ-VAE's likelihood with the sign of the lecture",
        VQVAE,
        (('{"loss": recon + elements', '{"loss": -recon + elements'),),
        "tests/theory/test_vector_quantisation.py::test_the_whole_loss_trains_each_part_through_the_right_terms",
    ),
    Mutation(
        "codebook moved before its use",
        VQVAE,
        (
            (
                "codes = F.embedding(indices, self.codebook)\n",
                "codes = F.embedding(indices, self.codebook * (1.01 if self.training else 1))\n",
            ),
        ),
        "tests/latent/test_vqvae.py::test_only_training_moves_the_codebook_and_only_after_its_use",
    ),
    Mutation(
        "restarts of codes in use",
        VQVAE,
        (("dead = self.sizes < self.restart_below", "dead = self.sizes < 1e3"),),
        "tests/latent/test_vqvae.py::test_codes_in_use_are_not_restarted",
    ),
    Mutation(
        "restarts that forget the sums",
        VQVAE,
        (("vectors * self.restart_below, self.sums", "0 * vectors, self.sums"),),
        "tests/latent/test_vqvae.py::test_dead_codes_become_different_vectors_of_the_batch",
    ),
    Mutation(
        "each process its own moving averages",
        VQVAE,
        (("            distributed.all_reduce(both)\n", ""),),
        "tests/latent/test_vqvae.py::test_two_processes_have_one_codebook_that_of_the_whole_batch",
    ),
    Mutation(
        "each process its own restarts",
        VQVAE,
        (("distributed.broadcast(vectors, src=0)", "vectors.abs()"),),
        "tests/latent/test_vqvae.py::test_two_processes_have_one_codebook_that_of_the_whole_batch",
    ),
    Mutation(
        "mask B in the first layer of a PixelCNN",
        PIXELCNN,
        (('2 * hidden, first_kernel_size, "A", colours', '2 * hidden, first_kernel_size, "B", colours'),),
        "tests/autoregressive/test_autoregressive_causality.py::test_no_value_sees_itself_or_a_later_one",
    ),
    Mutation(
        "mask B in the first layer of a Gated PixelCNN",
        GATED_PIXELCNN,
        (('"A" if first else "B"', '"B"'),),
        "tests/autoregressive/test_autoregressive_causality.py::test_no_value_sees_itself_or_a_later_one",
    ),
    Mutation(
        "colours in the order G before R",
        MASKED,
        (("earlier = colour_in < colour_out[:, None]", "earlier = colour_in > colour_out[:, None]"),),
        "tests/autoregressive/test_masked.py::test_mask_is_its_definition",
    ),
    Mutation(
        "a colour that does not see those before it",
        MASKED,
        (('earlier if mask_type == "A" else earlier |', '0 if mask_type == "A" else 0 * earlier |'),),
        "tests/autoregressive/test_autoregressive_causality.py::test_a_colour_sees_the_colours_before_it_in_its_own_pixel",
    ),
    Mutation(
        "masked filter whose centre row goes one column too far",
        MASKED,
        (("mask[:, :, kh // 2, : kw // 2] = 1", "mask[:, :, kh // 2, : kw // 2 + 2] = 1"),),
        "tests/autoregressive/test_masked.py::test_mask_is_its_definition",
    ),
    Mutation(
        "vertical stack without its shift",
        GATED_PIXELCNN,
        (("(0, 0, self.above, -1 if self.first else 0)", "(0, 0, self.above - self.first, 0)"),),
        "tests/autoregressive/test_autoregressive_causality.py::test_no_value_sees_itself_or_a_later_one",
    ),
    Mutation(
        "vertical stack that the horizontal one does not read",
        GATED_PIXELCNN,
        (("            return a, self.down(a)\n", "            return a, 0 * self.down(a)\n"),),
        "tests/autoregressive/test_gated_pixelcnn.py::test_no_blind_spot",
    ),
    Mutation(
        "horizontal stack that reads the gated vertical one instead of what is before the gate",
        GATED_PIXELCNN,
        (
            (
                "        a = a + for_a\n        return a, self.down(a) + for_b",
                "        a = a + for_a\n        return a, self.down(a.tanh()) + for_b",
            ),
        ),
        "tests/autoregressive/test_gated_pixelcnn.py::test_a_layer_is_the_papers",
    ),
    Mutation(
        "gate with its halves swapped",
        GATED_PIXELCNN,
        (("torch.tanh(a) * torch.sigmoid(b)", "torch.tanh(b) * torch.sigmoid(a)"),),
        "tests/autoregressive/test_gated_pixelcnn.py::test_gate_by_hand",
    ),
    Mutation(
        "gated layers without their residual connection",
        GATED_PIXELCNN,
        (("out if self.first else h + out", "out"),),
        "tests/autoregressive/test_gated_pixelcnn.py::test_a_layer_is_the_papers",
    ),
    Mutation(
        "condition that only the vertical stack hears",
        GATED_PIXELCNN,
        (("return a, self.down(a) + for_b", "return a, self.down(a) + 0 * for_b"),),
        "tests/autoregressive/test_gated_pixelcnn.py::test_every_layer_and_both_stacks_hear_the_condition",
    ),
    Mutation(
        "cached sampler whose condition map stays at its first row",
        GATED_PIXELCNN,
        (("c[:, :, self.i : self.i + 1]", "c[:, :, :1]"),),
        "tests/autoregressive/test_gated_pixelcnn.py::test_conditioned_samples_are_the_same_by_both_samplers",
    ),
    Mutation(
        "cached sampler that forgets the row above",
        MASKED,
        (
            (
                "torch.cat([self.kept[:, :, 1:], latest], dim=2)",
                "torch.cat([0 * self.kept[:, :, 1:], latest], dim=2)",
            ),
        ),
        "tests/autoregressive/test_pixel_model.py::test_cached_parameters_are_those_of_the_whole_network",
    ),
    Mutation(
        "sampler that does not tell the network what it has drawn last",
        PIXEL_MODEL,
        (("                network.write(j, self.to_input(pixel))\n", ""),),
        "tests/autoregressive/test_autoregressive_likelihood.py::test_sampler_draws_from_the_likelihood",
    ),
    Mutation(
        "category drawn from the wrong end",
        PIXEL_MODEL,
        (("cumulative[:, :-1] <= uniform[:, None]", "cumulative[:, :-1] >= uniform[:, None]"),),
        "tests/autoregressive/test_autoregressive_likelihood.py::test_sampler_draws_from_the_likelihood",
    ),
    Mutation(
        "logits of levels and colours mixed up",
        PIXEL_MODEL,
        (
            (
                "unflatten(1, (self.shape[0], self.levels)).transpose(1, 2)",
                "unflatten(1, (self.levels, self.shape[0]))",
            ),
        ),
        "tests/autoregressive/test_autoregressive_likelihood.py::test_probabilities_of_all_images_sum_to_one",
    ),
    Mutation(
        "bits per dimension by log 10",
        PIXEL_MODEL,
        (
            (
                "generator) / (math.prod(self.shape) * math.log(2))",
                "generator) / (math.prod(self.shape) * math.log(10))",
            ),
        ),
        "tests/autoregressive/test_autoregressive_likelihood.py::test_bits_per_dim_are_nats_by_log_two_and_values",
    ),
    Mutation(
        "residual block of a PixelCNN without its residual",
        PIXELCNN,
        (("return x + self.branch(x)", "return self.branch(x)"),),
        "tests/autoregressive/test_pixelcnn.py::test_residual_block_by_hand",
    ),
    Mutation(
        "masked filter that sees the right of its own row",
        MASKED,
        (("mask[:, :, : kh // 2] = 1", "mask[:, :, : kh // 2 + 1] = 1"),),
        "tests/autoregressive/test_pixelcnn.py::test_it_sees_exactly_what_its_filters_reach",
    ),
    Mutation(
        "PixelRNN with mask B in its first layer",
        PIXELRNN,
        (('first_kernel_size, "A", colours)', 'first_kernel_size, "B", colours)'),),
        "tests/autoregressive/test_pixelrnn.py::test_row_lstm_sees_the_first_convolution_of_its_triangle",
    ),
    Mutation(
        "Diagonal BiLSTM without the shift of the second direction",
        PIXELRNN,
        (("return right + shift_down(left.flip(-1))", "return right + left.flip(-1)"),),
        "tests/autoregressive/test_pixelrnn.py::test_diagonal_bilstm_layer_sees_every_earlier_pixel_and_itself",
    ),
    Mutation(
        "Diagonal BiLSTM whose second direction is not mirrored",
        PIXELRNN,
        (
            ("skew(torch.cat([right, left.flip(-1)], dim=1))", "skew(torch.cat([right, left], dim=1))"),
            ("return right + shift_down(left.flip(-1))", "return right + shift_down(left)"),
        ),
        "tests/autoregressive/test_pixelrnn.py::test_diagonal_bilstm_layer_sees_every_earlier_pixel_and_itself",
    ),
    Mutation(
        "Diagonal BiLSTM without its margin",
        PIXELRNN,
        (("margin: bool = True", "margin: bool = False"),),
        "tests/autoregressive/test_pixelrnn.py::test_diagonal_bilstm_sees_every_earlier_pixel",
    ),
    Mutation(
        "diagonals: the state comes from the pixel below, not from the one above",
        PIXELRNN,
        (
            (
                "self.state_to_state(F.pad(h, (before, after)))",
                "self.state_to_state(F.pad(h, (after, before)))",
            ),
        ),
        "tests/autoregressive/test_pixelrnn.py::test_layers_are_their_recurrences_pixel_by_pixel",
    ),
    Mutation(
        "diagonals: the cell's memory comes from above, not from the side",
        PIXELRNN,
        (("F.pad(c, (before - 1, after))", "F.pad(c, (before, after - 1))"),),
        "tests/autoregressive/test_pixelrnn.py::test_layers_are_their_recurrences_pixel_by_pixel",
    ),
    Mutation(
        "skewed the other way",
        PIXELRNN,
        (
            ("flat = F.pad(x, (0, height)).flatten(-2)", "flat = F.pad(x.flip(-2), (0, height)).flatten(-2)"),
            (
                ".unflatten(-1, (height, width + height - 1))",
                ".unflatten(-1, (height, width + height - 1)).flip(-2)",
            ),
        ),
        "tests/autoregressive/test_pixelrnn.py::test_column_d_of_the_skewed_map_is_diagonal_d",
    ),
    Mutation(
        "LSTM with its gates in another order",
        PIXELRNN,
        (("o, f, i = gates", "f, o, i = gates"),),
        "tests/autoregressive/test_pixelrnn.py::test_cell_is_torchs_lstm_cell",
    ),
    Mutation(
        "LSTM without the tanh of its memory",
        PIXELRNN,
        (("return o * c.tanh(), c", "return o * c, c"),),
        "tests/autoregressive/test_pixelrnn.py::test_row_lstm_of_a_single_column_is_torchs_lstm_from_top_to_bottom",
    ),
    Mutation(
        "one block of colours for all four gates together",
        PIXELRNN,
        (("self.mask = causal_mask", "self.unused = causal_mask"),),
        "tests/autoregressive/test_pixelrnn.py::test_at_the_pixel_itself_a_colour_sees_the_colours_up_to_it",
    ),
    Mutation(
        "PixelRNN with its skip added twice",
        PIXELRNN,
        (("return x + self.branch(x)", "return x + x + self.branch(x)"),),
        "tests/autoregressive/test_pixelrnn.py::test_residual_block_adds_its_branch_once",
    ),
    Mutation(
        "cached Row LSTM that overwrites the memory of the row above",
        PIXELRNN,
        (("self.c_above = self.c.clone()", "self.c_above = self.c"),),
        "tests/autoregressive/test_pixelrnn.py::test_one_pixel_at_a_time_gives_the_logits_of_the_full_pass",
    ),
    Mutation(
        "cached Diagonal BiLSTM that forgets its margin",
        PIXELRNN,
        (("            self.network.pixel(self.width, self.outside)", "            pass"),),
        "tests/autoregressive/test_pixelrnn.py::test_one_pixel_at_a_time_gives_the_logits_of_the_full_pass",
    ),
    Mutation(
        "PixelCNN++: the first layer of ul sees its own pixel",
        PIXELCNN_PP,
        (('MaskedConv2d(channels + 1, filters, 3, "A")', 'MaskedConv2d(channels + 1, filters, 3, "B")'),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_a_pixel_sees_all_earlier_ones_and_no_other",
    ),
    Mutation(
        "PixelCNN++: the first layer of u is not moved down",
        PIXELCNN_PP,
        (("F.pad(x, (1, 1, 2, 0))[:, :, :-1]", "F.pad(x, (1, 1, 1, 0))"),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_a_pixel_sees_all_earlier_ones_and_no_other",
    ),
    Mutation(
        "PixelCNN++: the down-right-shifted convolution is centred",
        PIXELCNN_PP,
        (("F.pad(x, (1, 0, 1, 0))", "F.pad(x, (0, 1, 1, 0))"),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_a_pixel_sees_all_earlier_ones_and_no_other",
    ),
    Mutation(
        "PixelCNN++: ul does not read u",
        PIXELCNN_PP,
        (("self.ul(ul, [u, *short_cut[1:]], label)", "self.ul(ul, [ul, *short_cut[1:]], label)"),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_a_pixel_sees_all_earlier_ones_and_no_other",
    ),
    Mutation(
        "PixelCNN++: the lowest level does not take the left tail",
        PIXELCNN_PP,
        (("F.logsigmoid(-lower) * ~first", "F.logsigmoid(-lower)"),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_the_edges_take_the_tails",
    ),
    Mutation(
        "PixelCNN++: a level is twice as wide",
        PIXELCNN_PP,
        (
            (
                "(x + 0.5 - mean) * inverse, (x - 0.5 - mean) * inverse",
                "(x + 1 - mean) * inverse, (x - 1 - mean) * inverse",
            ),
        ),
        "tests/autoregressive/test_pixelcnn_pp.py::test_one_logistic_sums_to_one_at_extreme_parameters",
    ),
    Mutation(
        "PixelCNN++: blue's mean takes green's coefficient",
        PIXELCNN_PP,
        (("self.coefficients[:, first + earlier]", "self.coefficients[:, earlier]"),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_the_mixture_is_that_of_the_paper",
    ),
    Mutation(
        "PixelCNN++: the weights of the mixture are not normalised",
        PIXELCNN_PP,
        (("log_p = parts.logits.log_softmax(dim=1)", "log_p = parts.logits"),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_the_mixture_is_that_of_the_paper",
    ),
    Mutation(
        "PixelCNN++: the sampler conditions on values that are not rounded",
        PIXELCNN_PP,
        (("intensities[:, channel] = level / half - 1", "intensities[:, channel] = y"),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_what_is_drawn_has_the_probabilities_of_the_likelihood",
    ),
    Mutation(
        "PixelCNN++: the cached sampler forgets the odd row",
        PIXELCNN_PP,
        (("            self.odd_u = u\n", "            pass\n"),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_one_pixel_at_a_time_gives_what_the_whole_network_gives",
    ),
    Mutation(
        "PixelCNN++: the coarser level serves one pixel only",
        PIXELCNN_PP,
        (("return self.grown_ul[j // 2, :, self.i % 2, j % 2]", "return self.grown_ul[j // 2, :, 0, 0]"),),
        "tests/autoregressive/test_pixelcnn_pp.py::test_one_pixel_at_a_time_gives_what_the_whole_network_gives",
    ),
    Mutation(
        "PixelCNN++: dropout stays on",
        PIXELCNN_PP,
        (
            (
                "leave(self.dropout(concat_elu(hidden)))",
                "leave(F.dropout(concat_elu(hidden), self.dropout.p))",
            ),
        ),
        "tests/autoregressive/test_pixelcnn_pp.py::test_dropout_is_for_training_only",
    ),
    Mutation(
        "VQ-VAE-2: the bottom encoder is not told the top codes",
        VQVAE2,
        (("self.decode_top(e_top).to(h.dtype)", "self.decode_top(0 * e_top).to(h.dtype)"),),
        "tests/latent/test_vqvae2.py::test_the_bottom_codes_depend_on_the_top_codes",
    ),
    Mutation(
        "VQ-VAE-2: the decoder does not see the top codes",
        VQVAE2,
        (("larger = self.enlarge_top(e_top)", "larger = self.enlarge_top(0 * e_top)"),),
        "tests/latent/test_vqvae2.py::test_the_decoder_sees_both_levels",
    ),
    Mutation(
        "VQ-VAE-2: the distances are means over the grid",
        VQVAE2,
        (("elements = quantized.z_q[0].numel()", "elements = 1"),),
        "tests/latent/test_vqvae2.py::test_the_commitment_is_a_sum_over_the_grid_and_a_mean_over_the_batch",
    ),
    Mutation(
        "VQ-VAE-2: log K once for a level, not for each code",
        VQVAE2,
        (("math.prod(shape) * math.log(quantizer.num_codes)", "math.log(quantizer.num_codes)"),),
        "tests/latent/test_vqvae2.py::test_the_elbo_charges_log_k_for_every_code_of_both_levels",
    ),
    Mutation(
        "VQ-VAE-2: one level's codebook loss is left out",
        VQVAE2,
        (
            (
                'terms["loss"] = terms["loss"] + elements * quantized.loss',
                'terms["loss"] = terms["recon"] + elements * quantized.loss',
            ),
        ),
        "tests/latent/test_vqvae2.py::test_the_loss_is_the_sum_of_its_terms",
    ),
    Mutation(
        "prior of codes: the bottom is not conditioned on the top",
        CODE_PRIOR,
        (("self.condition(grids[0].squeeze(1))", "self.condition(0 * grids[0].squeeze(1))"),),
        "tests/latent/test_code_prior.py::test_the_bottom_prior_is_told_all_top_codes_and_each_four_places_of_it",
    ),
    Mutation(
        "prior of codes: a sample's bottom is told another sample's top codes",
        CODE_PRIOR,
        (
            (
                "condition = self.condition(codes[0].squeeze(1))",
                "condition = self.condition(codes[0].squeeze(1).flip(0))",
            ),
        ),
        "tests/latent/test_code_prior.py::test_sampled_codes_have_those_probabilities",
    ),
    Mutation(
        "prior of codes: the autoencoder trains on",
        CODE_PRIOR,
        (("self.autoencoder.eval()  # its codebook must not move", "self.autoencoder.train(mode)"),),
        "tests/latent/test_code_prior.py::test_samples_are_decoded_codes",
    ),
    Mutation(
        "prior of codes: a density counts as a probability",
        CODE_PRIOR,
        (("return bits + math.log2(grey_levels - 1) * isinstance(", "return bits + 0 * isinstance("),),
        "tests/latent/test_code_prior.py::test_bits_per_dimension_of_grey_levels_and_of_binary_pixels",
    ),
    Mutation(
        "augmentation: the shear on the wrong axis",
        AUGMENT,
        (
            (
                "(self.shear * draws[4] - sin) * along + right, sin * across",
                "-sin * along + right, (self.shear * draws[4] + sin) * across",
            ),
        ),
        "tests/latent/test_augmentation.py::test_the_map_is_the_affine_one_of_scipy",
    ),
    Mutation(
        "augmentation: shifts in half sides",
        AUGMENT,
        (
            (
                "2 * self.shift * draws[2], 2 * self.shift * draws[3]",
                "self.shift * draws[2], self.shift * draws[3]",
            ),
        ),
        "tests/latent/test_augmentation.py::test_each_change_does_what_its_name_says_and_no_more_than_allowed",
    ),
    Mutation(
        "augmentation: a turn without its minus sign",
        AUGMENT,
        (("- sin) * along", "+ sin) * along"),),
        "tests/latent/test_augmentation.py::test_the_map_is_the_affine_one_of_scipy",
    ),
    Mutation(
        "VaDE: the augmented picture is the target, too",
        VADE,
        (
            (
                (
                    "        mu, _ = self.encode(self.augment(x, generator) if self.training and self.augment else x)\n"
                    "        x = self._prepare(x, generator)"
                ),
                (
                    "        x = self.augment(x, generator) if self.training and self.augment else x\n"
                    "        x = self._prepare(x, generator)\n"
                    "        mu, _ = self.encode(x)"
                ),
            ),
        ),
        "tests/latent/test_vade.py::test_augmentation_reaches_the_encoder_in_training_only_and_the_target_stays",
    ),
    Mutation(
        "VaDE: augmentation also in evaluation",
        VADE,
        (
            (
                "posterior = self.encode(self.augment(x, generator)) if self.training and self.augment else None",
                "posterior = self.encode(self.augment(x, generator)) if self.augment else None",
            ),
        ),
        "tests/latent/test_vade.py::test_augmentation_reaches_the_encoder_in_training_only_and_the_target_stays",
    ),
    Mutation(
        "VaDE: the decoder does not take the inverse of the new axes",
        VADE,
        (("first.weight @ torch.from_numpy(np.linalg.inv(T))", "first.weight @ torch.from_numpy(T)"),),
        "tests/latent/test_vade.py::test_aligned_axes_make_alike_components_round_and_change_no_reconstruction",
    ),
    Mutation(
        "VaDE: the encoder's bias keeps the old axes",
        VADE,
        (("change @ last.weight[:d], change @ last.bias[:d]", "change @ last.weight[:d], last.bias[:d]"),),
        "tests/latent/test_vade.py::test_aligned_axes_make_alike_components_round_and_change_no_reconstruction",
    ),
    Mutation(
        "VaDE: balanced starts compete with their own weights",
        VADE,
        (
            (
                "        mixture.weights_ = np.full(clusters, 1 / clusters)\n        if (likelihood",
                "        if (likelihood",
            ),
            (
                "            best, highest = mixture, likelihood\n    return best",
                (
                    "            best, highest = mixture, likelihood\n"
                    "    best.weights_ = np.full(clusters, 1 / clusters)\n"
                    "    return best"
                ),
            ),
        ),
        "tests/latent/test_vade.py::test_a_balanced_mixture_has_equal_weights_and_prefers_equal_clusters",
    ),
    Mutation(
        "VaDE: regularisation that does not know the codes' scale",
        VADE,
        (("regularise * codes.var(axis=0).mean()", "regularise"),),
        "tests/latent/test_vade.py::test_regularisation_is_a_share_of_the_codes_variance",
    ),
    Mutation(
        "a resumed run that cuts its pixels at one half",
        TRAIN,
        (
            (
                '        if name in config["settings"] and merged[name] is None:\n            del merged[name]',
                (
                    '        if name in config["settings"] and merged[name] is None:\n'
                    '            merged[name] = config["model_settings"][name]'
                ),
            ),
        ),
        "tests/test_train_pixels.py::test_a_resumed_run_learns_the_same_pixels",
    ),
    Mutation(
        "Demodulation by the sum, not its root",
        MODULATION,
        (
            (
                "energy = style.float().square() @ weight.float().square()",
                "energy = style.float().abs() @ weight.float().square()",
            ),
        ),
        "tests/adversarial/test_modulation.py::test_demodulated_kernels_have_energy_one",
    ),
    Mutation(
        "Grouped weights demodulated over the kernel only",
        MODULATION,
        (("own.square().sum((2, 3, 4), keepdim=True)", "own.square().sum((3, 4), keepdim=True)"),),
        "tests/adversarial/test_modulation.py::test_one_call_equals_the_loop_over_examples",
    ),
    Mutation(
        "Enlarging without its gain",
        MODULATION,
        (("padding=1, gain=4.0)", "padding=1, gain=1.0)"),),
        "tests/adversarial/test_modulation.py::test_up_is_zeros_then_convolution_then_filter",
    ),
    Mutation(
        "Equalised layer without its lr factor in the scale",
        MODULATION,
        (("lr_factor / math.sqrt(inputs), lr_factor", "1 / math.sqrt(inputs), lr_factor"),),
        "tests/adversarial/test_modulation.py::test_the_equalised_layer_begins_with_variance_one_and_moves_at_its_factor_s_speed",
    ),
    Mutation(
        "AdaIN that forgets the mean",
        MODULATION,
        (("[:, :, None, None] - mean * factor)", "[:, :, None, None])"),),
        "tests/adversarial/test_modulation.py::test_adain_gives_each_map_the_style_s_statistics",
    ),
    Mutation(
        "Noise that begins at 1",
        MODULATION,
        (("self.strength = nn.Parameter(torch.zeros(()))", "self.strength = nn.Parameter(torch.ones(()))"),),
        "tests/adversarial/test_stylegan.py::test_noise_moves_nothing_at_the_start_and_is_there_to_learn",
    ),
    Mutation(
        "Minibatch deviation of the next examples in place of the group's",
        MODULATION,
        (("deviation.to(x.dtype).repeat(size)", "deviation.to(x.dtype).repeat_interleave(size)"),),
        "tests/adversarial/test_modulation.py::test_the_minibatch_deviation_is_that_of_its_group",
    ),
    Mutation(
        "Truncation the wrong way round",
        STYLEGAN,
        (
            (
                "self.w_avg.lerp(ws[:, :until], psi)",
                "ws[:, :until].lerp(self.w_avg.expand_as(ws[:, :until]), psi)",
            ),
        ),
        "tests/adversarial/test_stylegan.py::test_truncation_to_nothing_gives_the_mean_picture",
    ),
    Mutation(
        "Mean w that follows too fast",
        STYLEGAN,
        (("w.mean(dim=0), 1 - self.w_decay)", "w.mean(dim=0), self.w_decay)"),),
        "tests/adversarial/test_stylegan.py::test_w_avg_follows_the_mean_of_w_in_training_only",
    ),
    Mutation(
        "Mixing with the layers swapped",
        STYLEGAN,
        (
            (
                "torch.where((number < limit)[:, :, None], ws, other)",
                "torch.where((number < limit)[:, :, None], other, ws)",
            ),
        ),
        "tests/adversarial/test_stylegan.py::test_mixing_takes_the_first_layers_from_the_first",
    ),
    Mutation(
        "Output of a size under the style of the next layer",
        STYLEGAN,
        (("ws[:, 2 * i + 1]", "ws[:, min(2 * i + 2, self.n_layers - 1)]"),),
        "tests/adversarial/test_stylegan.py::test_each_output_takes_the_w_that_follows_those_of_its_size",
    ),
    Mutation(
        "Mixing as often as it should not",
        STYLEGAN,
        (("device=real.device) >= self.mixing]", "device=real.device) < self.mixing]"),),
        "tests/adversarial/test_stylegan.py::test_training_mixes_as_often_as_it_is_told",
    ),
    Mutation(
        "Lazy R1 without its factor",
        STYLEGAN,
        (("self.r1 * self.r1_every * r1_penalty", "self.r1 * r1_penalty"),),
        "tests/adversarial/test_stylegan.py::test_lazy_r1_moves_the_weights_as_far_as_the_plain_one",
    ),
    Mutation(
        "Lazy Adam with k in place of k + 1",
        STYLEGAN,
        (("every / (every + 1)", "(every - 1) / every"),),
        "tests/adversarial/test_stylegan.py::test_adam_is_slowed_down_by_the_lazy_ratio",
    ),
    Mutation(
        "Path lengths summed over the layers",
        STYLEGAN,
        ((".sum(dim=2).mean(dim=1).sqrt()", ".sum(dim=2).sum(dim=1).sqrt()"),),
        "tests/adversarial/test_stylegan.py::test_path_lengths_of_a_linear_generator",
    ),
    Mutation(
        "Path length without the lazy factor",
        STYLEGAN,
        (("self.path_length * self.path_length_every * (lengths", "self.path_length * (lengths"),),
        "tests/adversarial/test_stylegan.py::test_the_path_step_penalises_the_distance_from_the_running_mean",
    ),
    Mutation(
        "Slerp by straight lines",
        STYLEGAN,
        (("(a * torch.cos(angle) + across * torch.sin(angle))", "(a * (1 - t[:, None]) + b * t[:, None])"),),
        "tests/adversarial/test_stylegan.py::test_slerp_stays_on_the_sphere_and_turns_evenly",
    ),
    Mutation(
        "Perceptual path length over ε, not its square",
        STYLEGAN,
        (("total / epsilon**2 / n", "total / epsilon / n"),),
        "tests/adversarial/test_stylegan.py::test_path_length_of_a_linear_generator",
    ),
    Mutation(
        "End path length over the whole way",
        STYLEGAN,
        (('.to(like) * (where == "full")', '.to(like) * (where != "")'),),
        "tests/adversarial/test_stylegan.py::test_path_length_at_the_ends_differs_where_the_features_are_not_linear",
    ),
    Mutation(
        "Residual block without 1/√2 … and its skip",
        STYLEGAN,
        (("(y + self.skip(x)) * math.sqrt(0.5)", "y * math.sqrt(0.5)"),),
        "tests/adversarial/test_stylegan.py::test_every_weight_of_both_networks_learns",
    ),
    Mutation(
        "Shares that count B's factor as A's",
        STYLEGAN_STUDY,
        (("for of in (of_a, of_b)]", "for of in (of_b, of_a)]"),),
        "tests/adversarial/test_stylegan_study.py::test_shares_count_whose_factor_the_mixed_picture_has",
    ),
    Mutation(
        "Pix2Pix: the L1 term without λ",
        PIX2PIX,
        (('g_loss = self.l1_weight * terms["l1"]', 'g_loss = terms["l1"]'),),
        "tests/adversarial/test_pix2pix.py::test_terms_against_hand_calculation",
    ),
    Mutation(
        "Pix2Pix: L1 in units of [0, 1]",
        PIX2PIX,
        (("return 2 * F.l1_loss(output, target)", "return F.l1_loss(output, target)"),),
        "tests/adversarial/test_pix2pix.py::test_l1_is_in_the_papers_unit",
    ),
    Mutation(
        "Pix2Pix: D does not see the condition",
        PIX2PIX,
        (("discriminator(torch.cat([part[0], x], dim=1))", "discriminator(torch.cat([x, x], dim=1))"),),
        "tests/adversarial/test_pix2pix.py::test_d_sees_the_condition_beside_the_picture",
    ),
    Mutation(
        "U-Net: the skips are not joined",
        PIX2PIX,
        (
            (
                "h = torch.cat([h, skip], dim=1) if self.skips",
                "h = torch.cat([h, 0 * skip], dim=1) if self.skips",
            ),
        ),
        "tests/adversarial/test_pix2pix.py::test_skips_are_really_used",
    ),
    Mutation(
        "U-Net: dropout only while training",
        PIX2PIX,
        (("return F.dropout(x, self.p, training=True)", "return F.dropout(x, self.p, self.training)"),),
        "tests/adversarial/test_pix2pix.py::test_dropout_at_test_time",
    ),
    Mutation(
        "PatchGAN: the receptive field forgets the last layers' stride",
        PIX2PIX,
        (("stride = 2 if i < depth else 1", "stride = 2 if i <= depth else 1"),),
        "tests/adversarial/test_pix2pix.py::test_receptive_field_by_formula_and_by_gradient",
    ),
    Mutation(
        "PatchGAN: the formula of the receptive field without the −1",
        PIX2PIX,
        (("layer.stride[0] * (field - 1) + layer", "layer.stride[0] * field + layer"),),
        "tests/adversarial/test_pix2pix.py::test_receptive_field_by_formula_and_by_gradient",
    ),
    Mutation(
        "CycleGAN: the cycle is closed by the wrong generator",
        CYCLEGAN,
        (("l1_loss(self.g_ba(fake_b), a)", "l1_loss(self.g_ab(fake_b), a)"),),
        "tests/adversarial/test_cyclegan.py::test_terms_against_hand_calculation",
    ),
    Mutation(
        "CycleGAN: the identity term with the cycle's weight",
        CYCLEGAN,
        (('self.identity * (terms["identity_a"]', 'self.cycle * (terms["identity_a"]'),),
        "tests/adversarial/test_cyclegan.py::test_terms_against_hand_calculation",
    ),
    Mutation(
        "CycleGAN: half of the generator's least squares",
        CYCLEGAN,
        (("lambda fake: 2 * least_squares_generator_loss(fake)", "least_squares_generator_loss"),),
        "tests/adversarial/test_cyclegan.py::test_terms_against_hand_calculation",
    ),
    Mutation(
        "CycleGAN: the generators' step leaves gradients in the discriminators",
        CYCLEGAN,
        (
            (
                'with self.frozen("d_a") as d_a, self.frozen("d_b") as d_b, self.autocast():',
                "d_a, d_b = self.d_a, self.d_b\n        with self.autocast():",
            ),
        ),
        "tests/adversarial/test_cyclegan.py::test_each_step_moves_its_own_players",
    ),
    Mutation(
        "CycleGAN: no history",
        CYCLEGAN,
        (("fake if history is None else history(fake)", "fake"),),
        "tests/adversarial/test_cyclegan.py::test_discriminators_see_their_own_history",
    ),
    Mutation(
        "CycleGAN: the learning rate falls from the beginning",
        CYCLEGAN,
        (("2 * (1 - step / steps)", "1 - step / steps"),),
        "tests/adversarial/test_cyclegan.py::test_linear_decay",
    ),
    Mutation(
        "History: every sample is exchanged",
        "course_lib/adversarial/gan.py",
        ((".to(rest.device) < 0.5", ".to(rest.device) < 1.0"),),
        "tests/adversarial/test_cyclegan.py::test_distribution_of_the_pool",
    ),
    Mutation(
        "Gradient energy without squares",
        TRANSLATION,
        (
            (
                "pictures.diff(dim=2).square(), pictures.diff(dim=3).square()",
                "pictures.diff(dim=2).abs(), pictures.diff(dim=3).abs()",
            ),
        ),
        "tests/adversarial/test_translation_study.py::test_gradient_energy_by_hand_and_under_blur",
    ),
    Mutation(
        "Unpaired sets: the pairs stay together",
        UNPAIRED,
        (
            (
                "self.second_index = order[torch.arange(length) % len(second)]",
                "self.second_index = torch.arange(length) % len(second)",
            ),
        ),
        "tests/data/test_unpaired.py::test_what_belonged_together_does_so_no_more",
    ),
    Mutation(
        "Comparison: the joint training of a VaDE gets a whole budget of its own",
        COMPARE,
        (("max(budget - seconds, budget / 4))", "budget)"),),
        "tests/test_compare.py::test_all_stages_of_a_training_fill_one_budget",
    ),
    Mutation(
        "Comparison: the prior over codes gets a whole budget of its own",
        COMPARE,
        (("codes, budget - seconds)", "codes, budget)"),),
        "tests/test_compare.py::test_all_stages_of_a_training_fill_one_budget",
    ),
    Mutation(
        "Comparison: the density of the copies without log N",
        COMPARE,
        (("return math.log(distances.shape[1]) - logs", "return -logs"),),
        "tests/test_compare.py::test_the_density_of_the_copies_sums_to_one",
    ),
    Mutation(
        "Comparison: the distance of bits without its factor 2",
        COMPARE,
        (("b.sum(1) - 2 * a @ b.T", "b.sum(1) - a @ b.T"),),
        "tests/test_compare.py::test_hamming_counts_the_pixels_that_differ",
    ),
    Mutation(
        "Style mixing one layer too far",
        STYLEGAN,
        (("(number < limit)", "(number <= limit)"),),
        "tests/adversarial/test_stylegan_study.py"
        "::test_the_stored_probe_knows_real_sprites_and_the_stored_generators_are_the_table_s[adain]",
    ),
    Mutation(
        "Release: a leaked line is overlooked",
        RELEASE,
        (("if line.strip() not in allowed:", "if False:"),),
        "tests/classroom/test_release.py::test_check_release_names_what_leaks",
    ),
    Mutation(
        "Judge: test cells are taken from the submission",
        JUDGE,
        (
            (
                'yield "test", cell, None',
                'yield "test", cell if place is None else submission.cells[place], None',
            ),
        ),
        "tests/classroom/test_judge.py::test_plan_takes_tests_and_locked_cells_from_the_source",
    ),
    Mutation(
        "Judge: any answer is the answer to the last question",
        REMOTE,
        (('if header.get("id") == name:', "if True:"),),
        "tests/classroom/test_judge.py::test_late_answers_are_not_taken_for_the_next_ones",
    ),
    Mutation(
        "Judge: a student may raise the judge's own AssertionError",
        REMOTE,
        (("UnicodeError | AssertionError | StopIteration", "UnicodeError"),),
        "tests/classroom/test_judge.py::test_a_student_cannot_raise_the_judges_own_exceptions",
    ),
    Mutation(
        "Judge: messages of hidden tests show their numbers",
        TRIAL,
        (("(error.hint if hidden else str(error)) + where", "str(error) + where"),),
        "tests/classroom/test_judge.py::test_messages_of_visible_and_hidden_tests",
    ),
    Mutation(
        "Judge: loading the instructor's imports is the submission's time",
        REMOTE,
        (('told["modules"] = modules', 'told["modules"] = []'),),
        "tests/classroom/test_judge.py::test_a_slow_import_of_the_instructors_is_not_the_submissions_time",
    ),
    Mutation(
        "Judge: what the tests import is loaded in the student's process",
        JUDGE,
        ((' or settings.get("grade")', ""),),
        "tests/classroom/test_judge.py::test_what_the_instructors_own_cells_import",
    ),
    Mutation(
        "Flow: a name that the cell wrote itself counts as read",
        FLOW,
        (("reads |= new_reads - writes", "reads |= new_reads"),),
        "tests/classroom/test_live.py::test_flow_of_a_cell",
    ),
    Mutation(
        "Flow: the earliest writer instead of the latest",
        FLOW,
        (("range(reader - 1, first - 1, -1)", "range(first, reader)"),),
        "tests/classroom/test_live.py::test_flow_between_cells",
    ),
    Mutation(
        "Live copy: links to other copies lead back, too",
        LIVE,
        ((" or url.path in siblings", ""),),
        "tests/classroom/test_live.py::test_links_lead_back_but_to_copies",
    ),
    Mutation(
        "Handout: what somebody changed is overwritten",
        HANDOUT,
        (("and not force:", "and False:"),),
        "tests/classroom/test_live.py::test_a_copy_that_was_typed_in_is_kept_unless_forced",
    ),
    Mutation(
        "Live check: any number is near enough",
        LIVE_CHECK,
        (("(gap <= allowed).all()", "(gap <= torch.inf).all()"),),
        "tests/classroom/test_live.py::test_typed_wrong_function",
    ),
    Mutation(
        "Live check: gradients are not compared",
        LIVE_CHECK,
        (("if typed is None or right is None:", "if True:"),),
        "tests/classroom/test_live.py::test_typed_values_and_their_gradients",
    ),
    Mutation(
        "Live check: a trained model is not compared",
        LIVE_CHECK,
        (("not _has_state(right)", "True"),),
        "tests/classroom/test_live.py::test_a_trained_model_is_compared_though_no_name_is_new",
    ),
    Mutation(
        "World: a check leaves its random numbers behind",
        WORLD,
        (("        present.restore()", "        state = present"),),
        "tests/classroom/test_live.py::test_a_trained_model_is_compared_though_no_name_is_new",
    ),
    Mutation(
        "Site: a link to a module stays a file",
        SITE_PAGES,
        (("if module(path) in site.modules:", "if False:"),),
        "tests/classroom/test_site_pages.py::test_links_lead_to_the_site",
    ),
    Mutation(
        "Site: a lecture without a group is left out",
        SITE_PAGES,
        (('raise ValueError(f"no group', 'print(f"no group'),),
        "tests/classroom/test_site_pages.py::test_a_lecture_without_a_group_is_reported",
    ),
    Mutation(
        "Site: Hebrew from left to right",
        SITE_HOOKS,
        (('RIGHT_TO_LEFT = ("he", "fa")', 'RIGHT_TO_LEFT = ("fa",)'),),
        "tests/classroom/test_site_pages.py::test_columns_are_marked_with_their_language_and_direction",
    ),
    Mutation(
        "Site: bars in docstrings are not escaped",
        SITE_DOCSTRINGS,
        (('r"([\\\\*|])"', 'r"([\\\\*])"'),),
        "tests/classroom/test_site_pages.py::test_docstrings_become_restructured_text",
    ),
    Mutation(
        "Widgets: pointing with the axis of y upside down",
        WIDGETS,
        (("(left, right), (bottom, top) = self.area[4:]", "(left, right), (top, bottom) = self.area[4:]"),),
        "tests/test_widgets.py::TestSurface::test_a_point_moves_both_sliders_with_one_drawing",
    ),
    Mutation(
        "Widgets: the plotting area's edges from below",
        WIDGETS,
        (
            (
                "return cls(box.x0, 1 - box.y1, box.x1, 1 - box.y0,",
                "return cls(box.x0, box.y0, box.x1, box.y1,",
            ),
        ),
        "tests/test_widgets.py::TestSurface::test_the_area_is_where_the_picture_has_its_first_axes",
    ),
    Mutation(
        "Widgets: a drawn rectangle without its last pixel",
        WIDGETS,
        (("return first, last + 1", "return first, last"),),
        "tests/test_widgets.py::TestSurface::test_a_stroke_adds_the_rectangle_that_it_encloses",
    ),
    Mutation(
        "Widgets: a stroke that replaces the one before",
        WIDGETS,
        (("            self._keep(None)\n", ""),),
        "tests/test_widgets.py::TestSurface::test_each_stroke_keeps_the_ones_before_and_stays_inside",
    ),
    Mutation(
        "Widgets: undo from the wrong end",
        WIDGETS,
        (("*self.kept, last = self.kept or", "last, *self.kept = self.kept or"),),
        "tests/test_widgets.py::TestRectangles::test_kept_ones_stay_below_and_can_be_taken_back",
    ),
    Mutation(
        "Widgets: busy only while it is quick",
        WIDGETS,
        (("if self._seconds > PROMPT", "if self._seconds < PROMPT"),),
        "tests/test_widgets.py::TestBusy::test_a_slow_drawing_says_so_before_it_begins",
    ),
    Mutation(
        "Plotting: images a row too high",
        PLOTTING,
        (("place = (x0, x0 + w, y1 - h, y1)", "place = (x0, x0 + w, y1, y1 + h)"),),
        "tests/test_plotting.py::TestImages::test_every_pixel_becomes_an_equal_square_of_its_colour",
    ),
)


def mutate(mutation: Mutation, root: Path) -> None:
    """Apply the replacements to the file under `root`; ValueError unless each text stands there exactly once."""
    path = root / mutation.file
    source = path.read_text(encoding="utf-8")
    for text, replacement in mutation.replacements:
        found = source.count(text)
        if found != 1:
            raise ValueError(
                f"{mutation.name}: found {found} times in {mutation.file}, expected once: {text!r}"
            )
        source = source.replace(text, replacement)
    path.write_text(source, encoding="utf-8")


def copy_project(target: Path) -> None:
    """The package, the embedded data, the lectures, the tests and their configuration, without caches and downloads."""
    for folder in ("course_lib", "data", "notebooks", "tests"):
        ignored = shutil.ignore_patterns(
            "__pycache__", "downloads", "cache", "live", "release", ".ipynb_checkpoints"
        )
        shutil.copytree(ROOT / folder, target / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, target)


def run_in(copy: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy, its folder first on the path, one thread, no bytecode left behind."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # nothing here needs one, and importing them takes seconds
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )


def check_that_the_copy_is_imported(copy: Path) -> None:
    """An editable install puts the working tree on the path too; the mutant must come first, under pytest as well."""
    probe = copy / "test_probe.py"
    files = [f"import {m[:-3].replace('/', '.')} as m; assert m.__file__ == {str(copy / m)!r}, m.__file__" for m in
             (PCA, VAE, LIKELIHOODS, AUTOENCODER)]  # fmt: skip
    probe.write_text("def test_probe():\n" + "".join(f"    {line}\n" for line in files), encoding="utf-8")
    result = pytest_in(copy, [probe.name])
    probe.unlink()
    if result.returncode != 0:
        raise RuntimeError(f"the tests would not import the copy in {copy}:\n{result.stdout}")


def pytest_in(copy: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", "-o", "addopts="]  # addopts needs nbval
    return run_in(copy, ["-m", "pytest", *options, *tests])


def is_caught(mutation: Mutation) -> bool:
    """Whether the named test fails on the mutant. RuntimeError if it ends in any other way than pass or fail."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder).resolve()
        copy_project(copy)
        mutate(mutation, copy)
        result = pytest_in(copy, [mutation.test])
        if result.returncode not in (0, 1) or "error" in result.stdout.splitlines()[-1]:
            raise RuntimeError(f"{mutation.name}: the test did not run\n{result.stdout}{result.stderr}")
        return result.returncode == 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="NAME", help="run only the mutations whose name contains this text")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if arguments.only is None or arguments.only in m.name]
    if not chosen:
        parser.error(f"no mutation is called {arguments.only!r}; --list shows them")
    if arguments.list:
        print("\n".join(m.name for m in chosen))
        return 0
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder).resolve()
        copy_project(copy)
        check_that_the_copy_is_imported(copy)
        unmutated = pytest_in(copy, sorted({m.test for m in chosen}))
        if unmutated.returncode != 0:
            print(f"the tests are not green to begin with:\n{unmutated.stdout}{unmutated.stderr}")
            return 1
    survivors = 0
    for mutation in chosen:
        caught = is_caught(mutation)
        survivors += not caught
        print(f"{'red' if caught else 'STILL GREEN':<12}{mutation.name:<70}{mutation.test}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations turned their test red")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
