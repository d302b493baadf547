/* A tick that is interrupted, at whatever poll, leaves the network as it was: what it computes afterwards is what a
 * network computes that never saw that tick. Prints the number of interruptions. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sppim.h"

enum { INPUTS = 300, HIDDEN = 70, CLASSES = 5, BATCH = 8 };

/* The first layer; with room for larger batches, the network's updates are not done in place. */
typedef enum kind { VECTOR, IMAGE, ROOMY_IMAGE, KINDS } kind;

typedef struct batch {
    int8_t x[BATCH * INPUTS];
    int32_t labels[BATCH];
} batch;

/* What a network computes after it has been drained. */
typedef struct outcome {
    int64_t scores[2][BATCH * CLASSES];
    int16_t weights[(INPUTS + 1) * HIDDEN];
    sppim_counters counters;
} outcome;

static long polls_left;

static int poll(void *user)
{
    (void)user;
    return polls_left-- == 0;
}

static void expect(sppim_status status, sppim_status wanted, const char *what)
{
    if (status != wanted) {
        printf("%s: %s\n", what, sppim_status_text(status));
        exit(1);
    }
}

/* Images of that many non-zeros in a hundred; if partial, a third of the columns is zero: their rows of weights are
 * left alone. */
static batch images(unsigned density, bool partial)
{
    batch b = {0};
    for (size_t i = 0; i < sizeof b.x; i++)
        if (!(partial && i % INPUTS / 100 == 1) && (unsigned)rand() % 100 < density)
            b.x[i] = (int8_t)(1 + rand() % 127);
    for (size_t i = 0; i < BATCH; i++)
        b.labels[i] = rand() % CLASSES;
    return b;
}

static sppim_network *make(kind kind, int bits, int rule, int execution)
{
    const sppim_network_config config = {.struct_size = sizeof config, .seed = 3, .rule = rule, .execution = execution,
                                         .staleness = 1, .batch = kind == ROOMY_IMAGE ? 600 : BATCH, .threads = 1};
    const sppim_window window = {.struct_size = sizeof window, .height = 10, .width = 10, .channels = 3, .rows = 3,
                                 .columns = 3, .stride = 1, .padding = 1};
    sppim_layer_config layers[2];
    sppim_network *network;
    if (kind == VECTOR)
        sppim_layer_defaults(INPUTS, HIDDEN, rule, bits, 1, 1, 0, &layers[0]);
    else
        sppim_convolution_defaults(&window, HIDDEN, kind == IMAGE ? SPPIM_POOLING_MAX : SPPIM_POOLING_MEAN, 2, 2, rule,
                                   bits, 1, 1, &layers[0]);
    sppim_layer_defaults(kind == VECTOR ? HIDDEN : 25 * HIDDEN, CLASSES, rule, bits, 1, 0, 1, &layers[1]);
    layers[0].update_shift = layers[1].update_shift = 2;
    expect(sppim_network_create(&config, layers, 2, &network), SPPIM_OK, "create");
    return network;
}

static sppim_status tick(sppim_network *network, const batch *b, sppim_poll interrupt)
{
    return sppim_network_tick(network, b->x, b->labels, BATCH, 0, interrupt, NULL, NULL);
}

/* Images without zero columns are scored, which read what was left alone; few non-zeros first, since the others may
 * have the layouts made anew. */
static outcome finish(sppim_network *network)
{
    static batch probes[2];
    if (!probes[0].x[0] && !probes[1].x[0]) {
        probes[0] = images(5, false);
        probes[1] = images(100, false);
    }
    outcome o;
    memset(&o, 0, sizeof o);
    while (sppim_network_in_flight(network))
        expect(sppim_network_tick(network, NULL, NULL, 0, 0, NULL, NULL, NULL), SPPIM_OK, "drain");
    for (int i = 0; i < 2; i++)
        expect(sppim_network_scores(network, probes[i].x, BATCH, NULL, NULL, o.scores[i]), SPPIM_OK, "scores");
    expect(sppim_network_get(network, 0, SPPIM_WEIGHTS, o.weights), SPPIM_OK, "get");
    expect(sppim_network_counters(network, 0, &o.counters), SPPIM_OK, "counters");
    sppim_network_destroy(network);
    return o;
}

/* Interrupts the second tick at every poll in turn; returns how many there are. */
static long interrupt_everywhere(kind kind, int bits, int rule, int execution, const batch *first, const batch *second)
{
    sppim_network *network = make(kind, bits, rule, execution);
    expect(tick(network, first, NULL), SPPIM_OK, "tick");
    const outcome wanted = finish(network);
    for (long i = 0;; i++) {
        network = make(kind, bits, rule, execution);
        expect(tick(network, first, NULL), SPPIM_OK, "tick");
        polls_left = i;
        const sppim_status status = tick(network, second, poll);
        if (status == SPPIM_OK) {
            sppim_network_destroy(network);
            return i;
        }
        expect(status, SPPIM_ERROR_INTERRUPTED, "interrupted tick");
        const outcome got = finish(network);
        if (memcmp(&got, &wanted, sizeof got) != 0) {
            printf("kind %d, %d bits, rule %d, execution %d: differs after an interruption at poll %ld\n", kind, bits,
                   rule, execution, i);
            exit(1);
        }
    }
}

int main(void)
{
    const batch dense = images(100, true), sparse = images(5, true);
    long interruptions = 0;
    for (int i = 0; i < KINDS * 2 * SPPIM_RULE_COUNT * SPPIM_EXECUTION_COUNT; i++) {
        const int execution = i % 2, rule = i / 2 % SPPIM_RULE_COUNT, bits = i / 2 / SPPIM_RULE_COUNT % 2 ? 16 : 8;
        const kind kind = (enum kind)(i / 4 / SPPIM_RULE_COUNT);
        if ((rule == SPPIM_RULE_BP && execution == SPPIM_PIPELINED) || (kind && bits == 16 && rule) ||
            (kind == ROOMY_IMAGE && (bits == 16 || execution || rule)))
            continue;
        interruptions += interrupt_everywhere(kind, bits, rule, execution, &dense, &sparse);
        interruptions += interrupt_everywhere(kind, bits, rule, execution, &sparse, &dense);
    }
    printf("interruptions %ld\n", interruptions);
    return interruptions > 0 ? 0 : 1;
}
