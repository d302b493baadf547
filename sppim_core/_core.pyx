# cython: language_level=3, boundscheck=True, wraparound=False
"""Bindings to csrc/include/sppim.h: arrays in, C call without the GIL, status to exception, arrays out.

No arithmetic and no policy. Arguments have been checked by the Python modules, or what is refused here (Unfit) is
checked by them afterwards; what is wrong all the same (type, size, range) still raises, only with a less helpful message.
"""
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport clock_gettime, clockid_t, timespec

from cpython.pycapsule cimport PyCapsule_GetPointer

import numpy as np

from sppim_core.errors import IsaError, ShapeError
from sppim_core.sppim cimport *

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

ARITHMETIC_VERSION = SPPIM_ARITHMETIC_VERSION
RULES = ("local", "drtp", "dfa", "bp")
ROUNDINGS = ("rnu", "rne", "rdn", "rod", "sr")
OVERFLOWS = ("saturate", "wrap")
POOLINGS = ("none", "max", "mean")
WINDOW_SIZE = sizeof(sppim_window)
EXECUTIONS = ("sequential", "pipelined")
PATHS = ("auto", "dense", "sparse")
STREAMS = {"weights": 1, "lepu": 2, "rounding": 3, "order": 4, "augmentation": 5}
TENSORS = ("weights", "means", "score_bias", "pot_codes")
_TENSOR_TYPES = ("int16", "int16", "int32", "uint8")


cdef object _raise(sppim_status status, str what):
    text = f"{what}: {sppim_status_text(status).decode()}"
    if status == SPPIM_ERROR_SHAPE:
        raise ShapeError(text)
    if status == SPPIM_ERROR_MEMORY:
        raise MemoryError(text)
    if status == SPPIM_ERROR_ISA:
        raise IsaError(text)
    if status == SPPIM_ERROR_BUSY:
        raise RuntimeError(text)
    raise ValueError(text)


cdef inline int _check(sppim_status status, str what) except -1:
    if status != SPPIM_OK:
        _raise(status, what)
    return 0


cdef extern from *:
    """
    #ifdef CLOCK_MONOTONIC_COARSE
    #define SPPIM_CLOCK CLOCK_MONOTONIC_COARSE
    #else
    #define SPPIM_CLOCK CLOCK_MONOTONIC
    #endif
    """
    clockid_t _CLOCK "SPPIM_CLOCK"  # some milliseconds are exact enough, and reading it takes a quarter of the time


cdef class _Poll:
    """Lets signals (Ctrl-C) in during long calls, every 20 ms, and keeps what they raise."""
    cdef timespec last
    cdef object error

    def __cinit__(self):
        clock_gettime(_CLOCK, &self.last)


cdef int _poll(void *user) noexcept nogil:
    cdef timespec now
    cdef timespec *last = &(<_Poll>user).last
    clock_gettime(_CLOCK, &now)
    if (now.tv_sec - last.tv_sec) * 1000000000 + now.tv_nsec - last.tv_nsec < 20000000:
        return 0
    last[0] = now
    with gil:
        try:
            PyErr_CheckSignals()
        except BaseException as error:
            (<_Poll>user).error = error
            return 1
    return 0


def isa_names():
    return tuple(sppim_isa_name(i).decode() for i in range(sppim_isa_count()))


def isa_default():
    """Level of a network created without naming one; None if SPPIM_ISA names none that is usable here."""
    cdef const char *name = sppim_isa_default()
    return None if name is NULL else name.decode()


def counter_names():
    return tuple(sppim_counter_name(i).decode() for i in range(sppim_counter_count()))


def counter_units():
    return tuple(sppim_counter_unit(i).decode() for i in range(sppim_counter_count()))


# ---- arithmetic ------------------------------------------------------------------------------------------

def requantize(const int64_t[::1] x, int32_t shift, int32_t mode, int64_t lo, int64_t hi):
    out = np.empty(x.shape[0], np.int64)
    cdef int64_t[::1] view = out
    if x.shape[0]:
        _check(sppim_requantize(&x[0], x.shape[0], shift, mode, lo, hi, &view[0]), "requantize")
    return out


