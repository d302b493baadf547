/* The schedule (C3, C4): when each phase of each image occupied each unit. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "count.h"

#define EMPTY UINT64_MAX

enum { FP, EP, GC, UP, PHASES };

/* One image in one layer: durations going in, ends coming out. */
typedef struct slot {
    uint64_t duration[PHASES];
    uint64_t end[PHASES];
    uint64_t batch;
    uint64_t last; /* 1: of its batch */
} slot;

/* A layer's units and what they did. */
typedef struct stage {
    uint64_t fp_free, gc_free; /* one and the same (fp_free) without phase overlap */
    uint64_t busy[PHASES], stall[PHASES];
} stage;

/* How far the whole schedule is. */
typedef struct progress {
    uint64_t lepu_free, placed_end, cycles;
    uint64_t ticks, images, batches;
} progress;

struct sppim_schedule {
    sppim_schedule_config config;
    size_t layers, ring, staleness_ring;
    sppim_shape *shapes;
    stage *stages;     /* [layers] */
    slot *slots;       /* [layers][ring], image i in i % ring */
    uint64_t *up_ends; /* [layers][staleness_ring], batch t in t % staleness_ring */
    uint64_t *entries; /* [layers]: the image that entered in tick T in T % layers, or EMPTY */
    progress now;
};

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

static slot *slot_of(const sppim_schedule *s, size_t l, uint64_t image)
{
    return &s->slots[l * s->ring + image % s->ring];
}

/* ---- durations (C3) ---------------------------------------------------------------------------------- */

static uint64_t lepu_or_array_cycles(const sppim_schedule *s, size_t l, uint64_t errors)
{
    const sppim_shape *shape = &s->shapes[l];
    const sppim_place place = {s->config.rule, l == 0, l == s->layers - 1};
    const uint64_t pot = sppim_count_pot_image(shape, place);
    const uint64_t additions = pot && shape->features < shape->outputs ? (uint64_t)shape->outputs : 0;
    if (place.rule != SPPIM_RULE_BP)
        return ceil_div(pot + additions, (uint64_t)s->config.lepu_lanes);
    if (place.first)
        return 0;
    return ceil_div(errors * ceil_div((uint64_t)shape->rows, (uint64_t)s->config.macro_columns),
                    (uint64_t)shape->macros);
}

static void set_durations(const sppim_schedule *s, size_t l, uint64_t operands, uint64_t errors, slot *slot)
{
    const sppim_shape *shape = &s->shapes[l];
    const uint64_t rows = (uint64_t)shape->rows, columns = (uint64_t)shape->columns, macros = (uint64_t)shape->macros;
    const uint64_t groups = ceil_div(columns, (uint64_t)s->config.macro_columns);
    const uint64_t pooled = shape->pooled ? (uint64_t)shape->positions : 0;
    slot->duration[FP] = ceil_div((operands + pooled) * groups, macros);
    slot->duration[EP] = lepu_or_array_cycles(s, l, errors);
    slot->duration[GC] = ceil_div(rows * groups * errors, columns * macros);
    slot->duration[UP] = ceil_div((rows + (uint64_t)shape->bias) * groups * (shape->centred ? 3 : 1), macros);
}

/* ---- placing phases (C4) -------------------------------------------------------------------------------- */

static bool serial(const sppim_schedule *s) { return !s->config.layer_pipeline && !s->config.phase_overlap; }

/* Places one phase on a unit; returns its end. */
static uint64_t place(sppim_schedule *s, size_t l, int phase, uint64_t ready, uint64_t buffer, uint64_t *unit,
                      uint64_t duration)
{
    stage *stage = &s->stages[l];
    if (serial(s))
        ready = larger(ready, s->now.placed_end);
    if (duration) {
        const uint64_t start = larger(*unit, larger(ready, buffer));
        stage->stall[phase] += start - *unit;
        stage->busy[phase] += duration;
        ready = *unit = start + duration;
    }
    s->now.placed_end = ready;
    s->now.cycles = larger(s->now.cycles, ready);
    return ready;
}

