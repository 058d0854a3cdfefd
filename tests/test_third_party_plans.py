"""Methods of third parties as plans: a plan in the strategy, and parts that use public names only."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import offspring
import pytest
import twins
from convolutional import PLUGINS, Blobs, image_strategy, small
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import Identity, SeparableConvolution
from nasframe_recurrent import Prod, Sum, Tanh, TwoToOne
from nasframe_robustness import AnnealedSoftmax, Asap, DartsPT, Elimination, Sgas
from test_resume import check_resumes_everywhere
from toy import toy_strategy

from nasframe import Morphism, Optimiser, Part, Search, Strategy
from nasframe.interfaces.part import to_plain
from nasframe.plugins import Plugins
from nasframe.records import Changed, EpochEnded, Evaluated, Measured
from nasframe.search.compare import FOUND, INHERITED, RANDOM
from nasframe.search.replay import replay
from nasframe.testing.check import QUICK, check
from nasframe.testing.fakes import Scripted

ALL = Plugins((*PLUGINS.found, twins.PLUGIN, offspring.PLUGIN))
PAGE = Path(__file__).parent.parent / "docs" / "plans.md"
#: one update in each epoch, and nothing but the plan that ends a phase or grows
QUIET: dict[str, Any] = {"growth": (), "criterion": Scripted(epochs=9), "batch": 25}


def darts_pt() -> Strategy:
    """Return DARTS-PT on two sites."""
    return toy_strategy(plan=DartsPT(epochs=1, tuning=1).steps(), nodes=2, **QUIET)


def darts_pt_without_alphas() -> Strategy:
    """Return the same with alphas that stay as they are."""
    return toy_strategy(plan=DartsPT(epochs=1, tuning=1, alphas=False).steps(), nodes=2, **QUIET)


def sgas() -> Strategy:
    """Return SGAS on two sites, with the mixing weights of earlier epochs."""
    return toy_strategy(plan=Sgas(warmup=2, between=2, tuning=1, stability=2).steps(), nodes=2, **QUIET)


def asap() -> Strategy:
    """Return ASAP, whose temperature is so low that candidates are removed after the first epochs."""
    architect = FirstOrder(Optimiser(learning_rate=0.1), relaxation=AnnealedSoftmax(0.5, 0.05))
    return toy_strategy(architect=architect, plan=Asap(epochs=5, grace=1, tuning=1).steps(), nodes=2, **QUIET)


def elimination() -> Strategy:
    """Return the elimination of two of three candidates."""
    backbone = TwoToOne(hidden=3, operations=(Sum(), Tanh(), Prod()))
    return toy_strategy(plan=Elimination(epochs=1, tuning=1).steps(), backbone=backbone, nodes=1, **QUIET)


def growing_twins() -> Strategy:
    """Return the growth of operators, of which one is equal to the threshold from the beginning."""
    return toy_strategy(plan=twins.GrowingTwins(epochs=4, threshold=0.15, times=2).steps(), **QUIET)


def prune_and_replace() -> Strategy:
    """Return cycles on two edges whose convolutions have a child or two."""
    operations = (SeparableConvolution(3), SeparableConvolution(3, dilation=2), Identity())
    return image_strategy(
        plan=offspring.PruneAndReplace(epochs=2, grace=1, tuning=2, largest=5).steps(),
        backbone=small(channels=1, cells=1, operations=operations),
        task=Blobs(size=4, height=4, width=4),
        nodes=1,
        **QUIET,
    )


METHODS = {
    "darts_pt": darts_pt,
    "darts_pt_without_alphas": darts_pt_without_alphas,
    "sgas": sgas,
    "asap": asap,
    "elimination": elimination,
    "growing_twins": growing_twins,
    "prune_and_replace": prune_and_replace,
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_resumes_at_every_event(method: str) -> None:
    """From each measurement and each due change a search goes on to the same bytes, and it ends with an architecture."""
    assert check_resumes_everywhere(METHODS[method]()) >= 15


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_written_to_a_file_and_replayed(method: str) -> None:
    """The strategy survives TOML, and the structures follow from the lineage without data."""
    strategy = METHODS[method]()
    search = Search(strategy)
    search.run()

    assert Strategy.from_toml(strategy.to_toml(), ALL) == strategy
    *_, last = replay(strategy, search.state.lineage, search.state.evidence, ALL)
    assert last == search.network.structure
    assert last.decided


def test_a_search_without_alphas_is_compared() -> None:
    """It decides sites, so that random architectures are next to what it found."""
    search = Search(attrs.evolve(darts_pt_without_alphas(), seeds=1))
    search.run()
    names = [record.name for record in search.compare(workers=1) if isinstance(record, Evaluated)]
    assert names[:3] == [INHERITED, FOUND, RANDOM]


#: of the laws of morphisms, all of which both pass, those that concern what is particular about these two
LAWS = {f"morphism.{law}" for law in ("claim", "cost", "measured", "moments", "replay", "together")}


@pytest.mark.parametrize("part", [twins.Surpassed, twins.Twin, offspring.Weakest, offspring.Offspring])
def test_the_parts_keep_the_laws(part: type[Part]) -> None:
    """The parts pass the kit."""
    examples = twins.EXAMPLES if part.__module__ == "twins" else offspring.EXAMPLES
    laws = LAWS if issubclass(part, Morphism) else None
    report = check(part, examples=examples, laws=laws, profile=attrs.evolve(QUICK, cases=2, least=1))

    assert report.ok, report.text()


def changes(search: Search, kind: str) -> list[Changed]:
    """Return the changes of a kind."""
    return [r for r in search.state.lineage if isinstance(r, Changed) and r.change == kind]


def test_one_site_is_decided_after_each_tuning() -> None:
    """DARTS-PT measures the candidates of one site, decides it, and tunes what is left."""
    search = Search(darts_pt())
    measured = Counter(r.key.split(" ")[0] for r in search if isinstance(r, Measured))
    phases = [r.phase for r in search.state.history if isinstance(r, EpochEnded)]

    assert measured == {"layer0/n0": 5, "layer0/n1": 5}
    assert [[*r.removed] for r in changes(search, "remove")] in (
        [["layer0/n0"], ["layer0/n1"]],
        [["layer0/n1"], ["layer0/n0"]],
    )
    assert phases == ["search", "tune", "tune"]
    assert search.state.best is not None
    assert search.state.best.structure.decided


def test_operators_grow_while_the_criterion_lets_them() -> None:
    """The criterion counts in the memory of its step: after two growths in mid-phase it refuses the third."""
    search = Search(growing_twins())
    search.run()
    grown = changes(search, "edit")

    assert [(r.phase, r.epoch) for r in grown] == [("search", 1), ("search", 2)]
    assert all(len(r.added["layer0/n0"]) == 1 and not r.removed for r in grown)
    assert search.state.memory["step 0"] == 2


def test_nothing_is_tried_twice_at_a_site() -> None:
    """Each operation is added to a site at most once, also after it was removed, and the cycles end when nothing is left."""
    search = Search(prune_and_replace())
    contexts = []
    for _ in search:
        contexts.append(search.state.phase)
    cycles = changes(search, "edit")
    first = dict(search.strategy.backbone.initial(search.data.sizes, 1).sites())
    tried: dict[str, list[Any]] = {a: [to_plain(c.operation) for c in s.candidates] for a, s in first.items()}
    for record in cycles:
        assert record.removed.keys() == record.added.keys() == tried.keys()  # on every edge
        for address, added in record.added.items():
            tried[address] += [candidate["operation"] for candidate in added.values()]

    assert len(cycles) >= 2
    assert all(len(operations) == len({*map(str, operations)}) for operations in tried.values())
    # the change that ended the cycles removed and reset nothing: the last cycle has as many candidates as the others
    last = [r for r in search.state.history if isinstance(r, EpochEnded) and r.phase == "cycle"][-1]
    assert {len(weights) for weights in last.mixing.values()} == {3}
    assert len({r.stage for r in search.state.history if r.phase == "cycle"}) == len(cycles) + 1


def test_the_page_has_the_plans_of_the_methods() -> None:
    """The examples in docs/plans.md are the plans that the recipes return for the same options."""
    methods = (DartsPT(), twins.GrowingTwins(), offspring.PruneAndReplace())
    texts = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    plans = [Strategy.from_dict(toy_strategy().to_dict() | tomllib.loads(text), ALL).plan for text in texts]

    assert all(method.steps() in plans for method in methods)
