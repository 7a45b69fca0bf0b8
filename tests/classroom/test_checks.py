"""The verbs and assertions of the test cells, as they work in a student's own notebook."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from course_lib.classroom import checks
from course_lib.classroom.checks import Failed


def failure(assertion, *args, **kwargs) -> Failed:
    """The Failed that the assertion raises."""
    with pytest.raises(Failed) as caught:
        assertion(*args, **kwargs)
    return caught.value


# --- close --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (torch.ones(3), torch.ones(3, dtype=torch.float64)),
        (torch.ones(3, dtype=torch.int64), torch.ones(3)),
        (np.ones(3), torch.ones(3)),
        (torch.tensor(2.0), 2.0),
        (2, torch.tensor(2.0)),
        (1.0 + 9e-7, 1.0),
        (torch.tensor([1.0, float("nan"), float("inf")]), torch.tensor([1.0, float("nan"), float("inf")])),
        ((torch.ones(2), 3.0), (torch.ones(2), 3.0)),
        ([1.0, 2.0], (1.0, 2.0)),
        ({"a": torch.zeros(2), "b": None}, {"b": None, "a": torch.zeros(2)}),
        (torch.ones(2, requires_grad=True), torch.ones(2)),
        (torch.ones(2, dtype=torch.bfloat16), torch.ones(2)),
        (10**400, 10**400),
        (1j, 1j),
        (torch.zeros(0), torch.zeros(0)),
    ],
)
def test_close_accepts(got, expected):
    checks.close(got, expected)


@pytest.mark.parametrize(
    ("got", "expected", "part"),
    [
        (
            torch.tensor([1.0, 2.5, 3.0]),
            torch.tensor([1.0, 2.0, 3.5]),
            "got 2.5, expected 2 at 1 (2 of 3 values",
        ),
        (torch.eye(2), torch.ones(2, 2), "got 0, expected 1 at (0, 1) (2 of 4"),
        (1.0001, 1.0, "got 1.0001, expected 1"),
        (torch.ones(2, 1), torch.ones(2), "the shape is (2, 1), expected (2,)"),
        (torch.tensor([float("nan"), 1.0]), torch.ones(2), "the result holds NaN"),
        (torch.tensor([float("inf"), 1.0]), torch.ones(2), "the result holds an infinity"),
        (torch.ones(2), torch.tensor([1.0, float("nan")]), "got 1, expected nan at 1"),
        (None, torch.ones(2), "got None (is a return missing?)"),
        ("tensor(1.)", torch.tensor(1.0), "expected a number, a tensor or an array, got 'tensor(1.)'"),
        (object(), 1.0, "got object"),
        (torch.tensor([True]), torch.tensor([1.0]), "expected numbers, got truth values"),
        ((1.0,), (1.0, 2.0), "expected 2 values in a tuple or list, got a tuple of length 1"),
        (torch.ones(2), (1.0, 1.0), "expected 2 values in a tuple or list"),
        ({"a": 1}, {"a": 1, "b": 2}, "expected a dict with the keys ['a', 'b'], got ['a']"),
        ((1.0, torch.zeros(2)), (1.0, torch.ones(2)), "got 0, expected 1 at [1] at 0"),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 3.0]}, "at ['a'][1]"),
        (np.array(["x"]), torch.ones(1), "expected a number, a tensor or an array"),
    ],
)
def test_close_refuses_and_says_why(got, expected, part):
    assert part in str(failure(checks.close, got, expected))


def test_close_tolerances():
    checks.close(1.01, 1.0, rtol=0.011, atol=0.0)
    checks.close(0.01, 0.0, rtol=0.0, atol=0.011)
    failure(checks.close, 1.01, 1.0, rtol=0.009, atol=0.0)
    failure(checks.close, 0.01, 0.0, rtol=1.0, atol=0.009)


def test_close_names_the_mistake():
    def kl(minus_one: bool):
        return 0.5 * (torch.tensor([4.0, 0.0]) + 1.0 - float(minus_one))

    mistakes = {"the −1 is missing": kl(False), "the half is missing": 2 * kl(True)}
    assert str(failure(checks.close, kl(False), kl(True), "see (3)", mistakes=mistakes)).startswith(
        "it looks as if the −1 is missing. see (3)"
    )
    assert "half" in str(failure(checks.close, 2 * kl(True), kl(True), mistakes=mistakes))
    assert "looks" not in str(failure(checks.close, kl(True) + 7, kl(True), mistakes=mistakes))
    # a mistake of another shape is recognised, and one that happens to have the right value is none
    assert "no sum" in str(
        failure(checks.close, torch.ones(3), torch.tensor(3.0), mistakes={"no sum": torch.ones(3)})
    )
    checks.close(kl(True), kl(True), mistakes={"anything": kl(True)})


def test_hints_hold_no_number_of_the_test():
    for got in (torch.tensor([1.25]), 1.25, None, "text", torch.ones(7), (1, 2), {"a": 1}):
        error = failure(checks.close, got, torch.tensor([31.0625, 2.0]), "see the lecture")
        assert "31.06" not in error.hint
        assert "see the lecture" in error.hint
    assert "secret" not in failure(checks.close, "secret", 1.0).hint
    assert "31" not in failure(checks.equal, 5, 31, "hint").hint
    assert "31" not in failure(checks.shape, torch.ones(2), (31,)).hint


# --- the other assertions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (3, 3), (3.0, 3), (torch.tensor(3), 3), (True, True), (torch.tensor([True, False]), np.array([True, False])),
        ("abc", "abc"), (None, None), ([1, "a"], (1, "a")), (torch.arange(3), np.arange(3)), (2**62 + 1, 2**62 + 1),
    ],
)  # fmt: skip
def test_equal_accepts(got, expected):
    checks.equal(got, expected)


@pytest.mark.parametrize(
    ("got", "expected"),
    [(3, 4), (3.0000001, 3), (1, True), (False, 0), ("a", "b"), (None, 0), (0, None), ([1], [1, 2]), ("1", 1),
     (2**62 + 1, 2**62), (torch.tensor([1, 2]), torch.tensor([[1, 2]]))],
)  # fmt: skip
def test_equal_refuses(got, expected):
    failure(checks.equal, got, expected, "hint")


def test_shape_true_finite_is_tensor():
    checks.shape(torch.ones(2, 3), (2, 3))
    checks.shape(np.ones(2), [2])
    checks.shape(1.0, ())
    assert "expected the shape (3,), got (2,)" in str(failure(checks.shape, torch.ones(2), (3,)))
    failure(checks.shape, None, ())
    checks.true(True, "h")
    checks.true(torch.tensor(True), "h")
    checks.true(np.bool_(True), "h")
    assert str(failure(checks.true, torch.tensor(1.0) > 2, "too small")) == "too small"
    for no_truth_value in (1, "yes", torch.tensor(1.0), torch.tensor([True, True]), None):
        failure(checks.true, no_truth_value, "h")
    checks.finite(torch.ones(2))
    assert "NaN" in str(failure(checks.finite, torch.tensor([1.0, float("nan")])))
    assert "infinity" in str(failure(checks.finite, float("inf")))
    checks.is_tensor(torch.ones(1))
    assert "array" in str(failure(checks.is_tensor, np.ones(1)))


def test_raises():
    def reject(x):
        raise ValueError(f"expected a positive number, got {x}")

    def unsolved(x):
        raise NotImplementedError

    checks.raises(ValueError, reject, -1)
    checks.raises(ValueError, reject, -1, message="Positive")
    checks.raises(NotImplementedError, unsolved, 1)
    assert "nothing was raised" in str(failure(checks.raises, ValueError, abs, -1))
    assert "got TypeError" in str(failure(checks.raises, ValueError, abs, "x"))
    assert "negative" in str(failure(checks.raises, ValueError, reject, -1, message="negative"))
    failure(checks.raises, Exception, unsolved, 1)  # a stub rejects nothing
    failure(checks.raises, RuntimeError, unsolved, 1)  # though NotImplementedError is one


# --- verbs --------------------------------------------------------------------------------------------------------


def test_generators_repeat_themselves(monkeypatch):
    assert torch.equal(
        torch.rand(3, generator=checks.generator(4)), torch.rand(3, generator=checks.generator(4))
    )
    monkeypatch.delenv("COURSE_GRADING_SEED", raising=False)
    default = torch.rand(3, generator=checks.rng("task"))
    assert torch.equal(default, torch.rand(3, generator=checks.rng("task")))
    assert not torch.equal(default, torch.rand(3, generator=checks.rng("another task")))
    monkeypatch.setenv("COURSE_GRADING_SEED", "0")
    assert torch.equal(default, torch.rand(3, generator=checks.rng("task")))
    monkeypatch.setenv("COURSE_GRADING_SEED", "1")
    assert not torch.equal(default, torch.rand(3, generator=checks.rng("task")))


def test_seeded():
    assert torch.equal(checks.seeded(5, torch.rand, 3), checks.seeded(5, torch.rand, 3))
    assert not torch.equal(checks.seeded(5, torch.rand, 3), checks.seeded(6, torch.rand, 3))


def test_gradient():
    x, y, weight = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]), torch.tensor([1.0, 10.0])
    product = torch.mul
    assert checks.gradient(product, x, y).tolist() == [3.0, 5.0]
    assert checks.gradient(product, x, y, wrt=1, weight=weight).tolist() == [1.0, 20.0]
    both = checks.gradient(product, x, y, wrt=(0, 1))
    assert [g.tolist() for g in both] == [[3.0, 5.0], [1.0, 2.0]]
    assert checks.gradient(lambda a: (a, a**2), x, output=1).tolist() == [2.0, 4.0]
    assert checks.gradient(lambda a: {"loss": a**2}, x, output="loss").tolist() == [2.0, 4.0]
    assert checks.gradient(lambda a, b: b * 2, x, y).tolist() == [0.0, 0.0]  # does not depend on it
    assert checks.gradient(lambda a: a.detach() ** 2, x).tolist() == [0.0, 0.0]  # stop-gradient
    assert checks.gradient(lambda a, power: a**power, x, power=3).tolist() == [3.0, 12.0]
    with torch.no_grad():
        assert checks.gradient(product, x, y).tolist() == [3.0, 5.0]
    assert x.grad is None
    assert not x.requires_grad


def test_gradient_refuses_what_has_none():
    x = torch.ones(2)
    assert "floating-point" in str(failure(checks.gradient, lambda a: 3.0, x))
    assert "floating-point" in str(failure(checks.gradient, lambda a: None, x))
    assert "shape (3,)" in str(failure(checks.gradient, lambda a: a, x, weight=torch.ones(3)))


class Affine(nn.Module):
    """A student's module."""

    def __init__(self, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1)
        self.drop = nn.Dropout(0.5)
        self.unused = nn.Parameter(torch.zeros(2))
        self.scale = scale

    def forward(self, x):
        return self.drop(self.linear(x)) * self.scale

    def double(self, x):
        return 2 * x