static uint64_t *gradient_unit(sppim_schedule *s, size_t l)
{
    return s->config.phase_overlap ? &s->stages[l].gc_free : &s->stages[l].fp_free;
}

static uint64_t forward_ready(const sppim_schedule *s, size_t l, uint64_t image)
{
    const uint64_t batch = slot_of(s, l, image)->batch, delay = (uint64_t)s->config.staleness + 1;
    uint64_t ready = l ? slot_of(s, l - 1, image)->end[FP] : 0;
    if (batch >= delay)
        ready = larger(ready, s->up_ends[l * s->staleness_ring + (batch - delay) % s->staleness_ring]);
    if (!s->config.layer_pipeline && l == 0 && image)
        ready = larger(ready, slot_of(s, s->layers - 1, image - 1)->end[FP]);
    return ready;
}

static void place_forward(sppim_schedule *s, size_t l, uint64_t image)
{
    slot *slot = slot_of(s, l, image);
    const uint64_t places = (uint64_t)s->config.activation_buffers;
    const uint64_t buffer = l + 1 < s->layers && image >= places ? slot_of(s, l + 1, image - places)->end[GC] : 0;
    slot->end[FP] = place(s, l, FP, forward_ready(s, l, image), buffer, &s->stages[l].fp_free, slot->duration[FP]);
}

static void place_lepu(sppim_schedule *s, size_t l, uint64_t image)
{
    slot *slot = slot_of(s, l, image);
    uint64_t ready = slot->end[FP];
    if (s->config.rule == SPPIM_RULE_DFA)
        ready = larger(ready, slot_of(s, s->layers - 1, image)->end[FP]);
    const uint64_t array = s->config.phase_overlap ? 0 : s->stages[l].fp_free;
    slot->end[EP] = place(s, l, EP, ready, array, &s->now.lepu_free, slot->duration[EP]);
    if (!s->config.phase_overlap && slot->duration[EP])
        s->stages[l].fp_free = slot->end[EP];
}

static void place_update(sppim_schedule *s, size_t l, uint64_t image)
{
    const slot *slot = slot_of(s, l, image);
    s->up_ends[l * s->staleness_ring + slot->batch % s->staleness_ring] =
        place(s, l, UP, slot->end[GC], 0, gradient_unit(s, l), slot->duration[UP]);
}

static void place_gradient(sppim_schedule *s, size_t l, uint64_t image, uint64_t ready)
{
    slot *slot = slot_of(s, l, image);
    slot->end[GC] = place(s, l, GC, ready, 0, gradient_unit(s, l), slot->duration[GC]);
}

static void place_backward(sppim_schedule *s, size_t l, uint64_t image)
{
    place_lepu(s, l, image);
    place_gradient(s, l, image, slot_of(s, l, image)->end[EP]);
    if (slot_of(s, l, image)->last)
        place_update(s, l, image);
}

/* The baseline: errors travel down through the arrays. */
static void place_backpropagation(sppim_schedule *s, uint64_t image)
{
    for (size_t l = s->layers; l-- > 0;) {
        slot *slot = slot_of(s, l, image);
        place_gradient(s, l, image, s->now.placed_end);
        slot->end[EP] = place(s, l, EP, s->now.placed_end, 0, &s->stages[l].fp_free, slot->duration[EP]);
    }
    if (slot_of(s, 0, image)->last)
        for (size_t l = s->layers; l-- > 0;)
            place_update(s, l, image);
}

static void place_image(sppim_schedule *s, uint64_t image)
{
    const int rule = s->config.rule;
    const bool waits = rule == SPPIM_RULE_DFA || rule == SPPIM_RULE_BP;
    for (size_t l = 0; l < s->layers; l++) {
        place_forward(s, l, image);
        if (!waits)
            place_backward(s, l, image);
    }
    if (rule == SPPIM_RULE_BP)
        place_backpropagation(s, image);
    else if (waits)
        for (size_t l = s->layers; l-- > 0;)
            place_backward(s, l, image);
}

