/* sppim.h - bit-accurate model of an SP-PIM class on-device-learning accelerator.
 *
 * The arithmetic is defined by docs/arithmetic.md (clauses A..), counters and schedule by docs/chip.md
 * (clauses C..). Integers only. No function prints or exits; only sppim_isa_default and sppim_network_create
 * read the environment (SPPIM_ISA).
 *
 * Conventions: arrays are C-contiguous; a handle serves one call at a time; every fallible function
 * returns a sppim_status and leaves its object as it was unless it returns SPPIM_OK.
 */
#ifndef SPPIM_H
#define SPPIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SPPIM_ABI_VERSION 1
#define SPPIM_ARITHMETIC_VERSION 1

/* ---- status ----------------------------------------------------------------------------------- */

#define SPPIM_STATUS_LIST(X)                                                          \
    X(SPPIM_OK, "success")                                                            \
    X(SPPIM_ERROR_NULL, "a required pointer is null")                                 \
    X(SPPIM_ERROR_RANGE, "a value is out of range")                                   \
    X(SPPIM_ERROR_SHAPE, "sizes do not fit together")                                 \
    X(SPPIM_ERROR_MEMORY, "out of memory")                                            \
    X(SPPIM_ERROR_ISA, "no such instruction-set level on this machine")               \
    X(SPPIM_ERROR_BUSY, "the object is in use by another call")                       \
    X(SPPIM_ERROR_INTERRUPTED, "interrupted; the object is as it was before the call")

typedef enum sppim_status {
#define SPPIM_X(name, text) name,
    SPPIM_STATUS_LIST(SPPIM_X)
#undef SPPIM_X
    SPPIM_STATUS_COUNT
} sppim_status;

/* Text of a status; never null. */
const char *sppim_status_text(sppim_status status);
uint32_t sppim_abi_version(void);

/* ---- instruction-set levels ------------------------------------------------------------------- */

/* Number of levels usable on this machine, slowest ("ref") first, and their names (null beyond). */
size_t sppim_isa_count(void);
const char *sppim_isa_name(size_t index);
/* The level that a null name means: that of the environment variable SPPIM_ISA if set, else the best. Null
 * if SPPIM_ISA names none that is usable here. */
const char *sppim_isa_default(void);

/* ---- arithmetic (A1..A6): one definition of each operation, here for tests and for hosts -------- */

typedef enum sppim_rounding { /* A1.1, A1.2; names of the RISC-V vector extension */
    SPPIM_RNU, SPPIM_RNE, SPPIM_RDN, SPPIM_ROD, SPPIM_SR, SPPIM_ROUNDING_COUNT
} sppim_rounding;

typedef enum sppim_overflow { SPPIM_SATURATE, SPPIM_WRAP, SPPIM_OVERFLOW_COUNT } sppim_overflow;

/* An accumulator (A1.6): bits 0 = wide, else 8..32. */
typedef struct sppim_accumulator {
    int32_t bits;
    int32_t overflow; /* sppim_overflow */
} sppim_accumulator;

/* out[i] = requantize(x[i], shift, mode, lo, hi) (A1.5); shift 0..62, mode not SPPIM_SR. */
sppim_status sppim_requantize(const int64_t *x, size_t count, int32_t shift, int32_t mode, int64_t lo,
                              int64_t hi, int64_t *out);
/* out[i] = sr(x[i], shift, u[i]) (A1.2); shift 0..46, |x| < 2^31. */
sppim_status sppim_round_stochastic(const int64_t *x, const uint16_t *u, size_t count, int32_t shift,
                                    int64_t *out);
/* out[i] = fit(x[i]) (A1.6); changed (may be null): how many values fit changed. */
sppim_status sppim_fit(const int64_t *x, size_t count, sppim_accumulator accumulator, int64_t *out,
                       uint64_t *changed);
/* acc[i] plus x[i] times the power of two that code[i] (0..15) names (A4.2). */
sppim_status sppim_pot_mac(const int64_t *acc, const int8_t *x, const uint8_t *code, size_t count,
                           int64_t *out);

/* v[i] = product weight of w[i] (A5.2); product_bits 2..16, |w| <= 32639. */
sppim_status sppim_product_weights(const int16_t *w, size_t count, int32_t product_bits, int16_t *v);
/* e[i] = local error of a score (A6.1); label[i] 1 for the label's class, else 0; margin_log2 7..40; saturated (may be
 * null): how many were. */
