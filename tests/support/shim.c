/* Another time of day and a slow disk, for processes that load this with LD_PRELOAD.

   SHIM_STATE names a file of two 64-bit numbers that the test and all processes share: the seconds by which the
   clock is moved, and how often a process got a moved time or a slowed sync. Each sync takes SHIM_SYNC_US
   microseconds longer. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct state {
    volatile int64_t offset;
    volatile int64_t acted;
};

static struct state nothing;
static struct state *state = &nothing;
static long sync_us;

__attribute__((constructor)) static void open_state(void)
{
    const char *path = getenv("SHIM_STATE"), *microseconds = getenv("SHIM_SYNC_US");
    sync_us = microseconds ? atol(microseconds) : 0;
    int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *shared = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (shared != MAP_FAILED)
        state = shared;
    close(descriptor);
}

static void move(struct timespec *moment)
{
    int64_t offset = state->offset;
    if (offset) {
        moment->tv_sec += offset;
        __sync_fetch_and_add(&state->acted, 1);
    }
}

int clock_gettime(clockid_t clock, struct timespec *moment)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, moment);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        move(moment);
    return failed;
}

int gettimeofday(struct timeval *moment, void *zone)
{
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    moment->tv_sec = now.tv_sec;
    moment->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

static void delay(void)
{
    struct timespec pause = {sync_us / 1000000, sync_us % 1000000 * 1000};
    if (sync_us) {
        nanosleep(&pause, NULL);
        __sync_fetch_and_add(&state->acted, 1);
    }
}

int fsync(int descriptor)
{
    delay();
    return (int)syscall(SYS_fsync, descriptor);
}

int fdatasync(int descriptor)
{
    delay();
    return (int)syscall(SYS_fdatasync, descriptor);
}