/* One tick of the layer pipeline; image EMPTY: none enters. */
static void tick(sppim_schedule *s, uint64_t image)
{
    s->entries[s->now.ticks % s->layers] = image;
    for (size_t l = s->layers; l-- > 0;) {
        const size_t back = s->config.rule == SPPIM_RULE_DFA ? s->layers - 1 : l;
        const uint64_t forward = l <= s->now.ticks ? s->entries[(s->now.ticks - l) % s->layers] : EMPTY;
        const uint64_t backward = back <= s->now.ticks ? s->entries[(s->now.ticks - back) % s->layers] : EMPTY;
        if (forward != EMPTY)
            place_forward(s, l, forward);
        if (backward != EMPTY)
            place_backward(s, l, backward);
    }
    s->now.ticks++;
}

static void drain(sppim_schedule *s)
{
    for (size_t i = 1; s->config.layer_pipeline && i < s->layers; i++)
        tick(s, EMPTY);
}

/* ---- the public face ---------------------------------------------------------------------------------------- */

static sppim_status check(const sppim_schedule_config *c, const sppim_shape *shapes, size_t layers)
{
    if (c->struct_size != sizeof *c)
        return SPPIM_ERROR_SHAPE;
    const bool both_off = !c->layer_pipeline && !c->phase_overlap;
    if (layers < 1 || layers > 1024 || c->rule < 0 || c->rule >= SPPIM_RULE_COUNT || c->layer_pipeline < 0 ||
        c->layer_pipeline > 1 || c->phase_overlap < 0 || c->phase_overlap > 1 || c->staleness < 0 ||
        c->staleness > 64 || c->activation_buffers < 1 || c->activation_buffers > 1024 || c->macro_columns < 1 ||
        c->macro_columns > 65535 || c->lepu_lanes < 1 || c->lepu_lanes > 1 << 20)
        return SPPIM_ERROR_RANGE;
    if (c->rule == SPPIM_RULE_BP && !both_off)
        return SPPIM_ERROR_RANGE;
    if (c->rule == SPPIM_RULE_DFA && c->layer_pipeline && (size_t)c->activation_buffers + 1 < layers)
        return SPPIM_ERROR_RANGE;
    for (size_t l = 0; l < layers; l++) {
        const sppim_status status = sppim_shape_check(&shapes[l]);
        if (status != SPPIM_OK)
            return status;
    }
    return SPPIM_OK;
}

/* One block of memory for the schedule and its arrays, so that copying it is one memcpy. */
typedef struct layout {
    size_t shapes, stages, slots, up_ends, entries, end;
} layout;

static layout layout_of(size_t layers, size_t ring, size_t staleness_ring)
{
    layout at;
    at.shapes = sizeof(sppim_schedule);
    at.stages = at.shapes + layers * sizeof(sppim_shape);
    at.slots = at.stages + layers * sizeof(stage);
    at.up_ends = at.slots + layers * ring * sizeof(slot);
    at.entries = at.up_ends + layers * staleness_ring * sizeof(uint64_t);
    at.end = at.entries + layers * sizeof(uint64_t);
    return at;
}

static void point_into(sppim_schedule *s)
{
    const layout at = layout_of(s->layers, s->ring, s->staleness_ring);
    char *base = (char *)s;
    s->shapes = (sppim_shape *)(base + at.shapes);
    s->stages = (stage *)(base + at.stages);
    s->slots = (slot *)(base + at.slots);
    s->up_ends = (uint64_t *)(base + at.up_ends);
    s->entries = (uint64_t *)(base + at.entries);
}

