#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define POLL_INTERVAL_NS 5000000L /* while the caller waits for the others */

/* The phases of a small step follow each other within microseconds, which is what waking a thread costs: a thread that waits
 * looks this often before it sleeps, for 20 us or so. */
#define LOOKS 1000

struct sppim_pool {
    int threads, started;
    pid_t owner; /* threads do not survive a fork: a child starts its own */
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    pthread_t *handles;
    sppim_worker *workers;
    atomic_ulong round; /* these three change under the mutex; who does not sleep yet reads them without it */
    atomic_int active;
    atomic_bool quit;
    int looks, patience; /* before a worker sleeps, and the caller */
    sppim_task task;
    void *context;
    size_t count;
    atomic_size_t ticket;
    atomic_bool cancelled;
    sppim_poll poll;
    void *user;
};

static long processors(void)
{
#ifdef _SC_NPROCESSORS_ONLN
    return sysconf(_SC_NPROCESSORS_ONLN);
#else
    return 1;
#endif
}

static void init_sync(sppim_pool *pool)
{
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_condattr_t steady; /* a clock that nobody sets back */
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, &steady);
    pthread_condattr_destroy(&steady);
    pool->owner = getpid();
    pool->looks = processors() >= pool->threads ? LOOKS : 0; /* looking must not keep the others from working */
    pool->patience = pool->looks;
    pool->started = 0;
    pool->active = 0;
    pool->round = 0;
}

sppim_pool *sppim_pool_create(int threads)
{
    sppim_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->threads = threads;
    pool->handles = calloc((size_t)threads, sizeof *pool->handles);
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    if (!pool->handles || !pool->workers) {
        free(pool->handles);
        free(pool->workers);
        free(pool);
        return NULL;
    }
    for (int i = 0; i < threads; i++)
        pool->workers[i] = (sppim_worker){.pool = pool, .id = i};
    init_sync(pool);
    return pool;
}

void sppim_pool_destroy(sppim_pool *pool)
{
    if (!pool)
        return;
    if (pool->owner == getpid()) {
        pthread_mutex_lock(&pool->mutex);
        pool->quit = true;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->mutex);
        for (int i = 0; i < pool->started; i++)
            pthread_join(pool->handles[i], NULL);
    }
    free(pool->handles);
    free(pool->workers);
    free(pool);
}

void sppim_pool_set_poll(sppim_pool *pool, sppim_poll poll, void *user)
{
    pool->poll = poll;
    pool->user = user;
    atomic_store(&pool->cancelled, false);
}

bool sppim_worker_stop(sppim_worker *worker)
{
    sppim_pool *pool = worker->pool;
    if (worker->id == 0 && pool->poll && pool->poll(pool->user))
        atomic_store(&pool->cancelled, true);
    return atomic_load_explicit(&pool->cancelled, memory_order_relaxed);
}

bool sppim_pool_stop(sppim_pool *pool) { return sppim_worker_stop(&pool->workers[0]); }

static void work(sppim_pool *pool, sppim_worker *worker)
{
    for (;;) {
        const size_t i = atomic_fetch_add(&pool->ticket, 1);
        if (i >= pool->count || sppim_worker_stop(worker))
            return;
        pool->task(pool->context, i, worker);
    }
}

/* Now and then the processor goes to whoever wants it, who may be the thread that is waited for. */
static void pause_briefly(int look)
{
    if (look % 64 == 63) {
        sched_yield();
        return;
    }
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("isb");
#endif
}

static void await_round(sppim_pool *pool, unsigned long last)
{
    for (int i = 0; i < pool->looks && atomic_load(&pool->round) == last && !atomic_load(&pool->quit); i++)
        pause_briefly(i);
}

/* Who looked in vain, because the others have no processor or much to do, looks less often the next time. */
static void await_others(sppim_pool *pool)
{
    int i = 0;
    for (; i < pool->patience && atomic_load(&pool->active); i++)
        pause_briefly(i);
    pool->patience = i < pool->patience ? pool->looks : pool->patience / 4 + pool->looks / 64;
}

static void *thread_main(void *argument)
{
    sppim_worker *worker = argument;
    sppim_pool *pool = worker->pool;
    for (;;) {
        await_round(pool, worker->round);
        pthread_mutex_lock(&pool->mutex);
        while (!pool->quit && pool->round == worker->round)
            pthread_cond_wait(&pool->work, &pool->mutex);
        const bool quit = pool->quit;
        worker->round = pool->round;
        pthread_mutex_unlock(&pool->mutex);
        if (quit)
            return NULL;
        work(pool, worker);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->active == 0)
            pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->mutex);
    }
}

/* Starts the missing threads; if the system has none left, fewer do the work, with the same bits. */
static void start_threads(sppim_pool *pool)
{
    if (pool->owner != getpid())
        init_sync(pool);
    while (pool->started < pool->threads - 1) {
        const int i = pool->started;
        pool->workers[i + 1].round = pool->round;
        if (pthread_create(&pool->handles[i], NULL, thread_main, &pool->workers[i + 1]))
            return;
        pool->started++;
    }
}

static void wait_for_others(sppim_pool *pool)
{
    await_others(pool);
    pthread_mutex_lock(&pool->mutex);
    while (pool->active) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += POLL_INTERVAL_NS;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&pool->done, &pool->mutex, &until);
        if (pool->active) {
            pthread_mutex_unlock(&pool->mutex);
            sppim_worker_stop(&pool->workers[0]);
            pthread_mutex_lock(&pool->mutex);
        }
    }
    pthread_mutex_unlock(&pool->mutex);
}

bool sppim_pool_run(sppim_pool *pool, sppim_task task, void *context, size_t count)
{
    pool->task = task;
    pool->context = context;
    pool->count = count;
    atomic_store(&pool->ticket, 0);
    const bool shared = pool->threads > 1 && count > 1;
    if (shared) {
        start_threads(pool);
        pthread_mutex_lock(&pool->mutex);
        pool->active = pool->started;
        pool->round++;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->mutex);
    }
    work(pool, &pool->workers[0]);
    if (shared)
        wait_for_others(pool);
    return !atomic_load(&pool->cancelled);
}
