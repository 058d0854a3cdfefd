"""Which axes of a module's tensors carry the same units."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import config
from torch.fx.traceback import preserve_node_meta

from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis, product
from nasframe.modules.example import Example
from nasframe.modules.provenance import Call, Listener, attributes_of, remembered, users
from nasframe.modules.rules import Trace, Value
from nasframe.modules.rules.readings import Equal, Reading, ties
from nasframe.modules.rules.trace import ModuleNumber, Source
from nasframe.modules.verify import outputs


@attrs.frozen(eq=False)
class Coupling:
    """The axes of a module's tensors, and which of them carry the same units.

    Attributes:
        model: the module.
        example: what it was called with.
        tensors: its parameters and buffers; a tied tensor once, under its first name.
        aliases: all names of each of them.
        axes: the axes of each of them.
        produced: where each axis (tensor, number) is used that produces its units, such as the rows of a linear layer.
        consumed: where each axis is used that is summed over, such as the columns of a linear layer.
        contracted: the atoms over which two activations are multiplied and summed, and where.
        scaled: those of them of which each such sum is divided by the root of its size, as attention scores are.
        equal: axes whose sizes a module ties beyond their units.
        module_numbers: what torch's modules keep as numbers.
        norm_before: for an axis that consumes, the affine parameters of the normalisation if that alone feeds it.
        unused: the tensors that neither graph reads.
        readings: where the code gives the size of an axis as a number that comes from attributes and shapes.
        graphs: the exported graphs by training mode.
    """

    model: nn.Module
    example: Example
    tensors: Mapping[str, Tensor]
    aliases: Mapping[str, tuple[str, ...]]
    axes: Mapping[str, tuple[Axis, ...]]
    produced: Mapping[Source, str]
    consumed: Mapping[Source, str]
    contracted: Mapping[Axis, str]
    scaled: frozenset[Axis]
    equal: tuple[Equal, ...]
    module_numbers: tuple[ModuleNumber, ...]
    norm_before: Mapping[Source, tuple[str, ...]]
    unused: frozenset[str]
    readings: tuple[Reading, ...]
    graphs: Mapping[bool, ExportedProgram]


def couple(
    model: nn.Module,
    example: Example | Tensor | tuple[Any, ...] | Mapping[str, Any],
    modes: Sequence[bool] = (True, False),
) -> Coupling:
    """Return which axes of a module's tensors carry the same units.

    The module is exported in training and in evaluation mode, and both graphs are read into the same axes. If no module reads its mode,
    the graphs are equal, and it is exported once. It is left as it is.

    Args:
        model: any module that torch.export can trace.
        example: what to call it with: a tensor, a tuple of arguments, a dictionary of keyword arguments, or an `Example`.
        modes: the modes to trace: True for training, False for evaluation.

    Raises:
        ChangeError: if the module cannot be called with the example, or not be traced.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> coupling = couple(net, torch.zeros(1, 4))
        >>> coupling.axes["0.weight"][0].find() is coupling.axes["2.weight"][1].find()
        True
        >>> coupling.axes["2.weight"][0].frozen
        "it is an axis of the model's output"
    """
    require_module(model)
    example = Example.of(example).copied()
    aliases = _aliases(model)
    names = {alias: name for name, all_names in aliases.items() for alias in all_names}
    held = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    tensors = {name: held[name] for name in aliases}
    # Both graphs are read into the axes of one trace, so that what either of them says holds for the model.
    trace = Trace(tensors, names)
    # A tensor below "parametrizations" is not the weight, but what the weight is computed from.
    for name, axes in trace.axes.items():
        module, parametrised, rest = name.partition("parametrizations.")
        if parametrised:
            reason = f"{module}{rest.partition('.')[0]} has a parametrisation: remove it, change the model, and add it again"
            for axis in axes:
                axis.freeze(reason)
    graphs: dict[bool, ExportedProgram] = {}
    for training in modes:
        exported, calls, depends = _export(model, example, training)
        _read(trace, exported, calls)
        graphs[training] = exported
        # No module has read its mode, so that the other graph would be the same.
        if not depends:
            graphs = dict.fromkeys(modes, exported)
            break
    # After both graphs: the code may give a number in one of them and compute with it in the other.
    trace.equal.extend(ties(trace.readings))
    # An atom that is contracted without the root anywhere must keep its size.
    scaled = {root: {a for axis, _, by in trace.contracted if by is root for a in axis.atoms()} for root in (True, False)}
    numbers = [*trace.module_numbers, *_attention_numbers(model, trace), *_shape_numbers(model, trace)]
    return Coupling(
        model=model,
        example=example,
        tensors=tensors,
        aliases=aliases,
        axes=trace.axes,
        produced=trace.produced,
        consumed=trace.consumed,
        # Reversed, so that the first place is the one that is named.
        contracted={atom: where for axis, where, _ in reversed(trace.contracted) for atom in axis.atoms()},
        scaled=frozenset(scaled[True] - scaled[False]),
        # Without ties of axes that were unified later on, and each pair once.
        equal=tuple(
            {(e.first.find(), e.second.find()): e for e in trace.equal if e.first.find() is not e.second.find()}.values()
        ),
        module_numbers=tuple({(n.module, n.attribute): n for n in numbers}.values()),
        norm_before=trace.norm_before,
        unused=frozenset(tensors) - _used(names, graphs.values()),
        readings=tuple({(r.expression, r.axis.find()): r for r in trace.readings if _may_change(r)}.values()),
        graphs=graphs,
    )


def require_module(model: Any) -> None:
    """Check that a model is a module, and not its class or something else.

    Raises:
        ChangeError: with what to give.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"of type {type(model).__name__}"
        raise ChangeError(f"the model is {kind}; give an instance of torch.nn.Module, such as Net()")


