"""The space of architectures of a supernet, as a sequence of independent decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import ClassVar

import attrs
import torch

from nasframe.errors import StructureError
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.editing import remove_from
from nasframe.structure.structure import Site, Structure


@attrs.frozen
class Choice:
    """One decision of a space.

    Attributes:
        name: what is decided: the address of a site, or of a node with "inputs" or the number of one of its operations.
        options: the number of options; a pick is a number from 0 to `options` - 1.
    """

    name: str
    options: int


@attrs.frozen
class Space:
    """The architectures of a supernet, as ordered decisions that can be made independently of each other.

    An architecture is described by its picks, one number for each decision. Without `keep`, each site is a decision: which of
    its candidates remains. With `keep` = k, each node keeps k of its sites, each with one candidate that is not zero; its
    decisions are the set of sites (if it has more than k) and the operation of each, in the order of the sites.

    Picks of which every number is drawn uniformly give uniformly distributed architectures, as long as every node contributes
    to the outputs of its cell: a node that no output depends on is removed, and then several picks give one architecture.

    Args:
        supernet: the supernet.
        keep: the number of sites that each node keeps; None if it keeps all of them.
        suggested: the picks of architectures that a trained supernet suggests, the first choice first. An architect may try them.

    Raises:
        StructureError: if the sites of a node have different numbers of operations although `keep` is given.

    Example:
        >>> from nasframe.testing.fakes import Chain
        >>> space = Space(Chain().initial({"inputs": 3, "outputs": 1}, nodes=2))
        >>> space.decisions
        (Choice(name='chain/n0', options=2), Choice(name='chain/n1', options=2))
        >>> architecture = space.architecture((0, 1))
        >>> [site.candidates[0].operation.name for _, site in architecture.sites()]
        ['pass_through', 'dense']
        >>> space.picks(architecture)
        (0, 1)
    """

    #: why trials cannot start from the weights of the supernet, and what to write instead; None if they can
    unshared: ClassVar[str | None] = None

    supernet: Structure
    keep: int | None = None
    suggested: tuple[tuple[int, ...], ...] = ()

    def __attrs_post_init__(self) -> None:
        for node, sites in self._nodes:
            counts = {address: len(ids) for address, ids in sites.items()}
            # The decision "operation k" is about the k-th kept site, whichever that is, so that all sites must offer as many.
            if self.keep is not None and (not counts or len(set(counts.values())) > 1):
                raise StructureError(
                    f"the sites of node {node} have {counts or 'no'} operations; a space that chooses among the sites of a node "
                    "needs the same number at each: give the supernet that the backbone's `initial` returns"
                )

    @cached_property
    def decisions(self) -> tuple[Choice, ...]:
        """Return the decisions, node by node."""
        return tuple(choice for choices in self.choices.values() for choice in choices)

    @cached_property
    def choices(self) -> Mapping[Address, tuple[Choice, ...]]:
        """Return the decisions about each node."""
        found = dict[Address, tuple[Choice, ...]]()
        for node, sites in self._nodes:
            if self.keep is None:
                found[node] = tuple(Choice(address, len(ids)) for address, ids in sites.items())
                continue
            kept = min(self.keep, len(sites))
            inputs = [Choice(f"{node} inputs", math.comb(len(sites), kept))] if kept < len(sites) else []
            options = len(next(iter(sites.values())))
            found[node] = (*inputs, *(Choice(f"{node} operation {number}", options) for number in range(kept)))
        return found

    @property
    def size(self) -> int:
        """Return the number of different picks."""
        return math.prod(choice.options for choice in self.decisions)

    def architecture(self, picks: Sequence[int]) -> Structure:
        """Return the architecture that these picks describe.

        Args:
            picks: one number for each decision.

        Raises:
            StructureError: if there are not as many picks as decisions, or one is out of range.
        """
        self.check(picks)
        # The picks are read in the order in which `decisions` lists them: for each node its inputs, then its operations.
        # Ids are unique in the whole structure, so that a set of those that remain needs no addresses.
        left, kept = iter(picks), set[int]()
        for _, sites in self._nodes:
            chosen = [*sites.values()]
            if self.keep is not None and self.keep < len(sites):
                # in the order of `combinations`, which `picks` uses, too
                chosen = [*[*combinations(chosen, self.keep)][next(left)]]
            kept |= {ids[next(left)] for ids in chosen}
        # An architecture is what a pruner would leave of the supernet: it keeps the ids, so that it can start from the
        # supernet's weights.
        removed = {a: {c.id for c in s.candidates} - kept for a, s in self.supernet.sites()}
        return remove_from(self.supernet, {address: ids for address, ids in removed.items() if ids})

    def check(self, picks: Sequence[int]) -> None:
        """Check that there is one number for each decision, and that it is one of its options.

        Raises:
            StructureError: if it is not so.
        """
        decisions = self.decisions
        if len(picks) != len(decisions):
            raise StructureError(f"there are {len(picks)} picks for {len(decisions)} decisions; give one for each")
        for choice, pick in zip(decisions, picks, strict=True):
            if isinstance(pick, bool) or not isinstance(pick, int) or not 0 <= pick < choice.options:
                raise StructureError(
                    f"the pick of {choice.name} is {pick!r}; it must be a whole number from 0 to {choice.options - 1}"
                )

    def picks(self, architecture: Structure) -> tuple[int, ...]:
        """Return the picks that describe an architecture of the space.

        The decisions about a node that the architecture does not have are 0.

        Raises:
            StructureError: if it is no architecture of the space.
        """
        present = {address: {c.id for c in site.candidates} for address, site in architecture.sites()}
        nodes = {address for address, _ in architecture.nodes()}
        found: list[int] = []
        for node, sites in self._nodes:
            kept = [address for address in sites if address in present]
            count = len(sites) if self.keep is None else min(self.keep, len(sites))
            # No output depends on the node, so that its decisions change nothing; zeros, so that every architecture has
            # one sequence of picks.
            if node not in nodes:
                kept = [*sites][:count]
                present |= {address: {sites[address][0]} for address in kept}
            if len(kept) != count:
                raise _foreign(f"node {node} has {len(kept)} sites, and in the space it has {count}")
            # The position of a combination is a number from 0 to C(n, k) - 1, as `decisions` announces it.
            if count < len(sites):
                found.append([*combinations(sites, count)].index(tuple(kept)))
            for address in kept:
                places = [place for place, id in enumerate(sites[address]) if id in present[address]]
                if len(places) != 1:
                    raise _foreign(f"site {address} has {len(present[address])} candidates, {len(places)} of them in the space")
                found += places
        # the other way round, as ids and sizes are not compared above
        if self.architecture(found) != architecture:
            raise _foreign("its backbone, sizes, cells or ids differ from those of the supernet")
        return tuple(found)

    def random(self, seed: Seed) -> tuple[int, ...]:
        """Return picks that are drawn uniformly."""
        generator = seed.generator()
        return tuple(int(torch.randint(choice.options, (), generator=generator)) for choice in self.decisions)

    @cached_property
    def _nodes(self) -> tuple[tuple[Address, Mapping[Address, tuple[int, ...]]], ...]:
        """Return each node with the ids of the candidates to choose from, by the address of their site."""
        found: list[tuple[Address, Mapping[Address, tuple[int, ...]]]] = []
        for node, _ in self.supernet.nodes():
            # A site that has no candidate to choose, because it only has zero, is no decision.
            options = {address: self._options(site) for address, site in self.supernet.sites_of(node).items()}
            found.append((node, {address: ids for address, ids in options.items() if ids}))
        return tuple(found)

    def _options(self, site: Site) -> tuple[int, ...]:
        # a node that chooses its inputs has no use for the candidate that removes one
        return tuple(c.id for c in site.candidates if self.keep is None or not c.operation.zero)


def _foreign(why: str) -> StructureError:
    return StructureError(f"the structure is no architecture of the space: {why}; make it with Space.architecture(picks)")
