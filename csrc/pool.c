#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define POLL_INTERVAL_NS 5000000L /* while the caller waits for the others */

struct sppim_pool {
    int threads, started;
    pid_t owner; /* threads do not survive a fork: a child starts its own */
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    pthread_t *handles;
    sppim_worker *workers;
    unsigned long round; /* guarded by mutex, as are active and quit */
    int active;
    bool quit;
    sppim_task task;
    void *context;
    size_t count;
    atomic_size_t ticket;
    atomic_bool cancelled;
    sppim_poll poll;
    void *user;
};

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

static void *thread_main(void *argument)
{
    sppim_worker *worker = argument;
    sppim_pool *pool = worker->pool;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (!pool->quit && pool->round == worker->round)
            pthread_cond_wait(&pool->work, &pool->mutex);
        if (pool->quit)
            break;
        worker->round = pool->round;
        pthread_mutex_unlock(&pool->mutex);
        work(pool, worker);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->active == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
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
