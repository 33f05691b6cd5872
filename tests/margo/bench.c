/* What C Margo takes for what `mochi bench` measures: an echo and bulk transfers, as a service in C would have them.
 *
 *   bench serve PROTOCOL PROGRESS CPU XSTREAMS
 *       prints its address and serves until its standard input ends; its handlers run on so many
 *       execution streams of their own, or with 0 on the one that makes progress
 *   bench call ADDRESS PROTOCOL PROGRESS CPU CASE SIZE COUNT WARMUP SECONDS
 *       PROTOCOL is where it would listen itself, CASE is echo, pull or push; SIZE bytes each, COUNT
 *       at a time
 *       prints: median and 99th percentile in microseconds, and how many a second
 *
 * PROGRESS is adaptive (Margo's own defaults), busy (it never sleeps) or park (it sleeps at once); CPU is the processor
 * to stay on, or -1.
 */
#define _GNU_SOURCE
#include <margo.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SIZE_MAX_OURS (64ul << 20)
/* Times kept of one measurement; the first ones go when there are more. */
#define TIMES (1u << 22)

static void fail(const char *what)
{
    printf("failed: %s\n", what);
    exit(1);
}

static void must(hg_return_t ret, const char *what)
{
    if (ret == HG_SUCCESS)
        return;
    printf("failed: %s: %s\n", what, HG_Error_to_string(ret));
    exit(1);
}

/* Counted bytes. */
typedef struct {
    uint64_t size;
    unsigned char *data;
} blob_t;

static hg_return_t hg_proc_blob_t(hg_proc_t proc, void *arg)
{
    blob_t *blob = arg;
    hg_return_t ret = hg_proc_uint64_t(proc, &blob->size);
    if (ret != HG_SUCCESS)
        return ret;
    switch (hg_proc_get_op(proc)) {
        case HG_DECODE:
            if (blob->size > SIZE_MAX_OURS)
                return HG_MSGSIZE;
            blob->data = malloc(blob->size);
            if (blob->size > 0 && blob->data == NULL)
                return HG_NOMEM;
            return blob->size > 0 ? hg_proc_bytes(proc, blob->data, blob->size) : HG_SUCCESS;
        case HG_ENCODE:
            return blob->size > 0 ? hg_proc_bytes(proc, blob->data, blob->size) : HG_SUCCESS;
        default:
            free(blob->data);
            return HG_SUCCESS;
    }
}

MERCURY_GEN_PROC(region_in_t, ((uint64_t)(size)))
MERCURY_GEN_PROC(region_out_t, ((hg_bulk_t)(bulk)))

static void stay_on(int cpu)
{
    cpu_set_t set;
    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        fail("cannot stay on that processor");
}

static margo_instance_id start(const char *address, int mode, const char *progress, int cpu, int xstreams)
{
    struct margo_init_info info = {0};
    const char *waiting = "";
    char json[256];
    stay_on(cpu);
    margo_set_environment(NULL);
    if (strcmp(progress, "busy") == 0)
        waiting = ", \"mercury\": {\"na_no_block\": true}, \"progress_timeout_ub_msec\": 0";
    else if (strcmp(progress, "park") == 0)
        waiting = ", \"progress_spindown_msec\": 0";
    snprintf(json, sizeof json, "{\"rpc_thread_count\": %d%s}", xstreams, waiting);
    info.json_config = json;
    margo_instance_id mid = margo_init_ext(address, mode, &info);
    if (mid == MARGO_INSTANCE_NULL)
        fail("C Margo, which is the floor, does not start; with HG_LOG_LEVEL=error Mercury says why, and over na+sm files of "
             "killed processes (/tmp/na_sm-*) may be in its way");
    return mid;
}

/* Server */

static void echo_ult(hg_handle_t handle)
{
    blob_t blob;
    if (margo_get_input(handle, &blob) == HG_SUCCESS) {
        margo_respond(handle, &blob);
        margo_free_input(handle, &blob);
    }
    margo_destroy(handle);
}
DEFINE_MARGO_RPC_HANDLER(echo_ult)