sppim_status sppim_hinge_errors(const int64_t *score, const uint8_t *label, size_t count, int32_t margin_log2,
                                int8_t *e, uint64_t *saturated);

typedef enum sppim_stream { /* A3.5 */
    SPPIM_STREAM_WEIGHTS = 1, SPPIM_STREAM_LEPU = 2, SPPIM_STREAM_ROUNDING = 3, SPPIM_STREAM_ORDER = 4,
    SPPIM_STREAM_AUGMENTATION = 5
} sppim_stream;

/* Draws first .. first+count-1 of a key (A3.3, A3.4): 32-bit numbers, or 16-bit numbers. */
sppim_status sppim_draw32(uint64_t seed, int32_t stream, uint64_t layer, uint64_t step, uint32_t first,
                          size_t count, uint32_t *out);
sppim_status sppim_draw16(uint64_t seed, int32_t stream, uint64_t layer, uint64_t step, uint32_t first,
                          size_t count, uint16_t *out);

/* ---- counters (C2, C4) ------------------------------------------------------------------------- */

#define SPPIM_COUNTER_LIST(X)                                                                         \
    X(images, "images") X(batches, "batches")                                                         \
    X(input_values, "values") X(input_zeros, "values")                                                \
    X(error_values, "values") X(error_zeros, "values")                                                \
    X(fp_macs_total, "MACs") X(fp_macs_done, "MACs") X(fp_macs_skipped, "MACs")                       \
    X(fp_macs_gated, "MACs")                                                                          \
    X(ep_macs_total, "MACs") X(ep_macs_done, "MACs") X(ep_macs_skipped, "MACs")                       \
    X(ep_macs_gated, "MACs")                                                                          \
    X(gc_macs_total, "MACs") X(gc_macs_done, "MACs") X(gc_macs_skipped, "MACs")                       \
    X(gc_macs_gated, "MACs")                                                                          \
    X(pot_macs_total, "PoT MACs") X(pot_macs_done, "PoT MACs") X(pot_macs_gated, "PoT MACs")          \
    X(acc_saturations, "values") X(activation_saturations, "values") X(error_saturations, "values")   \
    X(delta_saturations, "values") X(weight_saturations, "values")                                    \
    X(sram_activation_read_bytes, "bytes") X(sram_activation_write_bytes, "bytes")                    \
    X(sram_error_read_bytes, "bytes") X(sram_error_write_bytes, "bytes")                              \
    X(sram_weight_read_bytes, "bytes") X(sram_weight_write_bytes, "bytes")                            \
    X(sram_gradient_read_bytes, "bytes")                                                              \
    X(ema_activation_read_bytes, "bytes") X(ema_activation_write_bytes, "bytes")                      \
    X(ema_error_read_bytes, "bytes") X(ema_error_write_bytes, "bytes")                                \
    X(ema_weight_read_bytes, "bytes") X(ema_weight_write_bytes, "bytes")                              \
    X(ema_random_read_bytes, "bytes")                                                                 \
    X(fp_busy_cycles, "cycles") X(fp_stall_cycles, "cycles")                                          \
    X(ep_busy_cycles, "cycles") X(ep_stall_cycles, "cycles")                                          \
    X(gc_busy_cycles, "cycles") X(gc_stall_cycles, "cycles")                                          \
    X(up_busy_cycles, "cycles") X(up_stall_cycles, "cycles")

typedef struct sppim_counters { /* of one layer; uint64_t only, in the order of the list */
#define SPPIM_X(name, unit) uint64_t name;
    SPPIM_COUNTER_LIST(SPPIM_X)
#undef SPPIM_X
} sppim_counters;

size_t sppim_counter_count(void);
const char *sppim_counter_name(size_t index); /* null beyond the last */
const char *sppim_counter_unit(size_t index);

/* ---- rules ------------------------------------------------------------------------------------- */

typedef enum sppim_rule { /* how a hidden layer gets its error: A6.3, A6.4, A6.5 */
    SPPIM_RULE_LOCAL, SPPIM_RULE_DRTP, SPPIM_RULE_DFA, SPPIM_RULE_BP, SPPIM_RULE_COUNT
} sppim_rule;

/* ---- matrices (A11): the products on their own ---------------------------------------------------- */

typedef enum sppim_path { SPPIM_PATH_AUTO, SPPIM_PATH_DENSE, SPPIM_PATH_SPARSE, SPPIM_PATH_COUNT } sppim_path;
typedef enum sppim_type { SPPIM_U8, SPPIM_S8, SPPIM_S16, SPPIM_POT, SPPIM_TYPE_COUNT } sppim_type;

