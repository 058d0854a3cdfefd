"""The laws of relaxations: tried on the sites of supernets, and in searches that have trained with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import Address, Draw, Mixing, Seed, Site
from nasframe.change.claim import tolerance
from nasframe.change.edit import remove_candidates
from nasframe.errors import ChangeError, NasframeError
from nasframe.testing.cases import SearchCase
from nasframe.testing.compare import differences, largest, require, require_at_most, require_like, undeclared
from nasframe.testing.fakes import AdamDescent
from nasframe.testing.law import Inapplicable, law
from nasframe.testing.strategies import removals, supernet
from nasframe.testing.subject import Subject

Tensors = Mapping[str, Tensor]


@attrs.frozen(eq=False, kw_only=True)
class Case(SearchCase):
    """A relaxation in a search."""

    @property
    def sites(self) -> dict[Address, Site]:
        """Return the undecided sites of the supernet."""
        found = dict(supernet(self.strategy).sites)
        if not found:
            raise Inapplicable("no site of the supernet is undecided")
        return found

    def alphas(self, *purpose: str, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> dict[str, Tensor]:
        """Return alphas and further parameters, different ones for each purpose."""
        generator = Seed((self.strategy.seed, "alphas", *purpose)).generator()
        shapes = {name: alpha.shape for name, alpha in supernet(self.strategy).alphas.items()}
        return {
            name: scale * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for name, shape in shapes.items()
        }

    def wanted(self) -> dict[str, Tensor]:
        """Return positive mixing weights with the sum one; one at each site is as small as those of a new node."""
        generator = Seed((self.strategy.seed, "wanted")).generator()
        found: dict[str, Tensor] = {}
        for address, site in self.sites.items():
            drawn = torch.rand(len(site.candidates), generator=generator, dtype=torch.float64) + 0.1
            # About the mixing weight of a candidate in a growth with very little noise; its alpha is about -20 relative to
            # the others.
            drawn[-1] = 1e-9
            found[address] = drawn / drawn.sum()
        return found

    def draws(self) -> dict[str, Draw | None]:
        """Return what validation has, and draws of training steps at the beginning and the end of a phase."""
        seed = Seed((self.strategy.seed, "draws"))
        progress = (0.0, 0.5, 1.0) if self.part.needs_progress else (0.0, 1.0, None)
        return {"in validation": None} | {f"in training, progress {p}": Draw(seed(str(p)), p) for p in progress}


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the relaxation in the searches of all habitats."""
    assert subject.parts is not None
    parts = subject.parts

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part, strategy = draw(parts), draw(subject.searches())
        # a phase with a length, as some relaxations need its progress
        optimiser = attrs.evolve(strategy.optimiser, epochs=10)
        strategy = attrs.evolve(strategy, architect=AdamDescent(part), optimiser=optimiser)
        return Case(subject=subject, part=part, strategy=strategy, data=draw(st.data()))

    return draw()


def exercise(case: Case) -> dict[str, Any]:
    """Return the mixing weights of validation and of training steps, the ranking, and the inverse."""
    alphas, found = case.alphas(), dict[str, Any]()
    for when, draw in case.draws().items():
        mixing = _mixing(case, alphas, draw)
        found[f"the mixing weights {when}"] = {**mixing, "active": {a: [*p] for a, p in mixing.active.items()}}
    found["the ranking"] = dict(case.part.ranking(case.sites, alphas))
    found["the parameters"] = {name: value for name, (value, _) in case.part.parameters(case.sites).items()}
    return found


def _each(case: Case, alphas: Tensors) -> Iterator[tuple[str, Mixing]]:
    for when, draw in case.draws().items():
        yield when, _mixing(case, alphas, draw)


def _mixing(case: Case, alphas: Tensors, draw: Draw | None) -> Mixing:
    try:
        found = case.part.mixing(case.sites, alphas, draw)
    except Exception as error:
        if draw is None or draw.progress is not None:
            raise
        raise NasframeError(undeclared("mixing()", "`draw.progress`", error)) from error
    assert isinstance(found, Mixing)  # the network has refused anything else
    return found


@law("relaxation.mixing", "exp() of large alphas overflows where softmax() does not, or the dtype is fixed")
def mixing(case: Case) -> None:
    """The mixing weights are finite and not negative, with the shapes and dtypes of the alphas, even for alphas of thousands."""
    # exp(1000) overflows in both dtypes.
    for scale, dtype in product((1.0, 1e3), (torch.float32, torch.float64)):
        alphas = case.alphas(dtype=dtype, scale=scale)
        for when, found in _each(case, alphas):
            like: dict[str, Tensor] = {address: alphas[address] for address in case.sites}
            require_like(f"{when}, mixing() of alphas in {dtype} around {scale:g}", found, like)
            least = min(float(w.min()) for w in found.values())
            require(least >= 0, f"{when} a mixing weight is {least:.3g}; mixing weights are not negative")


