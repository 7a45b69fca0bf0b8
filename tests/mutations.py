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
    """The package, the tests and their configuration, without caches."""
    for folder in ("course_lib", "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)


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
