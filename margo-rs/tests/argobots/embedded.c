/* A program in C that embeds a service in Rust and gives it its own Argobots pool: the one of its only execution
 * stream, which runs main() as well. */
#include <abt.h>
#include <stdio.h>
#include <stdlib.h>

struct service;
struct service *service_start(ABT_pool pool, char *address, size_t size);
long service_sum_to(const struct service *service, long n);
void service_stop(struct service *service);

#define THREADS 8
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

static struct service *service;

static void work(void *arg)
{
    long *n = arg;
    *n = service_sum_to(service, *n);
}

int main(void)
{
    ABT_xstream xstream;
    ABT_pool pool;
    ABT_thread_attr attributes;
    ABT_thread threads[THREADS];
    long numbers[THREADS];
    char address[256];

    CHECK(ABT_init(0, NULL) == ABT_SUCCESS);
    CHECK(ABT_xstream_self(&xstream) == ABT_SUCCESS);
    CHECK(ABT_xstream_get_main_pools(xstream, 1, &pool) == ABT_SUCCESS);
    service = service_start(pool, address, sizeof(address));
    CHECK(service != NULL);
    printf("serving at %s\n", address);

    CHECK(service_sum_to(service, 10) == 55);

    /* Argobots' own stacks are too small for what may be called here. */
    CHECK(ABT_thread_attr_create(&attributes) == ABT_SUCCESS);
    CHECK(ABT_thread_attr_set_stacksize(attributes, 1 << 20) == ABT_SUCCESS);
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(ABT_thread_create(pool, work, &numbers[i], attributes, &threads[i]) == ABT_SUCCESS);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(ABT_thread_free(&threads[i]) == ABT_SUCCESS);
        CHECK(numbers[i] == i * (i + 1) / 2);
    }
    CHECK(ABT_thread_attr_free(&attributes) == ABT_SUCCESS);

    service_stop(service);
    size_t left;
    CHECK(ABT_pool_get_total_size(pool, &left) == ABT_SUCCESS);
    printf("ended with %zu left\n", left);
    CHECK(ABT_finalize() == ABT_SUCCESS);
    CHECK(ABT_initialized() == ABT_ERR_UNINITIALIZED);
    return 0;
}
