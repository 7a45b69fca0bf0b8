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


PCA, VAE = "course_lib/latent/pca.py", "course_lib/latent/vae.py"
LIKELIHOODS, AUTOENCODER = "course_lib/latent/likelihoods.py", "course_lib/latent/autoencoder.py"

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
        "PCA without centring, tall data",
        PCA,
        (
            ("    shift = X.mean(dim=0).to(dtype)\n", "    shift = 0 * X.mean(dim=0).to(dtype)\n"),
            ("    offset /= len(X)\n", "    offset *= 0\n"),
        ),
        "tests/theory/test_pca_theory.py::test_the_error_is_the_sum_of_the_discarded_eigenvalues",
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
