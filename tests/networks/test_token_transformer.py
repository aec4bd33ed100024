"""The transformer of tokens: closed forms of rotations, masks, time, conditions, and the published numbers of parameters."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as nnf

from scoresde.conditions import Classes, Image, Tokens, Vector
from scoresde.networks import RadialEmbedding, TokenTransformer
from scoresde.networks.rotary import RotaryPositions

from .common import disturbed, normal

T = torch.tensor([0.0, 0.3, 0.8, 1.0])
EVENTS = [(), (1,), (5,), (2, 3), (1, 4, 4), (3, 2, 3), (2, 2, 1, 2)]


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def tokens_of(event, states=6, batch=4):
    return (normal((batch, *event)).abs() * 1e4).long() % states


def small(event=(7,), **how):
    how = {"tokens": 5, "states": 6, "width": 16, "depth": 2, "heads": 2, **how}
    return disturbed(TokenTransformer(event, **how), 0.2).eval()


@pytest.mark.parametrize("event", EVENTS)
def test_logits_for_events_of_any_shape(event):
    out = small(event)(tokens_of(event), T)
    assert out.shape == (4, *event, 5)
    assert bool(torch.isfinite(out).all()) and len(out.unique()) > 4


@pytest.mark.parametrize("how", [{}, {"time": False}, {"conditions": {"c": Classes(3)}}, {"causal": True}])
def test_all_tokens_have_the_same_probability_before_training(how):
    network = TokenTransformer((7,), 5, 6, width=16, depth=2, heads=2, **how)
    assert not network(tokens_of((7,)), T).any()


def test_a_rotation_by_its_formula():
    rotary, x = RotaryPositions((6,), 8), normal((6, 8))
    found = rotary(x)
    for p in range(6):
        for j in range(4):
            angle = p * 10_000.0 ** (-j / 4)
            a, b = float(x[p, j]), float(x[p, j + 4])
            assert float(found[p, j]) == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
            assert float(found[p, j + 4]) == pytest.approx(b * math.cos(angle) + a * math.sin(angle), abs=1e-5)


@pytest.mark.parametrize(("sides", "copies"), [((9,), 1), ((4, 5), 1), ((2, 3, 2), 2)])
def test_products_of_rotated_vectors_depend_on_the_difference_of_positions(sides, copies):
    rotary = RotaryPositions(sides, 12, copies).double()
    q, k = normal((2, 12), dtype=torch.float64)
    count = math.prod(sides)
    products = (rotary(q.expand(copies * count, 12)) @ rotary(k.expand(copies * count, 12)).T)[:count, -count:]
    places = torch.cartesian_prod(*(torch.arange(side) for side in sides)).reshape(count, -1)
    by_difference: dict[tuple[int, ...], set[float]] = {}
    for i in range(count):
        for j in range(count):
            key = tuple((places[i] - places[j]).tolist())
            by_difference.setdefault(key, set()).add(float(products[i, j]))
    assert max(max(values) - min(values) for values in by_difference.values()) < 1e-6
    assert len({round(min(values), 6) for values in by_difference.values()}) == len(by_difference)


def test_one_block_equals_its_formula():
    """Attention and the perceptron in float64, with loops over heads and positions."""
    network = small(depth=1).double()
    x, block = tokens_of((7,), batch=1), network.blocks[0]
    h, c = network.first(x)[0], nnf.silu(network.label(network.embedding(T[1:2].double())))
    parts = block.modulation(c)[0].chunk(6)
    width = h.shape[1]

    def norm(h, layer):
        centered = h - h.mean(1, keepdim=True)
        return centered / (centered.square().mean(1, keepdim=True) + 1e-5).sqrt() * layer.weight

    qkv = (norm(h, block.norm1) * (1 + parts[1]) + parts[0]) @ block.qkv.weight.T
    heads = []
    for head in range(2):
        q, k, v = (qkv[:, i * width + head * 8 : i * width + (head + 1) * 8] for i in range(3))
        logits = network.rotary(q) @ network.rotary(k).T / math.sqrt(8)
        heads.append(logits.softmax(1) @ v)
    h = h + parts[2] * (torch.cat(heads, dim=1) @ block.out.weight.T)
    inner = block.up(norm(h, block.norm2) * (1 + parts[4]) + parts[3])
    gelu = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
    h = h + parts[5] * block.down(gelu)
    shift, scale = network.modulation(c)[0].chunk(2)
    wanted = network.last(norm(h, network.norm) * (1 + scale) + shift)
    torch.testing.assert_close(network(x, T[1:2].double())[0], wanted, rtol=1e-10, atol=1e-10)


def test_no_gradient_from_later_positions_with_a_causal_mask():
    for causal in (True, False):
        network, x = small(causal=causal), tokens_of((7,), batch=1)
        seen = torch.zeros(7, 7)
        for i in range(7):
            h = network.first(x).detach().requires_grad_()
            hook = network.first.register_forward_hook(lambda *_, h=h: h)
            (network(x, T[:1])[0, i] ** 2).sum().backward()
            hook.remove()
            seen[i] = h.grad[0].abs().sum(1)
        assert bool((seen.tril() > 0)[torch.ones(7, 7).tril() > 0].all())
        assert bool((seen.triu(1) == 0).all()) == causal


def test_gradients_reach_all_parameters():
    kinds = {"c": Classes(3), "v": Vector(2), "i": Image(2), "w": Tokens(4)}
    given = {"c": torch.tensor([0, 1, 2, 0]), "v": normal((4, 2)), "i": normal((4, 2, 3, 3)), "w": normal((4, 5, 4))}
    for how in ({}, {"time": False}, {"tied": True}):
        network = small((2, 3, 3), conditions=kinds, **how).train()
        dropped = torch.tensor([True, False, False, False])
        out = network(tokens_of((2, 3, 3)), T, **given, dropped=dropped)
        (out * normal(out.shape, "weights")).sum().backward()
        for name, p in network.named_parameters():
            constant = name.endswith("w.score.bias")  # added to all logits of a softmax
            assert p.grad is not None and (constant or float(p.grad.abs().max()) > 0), name


@pytest.mark.parametrize("how", [{}, {"time": False}, {"time": False, "conditions": None}, {"tied": True}])
def test_every_parameter_is_trained_from_the_initial_weights(how):
    """The weights that start at zero too. The loss starts at ln 5, and one network memorizes its 28 targets."""
    how = {"conditions": {"c": Classes(3)}, **how}
    network = TokenTransformer((7,), 5, 6, width=16, depth=2, heads=2, **how)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    x, target, losses = tokens_of((7,)), tokens_of((7,), 5), []
    given = {"c": torch.tensor([0, 1, 2, 0])} if how["conditions"] else {}
    memorizes = "time" not in how and "tied" not in how
    for step in range(40 if memorizes else 6):
        loss = nnf.cross_entropy(network(x, T, **(given if step % 2 else {})).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert not [name for name, p in network.named_parameters() if torch.equal(p, before[name])]
    assert losses[0] == pytest.approx(math.log(5), rel=0.3 if "tied" in how else 1e-6)
    assert losses[-1] < (0.5 if memorizes else losses[0])


def test_the_time_enters_or_does_not():
    x = tokens_of((7,))
    network = small()
    assert float((network(x, T) - network(x, T.flip(0))).detach().abs().amax((1, 2)).min()) > 1e-3
    without = small(time=False)
    assert torch.equal(without(x, T), without(x, T.flip(0)))


def test_a_sample_depends_on_its_own_tokens_and_conditions_only():
    network = small((1, 3, 3), conditions={"c": Classes(3), "i": Image(1)})
    x, c, image = tokens_of((1, 3, 3)), torch.tensor([0, 1, 2, 1]), normal((4, 1, 3, 3))
    whole = network(x, T, c=c, i=image)
    alone = torch.cat([network(x[k : k + 1], T[k : k + 1], c=c[k : k + 1], i=image[k : k + 1]) for k in range(4)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
    assert float((network(x, T, c=c.flip(0), i=image) - whole)[:3].detach().abs().max()) > 1e-3
    absent = network(x, T)
    some = network(x, T, c=c, i=image, dropped=torch.tensor([True, False, True, False]))
    torch.testing.assert_close(some[::2], absent[::2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(some[1::2], whole[1::2], rtol=1e-4, atol=1e-5)


def test_an_image_moves_the_logits_at_its_own_pixels_first():
    """With zero attention the logits of a position depend on its own pixel, in each of the channels."""
    network = small((2, 3, 3), conditions={"i": Image(1)}, depth=1)
    with torch.no_grad():
        network.blocks[0].out.weight.zero_()
    x, image = tokens_of((2, 3, 3)), torch.zeros(4, 1, 3, 3)
    other = image.clone()
    other[:, 0, 1, 2] = 1.0
    moved = (network(x, T, i=other) - network(x, T, i=image)).abs().sum(-1) > 1e-6
    wanted = torch.zeros(2, 3, 3, dtype=torch.bool)
    wanted[:, 1, 2] = True
    assert torch.equal(moved, wanted.expand(4, -1, -1, -1))


def test_each_block_attends_to_the_tokens_of_a_condition():
    """Each position for itself: with a causal mask, later positions have no influence on earlier ones."""
    network = small(conditions={"w": Tokens(4)}, causal=True)
    with torch.no_grad():
        network.conditioning.encoders["w"].last.weight.zero_()  # the mean of all tokens is not used
    x, words = tokens_of((7,)), normal((4, 5, 4))
    whole = network(x, T, w=words)
    other = words.clone()
    other[:, 3] += 1.0
    assert float((network(x, T, w=other) - whole).detach().abs().amax((0, 2)).min()) > 1e-4
    torch.testing.assert_close(network(x, T, w=words.flip(1)), whole, rtol=1e-4, atol=1e-5)  # a set
    padded = torch.cat((words, torch.full((4, 2, 4), math.nan)), dim=1)
    torch.testing.assert_close(network(x, T, w=padded), whole, rtol=1e-4, atol=1e-5)
    later = x.clone()
    later[:, 6] = (later[:, 6] + 1) % 6
    assert torch.equal(network(later, T, w=words)[:, :6], whole[:, :6])


def test_precisions():
    """Under autocast the residual connections stay in float32. The tables of rotations are no part of a state."""
    network = small(conditions={"c": Classes(3), "w": Tokens(4)})
    x, given = tokens_of((7,)), {"c": torch.tensor([0, 1, 2, 0]), "w": normal((4, 5, 4))}
    whole = network(x, T, **given).detach()
    twin = copy.deepcopy(network).double()
    assert not any("rotary" in name for name in twin.state_dict())
    torch.testing.assert_close(twin(x, T, **given).float(), whole, rtol=1e-4, atol=1e-4)
    largest = float(whole.abs().max())
    for half in (copy.deepcopy(network).bfloat16(), network):
        kept = []
        half.norm.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0].dtype))
        with torch.autocast("cpu", torch.bfloat16, enabled=half is network):
            out = half(x, T, **given)
        assert out.dtype == torch.bfloat16 and kept == [torch.float32 if half is network else torch.bfloat16]
        assert float((out.float() - whole).detach().abs().max()) < 0.1 * largest
        out.float().square().sum().backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in half.parameters() if p.grad is not None)


@pytest.mark.long
def test_one_graph_is_compiled():
    network, x = small(conditions={"c": Classes(3)}), tokens_of((7,))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    c = torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(compiled(x, T, c=c), network(x, T, c=c))


def test_channels_are_told_apart():
    network = small((3, 2, 2))
    out = network(torch.zeros(1, 3, 2, 2, dtype=torch.long), T[:1])[0]
    assert float((out[0] - out[1]).detach().abs().max()) > 1e-3


def test_a_shift_of_a_sequence_is_seen_with_learned_positions_only():
    """Attention of equal tokens is the same at all positions, so that only a learned vector tells the positions apart."""
    x = torch.full((1, 1, 3, 4), 2)
    for learned in (False, True):
        out = small((1, 3, 4), learned_positions=learned)(x, T[:1])[0, 0].detach().flatten(0, 1)
        assert (float((out - out[0]).abs().max()) > 1e-3) == learned


# Sahoo et al. 2024 and Lou et al. 2023: 12 layers, 768 wide, 12 heads, an embedding of 128, and GPT-2's tokens with a mask.
# Both have outputs for the mask as well, and 256 sines and cosines of the noise level in place of 256 functions of the time.
PUBLISHED = {"width": 768, "depth": 12, "heads": 12, "dropout": 0.1, "embedding_size": 128}


@pytest.mark.parametrize(
    ("how", "count"),
    [
        ({"tokens": 50_258}, 169_627_218),  # the number of weights of mdlm-owt and sedd-small
        ({"tokens": 50_257}, 169_626_449),  # without outputs for the mask
        ({"tokens": 50_257, "time": False}, 162_264_913),
        ({"tokens": 50_257, "tied": True}, 131_029_073),
    ],
)
def test_published_sizes(how, count):
    embedding = RadialEmbedding(256, 0.0, 1.0) if how.get("time", True) else None
    with torch.device("meta"):
        network = TokenTransformer((1024,), states=50_258, embedding=embedding, **PUBLISHED, **how)
    assert sum(p.numel() for p in network.parameters()) == count
    size, width = 128, 768
    block = 2 * width + 4 * width**2 + (8 * width**2 + 5 * width) + (size + 1) * 6 * width
    if how == {"tokens": 50_258}:  # embeddings in and out, blocks, last norm, and the embedded time
        ends = 50_258 * width + 50_258 * (width + 1)
        time = 257 * size + (size + 1) * size
        assert count == ends + 12 * block + width + (size + 1) * 2 * width + time


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"width": 12, "heads": 4}, "width=12 is not allowed: give a multiple of 8"),
        ({"event_shape": (1, 2, 2, 2), "width": 8, "heads": 2}, "at least 6 features of a head"),
        ({"states": 4}, "states=4"),
        ({"tokens": 0}, "tokens=0"),
        ({"depth": 0}, "depth=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"time": False, "embedding": RadialEmbedding()}, "embedding=.* is not allowed with time=False"),
    ],
)
def test_wrong_arguments_are_named(how, message):
    with pytest.raises(ValueError, match=message):
        TokenTransformer(**{"event_shape": (7,), "tokens": 5, "states": 6, **how})


def test_wrong_tokens_are_refused():
    network = small()
    with pytest.raises(ValueError, match=r"x has event shape \(6,\): this TokenTransformer was made for \(7,\)"):
        network(tokens_of((6,)), T)
    with pytest.raises(TypeError, match=r"x has dtype torch\.float32: give tokens as int64"):
        network(torch.zeros(4, 7), T)
    with pytest.raises(TypeError, match="label"):
        network(tokens_of((7,)), T, label=torch.zeros(4))