@law("relaxation.slope", "something is detached or rounded between the alphas and the mixing weights")
def slope(case: Case) -> None:
    """In validation, the slope of the mixing weights along a direction of the alphas equals the difference quotient.

    So it does at random alphas and at those with which a search begins, which are zeros.
    """
    start = {name: alpha.detach().double() for name, alpha in supernet(case.strategy).alphas.items()}
    h = 1e-6
    for where, alphas in {"at random alphas": case.alphas(), "at the alphas with which a search begins": start}.items():
        errors = []
        for n in range(3):  # a direction may cross a kink, but hardly all three
            along, factors = case.alphas(f"direction {n}"), case.alphas(f"factors {n}")

            def value(at: Tensors, factors: Tensors = factors) -> Tensor:
                found = case.part.mixing(case.sites, at, None)
                return torch.stack([(w * factors[a]).sum() for a, w in found.items()]).sum()

            leaves = {a: alpha.clone().requires_grad_() for a, alpha in alphas.items()}
            total = value(leaves)
            require(total.requires_grad, "the mixing weights have no gradient with respect to the alphas")
            slopes = torch.autograd.grad(total, [*leaves.values()], materialize_grads=True)
            found = sum(float((s * along[a]).sum()) for a, s in zip(leaves, slopes, strict=True))
            ahead, behind = (float(value({a: alpha + t * along[a] for a, alpha in alphas.items()})) for t in (h, -h))
            errors.append(abs(found - (ahead - behind) / (2 * h)))
        require_at_most(f"{where}, the least distance, of three, of a slope from the difference quotient", min(errors), 1e-6)


@law("relaxation.trained", "a sample is taken by argmax(), without an estimator of the gradient")
def trained(case: Case) -> None:
    """In a training step, the mixing weights have a gradient with respect to the alphas, which is finite."""
    leaves = {name: alpha.requires_grad_() for name, alpha in case.alphas().items()}
    for when, found in _each(case, leaves):
        factors = case.alphas("factors")
        total = torch.stack([(w * factors[a]).sum() for a, w in found.items()]).sum()
        require(total.requires_grad, f"{when} the mixing weights have no gradient with respect to the alphas")
        slopes = torch.autograd.grad(total, [*leaves.values()], materialize_grads=True)
        broken = [name for name, s in zip(leaves, slopes, strict=True) if not s.isfinite().all()]
        require(not broken, f"{when} the gradient is not finite at {', '.join(broken)}")


@law("relaxation.symmetric", "one candidate is the reference of the others, or alphas are compared with their neighbours")
def symmetric(case: Case) -> None:
    """In validation candidates are treated alike: alphas of a site in another order give the mixing weights in that order."""
    alphas = case.alphas()
    wanted = case.part.mixing(case.sites, alphas, None)
    for turn in (partial(torch.flip, dims=(0,)), partial(torch.roll, shifts=1)):
        turned = alphas | {a: turn(alphas[a]) for a in case.sites}
        found = case.part.mixing(case.sites, turned, None)
        for address, weights in wanted.items():
            what = "the distance of the mixing weights from those of the alphas in another order"
            require_at_most(what, largest(found[address] - turn(weights)), tolerance(weights))


@law("relaxation.sums", "mixing weights are divided by another sum, or `sums_to_one = False` is missing")
def sums(case: Case) -> None:
    """The mixing weights of each site sum to one, unless the relaxation says that they do not (`sums_to_one`)."""
    if not case.part.sums_to_one:
        raise Inapplicable("it says that they do not")
    for when, found in _each(case, case.alphas()):
        for address, weights in found.items():
            what = f"{when}, the distance from 1 of the sum of the mixing weights of {address}"
            require_at_most(what, abs(float(weights.sum()) - 1), tolerance(weights))


@law("relaxation.inverse", "invert() is the inverse of another function, or keeps away from zero by an epsilon")
def inverse(case: Case) -> None:
    """`invert` returns finite alphas that have the wanted mixing weights, or refuses with a ChangeError.

    The wanted ones are those of other alphas, and positive ones with the sum one of which some are very small. Where some sites are
    wanted only, the mixing weights of the others stay.
    """
    alphas, small, refused = case.alphas(), case.wanted(), []
    present = case.part.mixing(case.sites, alphas, None)
    every_other = {address: small[address] for address in [*case.sites][::2]}
    # The first are certainly possible. The others may not be, as where mixing weights of several sites are normalised
    # together; then refusing is right.
    for wanted in (dict(case.part.mixing(case.sites, case.alphas("others"), None)), small, every_other):
        try:
            inverted = case.part.invert(case.sites, wanted, alphas)
        except ChangeError as error:
            refused.append(str(error))
            continue
        unknown = inverted.keys() - alphas.keys()
        require(not unknown, f"invert() returns {', '.join(sorted(unknown))}, which are no alphas")
        require_like("invert()", inverted, {name: alphas[name] for name in inverted})
        found = case.part.mixing(case.sites, alphas | dict(inverted), None)
        for address in case.sites:
            weights = wanted.get(address, present[address])
            others = "the wanted ones" if address in wanted else f"the present ones, where only {', '.join(wanted)} are wanted,"
            what = f"the distance of the mixing weights of {address} from {others}"
            require_at_most(what, largest(found[address] - weights), tolerance(weights))
    if len(refused) == 3:
        raise Inapplicable(refused[0])


