#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define POLL_INTERVAL_NS 5000000L /* while the caller waits for the others */

/* The phases of a small step follow each other within microseconds, which is what waking a thread costs: a thread
 * that waits looks this often before it sleeps, for 20 us or so. */
#define LOOKS 1000

struct sppim_pool {
    int threads, started;
    pid_t owner; /* threads do not survive a fork: a child starts its own */
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    pthread_t *handles;
    sppim_worker *workers;
    sppim_task task; /* these three change only while no task is unfinished */
    void *context;
    size_t count;
    atomic_size_t waiting;    /* tasks that nobody has taken */
    atomic_size_t unfinished; /* those, and the ones being worked on */
    atomic_int sleepers;      /* workers */
    atomic_bool caller_sleeps;
    atomic_bool quit;
    int looks, patience; /* before a worker sleeps, and the caller */
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
    pool->sleepers = 0;
    pool->waiting = 0;
    pool->unfinished = 0;
    pool->caller_sleeps = false;
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

/* Who takes a task keeps its batch from ending, so that what he reads then belongs to it. */
static bool take_task(sppim_pool *pool, size_t *index)
{
    size_t waiting = atomic_load(&pool->waiting);
    while (waiting)
        if (atomic_compare_exchange_weak(&pool->waiting, &waiting, waiting - 1)) {
            *index = pool->count - waiting;
            return true;
        }
    return false;
}

static void finish_task(sppim_pool *pool)
{
    if (atomic_fetch_sub(&pool->unfinished, 1) > 1 || !atomic_load(&pool->caller_sleeps))
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

static void work(sppim_pool *pool, sppim_worker *worker)
{
    for (size_t index; take_task(pool, &index); finish_task(pool))
        if (!sppim_worker_stop(worker))
            pool->task(pool->context, index, worker);
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

static bool has_work(sppim_pool *pool) { return atomic_load(&pool->waiting) || atomic_load(&pool->quit); }

static void sleep_until_work(sppim_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_work(pool))
        pthread_cond_wait(&pool->work, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void *thread_main(void *argument)
{
    sppim_worker *worker = argument;
    sppim_pool *pool = worker->pool;
    while (!atomic_load(&pool->quit)) {
        for (int i = 0; i < pool->looks && !has_work(pool); i++)
            pause_briefly(i);
        if (!has_work(pool))
            sleep_until_work(pool);
        work(pool, worker);
    }
    return NULL;
}

/* Starts the missing threads; if the system has none left, fewer do the work, with the same bits. */
static void start_threads(sppim_pool *pool)
{
    if (pool->owner != getpid())
        init_sync(pool);
    while (pool->started < pool->threads - 1) {
        const int i = pool->started;
        if (pthread_create(&pool->handles[i], NULL, thread_main, &pool->workers[i + 1]))
            return;
        pool->started++;
    }
}

/* Who looked in vain, because the others have no processor or much to do, looks less often the next time. */
static void look_for_end(sppim_pool *pool)
{
    int i = 0;
    for (; i < pool->patience && atomic_load(&pool->unfinished); i++)
        pause_briefly(i);
    pool->patience = i < pool->patience ? pool->looks : pool->patience / 4 + pool->looks / 64;
}

static void sleep_until_end(sppim_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->unfinished)) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += POLL_INTERVAL_NS;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&pool->done, &pool->mutex, &until);
        pthread_mutex_unlock(&pool->mutex);
        sppim_worker_stop(&pool->workers[0]);
        pthread_mutex_lock(&pool->mutex);
    }
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

/* Hands out tasks; a worker that is late, perhaps for want of a processor, is not waited for. */
static void share(sppim_pool *pool, size_t count)
{
    start_threads(pool);
    atomic_store(&pool->unfinished, count);
    atomic_store(&pool->waiting, count);
    if (!atomic_load(&pool->sleepers))
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
}

bool sppim_pool_run(sppim_pool *pool, sppim_task task, void *context, size_t count)
{
    pool->task = task;
    pool->context = context;
    pool->count = count;
    if (pool->threads > 1 && count > 1) {
        share(pool, count);
        work(pool, &pool->workers[0]);
        look_for_end(pool);
        if (atomic_load(&pool->unfinished))
            sleep_until_end(pool);
    } else {
        for (size_t i = 0; i < count && !sppim_pool_stop(pool); i++)
            task(context, i, &pool->workers[0]);
    }
    return !atomic_load(&pool->cancelled);
}