def round_stochastic(const int64_t[::1] x, const uint16_t[::1] u, int32_t shift):
    if x.shape[0] != u.shape[0]:
        raise ShapeError(f"round_stochastic: {x.shape[0]} values, {u.shape[0]} random numbers")
    out = np.empty(x.shape[0], np.int64)
    cdef int64_t[::1] view = out
    if x.shape[0]:
        _check(sppim_round_stochastic(&x[0], &u[0], x.shape[0], shift, &view[0]), "round_stochastic")
    return out


def fit(const int64_t[::1] x, int32_t bits, int32_t overflow):
    cdef sppim_accumulator accumulator = sppim_accumulator(bits=bits, overflow=overflow)
    cdef uint64_t changed = 0
    out = np.empty(x.shape[0], np.int64)
    cdef int64_t[::1] view = out
    if x.shape[0]:
        _check(sppim_fit(&x[0], x.shape[0], accumulator, &view[0], &changed), "fit")
    return out, changed


def pot_mac(const int64_t[::1] acc, const int8_t[::1] x, const uint8_t[::1] code):
    if not acc.shape[0] == x.shape[0] == code.shape[0]:
        raise ShapeError(f"pot_mac: sizes {acc.shape[0]}, {x.shape[0]}, {code.shape[0]}")
    out = np.empty(acc.shape[0], np.int64)
    cdef int64_t[::1] view = out
    if acc.shape[0]:
        _check(sppim_pot_mac(&acc[0], &x[0], &code[0], acc.shape[0], &view[0]), "pot_mac")
    return out


def product_weights(const int16_t[::1] w, int32_t product_bits):
    out = np.empty(w.shape[0], np.int16)
    cdef int16_t[::1] view = out
    if w.shape[0]:
        _check(sppim_product_weights(&w[0], w.shape[0], product_bits, &view[0]), "product_weights")
    return out


def hinge_errors(const int64_t[::1] score, const uint8_t[::1] label, int32_t margin_log2):
    if score.shape[0] != label.shape[0]:
        raise ShapeError(f"hinge_errors: sizes {score.shape[0]}, {label.shape[0]}")
    cdef uint64_t saturated = 0
    out = np.empty(score.shape[0], np.int8)
    cdef int8_t[::1] view = out
    if score.shape[0]:
        _check(sppim_hinge_errors(&score[0], &label[0], score.shape[0], margin_log2, &view[0], &saturated), "hinge_errors")
    return out, saturated


def draw32(uint64_t seed, int32_t stream, uint64_t layer, uint64_t step, uint32_t first, size_t count):
    out = np.empty(count, np.uint32)
    cdef uint32_t[::1] view = out
    if count:
        _check(sppim_draw32(seed, stream, layer, step, first, count, &view[0]), "draw32")
    return out


def draw16(uint64_t seed, int32_t stream, uint64_t layer, uint64_t step, uint32_t first, size_t count):
    out = np.empty(count, np.uint16)
    cdef uint16_t[::1] view = out
    if count:
        _check(sppim_draw16(seed, stream, layer, step, first, count, &view[0]), "draw16")
    return out


# ---- matrices ---------------------------------------------------------------------------------------------

cdef class WeightsCore:
    """One sppim_weights. data: the bytes of a C-contiguous matrix of type_ (SPPIM_S8, _S16, _POT)."""
    cdef sppim_weights *weights
    cdef readonly size_t k, n
    cdef readonly bint bytes  # int8 or power-of-two weights

    def __cinit__(self, const uint8_t[::1] data, int32_t type_, size_t k, size_t n):
        cdef size_t item_size = 2 if type_ == SPPIM_S16 else 1
        if k == 0 or n == 0 or <size_t>data.shape[0] != k * n * item_size or <uintptr_t>&data[0] % item_size:
            raise ShapeError(f"weights: {data.shape[0]} bytes for ({k}, {n})")
        self.k, self.n, self.bytes = k, n, type_ != SPPIM_S16
        cdef sppim_status status
        with nogil:
            status = sppim_weights_create(&data[0], type_, k, n, &self.weights)
        _check(status, "weights")

    def __dealloc__(self):
        sppim_weights_destroy(self.weights)

    def __reduce__(self):
        raise TypeError("WeightsCore does not pickle; Weights does")


