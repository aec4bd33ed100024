"""Purification of attacked digits (Nie et al. 2022): the accuracy of a classifier of digits, by the time of the noise.

    scoresde train --config configs/vp/digits_classes.py --workdir DIR
    python benchmarks/purification.py DIR [--count 200] [--steps 10] [--epsilon 0.3]

The classifier is a multilayer perceptron of scikit-learn on digits in [-1, 1]. Its attack is projected gradient descent on the
cross entropy in a ball of the maximum norm (20 steps of epsilon / 10, a random start), inside [-1, 1]. The attack on the
classifier knows nothing of the purification. The attack through the purification follows the mean gradient of several
purifications with other noise in each step (expectation over transformation), through all steps of the sampler.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

from benchmarks.runs import load
from scoresde.samplers import PredictorCorrector, ReverseDiffusion
from scoresde.tasks import purify

ATTACK_STEPS = 20


def classifier(pixels: Tensor, labels: Tensor) -> nn.Module:
    """The logits of a trained MLPClassifier, as a module of pixels (B, 1, 8, 8)."""
    fitted = MLPClassifier((64, 64), max_iter=500, random_state=0).fit(pixels.flatten(1).numpy(), labels.numpy())
    layers: list[nn.Module] = [nn.Flatten()]
    for weight, bias in zip(fitted.coefs_, fitted.intercepts_, strict=True):
        layer = nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = torch.tensor(weight.T).float(), torch.tensor(bias).float()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def attacked(
    logits: Callable[[Tensor, int], Tensor], pixels: Tensor, labels: Tensor, epsilon: float, draws: int = 1
) -> Tensor:
    """The digits after projected gradient descent. ``logits(pixels, k)`` may use other noise for each number k."""
    start = 2.0 * torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)) - 1.0
    x = (pixels + epsilon * start).clamp(-1.0, 1.0)
    for step in range(ATTACK_STEPS):
        slope = torch.zeros_like(x)
        for draw in range(draws):
            at = x.clone().requires_grad_(True)
            loss = nnf.cross_entropy(logits(at, step * draws + draw), labels, reduction="sum")
            slope += torch.autograd.grad(loss, at)[0]
        moved = x + 0.1 * epsilon * slope.sign()
        x = torch.minimum(torch.maximum(moved, pixels - epsilon), pixels + epsilon).clamp(-1.0, 1.0)
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--count", type=int, default=200, help="number of test digits")
    parser.add_argument("--steps", type=int, default=10, help="steps of the sampler")
    parser.add_argument("--epsilon", type=float, default=0.3, help="largest change of a pixel in [-1, 1]")
    parser.add_argument("--times", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3])
    parser.add_argument(
        "--adaptive", type=float, nargs="*", default=[0.1], help="times of the attack through the purification"
    )
    parser.add_argument("--draws", type=int, default=4, help="purifications in each step of this attack")
    parser.add_argument("--votes", type=int, default=10, help="purifications whose probabilities are averaged")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, _ = load(options.workdir)
    train, index = made.data.train, torch.arange(options.count)
    digits, labels = middle(made.data.test.events(index)), made.data.test.conditions(index)["label"]
    net = classifier(middle(train.events(torch.arange(len(train)))), train.conditions(slice(None))["label"])
    sampler = PredictorCorrector(ReverseDiffusion(), None, steps=options.steps)

    def purified(x: Tensor, t: float, seed: int) -> Tensor:
        return purify(sampler, model.sde, model, x, t, seed=seed)

    def accuracy(logits: Tensor) -> str:
        right = (logits.argmax(1) == labels).double()
        return f"{float(right.mean()):.3f} +- {float(right.std() / len(right) ** 0.5):.3f}"

    def cells(x: Tensor, t: float) -> str:
        """The accuracies of one purification, and of the mean probabilities of several."""
        with torch.no_grad():
            found = torch.stack([net(purified(x, t, seed)).softmax(1) for seed in range(options.votes)])
        return f"{accuracy(found[0])} | {accuracy(found.mean(0))}"

    bad = attacked(lambda x, k: net(x), digits, labels, options.epsilon)
    with torch.no_grad():
        print(
            f"{len(digits)} digits without purification: clean {accuracy(net(digits))}, attacked {accuracy(net(bad))}"
        )
    print(f"| t | clean | clean, mean of {options.votes} | attacked | attacked, mean of {options.votes} |")
    print("|---:|---:|---:|---:|---:|")
    for t in options.times:
        print(f"| {t:g} | {cells(digits, t)} | {cells(bad, t)} |", flush=True)
    for t in options.adaptive:
        count = options.draws * ATTACK_STEPS
        worst = attacked(
            lambda x, k, t=t: net(purified(x, t, 1000 + k)),  # type: ignore[misc]
            digits, labels, options.epsilon, options.draws,
        )  # fmt: skip
        print(f"attack through {count} purifications, t = {t:g}: | {cells(worst, t)} |", flush=True)


def middle(raw: Tensor) -> Tensor:
    """Levels 0, ..., 16 as numbers in (-1, 1): the middles of the intervals of the model's data."""
    return (raw.float() + 0.5) * 2.0 / 17.0 - 1.0


if __name__ == "__main__":
    main()