/* Asked every few milliseconds during long calls, on the calling thread; non-zero interrupts. May be null. */
typedef int (*sppim_poll)(void *user);

/* A weight matrix [k][n] in the layout of the kernels; read only, so calls on several engines may share it. */
typedef struct sppim_weights sppim_weights;

/* w: s8 or s16 [k][n], or u8 codes 0..15 of A4.1 (SPPIM_POT); 1 <= k, n <= 65535. */
sppim_status sppim_weights_create(const void *w, int32_t type, size_t k, size_t n, sppim_weights **weights);
void sppim_weights_destroy(sppim_weights *weights); /* null is fine */

/* Threads and memory for calls, one at a time. threads: 1..256; isa: as in sppim_network_config. */
typedef struct sppim_engine sppim_engine;

sppim_status sppim_engine_create(int32_t threads, const char *isa, sppim_engine **engine);
void sppim_engine_destroy(sppim_engine *engine); /* null is fine */

/* y = x w (A11.1). x: [m][k] of type SPPIM_U8, SPPIM_S8 or SPPIM_S16. y: s32 [m][n] if x and w are bytes, else s64.
 * path: how, never what. changed (may be null): how often a finite accumulator changed a sum. */
sppim_status sppim_product(sppim_engine *engine, const sppim_weights *weights, const void *x, int32_t type, size_t m,
                           sppim_accumulator accumulator, int32_t path, sppim_poll poll, void *user, void *y,
                           uint64_t *changed);
/* g = transpose(x) d (A11.2). x: s8 [b][k], d: s8 [b][n], g: s32 [k][n]; b, k, n <= 65535. */
sppim_status sppim_gradient(sppim_engine *engine, const int8_t *x, const int8_t *d, size_t b, size_t k, size_t n,
                            int32_t path, sppim_poll poll, void *user, int32_t *g);

/* How a convolution walks over an image of [height][width][channels] (A11.3). */
typedef struct sppim_window {
    size_t struct_size;               /* sizeof(sppim_window) */
    int32_t height, width, channels;  /* 1..65535 */
    int32_t rows, columns;            /* of the window, 1..65535, at most the padded image's */
    int32_t stride;                   /* 1..65535 */
    int32_t padding;                  /* zeros on each side, 0..65535, less than rows and columns */
} sppim_window;

/* Output positions of a window, down and across. */
sppim_status sppim_window_outputs(const sppim_window *window, size_t *down, size_t *across);
/* The operands of a convolution as a matrix: out[n][down][across][rows][columns][channels] from
 * x[n][height][width][channels]. */
sppim_status sppim_unfold(const sppim_window *window, const int8_t *x, size_t n, int8_t *out);

/* ---- network (A5..A9) ---------------------------------------------------------------------------- */

typedef enum sppim_pooling { SPPIM_POOLING_NONE, SPPIM_POOLING_MAX, SPPIM_POOLING_MEAN, SPPIM_POOLING_COUNT } sppim_pooling;

typedef struct sppim_layer_config {
    size_t struct_size;      /* sizeof(sppim_layer_config) */
    int32_t inputs;          /* values of an image; 1..65535, with a window 1..2^20: height x width x channels */
    int32_t outputs;         /* columns of the weights, 1..65535; with a window the channels of the output */
    sppim_window window;     /* A12.1; all zero: fully connected */
    int32_t pooling;         /* sppim_pooling, A12.3; only with a window */
    int32_t pooling_size;    /* 2..16; 0 without pooling */
    int32_t score_window;    /* 1..16, A12.4; 1 without a window */
    int32_t weight_frac;     /* fraction bits of the master weights; informative */
    int32_t init_bound;      /* 0..32639, A5.1 */
    int32_t product_bits;    /* 2..16, A5.2 */
    int32_t fp_shift;        /* 0..62, A5.5 */
    int32_t fp_round;        /* sppim_rounding except SPPIM_SR */
    int32_t activation_max;  /* 1..127 */
    int32_t margin_log2;     /* 7..40, A6.1 */
    int32_t delta_shift;     /* 0..30, A6.6 */
    int32_t bp_shift;        /* 0..62, A6.5 */
    int32_t update_shift;    /* 0..30, A7.2 */
    int32_t update_round;    /* sppim_rounding, A7.3 */
    int32_t pot_levels;      /* 1..7, A4.3 */
    int32_t centred;         /* 0 or 1, A7.4 */
    int32_t weight_bits;     /* 8..16, A7.5 */
    int32_t error_bits;      /* 2..8, A6.8 */
    int32_t error_threshold; /* 0..127, A6.8 */
    sppim_accumulator fp_accumulator, gc_accumulator; /* A1.6 */
} sppim_layer_config;