TYPES = {"uint8": SPPIM_U8, "int8": SPPIM_S8, "int16": SPPIM_S16, "pot": SPPIM_POT}


cdef struct _ArrayInterface:  # what __array_struct__ points to: NumPy's array interface, version 3
    int two
    int dimensions
    char kind
    int item_size
    int flags
    Py_ssize_t *shape
    Py_ssize_t *strides
    void *data


cdef enum:  # its flags
    _CONTIGUOUS = 0x1
    _ALIGNED = 0x100
    _NATIVE = 0x200
    _WRITABLE = 0x400


cdef struct _Matrix:
    size_t rows, columns
    int item_size
    bint is_signed
    void *data


cdef object _ndarray = np.ndarray


class Unfit(ShapeError):
    """Arrays that a call does not take as they are; nothing has been done."""


cdef int _read_array(object array, int dimensions, int flags, _Matrix *to) except -1:
    """A plain matrix of integers, or a vector as one of a single column, in C order, aligned, in native bytes; else
    Unfit. A memoryview takes far longer."""
    if type(array) is not _ndarray:
        raise Unfit("not a plain array")
    capsule = array.__array_struct__
    cdef _ArrayInterface *a = <_ArrayInterface *>PyCapsule_GetPointer(capsule, NULL)
    flags |= _CONTIGUOUS | _ALIGNED | _NATIVE
    if a.dimensions != dimensions or (a.flags & flags) != flags or a.kind not in (b"i", b"u"):
        raise Unfit(f"not {dimensions} dimensions of integers in C order")
    to.rows, to.columns, to.data = a.shape[0], a.shape[1] if dimensions == 2 else 1, a.data
    to.item_size, to.is_signed = a.item_size, a.kind == b"i"
    return 0


cdef object _copy(object matrix, const void *values):
    """The matrix, filled with values."""
    cdef _Matrix to
    _read_array(matrix, 2, _WRITABLE, &to)
    memcpy(to.data, values, to.rows * to.columns * to.item_size)
    return matrix


cdef bint _is_signed_matrix(const _Matrix *a, size_t rows, size_t columns, int item_size) noexcept:
    return a.is_signed and a.item_size == item_size and a.rows == rows and a.columns == columns


cdef bint _overlap(const _Matrix *a, const _Matrix *b) noexcept:
    cdef uintptr_t first = <uintptr_t>a.data, second = <uintptr_t>b.data
    cdef size_t size = a.rows * a.columns * a.item_size, other = b.rows * b.columns * b.item_size
    return size != 0 and other != 0 and first < second + other and second < first + size


