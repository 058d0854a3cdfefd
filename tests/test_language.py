"""Recurrent networks on tokens: the published cell with its highway bypasses, and embeddings tied to the head."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import attrs
import pytest
import torch
from full import FULL
from hypothesis import given, strategies as st
from nasframe_growing import NodeGrowth
from nasframe_papers.genotypes import RECURRENT, Pairs, parameters, recurrent
from nasframe_recurrent import (
    Darts,
    IdentityEdge,
    IdentityHighway,
    ReluHighway,
    SigmoidHighway,
    TanhHighway,
    TwoToOne,
    ZeroEdge,
)
from nasframe_recurrent.cell import TiedHead
from nasframe_recurrent.edges import HighwayActivation
from recurrent import strategy
from test_fused import case, equal
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding
from torchmetrics import MetricCollection
from torchmetrics.text import Perplexity

from nasframe import Bound, Data, Network, Operation, Optimiser, Seed, Split, Task, build
from nasframe.change.claim import tolerance
from nasframe.errors import ChangeError, StructureError
from nasframe.testing import assertions
from nasframe.testing.compare import require_at_most
from nasframe.testing.strategies import seeds, sizes
from nasframe.testing.trained import TrainedNetwork

HIGHWAYS = (SigmoidHighway(), TanhHighway(), ReluHighway(), IdentityHighway())
ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}

#: Shakespeare, Sonnet 18
TEXT = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee."""


@st.composite
def published(draw: st.DrawFn) -> Pairs:
    """Draw a cell in the published notation: for each node an activation and the number of an earlier node."""
    return [(draw(st.sampled_from([*ACTIVATIONS])), draw(st.integers(0, i))) for i in range(draw(sizes()))]


def published_outputs(network: Network, pairs: Pairs, tokens: Tensor) -> Tensor:
    """Return what the network in the published code of DARTS computes, with the weights of our network."""
    head, cell = network.body.head, network.body.layers[0]
    highways = [module for module in cell.sites.modules() if isinstance(module, HighwayActivation)]
    W = [torch.cat([highway.W_c, highway.W]).t() for highway in highways]
    h, outputs = torch.zeros(tokens.shape[1], head.in_features, dtype=torch.float64), []
    for x in embedding(tokens, head.weight):
        c0, h0 = (torch.cat([x, h], 1) @ W[0]).chunk(2, 1)
        states = [h + c0.sigmoid() * (h0.tanh() - h)]
        for w, (activation, predecessor) in zip(W[1:], pairs, strict=True):
            s = states[predecessor]
            c, a = (s @ w).chunk(2, 1)
            states.append(s + c.sigmoid() * (ACTIVATIONS[activation](a) - s))
        h = torch.stack(states[1:]).mean(0)
        outputs.append(h @ head.weight.t() + head.bias)
    return torch.stack(outputs)


def check_published(pairs: Pairs, tokens: int, hidden: int, time: int, batch: int, seed: Seed) -> None:
    """Assert that both forms of a cell in the published notation compute what the published code does."""
    example = case(recurrent({"tokens": tokens}, pairs, hidden=hidden), time, batch, seed)
    expected = published_outputs(example.network, pairs, example.inputs)
    for fast in (False, True):
        _near("published", "the outputs", example.loss(fast)[0], expected)
    equal(example)


def check_tied(seed: Seed, backbone: Any, tokens: int, time: int, batch: int) -> None:
    """Assert that a network on tokens computes what a network on their embeddings does.

    The gradient of an embedding is the sum of the gradients by the input and by the row of the head.
    """
    first = case(backbone.initial({"tokens": tokens}, 2), time, batch, seed)
    width = backbone.hidden
    other = build(backbone.initial({"inputs": width, "outputs": tokens}, 2), seed).double()
    other.load_state_dict(first.network.state_dict())
    mixing = {a: alpha.softmax(0) for a, alpha in first.network.alphas.items()}
    direction = torch.randn(time, batch, tokens, generator=seed.generator(), dtype=torch.float64)
    for fast in (False, True):
        first.network.fast = other.fast = fast
        inputs = embedding(first.inputs, other.body.head.weight.detach()).requires_grad_()
        outputs = first.network(first.inputs, mixing), other(inputs, mixing)
        _near("tied", "the outputs", *outputs)
        (found,) = torch.autograd.grad((outputs[0] * direction).sum(), first.network.body.head.weight, retain_graph=True)
        by_head, by_inputs = torch.autograd.grad(
            (outputs[1] * direction).sum(), (other.body.head.weight, inputs), retain_graph=True
        )
        whole = by_head.index_add(0, first.inputs.flatten(), by_inputs.flatten(0, 1))
        _near("tied", "the gradients of the embeddings", found, whole)