/* Fills one layer with the defaults of A9. rule: sppim_rule; first, output: 0 or 1. */
sppim_status sppim_layer_defaults(int32_t inputs, int32_t outputs, int32_t rule, int32_t product_bits,
                                  int32_t centred, int32_t first, int32_t output,
                                  sppim_layer_config *config);

/* The same for a hidden convolution: window, output channels, pooling and score window as in the configuration. */
sppim_status sppim_convolution_defaults(const sppim_window *window, int32_t outputs, int32_t pooling,
                                        int32_t pooling_size, int32_t score_window, int32_t rule,
                                        int32_t product_bits, int32_t centred, int32_t first,
                                        sppim_layer_config *config);
/* Rows and columns of the output's image, after pooling; 1 and 1 without a window. */
sppim_status sppim_layer_image(const sppim_layer_config *config, size_t *height, size_t *width);

typedef enum sppim_execution { SPPIM_SEQUENTIAL, SPPIM_PIPELINED, SPPIM_EXECUTION_COUNT } sppim_execution;

typedef struct sppim_network_config {
    size_t struct_size;  /* sizeof(sppim_network_config) */
    uint64_t seed;
    int32_t rule;        /* sppim_rule */
    int32_t execution;   /* sppim_execution, A8; SPPIM_PIPELINED with SPPIM_RULE_BP is refused */
    int32_t staleness;   /* 0..64 batches, A8 */
    int32_t batch;       /* largest batch, 1..65535; times the positions of any layer at most 65536 (A12.1) */
    int32_t threads;     /* 1..256; never changes a bit */
    int32_t path;        /* sppim_path of FP and GC; never changes a bit or a count */
    const char *isa;     /* name of an instruction-set level, or null: sppim_isa_default() */
} sppim_network_config;

/* A batch that has retired; pointers are valid until the next call on the network. */
typedef struct sppim_trace {
    uint64_t batch;                   /* its number */
    size_t images;                    /* n; 0 if no batch retired */
    const uint32_t *input_nonzeros;   /* [layers][n] */
    const uint32_t *error_nonzeros;   /* [layers][n] */
    const int64_t *scores;            /* [n][classes], of the output layer (A5.6) */
    const int32_t *labels;            /* [n] */
} sppim_trace;

typedef struct sppim_network sppim_network;

sppim_status sppim_network_create(const sppim_network_config *config, const sppim_layer_config *layers,
                                  size_t layer_count, sppim_network **network);
void sppim_network_destroy(sppim_network *network); /* null is fine */

/* One tick (A8). x: s8 [n][inputs], labels: [n], 0 <= label < classes; n = 0 with null pointers: an empty
 * place. rate_shift 0..16. trace (may be null) receives the batch that retired in this tick, if any. */
sppim_status sppim_network_tick(sppim_network *network, const int8_t *x, const int32_t *labels, size_t n,
                                int32_t rate_shift, sppim_poll poll, void *user, sppim_trace *trace);
/* Batches that have entered and have not retired. */
size_t sppim_network_in_flight(const sppim_network *network);
/* scores: [n][classes] (A5.6, A8.5) of any number n >= 0 of images. */
sppim_status sppim_network_scores(sppim_network *network, const int8_t *x, size_t n, sppim_poll poll,
                                  void *user, int64_t *scores);
/* Counters of a layer since creation (cycle counters 0: a schedule has those). */
sppim_status sppim_network_counters(const sppim_network *network, size_t layer, sppim_counters *counters);
/* Name of the instruction-set level in use. */
const char *sppim_network_isa(const sppim_network *network);

typedef enum sppim_tensor { /* state of a layer */
    SPPIM_WEIGHTS,    /* W, s16 [K + 1][outputs]; K: the inputs, or the values of a window */
    SPPIM_MEANS,      /* M, s16 [inputs], or [channels]; read only unless the layer is centred */
    SPPIM_SCORE_BIAS, /* s32 [classes]; hidden layers; read only unless the rule is SPPIM_RULE_LOCAL */
    SPPIM_POT_CODES,  /* R, u8 [classes][features] (A12.4; fully connected: outputs); hidden layers; read only */
    SPPIM_TENSOR_COUNT
} sppim_tensor;