cdef class Engine:
    """One sppim_engine.

    Its methods are asked before anything is checked in Python; only arrays that they refuse (Unfit) are looked at by
    kernels.py, which words what is wrong with them or brings them into the form wanted here."""
    cdef sppim_engine *engine

    def __cinit__(self, int32_t threads, isa=None):
        cdef bytes isa_bytes = b"" if isa is None else isa.encode()
        _check(sppim_engine_create(threads, NULL if isa is None else <const char *>isa_bytes, &self.engine), "engine")

    def __dealloc__(self):
        sppim_engine_destroy(self.engine)

    def __reduce__(self):
        raise TypeError("Engine does not pickle")

    def product(self, WeightsCore weights not None, x, y, int32_t bits, int32_t overflow, int32_t path, size_t repeat):
        """x [m][k] times weights to y [m][n], to a new array if y is None; does it `repeat` times. Returns y and how
        often fit changed a sum."""
        cdef _Matrix from_, to
        _read_array(x, 2, 0, &from_)
        if from_.item_size > (2 if from_.is_signed else 1) or from_.columns != weights.k:
            raise Unfit("product: x does not fit the weights")
        cdef int32_t type_ = SPPIM_S16 if from_.item_size == 2 else SPPIM_S8 if from_.is_signed else SPPIM_U8
        cdef int out_size = 8 if type_ == SPPIM_S16 or not weights.bytes else 4
        if y is None:
            y = np.empty((from_.rows, weights.n), np.int32 if out_size == 4 else np.int64)
        _read_array(y, 2, _WRITABLE, &to)
        if not _is_signed_matrix(&to, from_.rows, weights.n, out_size) or _overlap(&from_, &to):
            raise Unfit("product: y does not fit x and the weights")
        cdef sppim_accumulator accumulator = sppim_accumulator(bits=bits, overflow=overflow)
        cdef uint64_t changed = 0
        cdef size_t i
        cdef sppim_status status = SPPIM_OK
        cdef _Poll poll = _Poll()
        with nogil:
            for i in range(repeat):
                status = sppim_product(self.engine, weights.weights, from_.data, type_, from_.rows, accumulator, path,
                                       _poll, <void *>poll, to.data, &changed)
                if status != SPPIM_OK:
                    break
        if poll.error is not None:
            raise poll.error
        _check(status, "product")
        return y, changed

    def gradient(self, x, d, g, int32_t path, size_t repeat):
        """The transpose of x [b][k] times d [b][n] to g [k][n], to a new array if g is None; does it `repeat` times.
        Returns g."""
        cdef _Matrix left, right, to
        _read_array(x, 2, 0, &left)
        _read_array(d, 2, 0, &right)
        if (not _is_signed_matrix(&left, left.rows, left.columns, 1)
                or not _is_signed_matrix(&right, left.rows, right.columns, 1)
                or max(left.rows, left.columns, right.columns) > 65535):
            raise Unfit("gradient: x and d do not fit each other")
        if g is None:
            g = np.empty((left.columns, right.columns), np.int32)
        _read_array(g, 2, _WRITABLE, &to)
        if (not _is_signed_matrix(&to, left.columns, right.columns, 4)
                or _overlap(&left, &to) or _overlap(&right, &to)):
            raise Unfit("gradient: g does not fit x and d")
        cdef size_t i
        cdef sppim_status status = SPPIM_OK
        cdef _Poll poll = _Poll()
        with nogil:
            for i in range(repeat):
                status = sppim_gradient(self.engine, <const int8_t *>left.data, <const int8_t *>right.data, left.rows,
                                        left.columns, right.columns, path, _poll, <void *>poll, <int32_t *>to.data)
                if status != SPPIM_OK:
                    break
        if poll.error is not None:
            raise poll.error
        _check(status, "gradient")
        return g


def unfold(const int8_t[:, :, :, ::1] x, int32_t rows, int32_t columns, int32_t stride, int32_t padding):
    """int8 (n, down, across, rows x columns x channels)."""
    cdef sppim_window window = sppim_window(
        struct_size=sizeof(sppim_window), height=x.shape[1], width=x.shape[2], channels=x.shape[3], rows=rows,
        columns=columns, stride=stride, padding=padding)
    cdef size_t n = x.shape[0], down, across
    cdef sppim_status status
    _check(sppim_window_outputs(&window, &down, &across), "unfold")
    out = np.empty((n, down, across, rows * columns * x.shape[3]), np.int8)
    cdef int8_t[:, :, :, ::1] view = out
    if n:
        with nogil:
            status = sppim_unfold(&window, &x[0, 0, 0, 0], n, &view[0, 0, 0, 0])
        _check(status, "unfold")
    return out


# ---- network ---------------------------------------------------------------------------------------------

