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
WGAN = "course_lib/adversarial/wgan.py"

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
        (("        mu, logvar = _full_precision(out)", "        logvar, mu = _full_precision(out)"),),
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
