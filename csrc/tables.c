/* Run-time tables, made from the lists of the public header. */
#include "sppim.h"

static const char *const status_texts[] = {
#define SPPIM_X(name, text) text,
    SPPIM_STATUS_LIST(SPPIM_X)
#undef SPPIM_X
};

static const struct {
    const char *name, *unit;
} counter_rows[] = {
#define SPPIM_X(name, unit) {#name, unit},
    SPPIM_COUNTER_LIST(SPPIM_X)
#undef SPPIM_X
};

#define COUNTER_ROWS (sizeof counter_rows / sizeof counter_rows[0])
_Static_assert(sizeof(sppim_counters) == COUNTER_ROWS * sizeof(uint64_t), "counters are uint64_t only");

const char *sppim_status_text(sppim_status status)
{
    return (unsigned)status < SPPIM_STATUS_COUNT ? status_texts[status] : "unknown status";
}

uint32_t sppim_abi_version(void) { return SPPIM_ABI_VERSION; }

size_t sppim_counter_count(void) { return COUNTER_ROWS; }

const char *sppim_counter_name(size_t index)
{
    return index < COUNTER_ROWS ? counter_rows[index].name : NULL;
}

const char *sppim_counter_unit(size_t index)
{
    return index < COUNTER_ROWS ? counter_rows[index].unit : NULL;
}