def layer_defaults(int32_t inputs, int32_t outputs, int32_t rule, int32_t product_bits, bint centred,
                   bint first, bint output):
    """The defaults of A9 as a dictionary, ready for Core."""
    cdef sppim_layer_config config
    _check(sppim_layer_defaults(inputs, outputs, rule, product_bits, centred, first, output, &config),
           "layer_defaults")
    return _layer_row(config)


def convolution_defaults(dict window, int32_t outputs, int32_t pooling, int32_t pooling_size, int32_t score_window,
                         int32_t rule, int32_t product_bits, bint centred, bint first):
    """The same for a hidden convolution; window: the fields of sppim_window."""
    cdef sppim_window c_window = dict(window, struct_size=sizeof(sppim_window))
    cdef sppim_layer_config config
    _check(sppim_convolution_defaults(&c_window, outputs, pooling, pooling_size, score_window, rule, product_bits,
                                      centred, first, &config), "convolution_defaults")
    return _layer_row(config)


cdef _layer_row(sppim_layer_config config):
    result = dict(config)
    del result["struct_size"]
    return result


def layer_shape(dict layer, int64_t classes):
    """(height, width) of a layer's output, and its sppim_shape as a dictionary."""
    cdef sppim_layer_config config = dict(layer, struct_size=sizeof(sppim_layer_config))
    cdef sppim_shape shape
    cdef size_t height, width
    _check(sppim_layer_image(&config, &height, &width), "layer_shape")
    _check(sppim_layer_shape(&config, classes, &shape), "layer_shape")
    result = dict(shape)
    del result["struct_size"]
    return (height, width), result