def _may_change(reading: Reading) -> bool:
    """Return whether a reading says anything: not where both the number and the axis are constants of the code."""
    return bool(attributes_of(reading.expression)) or not reading.axis.frozen


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return all names of each parameter and buffer, by its first name."""
    found: dict[int, list[str]] = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        found.setdefault(id(tensor), []).append(name)
    return {names[0]: tuple(names) for names in found.values()}


def _export(model: nn.Module, example: Example, training: bool) -> tuple[ExportedProgram, Mapping[int, Call], bool]:
    """Return the graph of a model in one mode, the calls in the user's code that made its nodes, and whether a module reads its mode."""
    mode = f"in {'training' if training else 'evaluation'} mode"
    try:
        with (
            # The outermost, so that it also takes back what the other contexts and the user's forward do to attributes.
            _restored(model),
            _readers_of_mode(model) as readers,
            remembered(model),
            preserve_node_meta(),
            Listener() as listener,
            warnings.catch_warnings(),
            redirect_stderr(StringIO()),  # where torch.export prints the graph that it could not complete
        ):
            warnings.simplefilter("ignore")
            for module in model.modules():
                module.training = training
            # Not strict: the user's code runs as it is, in which numbers can be instances of `Number` and calls are seen by
            # `Listener`.
            exported = torch.export.export(model, example.args, dict(example.kwargs), strict=False)
    except Exception as error:  # whatever the user's forward and torch.export raise
        # a model that does not run at all is a wrong example far more often than a limit of torch.export
        if (wrong := _call_error(model, example, training)) is not None:
            raise ChangeError(f"the model cannot be called with this example {mode}: {_first_line(wrong)}") from wrong
        raise ChangeError(
            f"torch.export cannot trace the model {mode}: {_first_line(error)}; nasframe changes models that torch.export can trace"
        ) from error
    return exported, listener.calls, not readers.isdisjoint(model.modules())