/* One region at a time; the one before goes. */
static void *region;
static hg_bulk_t region_bulk = HG_BULK_NULL;

static void region_ult(hg_handle_t handle)
{
    margo_instance_id mid = margo_hg_handle_get_instance(handle);
    region_in_t in;
    if (margo_get_input(handle, &in) == HG_SUCCESS) {
        hg_size_t size = in.size;
        margo_free_input(handle, &in);
        if (region_bulk != HG_BULK_NULL)
            margo_bulk_free(region_bulk);
        region_bulk = HG_BULK_NULL;
        free(region);
        region = size > 0 && size <= SIZE_MAX_OURS ? malloc(size) : NULL;
        if (region != NULL) {
            memset(region, 0xa5, size);
            margo_bulk_create(mid, 1, &region, &size, HG_BULK_READWRITE, &region_bulk);
        }
        region_out_t out = {.bulk = region_bulk};
        margo_respond(handle, &out);
    }
    margo_destroy(handle);
}
DEFINE_MARGO_RPC_HANDLER(region_ult)

/* Ends the server with the process that started it. A thread: Margo's own must not wait for anything else. */
static void *watch(void *unused)
{
    char byte;
    (void) unused;
    while (read(0, &byte, 1) > 0)
        continue;
    _exit(0);
}

static int serve(const char *protocol, const char *progress, int cpu, int xstreams)
{
    pthread_t watcher;
    char address[1024];
    hg_size_t size = sizeof address;
    hg_addr_t self;
    if (pthread_create(&watcher, NULL, watch, NULL) != 0)
        fail("no thread");
    margo_instance_id mid = start(protocol, MARGO_SERVER_MODE, progress, cpu, xstreams);
    MARGO_REGISTER(mid, "bench_echo", blob_t, blob_t, echo_ult);
    MARGO_REGISTER(mid, "bench_region", region_in_t, region_out_t, region_ult);
    must(margo_addr_self(mid, &self), "its address");
    must(margo_addr_to_string(mid, address, &size, self), "its address");
    margo_addr_free(mid, self);
    printf("%s\n", address);
    fflush(stdout);
    margo_wait_for_finalize(mid);
    return 0;
}

/* Client */

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t) time.tv_sec * 1000000000 + (uint64_t) time.tv_nsec;
}

static struct {
    margo_instance_id mid;
    hg_addr_t to;
    hg_id_t echo;
    uint64_t size;
    uint64_t end;
    uint64_t done;
    uint32_t *times;
} job;

static void note(uint64_t took)
{
    job.times[job.done % TIMES] = took > UINT32_MAX ? UINT32_MAX : (uint32_t) took;
    job.done++;
}

/* Calls, one after the other, until the end. The handle is used again: what a service that cares does. */
static void caller(void *unused)
{
    hg_handle_t handle;
    blob_t payload = {.size = job.size, .data = malloc(job.size + 1)}, answer;
    (void) unused;
    if (payload.data == NULL)
        fail("no memory");
    memset(payload.data, 0x5a, job.size + 1);
    must(margo_create(job.mid, job.to, job.echo, &handle), "a handle");
    for (uint64_t begin = now(), end; begin < job.end; begin = end) {
        must(margo_forward(handle, &payload), "a call");
        must(margo_get_output(handle, &answer), "an answer");
        if (answer.size != payload.size)
            fail("another number of bytes came back");
        margo_free_output(handle, &answer);
        end = now();
        note(end - begin);
    }
    margo_destroy(handle);
    free(payload.data);
}

