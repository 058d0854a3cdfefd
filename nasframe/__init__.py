"""nasframe grows and searches a neural network's architecture while it trains."""

from nasframe.architect import Architect, Bilevel
from nasframe.backbone import Backbone, Grown, births, one_more, operations_of
from nasframe.change.apply import Change, apply, distance, folding, removal
from nasframe.change.map import OWN, ZERO, Set, Take
from nasframe.change.optimisers import Named
from nasframe.change.replace import Replacement, candidate_at, replacement, site_at
from nasframe.claim import Bound, Claim, tolerance
from nasframe.cost import Cost, cost
from nasframe.criterion import ABSTAIN, AllOf, AnyOf, Decision, GrowthCriterion
from nasframe.errors import (
    ChangeError,
    CheckpointError,
    ClaimError,
    DataError,
    NasframeError,
    NonFiniteError,
    PluginError,
    RunError,
    StrategyError,
    StructureError,
    UnknownNameError,
)
from nasframe.label import label
from nasframe.model import Model, Scale
from nasframe.morphism import Morphism, Proposal
from nasframe.network import Aided, Axis, Gate, Mixture, Network, Outputs, Shares, build, consumes, produces, readable, tensors
from nasframe.operation import Operation
from nasframe.optimiser import Optimiser
from nasframe.part import Part, choice, describe, flag, nested, number
from nasframe.plugins import Plugins, discover, hookimpl, installed
from nasframe.pointwise import Pointwise, Term
from nasframe.pruner import Pruner, all_but_strongest
from nasframe.recipe import Recipe, Reproduction
from nasframe.run.folder import load_model, save_model
from nasframe.search.bilevel import alternate
from nasframe.search.drawn import drawn
from nasframe.search.events import Changed, EpochEnded, Event, Finished, Judged, Stepped
from nasframe.search.fit import Fitted, fit, scores
from nasframe.search.loop import Loop
from nasframe.search.replay import replay
from nasframe.search.search import Search
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed
from nasframe.structure import Candidate, Cell, Node, Site, Structure
from nasframe.task import Data, Split, Task

__all__ = [
    "ABSTAIN",
    "OWN",
    "ZERO",
    "Aided",
    "AllOf",
    "AnyOf",
    "Architect",
    "Axis",
    "Backbone",
    "Bilevel",
    "Bound",
    "Candidate",
    "Cell",
    "Change",
    "ChangeError",
    "Changed",
    "CheckpointError",
    "Claim",
    "ClaimError",
    "Cost",
    "Data",
    "DataError",
    "Decision",
    "EpochEnded",
    "Event",
    "Finished",
    "Fitted",
    "Gate",
    "Grown",
    "GrowthCriterion",
    "Judged",
    "Loop",
    "Mixture",
    "Model",
    "Morphism",
    "Named",
    "NasframeError",
    "Network",
    "Node",
    "NonFiniteError",
    "Operation",
    "Optimiser",
    "Outputs",
    "Part",
    "PluginError",
    "Plugins",
    "Pointwise",
    "Proposal",
    "Pruner",
    "Recipe",
    "Replacement",
    "Reproduction",
    "RunError",
    "Scale",
    "Search",
    "Seed",
    "Set",
    "Shares",
    "Site",
    "Split",
    "Stepped",
    "Strategy",
    "StrategyError",
    "Structure",
    "StructureError",
    "Take",
    "Task",
    "Term",
    "UnknownNameError",
    "all_but_strongest",
    "alternate",
    "apply",
    "births",
    "build",
    "candidate_at",
    "choice",
    "consumes",
    "cost",
    "describe",
    "discover",
    "distance",
    "drawn",
    "fit",
    "flag",
    "folding",
    "hookimpl",
    "installed",
    "label",
    "load_model",
    "nested",
    "number",
    "one_more",
    "operations_of",
    "produces",
    "readable",
    "removal",
    "replacement",
    "replay",
    "save_model",
    "scores",
    "site_at",
    "tensors",
    "tolerance",
]