@contextmanager
def _readers_of_mode(model: nn.Module) -> Iterator[set[nn.Module]]:
    """Collect the modules whose attribute `training` is read within a `with` block."""
    # where a class defines it, or the code is compiled, it cannot be seen
    readers = {m for m in model.modules() if hasattr(type(m), "training") or isinstance(m, torch.jit.ScriptModule)}

    def read(module: nn.Module) -> bool:
        readers.add(module)
        # As for any missing attribute; the constructor of nn.Module sets it through `write`.
        if "training" not in vars(module):
            raise AttributeError("training")
        return bool(vars(module)["training"])

    def write(module: nn.Module, training: bool) -> None:
        vars(module)["training"] = training

    # a property of the class precedes the attribute of the instance
    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        yield readers
    finally:
        del nn.Module.training


def _call_error(model: nn.Module, example: Example, training: bool) -> Exception | None:
    """Return the error that a call of the model with the example raises, or None."""
    try:
        copied = copy.deepcopy(model)
    except Exception:  # then it cannot be called without modifying it
        return None
    try:
        outputs(copied, example, training)
    except ChangeError:  # it draws random numbers that have no mean
        return None
    except Exception as error:
        return error
    return None


def _first_line(error: Exception) -> str:
    """Return the kind and the first line of an error, with the line of the user's code that raised it."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}{_user_line(error)}"


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore the attributes of all modules, and the settings of torch, at the end of a `with` block."""
    # Shallow copies, so that parameters and parts are the same objects afterwards.
    before = {module: dict(vars(module)) for module in model.modules()}
    fast, without = torch.backends.mha.get_fastpath_enabled(), getattr(config, "do_not_emit_stack_traces", False)
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path is one operation that hides the layers inside
    # `Listener` notes the line of the user's code. The stack of each node takes a tenth of the time of an export.
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        config.do_not_emit_stack_traces = without
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)


def _user_line(error: BaseException) -> str:
    """Return the innermost line of code outside torch where an error was raised."""
    line, traceback = "", error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if users(file):
            line = f" ({file.rpartition('/')[2]}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return line


def _used(names: Mapping[str, str], graphs: Iterable[ExportedProgram]) -> set[str]:
    """Return the parameters and buffers that some node of a graph reads."""
    return {
        names[spec.target]
        for exported in graphs
        for spec, node in zip(exported.graph_signature.input_specs, exported.graph.find_nodes(op="placeholder"), strict=True)
        if spec.target in names and node.users
    }


def _read(trace: Trace, exported: ExportedProgram, calls: Mapping[int, Call]) -> None:
    """Read one exported graph into the axes of the trace."""
    places = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    inputs = []
    for spec in exported.graph_signature.input_specs:
        shown = places[spec.arg.name].meta.get("val")
        if spec.target in trace.names and spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            name = trace.names[spec.target]
            inputs.append(Value(trace.axes[name], [(name, k) for k in range(len(trace.axes[name]))], derived=True))
        elif isinstance(shown, Tensor):
            constant = spec.kind != InputKind.USER_INPUT
            what = f"the constant tensor {spec.target} of the code" if constant else f"the model's input {spec.arg.name}"
            inputs.append(attrs.evolve(trace.like(shown, f"it is an axis of {what}"), derived=constant))
        else:
            inputs.append(shown)
    outputs = trace.read(exported.graph, inputs, calls)
    for spec, value in zip(exported.graph_signature.output_specs, outputs, strict=True):
        if not isinstance(value, Value):
            continue
        if spec.kind == OutputKind.BUFFER_MUTATION and spec.target in trace.names:
            # What is written into a buffer has its units, such as the mean of a batch that enters a running mean.
            for k, axis in enumerate(trace.axes[trace.names[spec.target]]):
                trace.where = f"the buffer {spec.target}"
                trace.unify(axis, value.axes[k])
        elif spec.kind == OutputKind.USER_OUTPUT:
            for axis in value.axes:
                axis.freeze("it is an axis of the model's output")


