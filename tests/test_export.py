"""Networks work with PyTorch's other ways to run a module: export and tracing, autocast, transforms, forward-mode derivatives.

A fast form cannot be captured or transformed, so that the readable form runs there without anybody asking for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import torch
from full import FULL
from nasframe_convolutional import DartsConvolutional, Identity, NasBench201, SeparableConvolution
from nasframe_growing import NodeGrowth
from nasframe_recurrent import Darts, TwoToOne
from torch import Tensor
from torch.autograd import forward_ad
from torch.export import Dim
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from nasframe import Backbone, Network, Seed, build
from nasframe.change.edit import remove_candidates
from nasframe.network import network as network_module
from nasframe.network.model import Model, Scale, Signature

# torch.jit is deprecated as a whole, but `torch.jit.trace` is still used, and the derivative rules of torch itself use torch.jit.script
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")

TIME, BATCH = 2, 4


@attrs.frozen(eq=False)
class Found:
    """A network as a search returns it: an architecture, one node of which is behind a gate that is partly open.

    Args:
        model: the network with the scales of its inputs and outputs.
        inputs: an example of its inputs.
        batch: the axis of the batch.
    """

    model: Model
    inputs: Tensor
    batch: int

    def other_inputs(self) -> Tensor:
        """Return inputs of another batch size."""
        shape = list(self.inputs.shape)
        shape[self.batch] = BATCH + 3
        return torch.randn(shape, generator=Seed(("other",)).generator())


def found(backbone: Backbone, sizes: dict[str, int], inputs: Tensor, batch: int, scale: Scale | None = None) -> Found:
    """Return an architecture of the backbone with random parameters.

    Args:
        backbone: the backbone.
        sizes: the sizes of its task.
        inputs: an example of its inputs.
        batch: the axis of the batch.
        scale: the scale of inputs and outputs; None for images.
    """
    seed = Seed((0,))
    structure = backbone.initial(sizes, 2)
    generator = seed("alphas").generator()
    for step in ("first", "second"):  # the second time with one more node
        undecided = [(a, s) for a, s in structure.sites() if not s.decided]
        mixing = {a: torch.rand(len(s.candidates), generator=generator) for a, s in undecided}
        structure = remove_candidates(structure, backbone.derive(structure, mixing)).structure
        if step == "first":
            cell = structure.cells[0][0]
            structure = NodeGrowth(form="gate").edit(structure, {"cell": cell}, {}, seed("grow")).structure
    network = build(structure, seed("build"))
    for _, gate in network.gates():
        gate.g.data.fill_(0.3)
    axes = ("time", "batch", "columns") if batch else ("batch", "channels", "height", "width")
    signature = Signature(axes, tuple(None if i == batch else n for i, n in enumerate(inputs.shape)))
    return Found(Model(network, scale, scale, signature).eval(), inputs, batch)


SERIES = torch.randn(TIME, BATCH, 2, generator=Seed(("series",)).generator())
IMAGES = torch.randn(BATCH, 3, 8, 8, generator=Seed(("images",)).generator())
SCALE = Scale(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.7]))
WINDOW_SCALE = Scale(SCALE.mean, SCALE.std, window=True)
EXAMPLES: dict[str, Callable[[], Found]] = {
    "two_to_one": lambda: found(TwoToOne(3, 2), {"inputs": 2, "outputs": 2}, SERIES, 1, SCALE),
    "darts": lambda: found(Darts(3, output="mean"), {"inputs": 2, "outputs": 2}, SERIES, 1, WINDOW_SCALE),
    "images": lambda: found(
        DartsConvolutional(2, 3, operations=(Identity(), SeparableConvolution(3))),
        {"channels": 3, "classes": 2, "height": 8, "width": 8},
        IMAGES,
        0,
    ),
    "nas_bench_201": lambda: found(NasBench201(2, 1), {"channels": 3, "classes": 2}, IMAGES, 0),
}
RECURRENT = ["two_to_one", "darts"]


@pytest.fixture(params=EXAMPLES if FULL else ["two_to_one", "nas_bench_201"])
def any_network(request: pytest.FixtureRequest) -> Found:
    """Return a found network of each backbone."""
    return EXAMPLES[request.param]()


@pytest.fixture(params=RECURRENT)
def recurrent(request: pytest.FixtureRequest) -> Found:
    """Return a found network of each recurrent backbone."""
    return EXAMPLES[request.param]()


@pytest.fixture(autouse=True)
def gradients_enabled() -> Iterator[None]:
    """Check that a test neither relies on disabled gradients nor leaves them disabled."""
    assert torch.is_grad_enabled()
    yield
    assert torch.is_grad_enabled()


def close(actual: Tensor, expected: Tensor) -> None:
    """Assert that values of float32 agree up to the rounding of another order of the operations."""
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-5, atol=1e-5)


def readable(model: Model) -> Model:
    """Return a copy that always runs in its readable form."""
    model = copy.deepcopy(model)
    model.network.fast = False
    return model


class TestCapture:
    """A captured program computes what the network does, also for another batch size."""

    def test_trace(self, any_network: Found) -> None:
        """`torch.jit.trace` captures a network as it is."""
        program = torch.jit.trace(any_network.model, (any_network.inputs,))
        for inputs in (any_network.inputs, any_network.other_inputs()):
            close(program(inputs), any_network.model(inputs))
        assert any_network.model.network.fast

    def test_export(self, any_network: Found) -> None:
        """`torch.export` captures a network as it is, with a batch of any size."""
        program = torch.export.export(
            any_network.model, (any_network.inputs,), dynamic_shapes=({any_network.batch: Dim("batch")},)
        ).module()
        for inputs in (any_network.inputs, any_network.other_inputs()):
            close(program(inputs), any_network.model(inputs))
        assert any_network.model.network.fast

    def test_onnx(self) -> None:
        """`torch.onnx.export` captures a network as it is, with a batch of any size."""
        pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript: pip install onnxscript")
        reference = pytest.importorskip("onnx.reference", reason="the exported program is run by onnx: pip install onnx")
        example = EXAMPLES["two_to_one"]()
        program = torch.onnx.export(
            example.model,
            (example.inputs,),
            dynamo=True,
            dynamic_shapes=({example.batch: Dim("batch")},),
            input_names=["x"],
            verbose=False,
        )
        evaluator = reference.ReferenceEvaluator(program.model_proto)
        for inputs in (example.inputs, example.other_inputs()):
            (outputs,) = evaluator.run(None, {"x": inputs.numpy()})
            close(torch.as_tensor(outputs), example.model(inputs))
        assert example.model.network.fast

    def test_compile(self) -> None:
        """`torch.compile` captures a network as one graph, without breaks, with its gradients."""
        example = EXAMPLES["darts"]()
        program = torch.compile(example.model, backend="aot_eager", fullgraph=True)
        parameters = [*example.model.parameters()]
        close(program(example.inputs), example.model(example.inputs))
        compiled = torch.autograd.grad(program(example.inputs).square().sum(), parameters)
        for actual, expected in zip(
            compiled, torch.autograd.grad(example.model(example.inputs).square().sum(), parameters), strict=True
        ):
            close(actual, expected)

    def test_make_fx(self, recurrent: Found) -> None:
        """`make_fx` captures the gradient by the inputs."""

        def gradient(x: Tensor) -> Tensor:
            return torch.autograd.grad(recurrent.model(x).square().sum(), x)[0]

        x = recurrent.inputs.clone().requires_grad_()
        close(make_fx(gradient)(x)(x), gradient(x))


class TestAutocast:
    """Under autocast a network does what its readable form does, to the bit."""

    def test_prediction(self, any_network: Found) -> None:
        """Outputs and their dtype are those of the readable form, and near those without autocast."""
        network, slow = any_network.model.network, readable(any_network.model).network
        with torch.autocast("cpu", torch.bfloat16):
            actual, expected = network(any_network.inputs), slow(any_network.inputs)
            output = any_network.model(any_network.inputs)
        assert actual.dtype == expected.dtype == torch.bfloat16
        assert torch.equal(actual, expected)
        torch.testing.assert_close(output, any_network.model(any_network.inputs), rtol=0.05, atol=0.05)

    def test_training(self, recurrent: Found) -> None:
        """The gradients of a step are those of the readable form, in float32."""
        other = readable(recurrent.model)
        for model in (recurrent.model, other):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.train()(recurrent.inputs).square().mean()
            loss.backward()
        for actual, expected in zip(recurrent.model.parameters(), other.parameters(), strict=True):
            assert actual.grad is not None
            assert actual.grad.dtype == torch.float32
            assert torch.equal(actual.grad, expected.grad)

    def test_a_supernet(self) -> None:
        """A supernet works as well, whose mixing weights stay in float32."""
        network = build(TwoToOne(3).initial({"inputs": 2, "outputs": 1}, 2), Seed((0,)))
        outputs = []
        for fast in (True, False):
            network.fast = fast
            with torch.autocast("cpu", torch.bfloat16):
                outputs.append(network(SERIES, {a: alpha.softmax(0) for a, alpha in network.alphas.items()}))
        assert torch.equal(*outputs)

    def test_it_is_over_afterwards(self, recurrent: Found) -> None:
        """The fast form runs again after autocast, and in a region that disables it."""
        expected = recurrent.model(recurrent.inputs)
        with torch.autocast("cpu", torch.bfloat16):
            recurrent.model(recurrent.inputs)
            with torch.autocast("cpu", enabled=False):
                assert torch.equal(recurrent.model(recurrent.inputs), expected)
        assert torch.equal(recurrent.model(recurrent.inputs), expected)


class TestTransforms:
    """Function transforms and forward-mode derivatives give what the readable form gives."""

    @staticmethod
    def both(example: Found, function: Callable[[Network, Tensor], Any]) -> None:
        """Assert that a function of the network and float64 inputs returns the same for both forms."""
        network, x = example.model.network.double(), example.inputs.double()
        values = []
        for fast in (True, False):
            network.fast = fast
            values.append(function(network, x))
        torch.testing.assert_close(*values, rtol=1e-10, atol=1e-12)

    def test_vmap(self, recurrent: Found) -> None:
        """`vmap` over the examples of a batch."""
        self.both(recurrent, lambda network, x: vmap(network, in_dims=1, out_dims=1)(x.unsqueeze(2)))

    def test_grad(self, recurrent: Found) -> None:
        """`grad` by the parameters, for each example (as in differential privacy)."""

        def gradients(network: Network, x: Tensor) -> Any:
            def loss(parameters: dict[str, Tensor], example: Tensor) -> Tensor:
                return functional_call(network, parameters, (example.unsqueeze(1),)).square().sum()

            return vmap(grad(loss), in_dims=(None, 1))({n: p.detach() for n, p in network.named_parameters()}, x)

        self.both(recurrent, gradients)

    def test_jacobians(self, recurrent: Found) -> None:
        """`jacrev` and `jvp` by the inputs are those of the readable form."""
        self.both(recurrent, lambda network, x: jacrev(network)(x))
        self.both(recurrent, lambda network, x: jvp(network, (x,), (torch.ones_like(x),)))

    def test_forward_mode(self, recurrent: Found) -> None:
        """Forward-mode derivatives, by dual numbers of `torch.autograd.forward_ad`, are those of the readable form."""

        def derivative(network: Network, x: Tensor) -> Any:
            with forward_ad.dual_level():
                return tuple(forward_ad.unpack_dual(network(forward_ad.make_dual(x, torch.ones_like(x)))))

        self.both(recurrent, derivative)

    def test_gradients_in_batches(self, recurrent: Found) -> None:
        """Many gradients of one call at once: `is_grads_batched`, and `vmap` over a backward pass."""

        def gradients(network: Network, x: Tensor) -> Any:
            x = x.clone().requires_grad_()
            y = network(x)
            directions = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
            inputs = (x, *network.parameters())
            batch = torch.autograd.grad(y, inputs, directions, is_grads_batched=True, retain_graph=True)
            again = vmap(lambda g: torch.autograd.grad(y, inputs, g, retain_graph=True))(directions)
            return batch, again

        self.both(recurrent, gradients)

    def test_vectorised_hessian(self, recurrent: Found) -> None:
        """`torch.autograd.functional.hessian(vectorize=True)` is that of the readable form."""
        self.both(
            recurrent,
            lambda network, x: torch.autograd.functional.hessian(lambda x: network(x).square().sum(), x, vectorize=True),
        )


class TestMutants:
    """Each is a network whose fast form does not give way; the tests above find it."""

    @pytest.mark.parametrize(
        ("test", "error"),
        [
            (TestCapture().test_trace, torch.jit.TracerWarning),
            (TestAutocast().test_prediction, RuntimeError),
            (TestTransforms().test_vmap, RuntimeError),
            (TestTransforms().test_forward_mode, RuntimeError),
        ],
        ids=["trace", "autocast", "vmap", "forward_mode"],
    )
    def test_the_fast_form_does_not_give_way(
        self, test: Callable[[Found], None], error: type[Exception], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the check of the context each way to run the network fails."""
        monkeypatch.setattr(network_module, "requires_readable_form", lambda inputs: False)
        with pytest.raises(error):
            test(EXAMPLES["two_to_one"]())
