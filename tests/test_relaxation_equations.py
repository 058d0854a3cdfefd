"""The mixing weights of the shipped relaxations, and their gradients, are those of the papers, written out by brute force."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from nasframe_bilevel import Softmax
from nasframe_relaxations import (
    BinaryGates,
    Concrete,
    Dirichlet,
    EdgeNormalisation,
    HardGumbel,
    IndependentSigmoids,
    NodeSoftmax,
)
from nasframe_relaxations.categorical import gumbel
from scipy.special import betainc
from scipy.stats import beta as beta_distribution
from torch import Tensor

from nasframe import Address, Draw, Relaxation, Seed, Site
from nasframe.errors import ChangeError
from nasframe.interfaces.relaxation import Sites
from nasframe.network.axes import produces
from nasframe.structure.structure import Candidate
from nasframe.testing.fakes import PassThrough

SITE = Address("normal/e0")
#: the alphas of a site
VECTORS = st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=6)
NUMBERS, PROGRESS = st.integers(0, 2**31), st.floats(0.0, 1.0)
many = settings(max_examples=20)


def site(name: str, node: str, count: int) -> Site:
    return Site(name, node, ("i0",), tuple(Candidate(place, PassThrough()) for place in range(count)))


def sites(count: int) -> Sites:
    return {SITE: site("e0", "n0", count)}


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draw(number: int, progress: float | None = None) -> Draw:
    return Draw(Seed((number, "mixing")), progress)


def softmax(values: list[float]) -> list[float]:
    total = math.fsum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def jacobian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the derivative of output k by input i at [k, i]."""
    found: Tensor = torch.autograd.functional.jacobian(function, at)
    return found


def by_alphas(relaxation: Relaxation, alphas: list[float], how: Draw | None) -> tuple[Tensor, Tensor, tuple[int, ...] | None]:
    """Return the mixing weights of one site, their derivatives by its alphas, and the candidates that are computed."""
    found = relaxation.mixing(sites(len(alphas)), {SITE: tensor(alphas)}, how)
    slopes = jacobian(lambda a: relaxation.mixing(sites(len(alphas)), {SITE: a}, how)[SITE], tensor(alphas))
    return found[SITE], slopes, found.active.get(SITE)


def close(found: Tensor, wanted: list[float] | list[list[float]], tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=tolerance, atol=tolerance)


def slopes_of_softmax(p: list[float], factor: float = 1.0) -> list[list[float]]:
    """Return factor * p_k (delta_ki - p_i) at [k][i]."""
    return [[factor * p[k] * ((k == i) - p[i]) for i in range(len(p))] for k in range(len(p))]


@many
@given(VECTORS)
def test_softmax(alphas: list[float]) -> None:
    """m_i = exp(alpha_i) / sum_j exp(alpha_j), also in the validation of every relaxation that draws by these probabilities."""
    p = softmax(alphas)
    for relaxation in (Softmax(), HardGumbel(), Concrete(), BinaryGates(), NodeSoftmax()):
        mixing, slopes, active = by_alphas(relaxation, alphas, None)
        close(mixing, p)
        close(slopes, slopes_of_softmax(p))
        assert active is None


@many
@given(VECTORS, NUMBERS, PROGRESS)
def test_hard_gumbel(alphas: list[float], number: int, progress: float) -> None:
    """One candidate is computed, with h = one_hot(argmax(log p + o)) and the gradient of softmax((log p + o) / tau) (GDAS)."""
    noise = gumbel(tensor(alphas), draw(number).seed(SITE)).tolist()
    scores = [math.log(p) + o for p, o in zip(softmax(alphas), noise, strict=True)]
    tau, place = 10 - 9.9 * progress, scores.index(max(scores))
    mixing, slopes, active = by_alphas(HardGumbel(), alphas, draw(number, progress))

    assert mixing.tolist() == [float(k == place) for k in range(len(alphas))]
    close(slopes, slopes_of_softmax(softmax([(s - max(scores)) / tau for s in scores]), 1 / tau))
    assert active == (place,)


@many
@given(VECTORS, NUMBERS, PROGRESS)
def test_concrete(alphas: list[float], number: int, progress: float) -> None:
    """Z = softmax((log p + G) / lambda), with the gradient through the sample, and lambda falls exponentially (SNAS)."""
    noise = gumbel(tensor(alphas), draw(number).seed(SITE)).tolist()
    scores = [math.log(p) + g for p, g in zip(softmax(alphas), noise, strict=True)]
    temperature = math.exp((1 - progress) * math.log(2.5) + progress * math.log(0.43))
    z = softmax([(s - max(scores)) / temperature for s in scores])
    mixing, slopes, active = by_alphas(Concrete(), alphas, draw(number, progress))

    close(mixing, z)
    close(slopes, slopes_of_softmax(z, 1 / temperature))
    assert active is None