static void echo_for(uint64_t nanoseconds, unsigned count)
{
    job.done = 0;
    job.end = now() + nanoseconds;
    if (count == 1) {
        caller(NULL);
        return;
    }
    ABT_pool pool;
    ABT_thread *threads = calloc(count, sizeof *threads);
    margo_get_handler_pool(job.mid, &pool);
    for (unsigned i = 0; i < count; i++)
        if (ABT_thread_create(pool, caller, NULL, ABT_THREAD_ATTR_NULL, &threads[i]) != ABT_SUCCESS)
            fail("no thread of Argobots");
    for (unsigned i = 0; i < count; i++)
        ABT_thread_free(&threads[i]);
    free(threads);
}

static void move_for(uint64_t nanoseconds, hg_bulk_op_t op, hg_bulk_t remote, hg_bulk_t here)
{
    job.done = 0;
    job.end = now() + nanoseconds;
    for (uint64_t begin = now(), end; begin < job.end; begin = end) {
        must(margo_bulk_transfer(job.mid, op, job.to, remote, 0, here, 0, job.size), "a transfer");
        end = now();
        note(end - begin);
    }
}

static int by_time(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *) one, b = *(const uint32_t *) other;
    return (a > b) - (a < b);
}

static void report(uint64_t began)
{
    double seconds = (double) (now() - began) / 1e9;
    size_t count = job.done < TIMES ? job.done : TIMES;
    if (count == 0)
        fail("nothing was done in that time");
    qsort(job.times, count, sizeof *job.times, by_time);
    printf("%.3f %.3f %.3f\n", job.times[count / 2] / 1e3, job.times[count - 1 - count / 100] / 1e3,
        (double) job.done / seconds);
}

static int call(char **argv)
{
    const char *address = argv[0], *kind = argv[4];
    unsigned count = (unsigned) strtoul(argv[6], NULL, 10);
    uint64_t warmup = (uint64_t) (strtod(argv[7], NULL) * 1e9), duration = (uint64_t) (strtod(argv[8], NULL) * 1e9);
    job.mid = start(argv[1], MARGO_CLIENT_MODE, argv[2], atoi(argv[3]), 0);
    job.size = strtoul(argv[5], NULL, 10);
    job.times = malloc(TIMES * sizeof *job.times);
    if (job.times == NULL || job.size > SIZE_MAX_OURS)
        fail("no memory");
    memset(job.times, 0, TIMES * sizeof *job.times);
    must(margo_addr_lookup(job.mid, address, &job.to), "the address");
    job.echo = MARGO_REGISTER(job.mid, "bench_echo", blob_t, blob_t, NULL);
    uint64_t began;
    if (strcmp(kind, "echo") == 0) {
        echo_for(warmup, count);
        began = now();
        echo_for(duration, count);
    } else {
        hg_bulk_op_t op = strcmp(kind, "push") == 0 ? HG_BULK_PUSH : HG_BULK_PULL;
        hg_id_t ask = MARGO_REGISTER(job.mid, "bench_region", region_in_t, region_out_t, NULL);
        hg_handle_t handle;
        region_in_t in = {.size = job.size};
        region_out_t out;
        hg_bulk_t here;
        hg_size_t size = job.size;
        void *memory = malloc(job.size);
        if (memory == NULL)
            fail("no memory");
        memset(memory, 0x5a, job.size);
        must(margo_create(job.mid, job.to, ask, &handle), "a handle");
        must(margo_forward(handle, &in), "asking for a region");
        must(margo_get_output(handle, &out), "a region");
        if (out.bulk == HG_BULK_NULL)
            fail("the server has no region");
        must(margo_bulk_create(job.mid, 1, &memory, &size, HG_BULK_READWRITE, &here), "a region of its own");
        move_for(warmup, op, out.bulk, here);
        began = now();
        move_for(duration, op, out.bulk, here);
        margo_bulk_free(here);
        margo_free_output(handle, &out);
        margo_destroy(handle);
        free(memory);
    }
    report(began);
    free(job.times);
    margo_addr_free(job.mid, job.to);
    margo_finalize(job.mid);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
    if (argc == 11 && strcmp(argv[1], "call") == 0)
        return call(argv + 2);
    fprintf(stderr, "usage: see the comment at the top of the source\n");
    return 2;
}
