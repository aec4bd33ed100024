"""Keyed noise: Philox against Random123's known answers, independence of the batch, distributions by statistics.

A statistical test here passes for a new seed with probability 1 - 1e-6 or more. The seeds are fixed, so that a failure means
a change of the code. Each statistical test is shown to fail for a planted error of a few per cent.
"""

from __future__ import annotations

import math
import random
import zlib

import numpy as np
import pytest
import torch
from scipy import stats

import scoresde.noise
from scoresde import VPSDE, GaussianMixture, log_likelihood
from scoresde.noise import NoiseSource, philox
from scoresde.samplers import UniPC

F64 = torch.float64
FALSE_ALARM = 1e-6
KINDS = ("uniform", "normal", "rademacher", "integers")


def draw(source, kind, event_shape=(3, 2), step=4, purpose="test", dtype=F64):
    if kind == "integers":
        return source.integers(1000, event_shape, step=step, purpose=purpose)
    return getattr(source, kind)(event_shape, step=step, purpose=purpose, dtype=dtype)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter, key, answer):
    words = tuple(torch.tensor([int(w, 16)] * 2) for w in counter.split())
    found = philox(words, tuple(int(w, 16) for w in key.split()))
    assert [w.tolist() for w in found] == [[int(w, 16)] * 2 for w in answer.split()]


def test_the_counter_is_block_index_step_purpose():
    """The layout that the module's docstring states, word by word."""
    source = NoiseSource(2**40 + 5, torch.tensor([9]))
    found = source.uniform((8,), step=3, purpose="p", dtype=F64)[0]
    words = []
    for block in (0, 1):
        counter = tuple(torch.tensor(w) for w in (block, 9, 3, zlib.crc32(b"p")))
        words += [int(w) for w in philox(counter, (5, 2**8))]
    assert found.tolist() == [(w + 0.5) / 2**32 for w in words]


def test_known_normals():
    """Values that never change, to the last bits: the same seed always gives the same samples."""
    source = NoiseSource(2**40 + 7, torch.tensor([3, 2**32 - 1]))
    kept = [
        [[0.21679948088458928, -0.3585894545267524, 0.10731171579903281]],
        [[-0.8981558071362955, -0.7754814401589256, -0.2785697741057308]],
        [[2.13577199809389, 0.939910721918481, 1.232717068030361]],
        [[0.09506385479651873, -1.1376286418238315, -0.2737454785054967]],
    ]
    found = [source.normal((1, 3), step=step, purpose="pinned", dtype=F64) for step in (0, 2**32 - 1)]
    assert torch.allclose(torch.cat(found), torch.tensor(kept, dtype=F64), rtol=4e-16, atol=0.0)
    low = source.normal((1, 3), step=0, purpose="pinned", dtype=torch.float32)
    assert torch.equal(low, torch.tensor(kept[:2]))