sppim_status sppim_schedule_create(const sppim_schedule_config *config, const sppim_shape *shapes, size_t layers,
                                   sppim_schedule **schedule)
{
    if (!config || !shapes || !schedule)
        return SPPIM_ERROR_NULL;
    const sppim_status status = check(config, shapes, layers);
    if (status != SPPIM_OK)
        return status;
    const size_t ring = 2 * layers + (size_t)config->activation_buffers + 1;
    const size_t staleness_ring = (size_t)config->staleness + 2;
    sppim_schedule *s = calloc(1, layout_of(layers, ring, staleness_ring).end);
    if (!s)
        return SPPIM_ERROR_MEMORY;
    s->config = *config;
    s->layers = layers;
    s->ring = ring;
    s->staleness_ring = staleness_ring;
    point_into(s);
    memcpy(s->shapes, shapes, layers * sizeof *shapes);
    *schedule = s;
    return SPPIM_OK;
}

void sppim_schedule_destroy(sppim_schedule *schedule) { free(schedule); }

static sppim_status check_counts(const sppim_schedule *s, size_t n, const uint32_t *operands, const uint32_t *errors)
{
    for (size_t l = 0; l < s->layers; l++)
        for (size_t i = 0; i < n; i++)
            if (operands[l * n + i] > s->shapes[l].rows * s->shapes[l].positions ||
                errors[l * n + i] > s->shapes[l].columns * s->shapes[l].positions)
                return SPPIM_ERROR_RANGE;
    return SPPIM_OK;
}

sppim_status sppim_schedule_batch(sppim_schedule *s, size_t n, const uint32_t *operand_nonzeros,
                                  const uint32_t *error_nonzeros)
{
    if (!s || (n && (!operand_nonzeros || !error_nonzeros)))
        return SPPIM_ERROR_NULL;
    const sppim_status status = check_counts(s, n, operand_nonzeros, error_nonzeros);
    if (status != SPPIM_OK || !n)
        return status;
    for (size_t i = 0; i < n; i++) {
        const uint64_t image = s->now.images++;
        for (size_t l = 0; l < s->layers; l++) {
            slot *slot = slot_of(s, l, image);
            *slot = (struct slot){.batch = s->now.batches, .last = i + 1 == n};
            set_durations(s, l, operand_nonzeros[l * n + i], error_nonzeros[l * n + i], slot);
        }
        if (s->config.layer_pipeline)
            tick(s, image);
        else
            place_image(s, image);
    }
    if (s->config.rule == SPPIM_RULE_DFA)
        drain(s);
    s->now.batches++;
    return SPPIM_OK;
}

static void read_stage(const stage *stage, sppim_counters *c)
{
    memset(c, 0, sizeof *c);
    c->fp_busy_cycles = stage->busy[FP];
    c->fp_stall_cycles = stage->stall[FP];
    c->ep_busy_cycles = stage->busy[EP];
    c->ep_stall_cycles = stage->stall[EP];
    c->gc_busy_cycles = stage->busy[GC];
    c->gc_stall_cycles = stage->stall[GC];
    c->up_busy_cycles = stage->busy[UP];
    c->up_stall_cycles = stage->stall[UP];
}

sppim_status sppim_schedule_result(const sppim_schedule *schedule, uint64_t *cycles, sppim_counters *counters)
{
    if (!schedule || !cycles || !counters)
        return SPPIM_ERROR_NULL;
    const size_t bytes = layout_of(schedule->layers, schedule->ring, schedule->staleness_ring).end;
    sppim_schedule *copy = malloc(bytes);
    if (!copy)
        return SPPIM_ERROR_MEMORY;
    memcpy(copy, schedule, bytes);
    point_into(copy);
    drain(copy);
    *cycles = copy->now.cycles;
    for (size_t l = 0; l < copy->layers; l++)
        read_stage(&copy->stages[l], &counters[l]);
    free(copy);
    return SPPIM_OK;
}

/* ---- state: a head that says whose it is, the progress, and all that follows the shapes ----------------------- */

