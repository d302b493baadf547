"""scipy.sparse inputs: recognized without importing scipy.sparse, quantized without losing a value."""

import sys

import numpy as np

from sppim_core.arithmetic import quantize_inputs
from sppim_core.errors import ShapeError


def is_sparse(x) -> bool:
    """Whether x is a scipy.sparse matrix or array; if scipy.sparse was never imported, it cannot be."""
    module = sys.modules.get("scipy.sparse")
    return module is not None and module.issparse(x)


def add_entries(x, name: str = "x"):
    """x in any scipy.sparse format as CSR with one entry a cell; sums of bytes that do not fit are refused."""
    is_bytes = x.dtype in (np.int8, np.uint8)
    rows = (x.astype(np.int64) if is_bytes else x).tocsr(copy=True)  # wide: sums must not wrap
    rows.sum_duplicates()
    if not is_bytes:
        return rows
    limits = np.iinfo(x.dtype)
    if rows.nnz and (rows.data.min() < limits.min or rows.data.max() > limits.max):
        raise ValueError(f"{name} holds entries of one cell whose sum does not fit {x.dtype.name}")
    return rows.astype(x.dtype)


def quantize_rows(rows, name: str = "x"):
    """A2.1 for what add_entries() returned, as CSR of int8: zero stays zero."""
    data = quantize_inputs(rows.data, name)
    return type(rows)((data, rows.indices, rows.indptr), shape=rows.shape)


def quantize_sparse(x, inputs: int):
    """A2.1 for any scipy.sparse format with `inputs` columns, as CSR of int8."""
    if x.ndim != 2 or x.shape[1] != inputs:
        raise ShapeError(f"x must have shape (n, {inputs}), not {x.shape}")
    return quantize_rows(add_entries(x))