@pytest.mark.parametrize("ahead", [1, 7, 100, 2**14])
@pytest.mark.parametrize("event_shape", [(), (7,), (2, 9)])
@pytest.mark.parametrize("kind", ["normal", "rademacher"])
def test_draws_ahead_are_those_of_each_step(monkeypatch, kind, ahead, event_shape):
    """For any number of steps together, and never more numbers at once than allowed unless one step needs them."""
    sizes = []

    def counted(counter, key):
        words = philox(counter, key)
        sizes.append(words[0].numel())
        return words

    monkeypatch.setattr(scoresde.noise, "philox", counted)
    monkeypatch.setattr(scoresde.noise, "_AHEAD", ahead)
    source, steps = NoiseSource.of(4, 5, first=3), [*range(20), 2**32 - 1, 4]
    found = list(getattr(source, f"{kind}s")(event_shape, steps=steps, purpose="p", dtype=F64))
    assert max(sizes) <= max(ahead, 5 * -(-math.prod(event_shape) // 4))
    assert len(found) == len(steps)
    for step, z in zip(steps, found, strict=True):
        assert torch.equal(z, getattr(source, kind)(event_shape, step=step, purpose="p", dtype=F64))


@pytest.mark.parametrize("name", ["normals", "rademachers"])
def test_draws_ahead_use_the_methods_of_a_subclass(name):
    class Opposite(NoiseSource):
        def normal(self, event_shape, **key):
            return -super().normal(event_shape, **key)

        def rademacher(self, event_shape, **key):
            return -super().rademacher(event_shape, **key)

    key = {"purpose": "p", "dtype": F64}
    plain, own = (list(getattr(kind.of(0, 3), name)((2,), steps=range(3), **key)) for kind in (NoiseSource, Opposite))
    assert torch.equal(torch.stack(plain), -torch.stack(own))


@pytest.mark.parametrize("size", [1, 6, 7])
def test_every_kind_is_its_stated_function_of_the_uniforms(size):
    """Box-Muller pairs, signs and whole numbers, in float64.

    An event with an odd number of elements drops the last number of its last pair.
    """
    source = NoiseSource.of(2, 50)
    u = draw(source, "uniform", (8,))
    radius, angle = (-2 * u[:, 0::2].log()).sqrt(), 2 * np.pi * u[:, 1::2]
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)
    assert torch.allclose(draw(source, "normal", (size,)), pairs[:, :size], rtol=1e-14, atol=1e-15)
    assert torch.equal(draw(source, "rademacher", (size,)), torch.sign(u[:, :size] - 0.5))
    assert torch.equal(draw(source, "integers", (size,)), torch.floor(1000 * u[:, :size]).long())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event_shape", [(), (1,), (3, 2), (2, 1, 5)])
def test_a_sample_does_not_depend_on_its_batch(kind, event_shape):
    alone = draw(NoiseSource(11, torch.tensor([5])), kind, event_shape)[0]
    assert alone.shape == event_shape
    for first, count in ((0, 7), (5, 7), (0, 64), (3, 64)):
        batch = draw(NoiseSource.of(11, count, first=first), kind, event_shape)
        assert batch.shape == (count, *event_shape)
        assert torch.equal(batch[5 - first], alone)
    order = torch.from_numpy(np.random.default_rng(0).permutation(64))
    shuffled = draw(NoiseSource(11, order), kind, event_shape)
    assert torch.equal(shuffled, draw(NoiseSource.of(11, 64), kind, event_shape)[order])


def test_the_largest_index_step_and_seed_are_distinct():
    top = NoiseSource(2**64 - 1, torch.tensor([0, 2**31, 2**32 - 1]))
    z = draw(top, "normal", (4,), step=2**32 - 1)
    assert torch.isfinite(z).all()
    assert len(torch.unique(z)) == z.numel()
    assert torch.equal(draw(NoiseSource(2**64 - 1, torch.tensor([2**32 - 1])), "normal", (4,), step=2**32 - 1)[0], z[2])


def test_every_part_of_the_key_matters():
    """Two of the 64 numbers agree by chance with probability 5e-7."""
    base = {"seed": 3, "index": 8, "step": 2, "purpose": "a"}
    others = [{"seed": 4}, {"seed": 3 + 2**32}, {"index": 9}, {"step": 3}, {"purpose": "b"}]
    others += [{"seed": 8, "index": 3}, {"index": 2, "step": 8}]

    def of(seed, index, step, purpose):
        return draw(NoiseSource(seed, torch.tensor([index])), "uniform", (8,), step, purpose)

    found = torch.cat([of(**(base | other)) for other in [{}, *others]])
    assert len(torch.unique(found)) == found.numel()


def test_repetitions_of_different_seeds_differ():
    """Seeds 0 to 15 with 16 repetitions each are 256 different sources; seed + number would give 31."""
    sources = {(s, k): NoiseSource.of(s, 3, first=5).again(k) for s in range(16) for k in range(16)}
    assert len({source.seed for source in sources.values()}) == 256
    assert all(sources[s, 0].seed == s for s in range(16))
    assert torch.equal(sources[3, 2].indices, torch.tensor([5, 6, 7]))
    assert not torch.equal(draw(sources[3, 2], "normal"), draw(sources[2, 3], "normal"))
    for number in (-1, 2**32, 0.5):
        with pytest.raises(ValueError, match="number="):
            NoiseSource.of(0, 2).again(number)


def test_a_longer_event_starts_like_a_shorter_one():
    source = NoiseSource.of(0, 3)
    assert torch.equal(draw(source, "normal", (9,))[:, :4], draw(source, "normal", (4,)))


@pytest.mark.parametrize("kind", ["uniform", "normal", "rademacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lower_precision_is_the_rounded_float64(kind, dtype):
    source = NoiseSource.of(5, 500)
    low, high = draw(source, kind, (40,), dtype=dtype), draw(source, kind, (40,))
    assert low.dtype == dtype
    rounded = high.to(dtype)
    if kind == "uniform":  # rounding may reach 1, and draws stay below it
        rounded = rounded.clamp(max=1.0 - torch.finfo(dtype).eps / 2)
    assert torch.equal(low, rounded)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_extreme_words_stay_inside_the_unit_interval(monkeypatch, word, dtype):
    monkeypatch.setattr(scoresde.noise, "philox", lambda counter, key: (torch.full_like(counter[0], word),) * 4)
    source = NoiseSource.of(0, 2)
    u = draw(source, "uniform", (3,), dtype=dtype)
    assert ((u > 0) & (u < 1)).all()
    assert torch.isfinite(draw(source, "normal", (3,), dtype=dtype)).all()
    assert (draw(source, "integers", (3,)) == (0 if word == 0 else 999)).all()
    assert (draw(source, "rademacher", (3,), dtype=dtype) == (-1 if word == 0 else 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_global_random_state_is_read_or_changed(kind):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state is what is under test
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        found.append(draw(NoiseSource.of(0, 6), kind))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
        assert random.getstate() == before[2]
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_global_dtype_does_not_matter(kind):
    found = draw(NoiseSource.of(0, 6), kind)
    torch.set_default_dtype(F64)
    try:
        again = draw(NoiseSource.of(0, 6), kind)
    finally:
        torch.set_default_dtype(torch.float32)
    assert again.dtype == found.dtype and torch.equal(again, found)


def ks(values, cdf):
    return stats.kstest(values.flatten().numpy(), cdf).pvalue


def normal_mean(values):
    """Two-sided p-value that the mean of values of variance 1 is 0."""
    values = values.flatten().numpy()
    return 2 * stats.norm.sf(abs(values.mean()) * np.sqrt(values.size))


def correlation(a, b):
    """Two-sided p-value that two samples are uncorrelated."""
    r = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]
    return 2 * stats.norm.sf(abs(r) * np.sqrt(a.numel()))


def test_uniform_distribution():
    u = draw(NoiseSource.of(1, 1000), "uniform", (200,))
    assert ks(u, "uniform") > FALSE_ALARM
    assert ks(u**1.05, "uniform") < FALSE_ALARM
    assert ks(0.99 * u, "uniform") < FALSE_ALARM


def test_normal_distribution():
    z = draw(NoiseSource.of(1, 1000), "normal", (200,))
    assert ks(z, "norm") > FALSE_ALARM
    assert ks(1.05 * z, "norm") < FALSE_ALARM
    # second and fourth moments, standard deviations sqrt(2) and sqrt(96)
    assert normal_mean((z**2 - 1) / 2**0.5) > FALSE_ALARM
    assert normal_mean((z**4 - 3) / 96**0.5) > FALSE_ALARM
    assert normal_mean(((1.02 * z) ** 2 - 1) / 2**0.5) < FALSE_ALARM
    # both of a Box-Muller pair, each for itself
    for part in (z[:, 0::2], z[:, 1::2]):
        assert ks(part, "norm") > FALSE_ALARM


def test_signs():
    s = draw(NoiseSource.of(1, 1000), "rademacher", (200,))
    assert set(s.unique().tolist()) == {-1.0, 1.0}
    assert normal_mean(s) > FALSE_ALARM
    biased = torch.where(draw(NoiseSource.of(1, 1000), "uniform", (200,)) < 0.51, -1.0, 1.0)
    assert normal_mean(biased) < FALSE_ALARM


def test_integers():
    k = draw(NoiseSource.of(1, 1000), "integers", (200,))
    assert k.dtype == torch.int64 and int(k.min()) == 0 and int(k.max()) == 999
    counts = torch.bincount(k.flatten(), minlength=1000).numpy()
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    # planted: level 0 never comes
    assert stats.chisquare(torch.bincount(k.flatten().clamp(min=1), minlength=1000).numpy()).pvalue < FALSE_ALARM


NEIGHBORS = {
    "index": lambda: (NoiseSource.of(1, 1000), {}, NoiseSource.of(1, 1000, first=1), {}),
    "step": lambda: (NoiseSource.of(1, 1000), {"step": 6}, NoiseSource.of(1, 1000), {"step": 7}),
    "purpose": lambda: (NoiseSource.of(1, 1000), {"purpose": "a"}, NoiseSource.of(1, 1000), {"purpose": "b"}),
    "seed": lambda: (NoiseSource.of(1, 1000), {}, NoiseSource.of(2, 1000), {}),
    "high half of the seed": lambda: (NoiseSource.of(1, 1000), {}, NoiseSource.of(1 + 2**32, 1000), {}),
}


@pytest.mark.parametrize("neighbor", NEIGHBORS)
def test_neighbors_are_uncorrelated(neighbor):
    one, how_one, other, how_other = NEIGHBORS[neighbor]()
    a, b = draw(one, "normal", (100,), **how_one), draw(other, "normal", (100,), **how_other)
    for f in (lambda z: z, lambda z: z**2, torch.sign):
        assert correlation(f(a), f(b)) > FALSE_ALARM
    assert correlation(a, b + 0.04 * a) < FALSE_ALARM  # planted: 4 % of one leaks into the other


def test_coordinates_are_uncorrelated():
    """Neighbors in an event, including Box-Muller pairs: values and squares."""
    z = draw(NoiseSource.of(1, 1000), "normal", (200,))
    for a, b in ((z[:, 0::2], z[:, 1::2]), (z[:, 1:-1:2], z[:, 2::2]), (z[:, :-4], z[:, 4:])):
        for f in (lambda v: v, lambda v: v**2):
            assert correlation(f(a), f(b)) > FALSE_ALARM
    # planted: a pair shares its radius, and only the radius's right distribution makes their squares independent
    u = draw(NoiseSource.of(1, 1000), "uniform", (200,))
    radius, angle = (-2 * u[:, 0::2].log()) ** 0.55, 2 * np.pi * u[:, 1::2]
    assert correlation((radius * angle.cos()) ** 2, (radius * angle.sin()) ** 2) < FALSE_ALARM


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", None])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="seed="):
        NoiseSource(seed, torch.arange(2))


@pytest.mark.parametrize("indices", [torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64), torch.tensor(3)])
def test_bad_indices(indices):
    with pytest.raises(ValueError, match="indices"):
        NoiseSource(0, indices)


@pytest.mark.parametrize("index", [-1, 2**32])
def test_an_index_outside_the_counter_is_refused(index):
    """Otherwise it would silently share the draws of another sample: 2^32 those of 0, -1 those of 2^32 - 1."""
    with pytest.raises(ValueError, match="indices"):
        draw(NoiseSource(0, torch.tensor([index])), "uniform")


@pytest.mark.parametrize("step", [-1, 2**32])
@pytest.mark.parametrize("kind", KINDS)
def test_bad_steps(kind, step):
    with pytest.raises(ValueError, match="step="):
        draw(NoiseSource.of(0, 2), kind, step=step)
    with pytest.raises(ValueError, match="step="):
        list(NoiseSource.of(0, 2).normals((3,), steps=[0, step], purpose="p", dtype=F64))


def test_a_source_of_another_number_of_samples_is_refused():
    """It would broadcast: the same probes for all, or as many samples as it has indices."""
    sde, one = VPSDE(), NoiseSource.of(0, 1)
    score = GaussianMixture(torch.zeros(1, 2), 1.0).score(sde)
    with pytest.raises(ValueError, match="1 indices for a batch of 4"):
        log_likelihood(sde, score, torch.zeros(4, 2), noise=one)
    with pytest.raises(ValueError, match="1 indices for a batch of 4"):
        UniPC(4)(sde, score, (4, 2), noise=one)


@pytest.mark.parametrize("shape", [(), (3,), (4,), (2, 3, 3)])
def test_a_uniform_and_a_normal_draw_by_one_evaluation(shape):
    """The same bits as two draws, with half of the generator's operations."""
    source = NoiseSource(2**40 + 7, torch.tensor([0, 5, 2**32 - 1]))
    u, z = source.uniform_and_normal(shape, step=9, purposes=("time", "perturb"), dtypes=(torch.float64, torch.float32))
    assert torch.equal(u, source.uniform((), step=9, purpose="time", dtype=torch.float64))
    assert torch.equal(z, source.normal(shape, step=9, purpose="perturb", dtype=torch.float32))


def test_a_subclass_with_its_own_noise_is_used():
    class Colored(NoiseSource):
        def normal(self, event_shape, *, step, purpose, dtype):
            return torch.full((len(self.indices), *event_shape), 2.0, dtype=dtype)

    source = Colored.of(0, 2)
    _, z = source.uniform_and_normal((3,), step=0, purposes=("time", "perturb"), dtypes=(torch.float32,) * 2)
    assert isinstance(source, Colored) and torch.equal(z, torch.full((2, 3), 2.0))


@pytest.mark.parametrize("ahead", [1, 4, 2**14])
def test_draws_ahead_with_one_purpose_for_each_step(monkeypatch, ahead):
    monkeypatch.setattr(scoresde.noise, "_AHEAD", ahead)
    source, keys = NoiseSource.of(3, 2, 5), [(0, "corrector"), (1, "corrector"), (0, "predictor"), (7, "predictor")]
    steps, purposes = [step for step, _ in keys], [purpose for _, purpose in keys]
    found = list(source.normals((3, 3), steps=steps, purpose=purposes, dtype=F64))
    wanted = [source.normal((3, 3), step=step, purpose=purpose, dtype=F64) for step, purpose in keys]
    assert torch.equal(torch.stack(found), torch.stack(wanted))
    with pytest.raises(ValueError, match="purpose has 1 entries for 4 steps"):
        next(source.normals((3, 3), steps=steps, purpose=["one"], dtype=F64))