@many
@given(VECTORS, NUMBERS)
def test_binary_gates(alphas: list[float], number: int) -> None:
    """One of two gates is 1, and dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i) over the two (ProxylessNAS, Eq. 4)."""
    mixing, slopes, active = by_alphas(BinaryGates(), alphas, draw(number))
    assert active is not None
    p = dict(zip(active, softmax([alphas[k] for k in active]), strict=True))

    assert len(active) == min(2, len(alphas))
    assert sorted(mixing.tolist()) == [0.0] * (len(alphas) - 1) + [1.0]
    assert int(mixing.argmax()) in active
    for i in range(len(alphas)):
        for j in range(len(alphas)):
            wanted = p[j] * ((i == j) - p[i]) if i in p and j in p else 0.0
            assert float(slopes[j, i]) == pytest.approx(wanted, abs=1e-12)


@many
@given(VECTORS)
@example([0.0, 0.0, -0.0])
def test_the_mean_of_dirichlet(alphas: list[float]) -> None:
    """Validation has beta / sum(beta) with beta = ELU(alpha) + 1 (DrNAS)."""
    beta = [a + 1 if a >= 0 else math.exp(a) for a in alphas]
    slope = [1.0 if a >= 0 else math.exp(a) for a in alphas]
    mixing, slopes, _ = by_alphas(Dirichlet(), alphas, None)
    total, count = math.fsum(beta), len(beta)

    close(mixing, [b / total for b in beta])
    close(slopes, [[slope[i] * ((k == i) - beta[k] / total) / total for i in range(count)] for k in range(count)])


@many
@given(st.lists(st.floats(-2.0, 5.0), min_size=1, max_size=6), NUMBERS)
def test_the_gradient_of_dirichlet(alphas: list[float], number: int) -> None:
    """It is the implicit one: d theta_j / d beta_j is minus the derivative of the distribution function of theta_j by beta_j over the
    density, and the other components share the change in proportion (DrNAS, Eq. 6).
    """
    beta = [a + 1 if a >= 0 else math.exp(a) for a in alphas]
    theta, slopes, active = by_alphas(Dirichlet(), alphas, draw(number))
    h, count = 1e-5, len(alphas)

    assert float(theta.sum()) == pytest.approx(1)
    assert active is None
    for j in range(count):
        rest, at = math.fsum(beta) - beta[j], float(theta[j])
        if not rest or not 1e-6 < at < 1 - 1e-6:
            continue
        by_beta = (betainc(beta[j] + h, rest, at) - betainc(beta[j] - h, rest, at)) / (2 * h)
        moved = -by_beta / beta_distribution.pdf(at, beta[j], rest) * (1.0 if alphas[j] >= 0 else beta[j])
        for i in range(count):
            wanted = moved if i == j else -moved * float(theta[i]) / (1 - at)
            # torch approximates the derivative of the distribution function, with a relative error below 0.005 in its tests
            assert float(slopes[i, j]) == pytest.approx(wanted, rel=5e-3)


def test_samples_have_the_distribution() -> None:
    """In 1000 draws, the frequencies of samples, and the means of samples and gradients, are the expected ones.

    HardGumbel draws candidate i with the probability p_i. BinaryGates draws i and j with p_i p_j / (1 - p_i) + p_i p_j / (1 - p_j), and
    opens i of the two with p_i / (p_i + p_j). The mean of Dirichlet, and of its gradient, is that of its validation.
    """
    alphas, N = [1.0, 0.0, -0.7], 1000
    count, p, at = len(alphas), softmax(alphas), {SITE: tensor(alphas)}
    hard, pairs = Counter[int](), Counter[tuple[int, int]]()
    for n in range(N):
        hard[HardGumbel().mixing(sites(count), at, draw(n, 0.0)).active[SITE][0]] += 1
        gates = BinaryGates().mixing(sites(count), at, draw(n))
        opened = int(gates[SITE].argmax())
        pairs[opened, sum(gates.active[SITE]) - opened] += 1

    def check(found: int, share: float) -> None:
        assert abs(found / N - share) < 4 * math.sqrt(share * (1 - share) / N)

    for i in range(count):
        check(hard[i], p[i])
        for j in {*range(count)} - {i}:
            check(pairs[i, j], (p[i] * p[j] / (1 - p[i]) + p[i] * p[j] / (1 - p[j])) * p[i] / (p[i] + p[j]))

    factors, both = tensor([1.0, -2.0, 3.0]), list[Tensor]()
    for how in (None, *map(draw, range(N))):
        leaf = tensor(alphas).requires_grad_()
        theta = Dirichlet().mixing(sites(count), {SITE: leaf}, how)[SITE]
        (slope,) = torch.autograd.grad(theta @ factors, leaf)
        both.append(torch.cat([theta.detach(), slope]))
    mean, samples = both[0], torch.stack(both[1:])
    assert bool(((samples.mean(0) - mean).abs() < 4 * samples.std(0) / math.sqrt(N)).all())


def test_dirichlet_without_finite_alphas() -> None:
    """Where an alpha is not a number, nothing is sampled, and the mixing weights are not finite either."""
    found = Dirichlet().mixing(sites(2), {SITE: tensor([0.0, math.nan])}, draw(0))

    assert bool(found[SITE].isnan().all())


