"""Classes of two Gaussians, whose probabilities are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scoresde._validation import expand
from scoresde.likelihood import Exact, classify, elbo
from scoresde.sde import VPSDE

STD = 0.5
CENTERS = torch.tensor([[-0.6, 0.0], [0.6, 0.0], [0.0, 0.8]], dtype=torch.float64)


class Classes:
    """The exact score of N(center of the class, STD^2) under VP."""

    sde = VPSDE()

    def __call__(self, x, t, *, label):
        kernel = self.sde.kernel(t)
        variance = kernel.signal() ** 2 * STD**2 + kernel.std**2
        return -(x - kernel.mean(CENTERS[label].to(x))) / expand(variance, x)


@pytest.mark.parametrize("prior", [None, [0.7, 0.2, 0.1]])
def test_probabilities_are_those_of_bayes(prior):
    x = torch.linspace(-1.0, 1.0, 14).reshape(7, 2)
    found = classify(VPSDE(), Classes(), x, 3, prior=prior, divergence=Exact())
    log_prob = torch.distributions.Normal(CENTERS, STD).log_prob(x[:, None].double()).sum(-1)
    joint = log_prob + torch.tensor(prior or [1.0] * 3, dtype=torch.float64).log()
    torch.testing.assert_close(found.log_prob, log_prob, rtol=0, atol=0.03)
    torch.testing.assert_close(found.probabilities, joint.softmax(1), rtol=0, atol=0.01)
    assert torch.equal(found.predicted, joint.argmax(1))
    best = joint.topk(2, dim=1).values
    torch.testing.assert_close(found.margin, best[:, 0] - best[:, 1], rtol=0, atol=0.05)
    assert found.margin_error.shape == (7,) and "3 classes" in repr(found)


def test_the_bound_in_place_of_the_likelihood():
    x = torch.linspace(-1.0, 1.0, 14).reshape(7, 2)
    found = classify(VPSDE(), Classes(), x, 3, likelihood=elbo, data_std=STD, draws=8, replicates=8)
    log_prob = torch.distributions.Normal(CENTERS, STD).log_prob(x[:, None].double()).sum(-1)
    difference, exact = (values - values[:, :1] for values in (found.log_prob, log_prob))
    torch.testing.assert_close(difference, exact, rtol=0, atol=0.4)
    assert float(found.margin_error.max()) < 0.5


def test_classes_by_value():
    x = CENTERS[[2, 0]].float()
    found = classify(VPSDE(), Classes(), x, [2, 0], divergence=Exact())
    assert found.predicted.tolist() == [0, 1]


def test_other_conditions_are_the_same_for_all_classes():
    x, shift = torch.linspace(-1.0, 1.0, 14).reshape(7, 2), torch.linspace(-1.0, 1.0, 7)[:, None]

    def shifted(x, t, *, label, shift):
        return Classes()(x - VPSDE().kernel(t).mean(shift.expand_as(x)).to(x), t, label=label)

    found = classify(VPSDE(), shifted, x + shift, np.int64(3), condition={"shift": shift}, divergence=Exact())
    alone = classify(VPSDE(), Classes(), x, 3, divergence=Exact())
    torch.testing.assert_close(found.probabilities, alone.probabilities, rtol=0, atol=0.02)
    with pytest.raises(ValueError, match="condition has a value for 'label', which is the name of the classes"):
        classify(VPSDE(), Classes(), x, 3, condition={"label": torch.zeros(7).long()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "classes=1 is not allowed: give at least two"),
        ({"classes": 3, "prior": [1.0, 2.0]}, "give 3 numbers >= 0"),
        ({"classes": 2, "prior": [-1.0, 2.0]}, "give 2 numbers >= 0"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        classify(VPSDE(), Classes(), torch.zeros(2, 2), **options)