def test_handle():
    handle = checks.build(Affine, 3, seed=1, scale=2.0)
    again = checks.build(Affine, 3, seed=1, scale=2.0)
    other = checks.build(Affine, 3, seed=2, scale=2.0)
    state, x = handle.state(), torch.ones(4, 3)
    assert torch.equal(state["linear.weight"], again.state()["linear.weight"])
    assert not torch.equal(state["linear.weight"], other.state()["linear.weight"])
    expected = 2 * (x @ state["linear.weight"].T + state["linear.bias"])
    assert torch.allclose(handle.eval()(x), expected)
    assert (handle.train()(torch.ones(400, 3)) == 0).any()
    handle.eval()
    assert handle.call("double", 4) == 8
    assert handle.attribute("scale") == 2.0
    assert torch.equal(handle.attribute("linear.weight"), state["linear.weight"])
    grads = handle.gradient(x, weight=torch.ones(4, 1))
    assert grads["linear.bias"].tolist() == [8.0]
    assert grads["unused"].tolist() == [0.0, 0.0]
    assert torch.allclose(checks.gradient(handle, x), 2 * state["linear.weight"].expand(4, 3))
    other.load(state)
    assert torch.equal(other.state()["linear.weight"], state["linear.weight"])
    given = checks.build(Affine, 3, weights=state)
    assert torch.equal(given.state()["linear.bias"], state["linear.bias"])
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load({})


def test_state_is_a_copy():
    handle = checks.build(Affine, 3)
    handle.state()["linear.weight"].zero_()
    assert handle.state()["linear.weight"].abs().sum() > 0


def test_value():
    assert checks.value(3) == 3
