"""The public names of nasframe."""

from . import errors as errors, options as options, pictures as pictures
from .change.claim import Bound as Bound, Claim as Claim
from .change.edit import Edit as Edit, Filling as Filling
from .change.map import Set as Set, Take as Take
from .errors import NasframeError as NasframeError
from .interfaces.alpha_loss import AlphaLoss as AlphaLoss
from .interfaces.architect import Architect as Architect, Bilevel as Bilevel
from .interfaces.ask_tell import AskTellArchitect as AskTellArchitect, Memory as Memory, Request as Request
from .interfaces.backbone import Backbone as Backbone
from .interfaces.criterion import Decision as Decision, GrowthCriterion as GrowthCriterion
from .interfaces.morphism import Morphism as Morphism, Proposal as Proposal
from .interfaces.operation import Operation as Operation
from .interfaces.part import Part as Part
from .interfaces.pruner import Pruner as Pruner
from .interfaces.relaxation import Draw as Draw, Relaxation as Relaxation
from .interfaces.task import Data as Data, Split as Split, Task as Task
from .modules.change import grow as grow
from .modules.deepen import deepen as deepen
from .modules.kernels import crop_kernel as crop_kernel, dilate as dilate, pad_kernel as pad_kernel
from .modules.lineage import rebuild as rebuild
from .modules.morphism import ModuleMorphism as ModuleMorphism
from .modules.narrow import narrow as narrow
from .modules.paths import add_path as add_path
from .modules.places import places as places
from .modules.widen import widen as widen
from .network.mixing import Mixing as Mixing
from .network.network import Network as Network, build as build
from .network.pointwise import Pointwise as Pointwise
from .plugins import hookimpl as hookimpl, installed as installed
from .run.folder import load_model as load_model, save_model as save_model
from .search.context import Context as Context
from .search.optimiser import Optimiser as Optimiser
from .search.search import Search as Search
from .search.strategy import Strategy as Strategy
from .seeds import Seed as Seed
from .structure.address import Address as Address
from .structure.space import Space as Space
from .structure.structure import Candidate as Candidate, Cell as Cell, Node as Node, Site as Site, Structure as Structure