@many
@given(VECTORS)
def test_independent_sigmoids(alphas: list[float]) -> None:
    """m_i = 1 / (1 + exp(-alpha_i)), which depends on its alpha alone (FairDARTS)."""
    m = [1 / (1 + math.exp(-a)) for a in alphas]
    mixing, slopes, active = by_alphas(IndependentSigmoids(), alphas, None)

    close(mixing, m)
    close(slopes, torch.diag(tensor([v * (1 - v) for v in m])).tolist())
    assert active is None
    with pytest.raises(ChangeError, match="would be 1, and a sigmoid is below 1"):
        IndependentSigmoids().invert(sites(2), {SITE: tensor([1.0, 1e-20])}, {SITE: tensor([0.0, 0.0])})


def graph(*groups: Sequence[list[float]]) -> tuple[dict[Address, Site], dict[str, Tensor], list[list[Address]]]:
    """Return the sites of a cell, their alphas, and the addresses of the edges of each node, from the alphas of each edge of each node."""
    found, alphas, nodes = dict[Address, Site](), dict[str, Tensor](), list[list[Address]]()
    for n, group in enumerate(groups):
        nodes.append([Address(f"normal/e{n}{place}") for place in range(len(group))])
        for address, values in zip(nodes[-1], group, strict=True):
            found[address], alphas[address] = site(address.id, f"n{n}", len(values)), tensor(values)
    return found, alphas, nodes


EDGES = st.lists(VECTORS, min_size=1, max_size=3)


@many
@given(EDGES, EDGES)
def test_node_softmax(one: list[list[float]], two: list[list[float]]) -> None:
    """m_i = exp(alpha_i) / sum_j exp(alpha_j), with j over all candidates of all edges that enter the node of i (I-DARTS)."""
    edges, alphas, nodes = graph(one, two)
    for addresses in nodes:
        of_node = torch.cat([alphas[address] for address in addresses])

        def joint(values: Tensor, addresses: Sequence[Address] = addresses) -> Tensor:
            changed = zip(addresses, values.split([len(alphas[address]) for address in addresses]), strict=True)
            found = NodeSoftmax().mixing(edges, alphas | dict(changed), None)
            return torch.cat([found[address] for address in addresses])

        p = softmax(of_node.tolist())
        close(joint(of_node), p)
        close(jacobian(joint, of_node), slopes_of_softmax(p))


@many
@given(EDGES, EDGES, st.lists(st.floats(-5.0, 5.0), min_size=6, max_size=6))
def test_edge_normalisation(one: list[list[float]], other: list[list[float]], betas: list[float]) -> None:
    """An edge has softmax(alpha_e) times exp(beta_e) / sum_f exp(beta_f), with f over the edges that enter its node (PC-DARTS)."""
    edges, alphas, nodes = graph(one, other)
    for n, addresses in enumerate(nodes):
        alphas[f"beta normal n{n}"] = tensor(betas[3 * n :][: len(addresses)])
    found = EdgeNormalisation().mixing(edges, alphas, None)

    assert {name: axes for name, (_, axes) in EdgeNormalisation().parameters(edges).items()} == {
        f"beta normal n{n}": (produces(*addresses),) for n, addresses in enumerate(nodes)
    }
    for n, addresses in enumerate(nodes):
        beta = alphas[f"beta normal n{n}"]
        shares = softmax(beta.tolist())
        for e, address in enumerate(addresses):
            p = softmax(alphas[address].tolist())
            close(found[address], [shares[e] * v for v in p])
            by_alpha = jacobian(
                lambda a, at=address: EdgeNormalisation().mixing(edges, {**alphas, at: a}, None)[at], alphas[address]
            )
            close(by_alpha, slopes_of_softmax(p, shares[e]))
            by_beta = jacobian(
                lambda b, at=address, n=n: EdgeNormalisation().mixing(edges, {**alphas, f"beta normal n{n}": b}, None)[at], beta
            )
            close(by_beta, [[v * slope for slope in slopes_of_softmax(shares)[e]] for v in p])


@pytest.mark.parametrize("relaxation", [NodeSoftmax(), EdgeNormalisation()], ids=lambda part: part.name)
def test_one_edge_of_a_node_is_inverted(relaxation: Relaxation) -> None:
    """An edge gets other mixing weights with the same sum, and another sum is refused with the reason."""
    edges, alphas, ((one, other),) = graph([[0.3, 2.0], [-1.0, 0.0]])
    alphas |= {name: tensor([0.4, -0.3]) for name in relaxation.parameters(edges)}
    present = relaxation.mixing(edges, alphas, None)
    wanted = {one: present[one].sum() * tensor([0.25, 0.75])}
    found = relaxation.mixing(edges, alphas | dict(relaxation.invert(edges, wanted, alphas)), None)

    torch.testing.assert_close(found[one], wanted[one])
    torch.testing.assert_close(found[other], present[other])
    with pytest.raises(ChangeError, match="sum to 1, and those of normal/e00, normal/e01 would sum to"):
        relaxation.invert(edges, {one: tensor([0.5, 0.5])}, alphas)