def _attention_numbers(model: nn.Module, trace: Trace) -> Iterator[ModuleNumber]:
    """Yield the numbers of nn.MultiheadAttention, which has no head size beside its width: both are tied."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.MultiheadAttention):
            continue
        prefix = f"{name}." if name else ""
        if module._qkv_same_embed_dim:
            rows, embed = trace.axes[trace.names[f"{prefix}in_proj_weight"]]
            # The rows of q, k and v: a sum if the graph has split them, a product 3 * embed_dim if it has reshaped them.
            factors = rows.factors()
            query = rows.summands()[0] if rows.find().form == "+" else product(factors[1:])
        else:
            query = trace.axes[trace.names[f"{prefix}q_proj_weight"]][0]
            embed = trace.axes[trace.names[f"{prefix}out_proj.weight"]][0]
        trace.equal.append(Equal(query, embed, f"embed_dim of {name}: nn.MultiheadAttention has no separate head size"))
        heads, *size = query.factors() if module.num_heads > 1 else (None, query)
        if heads is not None and heads.size == module.num_heads:
            yield ModuleNumber(name, "num_heads", heads)
        yield ModuleNumber(name, "head_dim", product(size))
        yield ModuleNumber(name, "embed_dim", embed)
        for attribute, weight in (("kdim", "k_proj_weight"), ("vdim", "v_proj_weight")):
            same = module._qkv_same_embed_dim
            yield ModuleNumber(name, attribute, embed if same else trace.axes[trace.names[prefix + weight]][1])


#: the numbers of torch's modules that are the size of an axis of a tensor: (class, attribute, tensor, axis)
SHAPES: tuple[tuple[type[nn.Module], str, str, int], ...] = (
    (nn.Linear, "out_features", "weight", 0),
    (nn.Linear, "in_features", "weight", 1),
    (nn.Bilinear, "out_features", "weight", 0),
    (nn.Bilinear, "in1_features", "weight", 1),
    (nn.Bilinear, "in2_features", "weight", 2),
    (nn.Embedding, "embedding_dim", "weight", 1),
    (nn.EmbeddingBag, "embedding_dim", "weight", 1),
    (nn.modules.batchnorm._NormBase, "num_features", "weight", 0),
    (nn.modules.batchnorm._NormBase, "num_features", "running_mean", 0),
    (nn.GroupNorm, "num_channels", "weight", 0),
    (nn.PReLU, "num_parameters", "weight", 0),
    (nn.RNNBase, "hidden_size", "weight_hh_l0", 1),
    (nn.RNNBase, "input_size", "weight_ih_l0", 1),
    (nn.RNNCellBase, "hidden_size", "weight_hh", 1),
    (nn.RNNCellBase, "input_size", "weight_ih", 1),
)


def _shape_numbers(model: nn.Module, trace: Trace) -> Iterator[ModuleNumber]:
    """Yield the numbers of torch's modules that follow from the shapes of their tensors."""
    groups = {number.module: number.axis for number in trace.module_numbers if number.attribute == "groups"}
    for name, module in model.named_modules():
        axes = {n: trace.axes[trace.names[f"{name}.{n}" if name else n]] for n, t in _held(module).items() if t is not None}
        for kind, attribute, tensor, dim in SHAPES:
            if isinstance(module, kind) and tensor in axes:
                yield ModuleNumber(name, attribute, axes[tensor][dim])
        if isinstance(module, nn.modules.conv._ConvNd) and "weight" in axes:
            # Axis 1 of the weight has the channels of one group only.
            group = [groups[name]] if name in groups else []
            full, partial = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
            yield ModuleNumber(name, full, axes["weight"][0])
            # not a product of one axis, which would be another axis where it has the size 1
            yield ModuleNumber(name, partial, product([*group, axes["weight"][1]]) if group else axes["weight"][1])
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and "weight" in axes and len(axes["weight"]) == 1:
            yield ModuleNumber(name, "normalized_shape", axes["weight"][0])


def _held(module: nn.Module) -> dict[str, Tensor | None]:
    return {**module._parameters, **module._buffers}
