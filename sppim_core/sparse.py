"""scipy.sparse inputs: recognized without importing scipy.sparse, quantized without losing a value."""

import sys

import numpy as np

from sppim_core.arithmetic import quantize_inputs
from sppim_core.errors import ShapeError


def is_sparse(x) -> bool:
    """Whether x is a scipy.sparse matrix or array; if scipy.sparse was never imported, it cannot be."""
    module = sys.modules.get("scipy.sparse")
    return module is not None and module.issparse(x)


def add_entries(x):
    """x as CSR with one entry a cell; bytes in a wide type, so that sums do not wrap."""
    rows = (x.astype(np.int64) if x.dtype in (np.int8, np.uint8) else x).tocsr(copy=True)
    rows.sum_duplicates()
    return rows


def quantize_sparse(x, name: str = "x", inputs: int | None = None):
    """A2.1 for any scipy.sparse format, as CSR of int8: zero stays zero, entries of one cell are added first.

    inputs: how many columns x must have."""
    if x.ndim != 2 or inputs not in (None, x.shape[1]):
        raise ShapeError(f"{name} must have shape (n, {inputs or 'inputs'}), not {x.shape}")
    rows = add_entries(x)
    if x.dtype in (np.int8, np.uint8):
        limits = np.iinfo(x.dtype)
        if rows.nnz and (rows.data.min() < limits.min or rows.data.max() > limits.max):
            raise ValueError(f"{name} holds entries of one cell whose sum does not fit {x.dtype.name}")
        rows = rows.astype(x.dtype)
    data = quantize_inputs(rows.data, name)
    return type(rows)((data, rows.indices, rows.indptr), shape=rows.shape)