#define STATE_VERSION 1
#define HEAD_WORDS ((size_t)9)
#define PROGRESS_WORDS (sizeof(progress) / sizeof(uint64_t))

_Static_assert(sizeof(slot) % sizeof(uint64_t) == 0 && sizeof(stage) % sizeof(uint64_t) == 0, "words only");

static size_t body_words(const sppim_schedule *s)
{
    const layout at = layout_of(s->layers, s->ring, s->staleness_ring);
    return (at.end - at.stages) / sizeof(uint64_t);
}

static void write_head(const sppim_schedule *s, uint64_t *head)
{
    const sppim_schedule_config *c = &s->config;
    const uint64_t words[HEAD_WORDS] = {STATE_VERSION,
                                        s->layers,
                                        (uint64_t)c->rule,
                                        (uint64_t)c->layer_pipeline,
                                        (uint64_t)c->phase_overlap,
                                        (uint64_t)c->staleness,
                                        (uint64_t)c->activation_buffers,
                                        (uint64_t)c->macro_columns,
                                        (uint64_t)c->lepu_lanes};
    memcpy(head, words, sizeof words);
}

size_t sppim_schedule_state_size(const sppim_schedule *s)
{
    return s ? HEAD_WORDS + PROGRESS_WORDS + body_words(s) : 0;
}

sppim_status sppim_schedule_get_state(const sppim_schedule *s, uint64_t *words)
{
    if (!s || !words)
        return SPPIM_ERROR_NULL;
    write_head(s, words);
    memcpy(words + HEAD_WORDS, &s->now, sizeof s->now);
    memcpy(words + HEAD_WORDS + PROGRESS_WORDS, s->stages, body_words(s) * sizeof *words);
    return SPPIM_OK;
}

static bool none_beyond(const uint64_t *words, size_t count, uint64_t limit)
{
    for (size_t i = 0; i < count; i++)
        if (words[i] > limit)
            return false;
    return true;
}

/* No value can lead outside of the arrays (rings are entered modulo their size); these are of no schedule at all. */
static bool possible(const sppim_schedule *s, const progress *now, const uint64_t *body)
{
    const size_t stage_words = s->layers * sizeof(stage) / sizeof *body;
    const uint64_t *word = body + stage_words, *up_ends = word + s->layers * s->ring * sizeof(slot) / sizeof *body;
    const uint64_t *entries = up_ends + s->layers * s->staleness_ring;
    if (now->lepu_free > now->cycles || now->placed_end > now->cycles || !none_beyond(body, stage_words, now->cycles) ||
        !none_beyond(up_ends, s->layers * s->staleness_ring, now->cycles))
        return false;
    for (; word < up_ends; word += sizeof(slot) / sizeof *body) {
        slot each;
        memcpy(&each, word, sizeof each);
        if (!none_beyond(each.end, PHASES, now->cycles) || each.batch > now->batches || each.last > 1)
            return false;
    }
    for (size_t i = 0; i < s->layers; i++)
        if (entries[i] != EMPTY && entries[i] > now->images)
            return false;
    return true;
}

sppim_status sppim_schedule_set_state(sppim_schedule *s, const uint64_t *words, size_t count)
{
    if (!s || !words)
        return SPPIM_ERROR_NULL;
    if (count != sppim_schedule_state_size(s))
        return SPPIM_ERROR_SHAPE;
    uint64_t head[HEAD_WORDS];
    progress now;
    const uint64_t *body = words + HEAD_WORDS + PROGRESS_WORDS;
    write_head(s, head);
    memcpy(&now, words + HEAD_WORDS, sizeof now);
    if (memcmp(head, words, sizeof head) != 0 || !possible(s, &now, body))
        return SPPIM_ERROR_RANGE;
    s->now = now;
    memcpy(s->stages, body, body_words(s) * sizeof *body);
    return SPPIM_OK;
}