cdef class Core:
    """One sppim_network. layers: dictionaries as layer_defaults returns them.

    As with Engine, tick and scores are asked first; what they refuse (Unfit) is looked at by network.py."""
    cdef sppim_network *network
    cdef size_t layer_count, inputs, classes
    cdef readonly bint busy  # a call is under way; seen by Python code only where that call lets signals in

    def __cinit__(self, list layers, uint64_t seed, int32_t rule, int32_t execution, int32_t staleness,
                  int32_t batch, int32_t threads, int32_t path, isa=None):
        cdef bytes isa_bytes = b"" if isa is None else isa.encode()
        cdef sppim_network_config config
        config.struct_size = sizeof(config)
        config.seed = seed
        config.rule = rule
        config.execution = execution
        config.staleness = staleness
        config.batch = batch
        config.threads = threads
        config.path = path
        config.isa = NULL if isa is None else <const char *>isa_bytes
        self.layer_count = len(layers)
        cdef sppim_layer_config *rows = <sppim_layer_config *>calloc(len(layers) + 1, sizeof(sppim_layer_config))
        if rows is NULL:
            raise MemoryError("layers")
        cdef sppim_status status
        try:
            for i, layer in enumerate(layers):
                rows[i] = dict(layer, struct_size=sizeof(sppim_layer_config))
            with nogil:
                status = sppim_network_create(&config, rows, self.layer_count, &self.network)
        finally:
            free(rows)
        _check(status, "network")
        self.inputs = layers[0]["inputs"]
        self.classes = layers[-1]["outputs"]

    def __dealloc__(self):
        sppim_network_destroy(self.network)

    def __reduce__(self):
        raise TypeError("Core does not pickle; Network does")

    cdef int enter(self) except -1:
        if self.busy:
            raise RuntimeError("the network is in use by another call")
        self.busy = True
        return 0

    def tick(self, x, labels, int32_t rate_shift):
        """x None: an empty place. Returns (batch, input_nonzeros, error_nonzeros, scores, labels) if one retired, else
        None."""
        cdef _Matrix images = _Matrix(rows=0, data=NULL), classes = _Matrix(data=NULL)
        if x is not None:
            _read_array(x, 2, 0, &images)
            _read_array(labels, 1, 0, &classes)
            if (not images.rows or not _is_signed_matrix(&images, images.rows, self.inputs, 1)
                    or not _is_signed_matrix(&classes, images.rows, 1, 4)):
                raise Unfit("tick: x and labels do not fit the network")
        cdef _Poll poll = _Poll()
        cdef sppim_trace trace
        cdef sppim_status status
        self.enter()
        try:
            with nogil:
                status = sppim_network_tick(self.network, <const int8_t *>images.data, <const int32_t *>classes.data,
                                            images.rows, rate_shift, _poll, <void *>poll, &trace)
            if poll.error is not None:
                raise poll.error
            if status in (SPPIM_ERROR_SHAPE, SPPIM_ERROR_RANGE):
                raise Unfit("tick: more images than a batch, or labels that name no class")
            _check(status, "tick")
            return self.read_trace(&trace)
        finally:
            self.busy = False

    cdef object read_trace(self, const sppim_trace *trace):
        if trace.images == 0:
            return None
        cdef size_t n = trace.images
        return (
            trace.batch,
            _copy(np.empty((self.layer_count, n), np.uint32), trace.input_nonzeros),
            _copy(np.empty((self.layer_count, n), np.uint32), trace.error_nonzeros),
            _copy(np.empty((n, self.classes), np.int64), trace.scores),
            _copy(np.empty((n, 1), np.int32), trace.labels)[:, 0],
        )

    def scores(self, x):
        cdef _Matrix images, to
        _read_array(x, 2, 0, &images)
        if not _is_signed_matrix(&images, images.rows, self.inputs, 1):
            raise Unfit("scores: x does not fit the network")
        out = np.empty((images.rows, self.classes), np.int64)
        _read_array(out, 2, _WRITABLE, &to)
        cdef _Poll poll = _Poll()
        cdef sppim_status status
        self.enter()
        try:
            with nogil:
                status = sppim_network_scores(self.network, <const int8_t *>images.data, images.rows, _poll,
                                              <void *>poll, <int64_t *>to.data)
            if poll.error is not None:
                raise poll.error
            _check(status, "scores")
        finally:
            self.busy = False
        return out

    @property
    def isa(self):
        return sppim_network_isa(self.network).decode()

    @property
    def in_flight(self):
        return sppim_network_in_flight(self.network)

    @property
    def batches(self):
        return sppim_network_batches(self.network)

    @batches.setter
    def batches(self, uint64_t value):
        self.enter()
        try:
            _check(sppim_network_set_batches(self.network, value), "batches")
        finally:
            self.busy = False

    def counters(self):
        """uint64 [layers][counters]."""
        out = np.zeros((self.layer_count, sppim_counter_count()), np.uint64)
        cdef uint64_t[:, ::1] view = out
        self.enter()
        try:
            for layer in range(self.layer_count):
                _check(sppim_network_counters(self.network, layer, <sppim_counters *>&view[layer, 0]), "counters")
        finally:
            self.busy = False
        return out

    def get(self, size_t layer, int32_t tensor):
        cdef size_t count, item_size
        cdef uint8_t[::1] view
        self.enter()
        try:
            _check(sppim_network_tensor_size(self.network, layer, tensor, &count, &item_size), "get")
            out = np.empty(count, _TENSOR_TYPES[tensor])
            if count:
                view = out.view(np.uint8)
                _check(sppim_network_get(self.network, layer, tensor, &view[0]), "get")
        finally:
            self.busy = False
        return out

    def set(self, size_t layer, int32_t tensor, const uint8_t[::1] data):
        """data: the bytes of the tensor."""
        cdef size_t count, item_size
        self.enter()
        try:
            _check(sppim_network_tensor_size(self.network, layer, tensor, &count, &item_size), "set")
            if <size_t>data.shape[0] != count * item_size:
                raise ShapeError(f"set: {data.shape[0]} bytes for a tensor of {count * item_size}")
            if count:
                if <uintptr_t>&data[0] % item_size:
                    raise ShapeError("set: data is not aligned")
                _check(sppim_network_set(self.network, layer, tensor, &data[0]), "set")
        finally:
            self.busy = False


