/* The one list of instruction-set levels, and the choice among them. */
#include "kernels.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool always(void) { return true; }

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1

static bool has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vbmi2");
}
#endif

/* From the slowest to the fastest; each starts as a copy of the usable level before it. */
static const struct {
    const char *name;
    bool (*usable)(void);
    void (*install)(sppim_kernels *table);
} levels[] = {
    {"ref", always, sppim_kernels_install_ref},
#ifdef X86
    {"avx2", has_avx2, sppim_kernels_install_avx2},
    {"avx512", has_avx512, sppim_kernels_install_avx512},
    {"vnni", has_vnni, sppim_kernels_install_vnni},
#endif
#if defined(__aarch64__) && defined(__ARM_NEON) && defined(__AARCH64EL__)
    {"neon", always, sppim_kernels_install_neon},
#endif
};

#define LEVELS (sizeof levels / sizeof levels[0])

static sppim_kernels tables[LEVELS];
static size_t usable_count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_tables(void)
{
    for (size_t i = 0; i < LEVELS; i++) {
        if (!levels[i].usable())
            continue;
        if (usable_count)
            tables[usable_count] = tables[usable_count - 1];
        levels[i].install(&tables[usable_count]);
        tables[usable_count++].name = levels[i].name;
    }
}

size_t sppim_isa_count(void)
{
    pthread_once(&once, fill_tables);
    return usable_count;
}

const char *sppim_isa_name(size_t index) { return index < sppim_isa_count() ? tables[index].name : NULL; }

const sppim_kernels *sppim_kernels_find(const char *name)
{
    const size_t count = sppim_isa_count();
    if (!name)
        name = getenv("SPPIM_ISA");
    if (!name || !*name)
        return &tables[count - 1];
    for (size_t i = 0; i < count; i++)
        if (strcmp(tables[i].name, name) == 0)
            return &tables[i];
    return NULL;
}

const char *sppim_isa_default(void)
{
    const sppim_kernels *table = sppim_kernels_find(NULL);
    return table ? table->name : NULL;
}