def check_growth(operation: Operation, output: str) -> None:
    """Assert that a trained cell with this operation grows by noise within the bound that is claimed."""
    backbone = Darts(3, output=output, operations=(operation, IdentityEdge(), ZeroEdge()))
    parent = TrainedNetwork.of(strategy(2, 2, 3, backbone, nodes=2, batch=4), 20)
    child = parent.after(NodeGrowth().edit(parent.network.structure, {"cell": "layer0"}, {}, Seed((0,))))
    assert child.claim is not None
    assert child.claim.kind == "approximate"
    assertions.assert_within_bounds(child, child.claim.bounds)
    ((node, bound),) = child.claim.bounds.items()
    assertions.assert_tight(child, node, bound)


class TestPublished:
    def test_its_size(self) -> None:
        """DARTS_V2 on the 10,000 words of PTB with 850 units has 22,960,000 parameters: tied embeddings, the bias of the head,
        one matrix of twice the width for the first state and one for each of eight nodes.
        """
        structure = recurrent({"tokens": 10_000}, RECURRENT, hidden=850)
        assert parameters(structure) == 22_960_000 == 10_000 * 850 + 10_000 + 1700 * 1700 + 8 * 850 * 1700

    @given(published(), sizes(), sizes(), sizes(3), sizes(3), seeds())
    def test_what_it_computes(self, pairs: Pairs, tokens: int, hidden: int, time: int, batch: int, seed: Seed) -> None:
        """Any cell in the published notation computes what the published code does, in both forms."""
        check_published(pairs, tokens, hidden, time, batch, seed)


class TestTokens:
    @given(seeds(), sizes(3), st.booleans(), sizes(2), sizes(3), sizes(3), sizes(3))
    def test_embeddings_are_the_head(
        self, seed: Seed, width: int, chain: bool, layers: int, tokens: int, time: int, batch: int
    ) -> None:
        """The rows of the head are the embeddings of the tokens, and receive the gradients of both uses."""
        check_tied(seed, (TwoToOne if chain else Darts)(width, layers), tokens, time, batch)

    @pytest.mark.parametrize("backbone", [TwoToOne(), Darts()], ids=["two_to_one", "darts"])
    def test_a_width_is_needed(self, backbone: Any) -> None:
        """Tokens without `hidden` are refused with the option to give and the reason why there is one width only."""
        message = r"give `hidden`; it is also the width of their embeddings, because the head is tied to them \(n_x = n_h\)"
        with pytest.raises(StructureError, match=message):
            build(backbone.initial({"tokens": 3}, 1), Seed((0,)))