# ---- counting and schedule --------------------------------------------------------------------------------

cdef sppim_shape *_shapes(list shapes) except NULL:
    cdef sppim_shape *rows = <sppim_shape *>calloc(len(shapes) + 1, sizeof(sppim_shape))
    if rows is NULL:
        raise MemoryError("shapes")
    try:
        for i, shape in enumerate(shapes):
            rows[i] = dict(shape, struct_size=sizeof(sppim_shape))
    except BaseException:
        free(rows)
        raise
    return rows


cdef int _same_shape(const uint32_t[:, ::1] a, const uint32_t[:, ::1] b, size_t layers) except -1:
    if <size_t>a.shape[0] != layers or <size_t>b.shape[0] != layers or a.shape[1] != b.shape[1]:
        raise ShapeError(f"non-zero counts ({a.shape[0]}, {a.shape[1]}) and ({b.shape[0]}, {b.shape[1]}) "
                         f"for {layers} layers")
    return 0


def count_batch(list shapes, int32_t rule, const uint32_t[:, ::1] operand_nonzeros,
                const uint32_t[:, ::1] error_nonzeros):
    """Counters of one counted batch, uint64 [layers][counters]."""
    _same_shape(operand_nonzeros, error_nonzeros, len(shapes))
    out = np.zeros((len(shapes), sppim_counter_count()), np.uint64)
    cdef uint64_t[:, ::1] view = out
    if not out.size or not operand_nonzeros.shape[1]:
        return out
    cdef sppim_shape *rows = _shapes(shapes)
    try:
        _check(sppim_count_batch(rows, len(shapes), rule, operand_nonzeros.shape[1], &operand_nonzeros[0, 0],
                                 &error_nonzeros[0, 0], <sppim_counters *>&view[0, 0]), "count_batch")
    finally:
        free(rows)
    return out


cdef class ScheduleCore:
    """One sppim_schedule. config: the fields of sppim_schedule_config, shapes: those of sppim_shape."""
    cdef sppim_schedule *schedule
    cdef size_t layers

    def __cinit__(self, dict config, list shapes):
        cdef sppim_schedule_config c = dict(config, struct_size=sizeof(sppim_schedule_config))
        cdef sppim_shape *rows = _shapes(shapes)
        self.layers = len(shapes)
        try:
            _check(sppim_schedule_create(&c, rows, self.layers, &self.schedule), "schedule")
        finally:
            free(rows)

    def __dealloc__(self):
        sppim_schedule_destroy(self.schedule)

    def __reduce__(self):
        raise TypeError("ScheduleCore does not pickle")

    def batch(self, const uint32_t[:, ::1] operand_nonzeros, const uint32_t[:, ::1] error_nonzeros):
        _same_shape(operand_nonzeros, error_nonzeros, self.layers)
        if operand_nonzeros.shape[1]:
            _check(sppim_schedule_batch(self.schedule, operand_nonzeros.shape[1], &operand_nonzeros[0, 0],
                                        &error_nonzeros[0, 0]), "schedule")

    def result(self):
        """(cycles, counters uint64 [layers][counters])."""
        cdef uint64_t cycles = 0
        out = np.zeros((self.layers, sppim_counter_count()), np.uint64)
        cdef uint64_t[:, ::1] view = out
        _check(sppim_schedule_result(self.schedule, &cycles, <sppim_counters *>&view[0, 0]), "schedule")
        return cycles, out

    def state(self):
        """uint64 (words,), for restore()."""
        out = np.empty(sppim_schedule_state_size(self.schedule), np.uint64)
        cdef uint64_t[::1] view = out
        _check(sppim_schedule_get_state(self.schedule, &view[0]), "schedule")
        return out

    def restore(self, const uint64_t[::1] words):
        if not words.shape[0]:
            raise ShapeError("schedule: no state")
        _check(sppim_schedule_set_state(self.schedule, &words[0], words.shape[0]), "schedule")
