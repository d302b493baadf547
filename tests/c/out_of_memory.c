/* Fails each allocation of each public call once. The core is compiled with -Dmalloc=failing_malloc
 * -Dcalloc=failing_calloc. Prints the number of failures that were answered with SPPIM_ERROR_MEMORY; the leak check
 * of the address sanitizer does the rest. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef malloc
#undef calloc
#undef aligned_alloc
extern void *malloc(size_t size);
extern void *calloc(size_t count, size_t size);
extern void *aligned_alloc(size_t alignment, size_t size);

#include "sppim.h"

static long allocations_left; /* before the one that fails */

void *failing_malloc(size_t size) { return allocations_left-- == 0 ? NULL : malloc(size); }
void *failing_aligned_alloc(size_t alignment, size_t size)
{
    return allocations_left-- == 0 ? NULL : aligned_alloc(alignment, size);
}
void *failing_calloc(size_t count, size_t size) { return allocations_left-- == 0 ? NULL : calloc(count, size); }

static void fail(const char *what, sppim_status status)
{
    printf("%s: %s\n", what, sppim_status_text(status));
    exit(1);
}

static sppim_status use_network(void)
{
    sppim_layer_config layers[2];
    sppim_network_config config = {.struct_size = sizeof config, .seed = 1, .batch = 2, .threads = 2, .staleness = 1,
                                   .execution = SPPIM_PIPELINED};
    const int8_t x[2 * 3] = {1, 2, 3, 0, 5, 6};
    const int32_t labels[2] = {0, 1};
    sppim_network *network = NULL;
    const sppim_window window = {.struct_size = sizeof window, .height = 1, .width = 3, .channels = 1, .rows = 1,
                                 .columns = 2, .stride = 1};
    sppim_convolution_defaults(&window, 4, SPPIM_POOLING_NONE, 0, 1, SPPIM_RULE_LOCAL, 8, 1, 1, &layers[0]);
    sppim_layer_defaults(8, 2, SPPIM_RULE_LOCAL, 8, 1, 0, 1, &layers[1]);
    sppim_status status = sppim_network_create(&config, layers, 2, &network);
    if (status == SPPIM_OK)
        status = sppim_network_tick(network, x, labels, 2, 0, NULL, NULL, NULL);
    sppim_network_destroy(network);
    return status;
}

static sppim_status use_schedule(void)
{
    const sppim_shape shape = {.struct_size = sizeof shape, .rows = 2, .columns = 2, .positions = 1, .inputs = 2, .outputs = 2,
                               .features = 2, .classes = 2, .activation_bytes = 1, .weight_bytes = 2, .macros = 1};
    const sppim_schedule_config config = {.struct_size = sizeof config, .layer_pipeline = 1, .phase_overlap = 1,
                                          .activation_buffers = 2, .macro_columns = 2, .lepu_lanes = 1};
    const uint32_t nonzeros[1] = {1};
    sppim_schedule *schedule = NULL;
    sppim_counters counters;
    uint64_t cycles;
    sppim_status status = sppim_schedule_create(&config, &shape, 1, &schedule);
    if (status == SPPIM_OK)
        status = sppim_schedule_batch(schedule, 1, nonzeros, nonzeros);
    if (status == SPPIM_OK)
        status = sppim_schedule_result(schedule, &cycles, &counters);
    sppim_schedule_destroy(schedule);
    return status;
}

static sppim_status use_products(void)
{
    const int8_t w[3 * 2] = {1, 2, 3, 4, 5, 6}, x[2 * 3] = {1, 0, 3, 4, 5, -6}, d[2 * 2] = {1, 2, 3, 4};
    int32_t y[2 * 2], g[3 * 2];
    sppim_weights *weights = NULL;
    sppim_engine *engine = NULL;
    sppim_status status = sppim_weights_create(w, SPPIM_S8, 3, 2, &weights);
    if (status == SPPIM_OK)
        status = sppim_engine_create(2, NULL, &engine);
    if (status == SPPIM_OK)
        status = sppim_product(engine, weights, x, SPPIM_S8, 2, (sppim_accumulator){0, 0}, SPPIM_PATH_AUTO, NULL, NULL, y, NULL);
    if (status == SPPIM_OK)
        status = sppim_gradient(engine, x, d, 2, 3, 2, SPPIM_PATH_AUTO, NULL, NULL, g);
    sppim_weights_destroy(weights);
    sppim_engine_destroy(engine);
    return status;
}

static long fail_each(const char *what, sppim_status (*use)(void))
{
    for (long n = 0;; n++) {
        allocations_left = n;
        const sppim_status status = use();
        if (status == SPPIM_OK && allocations_left >= 0)
            return n;
        if (status != SPPIM_ERROR_MEMORY)
            fail(what, status);
    }
}

int main(void)
{
    printf("%ld %ld %ld\n", fail_each("network", use_network), fail_each("schedule", use_schedule),
           fail_each("products", use_products));
    return 0;
}
