"""Metrics against libraries, closed forms and small cases that can be counted by hand."""

import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score
from torch import nn
from torch.distributions import Normal
from torchmetrics.image.fid import _compute_fid

from course_lib import metrics
from course_lib.latent.vae import Bernoulli, mlp_vae


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_gaussian(n: int, mean: torch.Tensor, std: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """(n, F) points whose *sample* mean and covariance are exactly mean and diag(std²), up to rounding."""
    x = torch.randn(n, len(mean), dtype=torch.float64, generator=generator(seed))
    q, _ = torch.linalg.qr(x - x.mean(0))
    return q * math.sqrt(n - 1) * std + mean


class TestBitsPerDim:
    def test_uniform_over_256_levels_needs_8_bits(self):
        assert metrics.bits_per_dim(784 * math.log(256), 784) == pytest.approx(8.0, rel=1e-12)

    def test_shape_and_tensor(self):
        nats = torch.tensor([0.0, 12 * math.log(2)])
        assert torch.allclose(metrics.bits_per_dim(nats, (3, 2, 2)), torch.tensor([0.0, 1.0]))

    @pytest.mark.parametrize("dims", [0, -3, (3, 0)])
    def test_no_dimensions(self, dims):
        with pytest.raises(ValueError, match="at least one dimension"):
            metrics.bits_per_dim(1.0, dims)


class Linear(nn.Module):
    """z ~ N(0, 1), x|z ~ N(z, 1): p(x) = N(0, 2). The proposal N(x/2, 1) is wider than the posterior N(x/2, ½)."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[int, int]] = []
        self.dropout = nn.Dropout(0.5)  # would spoil the number in training mode

    def log_weights(self, x: torch.Tensor, k: int) -> torch.Tensor:
        self.seen.append((k, len(x)))
        x = self.dropout(x[:, 0])
        q = Normal(x / 2, 1.0)
        z = q.sample((k,))
        return Normal(0.0, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(x) - q.log_prob(z)

    @staticmethod
    def exact(x: torch.Tensor) -> torch.Tensor:
        return -Normal(0.0, math.sqrt(2)).log_prob(x[:, 0])


class TestImportanceNll:
    x = torch.randn(50, 1, generator=generator(1))

    def test_approaches_the_exact_likelihood(self):
        # The weights' relative variance is below 1, so k = 4000 gives ±0.02 per point, ±0.003 for the mean of 50.
        model = Linear().train()
        estimate = metrics.importance_nll(model, self.x, k=4000, batch_size=16, chunk=1500)
        exact = Linear.exact(self.x)
        assert estimate.mean == pytest.approx(exact.mean().item(), abs=0.01)
        assert estimate.stderr == pytest.approx((exact.std() / 50**0.5).item(), rel=0.05)
        assert model.training
        assert set(model.seen) == {(k, b) for k in (1500, 1000) for b in (16, 2)}

    def test_k_of_one_is_the_bound_and_lies_above(self):
        one = metrics.importance_nll(Linear(), self.x.repeat(40, 1), k=1)
        many = metrics.importance_nll(Linear(), self.x, k=1000)
        # KL(N(m, 1) ‖ N(m, ½)) = ½ (2 − 1 − ln 2) is the gap of the bound at k = 1.
        assert one.mean - many.mean == pytest.approx(0.5 * (1 - math.log(2)), abs=0.05)

    def test_chunks_change_memory_not_the_value(self):
        def constant(x, k):
            return torch.arange(k, dtype=torch.float32)[:, None] * 0 + x[:, 0]

        for chunk in (1, 3, 7, 100):
            assert metrics.importance_nll(constant, self.x, k=7, chunk=chunk).mean == pytest.approx(
                -self.x.mean().item(), abs=1e-6
            )

    def test_seed_generator_and_global_state(self):
        before = torch.random.get_rng_state()
        a, b, c = (metrics.importance_nll(Linear(), self.x, k=3, seed=s) for s in (0, 0, 1))
        d, e = (metrics.importance_nll(Linear(), self.x, k=3, generator=generator(5)) for _ in range(2))
        assert a == b
        assert a != c
        assert d == e
        assert d != a
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_takes_log_prob_and_batches(self):
        class Exact:
            def log_prob(self, x, k):
                return -Linear.exact(x) + 0 * k

        batches = [(self.x[:20], torch.zeros(20)), (self.x[20:], torch.zeros(30))]
        estimate = metrics.importance_nll(Exact(), batches, k=5)
        assert estimate.mean == pytest.approx(Linear.exact(self.x).mean().item(), rel=1e-6)
        assert str(estimate) == f"{estimate.mean:.2f} ± {estimate.stderr:.2f}"

    def test_all_samples_see_one_binarisation(self):
        # Were each chunk to draw its own, the easiest drawing would dominate: at grey level ½ and a code that says
        # nothing, every binary image has probability 2⁻⁶⁴, but a decoder that prefers white pays for each drawing.
        model = mlp_vae((1, 8, 8), 2, (4,), likelihood=Bernoulli("dynamic"))
        for layer in (model.encoder, model.decoder):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        nn.init.constant_(list(model.decoder.parameters())[-1], 1.0)  # logits 1 everywhere
        estimate = metrics.importance_nll(model, torch.full((200, 1, 8, 8), 0.5), k=500, chunk=1)
        expected = 64 * (math.log1p(math.exp(1.0)) - 0.5)  # E[−log p(x)] with half of the pixels white
        assert estimate.mean == pytest.approx(expected, abs=1.2)  # 4 standard errors of the 200 drawings

    @pytest.mark.parametrize(
        ("model", "images", "options", "message"),
        [
            (Linear(), x, {"k": 0}, "k must be at least 1"),
            (Linear(), x, {"chunk": 0}, "chunk must be at least 1"),
            (Linear(), [], {}, "no images"),
            (nn.Linear(1, 1), x, {}, "expected log_weights"),
            (lambda x, k: x, x, {"k": 3}, r"must return \(k, B\) = \(3, 50\)"),
        ],
    )
    def test_bad_input(self, model, images, options, message):
        with pytest.raises(ValueError, match=message):
            metrics.importance_nll(model, images, **options)


class TestFrechetDistance:
    def test_agrees_with_torchmetrics(self):
        a = torch.randn(500, 12, dtype=torch.float64, generator=generator(0)) @ torch.randn(
            12, 12, dtype=torch.float64, generator=generator(1)
        )
        b = 0.5 + torch.randn(300, 12, dtype=torch.float64, generator=generator(2)).cumsum(1)
        theirs = _compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()).item()
        assert metrics.frechet_distance(a, b) == pytest.approx(theirs, rel=1e-9)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 2**16), st.integers(1, 9), st.integers(12, 40), st.integers(12, 40))
    def test_closed_form_of_diagonal_gaussians(self, seed, width, n, m):
        # ‖μa − μb‖² + Σ (σa − σb)²
        mean_a, mean_b, std_a, std_b = torch.randn(4, width, dtype=torch.float64, generator=generator(seed))
        a = exact_gaussian(n, mean_a, std_a.exp(), seed)
        b = exact_gaussian(m, mean_b, std_b.exp(), seed + 1)
        expected = (mean_a - mean_b).square().sum() + (std_a.exp() - std_b.exp()).square().sum()
        assert metrics.frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-8, abs=1e-10)

    def test_fewer_rows_than_features(self):
        # Rank 4 in 50 dimensions: the same numbers as in the 5 dimensions that the points span.
        small_a, small_b = torch.randn(2, 5, 5, dtype=torch.float64, generator=generator(3))
        basis, _ = torch.linalg.qr(torch.randn(50, 5, dtype=torch.float64, generator=generator(4)))
        expected = metrics.frechet_distance(small_a, small_b)
        assert metrics.frechet_distance(small_a @ basis.T, small_b @ basis.T) == pytest.approx(
            expected, rel=1e-9
        )

    def test_symmetric_zero_and_float32(self):
        a = torch.randn(
            40, 8, generator=generator(0)
        ).relu()  # with columns of different scale, as real features
        b = torch.randn(30, 8, generator=generator(1)) * 100
        assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a), rel=1e-10)
        assert metrics.frechet_distance(b, b) <= 1e-9 * b.var(0).sum().item()
        shuffled = a[torch.randperm(40, generator=generator(2))].numpy()
        assert metrics.frechet_distance(a, shuffled) == pytest.approx(0.0, abs=1e-10)

    def test_shift_alone(self):
        a = torch.randn(20, 3, dtype=torch.float64, generator=generator(0))
        assert metrics.frechet_distance(a, a + 2.0) == pytest.approx(12.0, rel=1e-10)

    @pytest.mark.parametrize(
        ("a", "b", "message"),
        [
            (torch.zeros(5), torch.zeros(5, 2), r"features_a must be features \(N, F\)"),
            (torch.zeros(5, 2), torch.zeros(1, 2), "features_b must be features"),
            (torch.zeros(5, 2), torch.zeros(5, 3), "got 2 and 3 columns"),
            (torch.zeros(5, 2), torch.full((5, 2), math.nan), "NaN"),
        ],
    )
    def test_bad_input(self, a, b, message):
        with pytest.raises(ValueError, match=message):
            metrics.frechet_distance(a, b)


class TestPrecisionRecall:
    def test_by_hand(self):
        real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii to the nearest neighbour: 1, 1, 1, 8
        fake = torch.tensor([[2.9], [3.5], [-5.0]])  # radii: 0.6, 0.6, 7.9
        # fake 2.9 lies within 1 of 2; 3.5 within 8 of 10; −5 nowhere. Real 0, 1, 2 lie within 7.9 of −5; 10 nowhere.
        result = metrics.precision_recall(real, fake, k=1)
        assert result.precision == pytest.approx(2 / 3)
        assert result.recall == pytest.approx(3 / 4)

    def test_the_bound_itself_counts_as_inside(self):
        real = torch.tensor([[0.0], [1.0]])
        fake = torch.tensor([[2.0], [2.5]])
        assert metrics.precision_recall(real, fake, k=1) == (0.5, 0.0)

    def test_a_common_shift_changes_nothing(self):
        # Multiples of 1/8 shifted by 2²⁸ are exact in float64; ‖a‖² + ‖b‖² − 2ab would lose their differences.
        real, fake = torch.randint(0, 100, (2, 60, 3), generator=generator(), dtype=torch.float64) / 8
        expected = metrics.precision_recall(real, fake)
        assert 0 < expected.precision < 1
        assert metrics.precision_recall(real + 2**28, fake + 2**28) == expected

    def test_equal_sets_and_duplicates(self):
        x = (
            torch.randn(20, 3, generator=generator()).repeat(4, 1) + 1000.0
        )  # radius 0: rounding would lose them
        assert metrics.precision_recall(x, x[torch.arange(79, -1, -1)], k=3) == (1.0, 1.0)

    def test_mode_collapse_lowers_recall_spread_lowers_precision(self):
        real = torch.randn(400, 2, generator=generator(0))
        narrow, wide = (
            0.2 * torch.randn(400, 2, generator=generator(1)),
            5 * torch.randn(400, 2, generator=generator(2)),
        )
        collapsed, spread = metrics.precision_recall(real, narrow), metrics.precision_recall(real, wide)
        assert collapsed.precision > 0.95
        assert collapsed.recall < 0.3
        assert spread.precision < 0.3
        assert spread.recall > 0.8

    def test_chunks_do_not_matter(self):
        real, fake = torch.randn(2, 101, 4, generator=generator(0))
        whole = metrics.precision_recall(real, fake + 0.5)
        assert whole == metrics.precision_recall(real, fake + 0.5, chunk=7)
        assert whole == metrics.precision_recall(fake + 0.5, real)[::-1]

    @pytest.mark.parametrize("k", [0, 4])
    def test_k_out_of_range(self, k):
        with pytest.raises(ValueError, match=r"1 … 3"):
            metrics.precision_recall(torch.zeros(5, 2), torch.zeros(4, 2), k=k)


class TestClusterings:
    @pytest.mark.parametrize(
        ("true", "pred", "expected"),
        [
            ([0, 0, 1, 1, 2, 2], [5, 5, 3, 3, 9, 9], 1.0),
            ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1], 5 / 6),
            ([0, 0, 0, 0], [0, 1, 2, 3], 1 / 4),  # more clusters than labels: three stay unnamed
            ([0, 1, 2, 3], [7, 7, 7, 7], 1 / 4),  # fewer
        ],
    )
    def test_by_hand(self, true, pred, expected):
        assert metrics.clustering_accuracy(np.array(true), torch.tensor(pred)) == pytest.approx(expected)

    def test_the_naming_is_optimal_not_greedy(self):
        # counts [[3, 2], [3, 0]]: greedy 3 + 0, optimal 2 + 3.
        true, pred = [0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1]
        assert metrics.clustering_accuracy(np.array(true), np.array(pred)) == pytest.approx(5 / 8)

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40),
        st.permutations(range(5)),
    )
    def test_names_do_not_matter(self, pairs, renaming):
        true, pred = np.array(pairs).T
        accuracy = metrics.clustering_accuracy(true, pred)
        assert accuracy == metrics.clustering_accuracy(np.array(renaming)[true], pred)
        assert accuracy == metrics.clustering_accuracy(pred, true)
        assert np.bincount(true).max() / len(true) / 4 <= accuracy <= 1

    def test_nmi(self):
        true, pred = torch.randint(0, 4, (2, 200), generator=generator())
        assert metrics.nmi(true, pred) == pytest.approx(
            normalized_mutual_info_score(true.numpy(), pred.numpy())
        )
        assert metrics.nmi(true, 3 - true) == pytest.approx(1.0)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="one length"):
            metrics.clustering_accuracy(np.zeros(3), np.zeros(4))
        with pytest.raises(ValueError, match="one length"):
            metrics.nmi(np.zeros((3, 1)), np.zeros((3, 1)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def digits_features(cache):
    return metrics.feature_extractor("digits", steps=250, cache=cache)


def quick(cache, **options):
    return metrics.feature_extractor("digits", steps=5, cache=cache, **options)


class TestFeatureExtractor:
    def test_it_reads_digits(self, digits_features):
        from course_lib import data

        test = data.load("digits", split="test")
        predicted = digits_features.logits(test.tensor()).argmax(1)
        accuracy = (predicted == test.labels).double().mean().item()
        assert accuracy == pytest.approx(digits_features.accuracy)
        assert accuracy > 0.97
        assert not digits_features.training
        assert not any(p.requires_grad for p in digits_features.parameters())
        assert digits_features(test.tensor()[:3]).shape == (3, 64)

    def test_its_features_order_images_by_damage(self, digits_features):
        from course_lib import data

        x = data.load("digits").tensor()
        a, b = x[:600], x[600:1200]
        noise = torch.rand(b.shape, generator=generator())
        near, far = ((1 - share) * b + share * noise for share in (0.1, 0.5))
        same, little, much = (
            metrics.frechet_distance(digits_features(a), digits_features(y)) for y in (b, near, far)
        )
        assert same < little < much

    @pytest.mark.parametrize(
        "x", [torch.zeros(2, 1, 9, 8), torch.zeros(1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.long)]
    )
    def test_bad_images(self, digits_features, x):
        with pytest.raises(ValueError, match=r"expected images \(N, 1, 8, 8\)"):
            digits_features(x)

    def test_same_seed_same_weights_whatever_the_threads_and_the_global_seed(self, tmp_path):
        before = torch.random.get_rng_state(), torch.get_num_threads()
        one = quick(tmp_path / "a")
        torch.manual_seed(99)
        torch.set_num_threads(2)
        two, other = quick(tmp_path / "b"), quick(tmp_path / "b", seed=1)
        torch.random.set_rng_state(before[0])
        torch.set_num_threads(before[1])
        for a, b, c in zip(one.parameters(), two.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
            assert not torch.equal(a, c)

    def test_second_call_reads_the_cache(self, tmp_path, monkeypatch):
        first = quick(tmp_path)
        (file,) = tmp_path.iterdir()
        assert file.name.startswith("digits-")
        assert file.suffix == ".pt"
        monkeypatch.setattr(metrics, "_train_reproducibly", lambda *_: pytest.fail("trained again"))
        second = quick(tmp_path)
        assert second.accuracy == first.accuracy
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))

    @pytest.mark.parametrize("damage", ["truncated", "text", "one weight", "accuracy", "no checksum"])
    def test_damaged_cache_is_reported_and_replaced(self, tmp_path, damage):
        sound = quick(tmp_path)
        (file,) = tmp_path.iterdir()
        stored = torch.load(file, weights_only=True)
        if damage == "truncated":
            file.write_bytes(file.read_bytes()[:-1000])
        elif damage == "text":
            file.write_text("not a checkpoint")
        else:
            if damage == "one weight":
                stored["state"]["head.bias"][0] += 1e-3
            elif damage == "accuracy":
                stored["accuracy"] = 1.0
            else:
                del stored["checksum"]
            torch.save(stored, file)
        with pytest.warns(UserWarning, match="damaged cache"):
            again = quick(tmp_path)
        assert all(torch.equal(a, b) for a, b in zip(sound.parameters(), again.parameters(), strict=True))
        assert quick(tmp_path).accuracy == sound.accuracy  # no warning any more
        assert [f.suffix for f in tmp_path.iterdir()] == [".pt"]

    def test_other_data_other_file(self, tmp_path):
        quick(tmp_path)
        quick(tmp_path, classes=(0, 1, 2))
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_failed_write_leaves_nothing(self, tmp_path, monkeypatch):
        def fail(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            quick(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_unusable_cache_folder(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.warns(UserWarning, match="cannot cache"):
            assert quick(tmp_path / "file" / "cache").accuracy >= 0

    def test_bad_names(self):
        with pytest.raises(ValueError, match="unknown data set"):
            metrics.feature_extractor("no such set")
        with pytest.raises(ValueError, match="needs images with labels"):
            metrics.feature_extractor("toy2d/ring")
        with pytest.raises(ValueError, match="leave levels out"):
            metrics.feature_extractor("digits", levels=17)
