"""scipy.sparse inputs: recognized without importing scipy.sparse, quantized without losing a value."""

import sys

import numpy as np

from sppim_core.arithmetic import quantize_inputs
from sppim_core.errors import ShapeError


def is_sparse(x) -> bool:
    """Whether x is a scipy.sparse matrix or array; if scipy.sparse was never imported, it cannot be."""
    module = sys.modules.get("scipy.sparse")
    return module is not None and module.issparse(x)


def quantize_sparse(x, name: str = "x"):
    """A2.1 for any scipy.sparse format, as CSR of int8: zero stays zero, entries of one cell are added first."""
    if x.ndim != 2:
        raise ShapeError(f"{name} must have shape (n, inputs), not {x.shape}")
    dtype, is_bytes = x.dtype, x.dtype in (np.int8, np.uint8)
    rows = (x.astype(np.int64) if is_bytes else x).tocsr(copy=True)  # wide: entries of one cell must not wrap
    rows.sum_duplicates()
    if is_bytes:
        limits = np.iinfo(dtype)
        if rows.nnz and (rows.data.min() < limits.min or rows.data.max() > limits.max):
            raise ValueError(f"{name} holds entries of one cell whose sum does not fit {dtype.name}")
        rows = rows.astype(dtype)
    data = quantize_inputs(rows.data, name)
    return type(rows)((data, rows.indices, rows.indptr), shape=rows.shape)
