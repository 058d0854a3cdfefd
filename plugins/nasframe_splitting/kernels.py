"""Splitting matrices and their least eigenvalues (Wu, Wang & Liu 2019; Jie & Gao 2021, Eqs. 10 and 11).

A unit s(x) = sigma(theta x) is split into two with the parameters theta + eps v and theta - eps v, each with half the outgoing weight.
By Taylor's formula the odd powers of eps cancel, and the loss L changes by

    eps^2 / 2  v^T S v + O(eps^4)    with    S = sum_b dL/ds(b) sigma''(theta x_b) x_b x_b^T,

the splitting matrix (Eq. 10). It is not the Hessian of the loss. Its least eigenvalue is the splitting index of the unit, and v is best
chosen as the eigenvector (Eq. 11). If several units are split at once, the changes add up to O(eps^4), as each alters its output
by O(eps^2) only.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Sequence

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from nasframe import Seed

#: the largest number of entries of a temporary tensor where matrices are formed, unless a single unit needs more
CHUNK = 1 << 22
#: A matrix is decomposed if it has at most `SMALL` rows, and at most `ROWS_PER_STEP` rows for each step of the method of Lanczos.
#: This takes no more time than these steps, and is exact.
SMALL, ROWS_PER_STEP = 32, 6


def _tuple_of(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensors)


@attrs.frozen(eq=False)
class SplittingMatrices:
    """The splitting matrices S_u of the units u of a layer, which are kept as sums of outer products.

    The parameters of a unit may occur in several linear terms z_j = theta_j x_j of a function sigma(z_1, z_2, ...), as in a highway. Then
    theta = (theta_1, theta_2, ...), and S_u has the blocks

        S_u[j, k] = sum_b c_jk[b, u] x_j[b] x_k[b]^T,    c_jk[b, u] = dL/ds_u(b) d^2 sigma / dz_j dz_k.

    Tensors may have leading axes, along which layers are independent, such as the groups of a convolution.

    Args:
        features: x_j for each term, of shape (..., samples, d_j), with a column of ones for a bias.
        coefficients: c_jk for each pair of terms, of shape (terms, terms, ..., samples, units).

    Example:
        >>> matrices = SplittingMatrices([torch.tensor([[1.0, 2.0]])], torch.tensor([[[[3.0]]]]))
        >>> matrices.form()
        tensor([[[ 3.,  6.],
                 [ 6., 12.]]])
    """

    features: tuple[Tensor, ...] = attrs.field(converter=_tuple_of)
    coefficients: Tensor

    @property
    def size(self) -> int:
        """Return the number of parameters of a unit, the rows of S_u."""
        return sum(x.shape[-1] for x in self.features)

    @property
    def units(self) -> int:
        """Return the number of units along the last axis of the coefficients."""
        return self.coefficients.shape[-1]

    def form(self, units: slice = slice(None)) -> Tensor:
        """Return the matrices S_u of some units, of shape (..., units, size, size)."""
        # One product of matrices for each pair of terms: the scaled features of all units lie one below the other.
        rows = []
        for x, of_term in zip(self.features, self.coefficients, strict=True):
            blocks = []
            for y, c in zip(self.features, of_term, strict=True):
                scaled = c[..., units].mT.unsqueeze(-2) * x.mT.unsqueeze(-3)  # (..., units, d_j, samples)
                blocks.append((scaled.flatten(-3, -2) @ y).unflatten(-2, scaled.shape[-3:-1]))
            rows.append(torch.cat(blocks, -1))
        return torch.cat(rows, -2)

    def product(self, v: Tensor) -> Tensor:
        """Return S_u v_u for each unit without forming S_u; v and the result have the shape (..., units, size).

        It takes two products of matrices for each term: sum_b x_j[b] c_jk[b, u] (x_k[b] v_u).
        """
        parts = v.split([x.shape[-1] for x in self.features], -1)
        projected = [x @ part.mT for x, part in zip(self.features, parts, strict=True)]  # (..., samples, units)
        found = []
        for x, of_term in zip(self.features, self.coefficients, strict=True):
            scaled = [c * p for c, p in zip(of_term, projected, strict=True)]
            found.append(functools.reduce(torch.add, scaled).mT @ x)
        return torch.cat(found, -1)

    def chunks(self) -> Iterator[slice]:
        """Yield slices of the units whose matrices can be formed together in little memory."""
        groups, samples = self.coefficients.shape[2:-2].numel(), self.coefficients.shape[-2]
        step = max(1, CHUNK // (groups * self.size * max(self.size, samples)))
        for start in range(0, self.units, step):
            yield slice(start, start + step)


@attrs.frozen(eq=False)
class Eigenpairs:
    """The least eigenvalue of each splitting matrix, and its eigenvector.

    Attributes:
        values: the splitting indices lambda_min, of shape (..., units).
        vectors: the eigenvectors v_min of length 1, of shape (..., units, size); their sign is arbitrary.
    """

    values: Tensor
    vectors: Tensor


def exact_eigenpairs(matrices: SplittingMatrices) -> Eigenpairs:
    """Return the least eigenpairs by forming the matrices, some units at a time, and decomposing them.

    Example:
        The matrix -3 x x^T of x = (1, 2) has the least eigenvalue -3 |x|^2:

        >>> import torch
        >>> matrices = SplittingMatrices([torch.tensor([[1.0, 2.0]])], torch.tensor([[[[-3.0]]]]))
        >>> exact_eigenpairs(matrices).values.round()
        tensor([-15.])
    """
    found = []
    for units in matrices.chunks():
        values, vectors = torch.linalg.eigh(matrices.form(units))
        found.append((values[..., 0], vectors[..., 0]))  # in ascending order
    return Eigenpairs(torch.cat([values for values, _ in found], -1), torch.cat([vectors for _, vectors in found], -2))


def lanczos_eigenpairs(matrices: SplittingMatrices, steps: int, seed: Seed) -> Eigenpairs:
    """Return approximate least eigenpairs by the method of Lanczos, for all units at once and without forming the matrices.

    The value is a Ritz value, which is never below lambda_min, and the vector v has it as its quotient v^T S v. So the predicted change
    of the loss is right for this vector, also where the vector is still far from v_min.

    Args:
        matrices: the splitting matrices.
        steps: the dimension of the Krylov space. With `matrices.size` steps the pairs are exact.
        seed: the seed of the random vectors.

    Example:
        The matrix with -1, -4, -9, ..., -2500 on its diagonal:

        >>> import torch
        >>> matrices = SplittingMatrices([torch.arange(1.0, 51.0).diag()], -torch.ones(1, 1, 50, 1))
        >>> lanczos_eigenpairs(matrices, steps=10, seed=nasframe.Seed((0,))).values.round()
        tensor([-2500.])
    """
    generator, like = seed.generator(), matrices.coefficients
    shape = (*like.shape[2:-2], matrices.units, matrices.size)
    steps = min(steps, matrices.size)
    basis = like.new_zeros((*shape[:-1], steps, shape[-1]))
    diagonal, off = list[Tensor](), list[Tensor]()

    def drawn() -> Tensor:
        # in float64 on the CPU, so that the vectors are the same for every dtype and device
        vectors = torch.randn(shape, generator=generator, dtype=torch.float64).to(like)
        return functional.normalize(vectors, dim=-1)

    def orthogonalised(w: Tensor, known: Tensor) -> Tensor:
        # rows and not columns: with w as a column, torch's products take several times as long
        return w - (w.unsqueeze(-2) @ known.mT @ known).squeeze(-2)

    # A start close to v_min spares steps. The random part reaches what is orthogonal to the most negative sample.
    q = functional.normalize(_most_negative(matrices) + 0.3 * drawn(), dim=-1)
    for step in range(steps):
        basis[..., step, :] = q
        w = matrices.product(q)
        scale = torch.linalg.vector_norm(w, dim=-1)
        diagonal.append((w * q).sum(-1))
        if step + 1 == steps:
            break
        # the recurrence of three terms, and what rounding leaves of the vectors before them
        w = w - diagonal[-1].unsqueeze(-1) * q
        if off:
            w = w - off[-1].unsqueeze(-1) * basis[..., step - 1, :]
        known, before = basis[..., : step + 1, :], torch.linalg.vector_norm(w, dim=-1)
        w = orthogonalised(w, known)
        norm = torch.linalg.vector_norm(w, dim=-1)
        if bool((norm < 0.5 * before).any()):  # little is left, and rounding is a part of it
            w = orthogonalised(w, known)
            norm = torch.linalg.vector_norm(w, dim=-1)
        # The Krylov space is complete where nothing but rounding is left: another direction is drawn, which is not connected with it.
        complete = norm <= 16 * torch.finfo(w.dtype).eps * scale
        if bool(complete.any()):
            w = torch.where(complete.unsqueeze(-1), orthogonalised(orthogonalised(drawn(), known), known), w)
        off.append(norm.masked_fill(complete, 0.0))
        q = functional.normalize(w, dim=-1)
    tridiagonal = torch.diag_embed(torch.stack(diagonal, -1))
    if off:
        tridiagonal = tridiagonal + torch.diag_embed(torch.stack(off, -1), -1)  # eigh reads the lower half
    values, vectors = torch.linalg.eigh(tridiagonal)
    return Eigenpairs(values[..., 0], torch.einsum("...k,...kd->...d", vectors[..., 0], basis))


def _most_negative(matrices: SplittingMatrices) -> Tensor:
    """Return for each unit x[b] / |x[b]| of the sample b with the most negative part of S_u, of shape (..., units, size).

    With y = x[b] / |x[b]|, the quotient of the sample's part of S_u is sum_jk c_jk[b, u] |x_j[b]|^2 |x_k[b]|^2 / |x[b]|^2.
    """
    squares = [x.square().sum(-1, keepdim=True) for x in matrices.features]
    parts = [
        c * p * q
        for p, of_term in zip(squares, matrices.coefficients, strict=True)
        for q, c in zip(squares, of_term, strict=True)
    ]
    sample = (torch.stack(parts).sum(0) / torch.stack(squares).sum(0)).argmin(-2).unsqueeze(-1)  # (..., units, 1)
    chosen = torch.cat([x.take_along_dim(sample, -2) for x in matrices.features], -1)
    return functional.normalize(chosen, dim=-1)


def least_eigenpairs(matrices: SplittingMatrices, steps: int | None, seed: Seed) -> Eigenpairs:
    """Return the least eigenpairs by a number of steps of the method of Lanczos, or exactly for None and for small matrices.

    Example:
        >>> import torch
        >>> matrices = SplittingMatrices([torch.tensor([[3.0, 4.0]])], torch.tensor([[[[-1.0]]]]))
        >>> least_eigenpairs(matrices, steps=30, seed=nasframe.Seed((0,))).vectors.abs()
        tensor([[0.6000, 0.8000]])
    """
    if steps is None or matrices.size <= max(steps, min(SMALL, ROWS_PER_STEP * steps)):
        return exact_eigenpairs(matrices)
    return lanczos_eigenpairs(matrices, steps, seed)


def least_eigenpairs_of(layers: Sequence[SplittingMatrices], steps: int | None, seed: Seed) -> Sequence[Eigenpairs]:
    """Return what `least_eigenpairs` returns for each of several layers; those of one shape are computed together."""
    alike: dict[Hashable, list[int]] = {}
    for place, matrices in enumerate(layers):
        alike.setdefault((*(x.shape for x in matrices.features), matrices.coefficients.shape), []).append(place)
    found: dict[int, Eigenpairs] = {}
    for places in alike.values():
        features = [torch.stack(x) for x in zip(*(layers[p].features for p in places), strict=True)]
        coefficients = torch.stack([layers[p].coefficients for p in places], 2)
        pairs = least_eigenpairs(SplittingMatrices(features, coefficients), steps, seed)
        found |= zip(places, map(Eigenpairs, pairs.values, pairs.vectors), strict=True)
    return [found[place] for place in range(len(layers))]
