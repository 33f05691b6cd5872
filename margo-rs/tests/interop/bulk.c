/* A Margo service and client that move bulk data, for the interoperability tests.
 *
 *   bulk serve PROTOCOL    prints its address, serves until it is told to shut down
 *   bulk call ADDRESS      has a server of this crate move data; exits with 0 if all of it was right
 */
#include <inttypes.h>
#include <margo.h>
#include <mercury_proc_string.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the owner of the data is, or an empty text for the caller; which part of the data; the data. */
MERCURY_GEN_PROC(part_t, ((hg_string_t)(owner))((uint64_t)(offset))((uint64_t)(length))((hg_bulk_t)(data)))
MERCURY_GEN_PROC(number_t, ((uint64_t)(number))((int32_t)(ret)))
MERCURY_GEN_PROC(lent_t, ((hg_bulk_t)(data)))

static void fill(unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char) (i * 31 + i / 256);
}

static uint64_t sum(const unsigned char *bytes, size_t size)
{
    uint64_t all = 0;
    for (size_t i = 0; i < size; i++)
        all += bytes[i];
    return all;
}

static void move(hg_handle_t handle, hg_bulk_op_t op)
{
    margo_instance_id mid = margo_hg_handle_get_instance(handle);
    part_t in;
    number_t out = {0};
    hg_bulk_t local;
    hg_addr_t owner = HG_ADDR_NULL;
    margo_get_input(handle, &in);
    hg_size_t size = in.length;
    void *bytes = calloc(1, size);
    if (op == HG_BULK_PUSH)
        fill(bytes, size);
    margo_bulk_create(mid, 1, &bytes, &size, op == HG_BULK_PULL ? HG_BULK_WRITE_ONLY : HG_BULK_READ_ONLY, &local);
    if (in.owner[0] != '\0')
        margo_addr_lookup(mid, in.owner, &owner);
    out.ret = margo_bulk_transfer_timed(mid, op, owner == HG_ADDR_NULL ? margo_get_info(handle)->addr : owner, in.data,
        in.offset, local, 0, size, 10000);
    out.number = sum(bytes, size);
    margo_bulk_free(local);
    if (owner != HG_ADDR_NULL)
        margo_addr_free(mid, owner);
    free(bytes);
    margo_free_input(handle, &in);
    margo_respond(handle, &out);
    margo_destroy(handle);
}

static void take_ult(hg_handle_t handle) { move(handle, HG_BULK_PULL); }
DEFINE_MARGO_RPC_HANDLER(take_ult)
static void give_ult(hg_handle_t handle) { move(handle, HG_BULK_PUSH); }
DEFINE_MARGO_RPC_HANDLER(give_ult)

/* Memory of its own, in segments, for callers to move data from and to. */
#define LENT 300000
static unsigned char lent[LENT];
static void take_back(void *bulk) { margo_bulk_free(bulk); }
static void lend_ult(hg_handle_t handle)
{
    margo_instance_id mid = margo_hg_handle_get_instance(handle);
    void *segments[3] = {lent, lent + 100, lent + 200000};
    hg_size_t sizes[3] = {100, 199900, 100000};
    lent_t out;
    static hg_bulk_t bulk;
    if (bulk == HG_BULK_NULL) {
        fill(lent, LENT);
        margo_bulk_create(mid, 3, segments, sizes, HG_BULK_READWRITE, &bulk);
        margo_push_prefinalize_callback(mid, take_back, bulk);
    }
    out.data = bulk;
    margo_respond(handle, &out);
    margo_destroy(handle);
}
DEFINE_MARGO_RPC_HANDLER(lend_ult)

static int serve(const char *protocol)
{
    margo_instance_id mid = margo_init(protocol, MARGO_SERVER_MODE, 1, 1);
    hg_addr_t self;
    char address[256];
    hg_size_t size = sizeof address;
    if (mid == MARGO_INSTANCE_NULL)
        return 1;
    MARGO_REGISTER(mid, "take", part_t, number_t, take_ult);
    MARGO_REGISTER(mid, "give", part_t, number_t, give_ult);
    MARGO_REGISTER(mid, "lend", void, lent_t, lend_ult);
    margo_enable_remote_shutdown(mid);
    margo_addr_self(mid, &self);
    margo_addr_to_string(mid, address, &size, self);
    margo_addr_free(mid, self);
    printf("%s\n", address);
    fflush(stdout);
    margo_wait_for_finalize(mid);
    return 0;
}

static int failures;
static void check(const char *what, uint64_t size, int right)
{
    printf("%s of %" PRIu64 " bytes: %s\n", what, size, right ? "right" : "WRONG");
    failures += !right;
}

/* Lets the server move all of some memory, and says whether its answer is the sum. */
static int moved(margo_instance_id mid, hg_addr_t to, hg_id_t id, hg_bulk_t bulk, uint64_t size, uint64_t expected)
{
    hg_handle_t handle;
    part_t in = {.owner = "", .offset = 0, .length = size, .data = bulk};
    number_t out = {0};
    int right = 0;
    margo_create(mid, to, id, &handle);
    if (margo_forward(handle, &in) == HG_SUCCESS && margo_get_output(handle, &out) == HG_SUCCESS) {
        right = out.ret == 0 && out.number == expected;
        margo_free_output(handle, &out);
    }
    margo_destroy(handle);
    return right;
}

static int call(const char *address)
{
    char protocol[256];
    snprintf(protocol, sizeof protocol, "%s", strncmp(address, "na+sm", 5) == 0 ? "na+sm" : "ofi+tcp://127.0.0.1");
    margo_instance_id mid = margo_init(protocol, MARGO_CLIENT_MODE, 0, 0);
    hg_addr_t to;
    if (mid == MARGO_INSTANCE_NULL || margo_addr_lookup(mid, address, &to) != HG_SUCCESS)
        return 1;
    hg_id_t take = MARGO_REGISTER(mid, "take", part_t, number_t, NULL);
    hg_id_t give = MARGO_REGISTER(mid, "give", part_t, number_t, NULL);
    /* The smallest go along with the message itself. */
    hg_size_t all[] = {2, 1000, 5000, 3000000};
    for (int i = 0; i < 4; i++) {
        hg_size_t size = all[i], half = size / 2, sizes[2] = {half, size - half};
        unsigned char *bytes = malloc(size), *expected = malloc(size);
        void *whole = bytes, *halves[2] = {bytes, bytes + half};
        hg_bulk_t bulk;
        fill(expected, size);
        fill(bytes, size);
        margo_bulk_create(mid, 1, &whole, &size, HG_BULK_READ_ONLY, &bulk);
        check("taken", size, moved(mid, to, take, bulk, size, sum(bytes, size)));
        check("nothing given to what is to be read", size, !moved(mid, to, give, bulk, size, sum(expected, size)));
        margo_bulk_free(bulk);
        memset(bytes, 0, size);
        margo_bulk_create(mid, 2, halves, sizes, HG_BULK_WRITE_ONLY, &bulk);
        check("given in halves", size, moved(mid, to, give, bulk, size, sum(expected, size)) &&
                                           memcmp(bytes, expected, size) == 0);
        margo_bulk_free(bulk);
        free(bytes);
        free(expected);
    }
    check("remote shutdown", 0, margo_shutdown_remote_instance(mid, to) == 0);
    margo_addr_free(mid, to);
    margo_finalize(mid);
    return failures != 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2]);
    if (argc == 3 && strcmp(argv[1], "call") == 0)
        return call(argv[2]);
    fprintf(stderr, "usage: %s serve PROTOCOL | call ADDRESS\n", argv[0]);
    return 2;
}