@law("relaxation.draws", "a sample is drawn from torch's global generator, or kept from the call before")
def draws(case: Case) -> None:
    """A sample is a function of the alphas and the draw: another state of torch's generator gives the same bits."""
    alphas, found = case.alphas(), []
    for number in (1, 2):
        # Whoever draws from the global generator gets other numbers in the two turns.
        with Seed((number, "global")).as_global():
            # between the two calls the relaxation samples for other alphas
            case.part.mixing(case.sites, case.alphas(f"others {number}"), None)
            found.append({when: dict(mixing) for when, mixing in _each(case, alphas)})
    changed = differences(*found)
    require(not changed, f"the same draw gives other mixing weights: {', '.join(changed)}")


@law("relaxation.active", "a candidate is left out of `active` although its mixing weight counts")
def active(case: Case) -> None:
    """A candidate that is not computed has the mixing weight zero."""
    for when, found in _each(case, case.alphas()):
        for address, places in found.active.items():
            # A candidate that is not computed contributes nothing, so that its weight must be nothing as well.
            rest = [float(w) for place, w in enumerate(found[address]) if place not in places]
            require(not any(rest), f"{when} the candidates at {address} that are not computed have the mixing weights {rest}")


@law("relaxation.ranking", "a site is left out, or the ranking has one number for each site")
def ranking(case: Case) -> None:
    """`ranking` returns a finite number for each candidate of each undecided site."""
    alphas = case.alphas()
    require_like("ranking()", case.part.ranking(case.sites, alphas), {a: alphas[a] for a in case.sites})


@law(
    "relaxation.follows", "the labels of a further parameter depend on the number of sites or candidates, not on what they are"
)
def follows(case: Case) -> None:
    """After candidates are removed, alphas and further parameters of what remains have the values from before.

    If an axis of a further parameter gets shorter without a site, its labels say which site it was.
    """
    trained = case.trained
    for name, (value, axes) in case.part.parameters(case.sites).items():
        for place in range(value.dim()):
            left: dict[tuple[Any, ...], Address] = {}
            for address in case.sites:
                rest = case.part.parameters({a: s for a, s in case.sites.items() if a != address}).get(name)
                if rest is None or not 0 < rest[0].shape[place] < value.shape[place]:
                    continue
                short = rest[1][place]
                what = f"without the site {address}, an axis of {name!r} has the length {rest[0].shape[place]}, not {value.shape[place]}"
                require(
                    axes[place] is not None and short is not None,
                    f"{what}, but no labels: return an Axis for it, such as produces(*addresses), and not None",
                )
                # Labels by position are the same whichever entry is gone, and the others get the values of their neighbours.
                other = left.setdefault(short.labels, address)
                require(
                    other == address,
                    f"{what}, and the same labels {short.labels} as without the site {other}: labels must say what each entry belongs "
                    "to, such as the address of an edge, and not count",
                )
    with torch.no_grad():
        for name, value in case.alphas("before").items():
            trained.network.alphas[name].copy_(value)
    removed = case.data.draw(removals(trained.network.structure))
    child = trained.after(remove_candidates(trained.network.structure, removed)).network
    for name, value in child.alphas.items():
        require(name in trained.network.alphas, f"the removal added {name}")
        before = {*trained.network.alphas[name].flatten().tolist()}
        fresh = [entry for entry in value.flatten().tolist() if entry not in before]
        require(not fresh, f"after the removal {name} has the entries {fresh}, which it did not have before")
    found = child.mixing()
    require(found.keys() == child.sites.keys(), f"there are mixing weights for {[*found]}, and the sites are {[*child.sites]}")


@law("relaxation.steps", "the sample of a step is drawn anew at every call of a loss")
def steps(case: Case) -> None:
    """In a step of a search, each loss has one sample: it has the same value and gradient at every call."""
    trained = case.trained
    if not trained.network.alphas:
        raise Inapplicable("no site of the supernet is undecided")
    problem = trained.next_problem()
    for what, loss in {"training": problem.train, "validation": problem.valid}.items():
        found = []
        for _ in range(2):
            value = loss(problem.weights, problem.alphas)
            tensors = [*problem.alphas.values()]
            slopes = torch.autograd.grad(value, tensors, materialize_grads=True) if value.requires_grad else ()
            found.append({"the value": value.detach(), **dict(zip(problem.alphas, slopes, strict=False))})
        changed = differences(*found)
        require(not changed, f"called twice, the {what} loss of a step differs in {', '.join(changed)}")