@attrs.frozen
class Letters(Task):
    """Forecast the next letter of a text, in windows; training, validation and test data are the same."""

    name: ClassVar[str] = "letters"
    text: str
    window: int = 8

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Return the windows of the text."""
        letters = sorted(set(self.text))
        codes = torch.tensor([letters.index(letter) for letter in self.text], device=device)
        windows = codes.unfold(0, self.window + 1, self.window)
        split = Split(len(windows), lambda index: (windows[index, :-1].t(), windows[index, 1:]))
        return Data(
            sizes={"tokens": len(letters)},
            train=split,
            validation=split,
            test=split,
            loss=lambda outputs, targets: cross_entropy(outputs.movedim(0, 2), targets),
            losses=lambda outputs, targets: cross_entropy(outputs.movedim(0, 2), targets, reduction="none").mean(1),
            predict=lambda outputs: outputs.transpose(0, 1).contiguous(),
            metrics=lambda: MetricCollection({"perplexity": Perplexity()}),
            score="perplexity",
            references=lambda parameters: {},
        )


class TestSearch:
    def test_it_learns_to_write(self) -> None:
        """A supernet of highway operations learns more about the next letter than the frequencies of the letters.

        Its fast form still equals the readable one after training.
        """
        backbone = Darts(16, output="later", operations=(*HIGHWAYS, IdentityEdge(), ZeroEdge()))
        optimiser = Optimiser(learning_rate=0.03)
        trained = TrainedNetwork.of(strategy(1, 1, 1, backbone, task=Letters(TEXT), nodes=2, batch=20, optimiser=optimiser), 60)
        counts = torch.tensor([TEXT.count(letter) for letter in set(TEXT)], dtype=torch.float64)
        frequencies = torch.distributions.Categorical(counts).entropy()

        outputs, targets = trained.outputs(False), trained.data.validation.batch(torch.arange(trained.data.validation.size))[1]
        require_at_most("the loss", float(trained.data.loss(outputs, targets)), float(frequencies) - 0.3)
        assertions.assert_fast_form(trained)

    @pytest.mark.parametrize(
        ("operation", "output"),
        [*itertools.product(HIGHWAYS, ("last", "later"))] if FULL else [*zip(HIGHWAYS, ("last", "later") * 2, strict=True)],
        ids=lambda part: getattr(part, "name", part),
    )
    def test_it_grows(self, operation: Operation, output: str) -> None:
        """A cell of highway operations grows by noise within the bound that follows from their magnitudes, which is tight."""
        check_growth(operation, output)

    @pytest.mark.parametrize("output", ["last", "mean", "later"])
    def test_without_an_identity(self, output: str) -> None:
        """A cell without a candidate for the identity grows behind a gate only."""
        structure = Darts(operations=HIGHWAYS, output=output).initial({"inputs": 1, "outputs": 1}, 1)
        with pytest.raises(ChangeError, match="can act as the identity; grow it with form = 'gate'"):
            NodeGrowth().edit(structure, {"cell": "layer0"}, {}, Seed((0,)))
        grown = NodeGrowth(form="gate").edit(structure, {"cell": "layer0"}, {}, Seed((0,))).structure
        assert len(grown.cell("layer0").nodes) == 2


class TestMutants:
    """Each has one fault, which the law named finds."""

    def test_the_first_state_is_averaged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Published: the output is the mean of all states, with the first."""
        monkeypatch.setattr(Darts, "outputs", lambda self, cell: tuple(node.id for node in cell.nodes))
        with pytest.raises(AssertionError, match="published: the distance"):
            check_published([("tanh", 0)], 2, 2, 2, 2, Seed((0,)))

    def test_the_bypass_of_the_fast_form(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Published: the gates of the fast form have the wrong sign."""
        honest = TanhHighway.function
        monkeypatch.setattr(TanhHighway, "function", classmethod(lambda cls, c, a, h: honest(-c, a, h)))
        with pytest.raises(AssertionError, match="published: the distance"):
            check_published([("tanh", 0)], 2, 2, 2, 2, Seed((0,)))

    def test_half_a_gradient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tied: the embeddings receive no gradient as inputs."""
        honest = TiedHead.embed
        monkeypatch.setattr(TiedHead, "embed", lambda self, tokens: honest(self, tokens).detach())
        with pytest.raises(AssertionError, match="tied: the distance of the gradients"):
            check_tied(Seed((0,)), Darts(2), 2, 2, 2)

    def test_a_magnitude_without_the_bypass(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tight: the bound of the activation alone is exceeded."""
        monkeypatch.setattr(SigmoidHighway, "magnitude", lambda self, module: Bound({(): 1.0}))
        with pytest.raises(AssertionError, match="the largest error found of layer0/n2, at 10 times"):
            check_growth(SigmoidHighway(), "last")


def _near(law: str, what: str, found: Tensor, expected: Tensor) -> None:
    distance = float((found - expected).detach().abs().max())
    require_at_most(f"{law}: the distance of {what}", distance, tolerance(expected.detach()))
