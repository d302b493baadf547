"""Declarations of csrc/include/sppim.h, which documents them."""
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "sppim.h" nogil:
    int SPPIM_ARITHMETIC_VERSION

    ctypedef enum sppim_status:
        SPPIM_OK
        SPPIM_ERROR_NULL
        SPPIM_ERROR_RANGE
        SPPIM_ERROR_SHAPE
        SPPIM_ERROR_MEMORY
        SPPIM_ERROR_ISA
        SPPIM_ERROR_BUSY
        SPPIM_ERROR_INTERRUPTED
    const char *sppim_status_text(sppim_status status)

    size_t sppim_isa_count()
    const char *sppim_isa_name(size_t index)
    const char *sppim_isa_default()

    ctypedef struct sppim_accumulator:
        int32_t bits
        int32_t overflow

    sppim_status sppim_requantize(const int64_t *x, size_t count, int32_t shift, int32_t mode, int64_t lo,
                                  int64_t hi, int64_t *out)
    sppim_status sppim_round_stochastic(const int64_t *x, const uint16_t *u, size_t count, int32_t shift,
                                        int64_t *out)
    sppim_status sppim_fit(const int64_t *x, size_t count, sppim_accumulator accumulator, int64_t *out,
                           uint64_t *changed)
    sppim_status sppim_pot_mac(const int64_t *acc, const int8_t *x, const uint8_t *code, size_t count,
                               int64_t *out)
    sppim_status sppim_product_weights(const int16_t *w, size_t count, int32_t product_bits, int16_t *v)
    sppim_status sppim_hinge_errors(const int64_t *score, const uint8_t *label, size_t count, int32_t margin_log2,
                                    int8_t *e, uint64_t *saturated)
    sppim_status sppim_draw32(uint64_t seed, int32_t stream, uint64_t layer, uint64_t step, uint32_t first,
                              size_t count, uint32_t *out)
    sppim_status sppim_draw16(uint64_t seed, int32_t stream, uint64_t layer, uint64_t step, uint32_t first,
                              size_t count, uint16_t *out)

    ctypedef int (*sppim_poll)(void *user) noexcept nogil
    int SPPIM_U8, SPPIM_S8, SPPIM_S16, SPPIM_POT
    ctypedef struct sppim_weights:
        pass
    sppim_status sppim_weights_create(const void *w, int32_t type, size_t k, size_t n, sppim_weights **weights)
    void sppim_weights_destroy(sppim_weights *weights)
    ctypedef struct sppim_engine:
        pass
    sppim_status sppim_engine_create(int32_t threads, const char *isa, sppim_engine **engine)
    void sppim_engine_destroy(sppim_engine *engine)
    sppim_status sppim_product(sppim_engine *engine, const sppim_weights *weights, const void *x, int32_t type,
                               size_t m, sppim_accumulator accumulator, int32_t path, sppim_poll poll, void *user,
                               void *y, uint64_t *changed)
    sppim_status sppim_gradient(sppim_engine *engine, const int8_t *x, const int8_t *d, size_t b, size_t k, size_t n,
                                int32_t path, sppim_poll poll, void *user, int32_t *g)
    ctypedef struct sppim_window:
        size_t struct_size
        int32_t height
        int32_t width
        int32_t channels
        int32_t rows
        int32_t columns
        int32_t stride
        int32_t padding
    sppim_status sppim_window_outputs(const sppim_window *window, size_t *down, size_t *across)
    sppim_status sppim_unfold(const sppim_window *window, const int8_t *x, size_t n, int8_t *out)

    ctypedef struct sppim_counters:
        pass
    size_t sppim_counter_count()
    const char *sppim_counter_name(size_t index)
    const char *sppim_counter_unit(size_t index)

    ctypedef struct sppim_layer_config:
        size_t struct_size
        int32_t inputs
        int32_t outputs
        sppim_window window
        int32_t pooling
        int32_t pooling_size
        int32_t score_window
        int32_t weight_frac
        int32_t init_bound
        int32_t product_bits
        int32_t fp_shift
        int32_t fp_round
        int32_t activation_max
        int32_t margin_log2
        int32_t delta_shift
        int32_t bp_shift
        int32_t update_shift
        int32_t update_round
        int32_t pot_levels
        int32_t centred
        int32_t weight_bits
        int32_t error_bits
        int32_t error_threshold
        sppim_accumulator fp_accumulator
        sppim_accumulator gc_accumulator
    sppim_status sppim_layer_defaults(int32_t inputs, int32_t outputs, int32_t rule, int32_t product_bits,
                                      int32_t centred, int32_t first, int32_t output,
                                      sppim_layer_config *config)
    sppim_status sppim_convolution_defaults(const sppim_window *window, int32_t outputs, int32_t pooling,
                                            int32_t pooling_size, int32_t score_window, int32_t rule,
                                            int32_t product_bits, int32_t centred, int32_t first,
                                            sppim_layer_config *config)
    sppim_status sppim_layer_image(const sppim_layer_config *config, size_t *height, size_t *width)

    ctypedef struct sppim_network_config:
        size_t struct_size
        uint64_t seed
        int32_t rule
        int32_t execution
        int32_t staleness
        int32_t batch
        int32_t threads
        int32_t path
        const char *isa

    ctypedef struct sppim_trace:
        uint64_t batch
        size_t images
        const uint32_t *input_nonzeros
        const uint32_t *error_nonzeros
        const int64_t *scores
        const int32_t *labels
    ctypedef struct sppim_network:
        pass
    sppim_status sppim_network_create(const sppim_network_config *config, const sppim_layer_config *layers,
                                      size_t layer_count, sppim_network **network)
    void sppim_network_destroy(sppim_network *network)
    sppim_status sppim_network_tick(sppim_network *network, const int8_t *x, const int32_t *labels, size_t n,
                                    int32_t rate_shift, sppim_poll poll, void *user, sppim_trace *trace)
    size_t sppim_network_in_flight(const sppim_network *network)
    sppim_status sppim_network_scores(sppim_network *network, const int8_t *x, size_t n, sppim_poll poll,
                                      void *user, int64_t *scores)
    sppim_status sppim_network_counters(const sppim_network *network, size_t layer, sppim_counters *counters)
    const char *sppim_network_isa(const sppim_network *network)
    sppim_status sppim_network_tensor_size(const sppim_network *network, size_t layer, int32_t tensor,
                                           size_t *count, size_t *item_size)
    sppim_status sppim_network_get(const sppim_network *network, size_t layer, int32_t tensor, void *out)
    sppim_status sppim_network_set(sppim_network *network, size_t layer, int32_t tensor, const void *values)
    uint64_t sppim_network_batches(const sppim_network *network)
    sppim_status sppim_network_set_batches(sppim_network *network, uint64_t batches)

    ctypedef struct sppim_shape:
        size_t struct_size
        int64_t rows
        int64_t columns
        int64_t positions
        int64_t inputs
        int64_t outputs
        int64_t features
        int64_t classes
        int32_t pooled
        int32_t bias
        int32_t centred
        int32_t activation_bytes
        int32_t weight_bytes
        int32_t macros
    sppim_status sppim_layer_shape(const sppim_layer_config *config, int64_t classes, sppim_shape *shape)
    sppim_status sppim_count_batch(const sppim_shape *shapes, size_t layers, int32_t rule, size_t n,
                                   const uint32_t *operand_nonzeros, const uint32_t *error_nonzeros,
                                   sppim_counters *counters)

    ctypedef struct sppim_schedule_config:
        size_t struct_size
        int32_t rule
        int32_t layer_pipeline
        int32_t phase_overlap
        int32_t staleness
        int32_t activation_buffers
        int32_t macro_columns
        int32_t lepu_lanes
    ctypedef struct sppim_schedule:
        pass
    sppim_status sppim_schedule_create(const sppim_schedule_config *config, const sppim_shape *shapes,
                                       size_t layers, sppim_schedule **schedule)
    void sppim_schedule_destroy(sppim_schedule *schedule)
    sppim_status sppim_schedule_batch(sppim_schedule *schedule, size_t n, const uint32_t *operand_nonzeros,
                                      const uint32_t *error_nonzeros)
    sppim_status sppim_schedule_result(const sppim_schedule *schedule, uint64_t *cycles,
                                       sppim_counters *counters)
    size_t sppim_schedule_state_size(const sppim_schedule *schedule)
    sppim_status sppim_schedule_get_state(const sppim_schedule *schedule, uint64_t *words)
    sppim_status sppim_schedule_set_state(sppim_schedule *schedule, const uint64_t *words, size_t count)
