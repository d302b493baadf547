/* The core without Python: trains a small network on data it makes itself and prints a hash of weights and counters.
 *
 *   cc -std=c11 -O2 -Icsrc/include examples/embed.c $(find csrc -name '*.c') -o embed -pthread && ./embed [THREADS]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "sppim.h"

enum { INPUTS = 24, HIDDEN = 40, CLASSES = 4, BATCH = 16, BATCHES = 200, LAYERS = 2 };

static void stop_on(sppim_status status, const char *what)
{
    if (status != SPPIM_OK) {
        fprintf(stderr, "%s: %s\n", what, sppim_status_text(status));
        exit(1);
    }
}

/* Images whose class is the quarter of the inputs that is lit; half of the rest is zero. */
static void make_batch(uint64_t step, int8_t *x, int32_t *labels)
{
    uint16_t u[BATCH * (INPUTS + 1)];
    stop_on(sppim_draw16(7, SPPIM_STREAM_ORDER, 0, step, 0, BATCH * (INPUTS + 1), u), "draw16");
    for (int b = 0; b < BATCH; b++) {
        const uint16_t *row = u + b * (INPUTS + 1);
        labels[b] = row[INPUTS] % CLASSES;
        for (int k = 0; k < INPUTS; k++) {
            const int lit = k / (INPUTS / CLASSES) == labels[b];
            x[b * INPUTS + k] = (int8_t)(row[k] % 2 ? 0 : (row[k] >> 8) % 64 + (lit ? 48 : 0));
        }
    }
}

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 0x100000001B3u; /* FNV-1a */
    return hash;
}

static uint64_t hash_network(const sppim_network *network)
{
    static int16_t weights[(HIDDEN + 1) * HIDDEN];
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t l = 0; l < LAYERS; l++) {
        size_t count, item_size;
        sppim_counters counters;
        stop_on(sppim_network_tensor_size(network, l, SPPIM_WEIGHTS, &count, &item_size), "tensor_size");
        stop_on(sppim_network_get(network, l, SPPIM_WEIGHTS, weights), "get");
        stop_on(sppim_network_counters(network, l, &counters), "counters");
        hash = hash_bytes(hash, weights, count * item_size);
        hash = hash_bytes(hash, &counters, sizeof counters);
    }
    return hash;
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 1; /* never changes a bit */
    sppim_layer_config layers[LAYERS];
    const sppim_network_config config = {.struct_size = sizeof config, .seed = 1, .rule = SPPIM_RULE_LOCAL, .batch = BATCH,
                                         .threads = threads};
    sppim_network *network = NULL;
    int8_t x[BATCH * INPUTS];
    int32_t labels[BATCH];
    int64_t scores[BATCH * CLASSES];
    int right = 0;

    stop_on(sppim_layer_defaults(INPUTS, HIDDEN, config.rule, 8, 1, 1, 0, &layers[0]), "layer_defaults");
    stop_on(sppim_layer_defaults(HIDDEN, CLASSES, config.rule, 8, 1, 0, 1, &layers[1]), "layer_defaults");
    stop_on(sppim_network_create(&config, layers, LAYERS, &network), "create");
    for (uint64_t step = 0; step < BATCHES; step++) {
        make_batch(step, x, labels);
        stop_on(sppim_network_tick(network, x, labels, BATCH, 0, NULL, NULL, NULL), "tick");
    }
    make_batch(BATCHES, x, labels);
    stop_on(sppim_network_scores(network, x, BATCH, NULL, NULL, scores), "scores");
    for (int b = 0; b < BATCH; b++) {
        int best = 0;
        for (int c = 1; c < CLASSES; c++)
            if (scores[b * CLASSES + c] > scores[b * CLASSES + best])
                best = c;
        right += best == labels[b];
    }
    printf("isa %s, %d of %d right, hash %016" PRIx64 "\n", sppim_network_isa(network), right, BATCH, hash_network(network));
    sppim_network_destroy(network);
    return 0;
}