/* Elements and bytes per element of a tensor (both 0 where the layer has none). */
sppim_status sppim_network_tensor_size(const sppim_network *network, size_t layer, int32_t tensor,
                                       size_t *count, size_t *item_size);
sppim_status sppim_network_get(const sppim_network *network, size_t layer, int32_t tensor, void *out);
/* Replaces a tensor; values beyond A2's ranges are SPPIM_ERROR_RANGE. Only while nothing is in flight. */
sppim_status sppim_network_set(sppim_network *network, size_t layer, int32_t tensor, const void *values);
/* Number of batches that have entered; it keys the random numbers of the next one (A7.3). */
uint64_t sppim_network_batches(const sppim_network *network);
sppim_status sppim_network_set_batches(sppim_network *network, uint64_t batches);

/* ---- counting and schedule (C2..C4) ---------------------------------------------------------------- */

/* A layer as the chip sees it: each of `positions` output positions multiplies `rows` operands with a
 * rows x columns weight array. A dense layer: rows = inputs, columns = outputs, positions = 1. */
typedef struct sppim_shape {
    size_t struct_size;       /* sizeof(sppim_shape) */
    int64_t rows, columns, positions;
    int64_t inputs, outputs;  /* values per image entering and leaving; outputs = columns x positions unless pooled */
    int64_t features;         /* values per image that the LEPU projects, at most outputs */
    int64_t classes;
    int32_t pooled;           /* 1: outputs are pooled (C3) */
    int32_t bias;             /* 1: one more row of weights, the bias */
    int32_t centred;          /* 1: three update passes instead of one (C3) */
    int32_t activation_bytes, weight_bytes;
    int32_t macros;           /* macros that hold this layer, 1..65535 */
} sppim_shape;

/* The shape of a layer of a network; one macro. */
sppim_status sppim_layer_shape(const sppim_layer_config *config, int64_t classes, sppim_shape *shape);

/* Counts of C2 for one batch of n images from zero counts alone, added to counters ([layers]).
 * operand_nonzeros, error_nonzeros: [layers][n]; of rows x positions operands and columns x positions errors. No saturations, gates
 * by zero weights or by zero activations in the arrays: 0. */
sppim_status sppim_count_batch(const sppim_shape *shapes, size_t layers, int32_t rule, size_t n,
                               const uint32_t *operand_nonzeros, const uint32_t *error_nonzeros,
                               sppim_counters *counters);

typedef struct sppim_schedule_config {
    size_t struct_size;         /* sizeof(sppim_schedule_config) */
    int32_t rule;               /* sppim_rule; SPPIM_RULE_BP: the baseline, both switches off */
    int32_t layer_pipeline;     /* 0 or 1 */
    int32_t phase_overlap;      /* 0 or 1 */
    int32_t staleness;          /* 0..64 batches */
    int32_t activation_buffers; /* 1..1024 */
    int32_t macro_columns;      /* word columns of an array */
    int32_t lepu_lanes;
} sppim_schedule_config;

typedef struct sppim_schedule sppim_schedule;

sppim_status sppim_schedule_create(const sppim_schedule_config *config, const sppim_shape *shapes,
                                   size_t layers, sppim_schedule **schedule);
void sppim_schedule_destroy(sppim_schedule *schedule);
/* Appends one batch; arrays as in sppim_count_batch. */
sppim_status sppim_schedule_batch(sppim_schedule *schedule, size_t n, const uint32_t *operand_nonzeros,
                                  const uint32_t *error_nonzeros);
/* Lets everything end (a copy of the schedule: more batches may follow) and reads the result: cycles, and
 * the *_cycles fields of counters[layers], the others 0. */
sppim_status sppim_schedule_result(const sppim_schedule *schedule, uint64_t *cycles,
                                   sppim_counters *counters);
/* The state of a schedule, to go on from later: words in it, all of them, and putting them into a schedule of the same
 * config and layers. Words that cannot be such a state are SPPIM_ERROR_SHAPE or SPPIM_ERROR_RANGE and change nothing. */
size_t sppim_schedule_state_size(const sppim_schedule *schedule);
sppim_status sppim_schedule_get_state(const sppim_schedule *schedule, uint64_t *words);
sppim_status sppim_schedule_set_state(sppim_schedule *schedule, const uint64_t *words, size_t count);

#ifdef __cplusplus
}
#endif

#endif /* SPPIM_H */
