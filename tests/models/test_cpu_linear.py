"""Claims about float32 matrix products on CPUs: oneDNN's equal PyTorch's, with their gradients, wherever each is used."""

import pytest
import torch

from rl_transformer.models.trunk import cpu_linear
from rl_transformer.models.trunk.block import Conv1D
from rl_transformer.models.trunk.cpu_linear import linear
from rl_transformer.runtime.machine import cpu_threads

WITH_ONEDNN = pytest.mark.skipif(
    cpu_linear._onednn is None, reason="this processor has no AVX-512: products are PyTorch's"
)


def factors(rows: int, inputs: int, outputs: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows + inputs + outputs)
    shapes = ((rows, inputs), (inputs, outputs), (outputs,))
    return tuple(torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 3, 5), (64, 128, 512), (300, 512, 128), (59, 32, 32)])
def test_products_and_gradients_are_those_of_float64(rows, inputs, outputs):
    given = factors(rows, inputs, outputs)
    weights = torch.randn(rows, outputs, generator=torch.Generator().manual_seed(0))
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    (linear(*given) * weights).sum().backward()
    ((exact[0] @ exact[1] + exact[2]) * weights.double()).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(linear(*given).double(), exact[0] @ exact[1] + exact[2], rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(given, exact, strict=True):
        # rtol bounds rounding of sums of this many terms in float32; bfloat16 or TF32 would be a thousand times off.
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=2e-4)


@pytest.fixture
def count(monkeypatch):
    """Return a function that says how many of oneDNN's products a call makes."""
    calls = []
    onednn = cpu_linear._onednn
    monkeypatch.setattr(cpu_linear, "_onednn", lambda *a: calls.append(a) or onednn(*a))

    def counted(run) -> int:
        before = len(calls)
        run()
        return len(calls) - before

    return counted


@WITH_ONEDNN
def test_acting_with_any_number_of_rows_needs_few_programs_of_onednn_and_no_other_bits(monkeypatch):
    # Each number of rows costs half a MiB for ever, which made a server grow with every new size of a batch.
    onednn = cpu_linear._onednn
    computed = set()
    monkeypatch.setattr(cpu_linear, "_onednn", lambda x, *rest: computed.add(len(x)) or onednn(x, *rest))
    x, weight, bias = (tensor.detach() for tensor in factors(1024, 32, 8))
    with torch.no_grad():
        every = linear(x, weight, bias)
        for rows in range(16, 1025):
            found = linear(x[:rows], weight, bias)
            assert torch.equal(found, every[:rows])
    assert len(computed) == 25
    assert all(cpu_linear.rounded_rows(rows) < 1.25 * rows for rows in range(1, 5000))
    # Training meets the same numbers all the time, and pays for no further rows.
    computed.clear()
    linear(x[:59], weight, bias)
    assert computed == {59}


@WITH_ONEDNN
def test_products_go_to_onednn_unless_others_must_see_them(count):
    x, weight, bias = factors(16, 8, 12)
    linear(x[:0], weight, bias).sum().backward()  # nothing to compute, and no error
    assert count(lambda: linear(x, weight, bias)) == 1
    assert count(lambda: linear(x, weight, bias).sum().backward()) == 3
    assert count(lambda: linear(x.double(), weight.double(), bias.double())) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert count(lambda: linear(x, weight, bias)) == 0
    stacked = torch.stack([weight, 2 * weight])
    assert count(lambda: torch.func.vmap(linear, (None, 0, None))(x, stacked, bias)) == 0
    exported = torch.export.export(Conv1D(12, 8).eval(), (x.detach(),))
    assert "mkldnn" not in str(exported.graph)


@WITH_ONEDNN
def test_what_needs_no_gradient_costs_no_product(count):
    x, weight, bias = factors(16, 8, 12)
    assert count(lambda: linear(x, weight.detach(), bias.detach()).sum().backward()) == 2
    torch.testing.assert_close(x.grad, weight.detach().sum(1).expand(16, -1))
    assert count(lambda: linear(x.detach(), weight, bias).sum().backward()) == 2
    torch.testing.assert_close(weight.grad, x.detach().sum(0)[:, None].expand(-1, 12))


def test_gradients_have_gradients():
    x, weight, bias = factors(16, 8, 12)
    found = []
    for product in (linear, lambda x, weight, bias: x @ weight + bias):
        (slope,) = torch.autograd.grad(product(x, weight, bias).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), weight)[0])
    torch.testing.assert_close(*found)


def test_a_slice_of_columns_is_the_slice_of_the_product():
    layer = Conv1D(12, 8)
    x = torch.randn(2, 5, 8)
    torch.nn.init.normal_(layer.weight)
    torch.testing.assert_close(layer(x, slice(4, None)), layer(x)[..., 4:])


@WITH_ONEDNN
def test_a_row_is_the_same_to_the_bit_among_any_number_of_rows():
    """Actions of a batch are those of single sessions; of MKL's products this holds from twelve rows only."""
    for inputs, outputs in ((128, 512), (512, 128), (128, 384)):
        x, weight, bias = (tensor.detach() for tensor in factors(256, inputs, outputs))
        for threads in (1, 2):
            with cpu_threads(threads), torch.no_grad():
                whole = linear(x, weight, bias)
                for rows in (1, 2, 3, 4, 5, 12, 59, 177):
                    assert torch.equal(linear(x[:rows], weight, bias), whole[:rows]), (rows, inputs, threads)


def test_the_library_of_the_products_is_named_as_it_is_used(monkeypatch):
    x, weight, bias = torch.randn(4, 3), torch.randn(3, 2), torch.randn(2)
    monkeypatch.setattr(cpu_linear, "_onednn", None)
    assert cpu_linear.float32_products() == "torch"
    assert torch.equal(cpu_linear.linear(x, weight, bias), torch.addmm(bias, x, weight))
    monkeypatch.setattr(cpu_linear, "_onednn", lambda x, weight, bias, *_: torch.full((4, 2), 7.0))
    assert cpu_linear.float32_products() == "oneDNN"
    with torch.no_grad():
        assert (cpu_linear.linear(x, weight, bias) == 7).all()
