/* A Margo service and client that the interoperability tests run against.
 *
 *   peer serve PROTOCOL    prints its address, serves until it is told to shut down
 *   peer stay PROTOCOL     the same, but refuses to be told
 *   peer call ADDRESS      calls a server of this crate; exits with 0 if every answer was right
 */
#include <inttypes.h>
#include <margo.h>
#include <mercury_proc_string.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROVIDER 42
#define LARGE 300000
#define VECTOR 40000

static inline hg_return_t hg_proc_float(hg_proc_t proc, void *value)
{
    return hg_proc_bytes(proc, value, sizeof(float));
}

static inline hg_return_t hg_proc_double(hg_proc_t proc, void *value)
{
    return hg_proc_bytes(proc, value, sizeof(double));
}

MERCURY_GEN_PROC(values_t,
    ((hg_bool_t)(flag))((int8_t)(tiny))((uint16_t)(small))((int32_t)(medium))((uint64_t)(large))((float)(single))(
        (double)(twice)))
MERCURY_GEN_PROC(sum_in_t, ((int64_t)(a))((int64_t)(b)))
MERCURY_GEN_PROC(sum_out_t, ((int64_t)(sum)))
MERCURY_GEN_PROC(text_t, ((hg_string_t)(text)))
MERCURY_GEN_PROC(id_t_, ((uint64_t)(id)))

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
            if (blob->size > 1 << 24)
                return HG_MSGSIZE;
            blob->data = malloc(blob->size);
            return hg_proc_bytes(proc, blob->data, blob->size);
        case HG_ENCODE:
            return hg_proc_bytes(proc, blob->data, blob->size);
        default:
            free(blob->data);
            return HG_SUCCESS;
    }
}

/* A vector, as C has it. */
typedef struct {
    uint64_t count;
    double *values;
} vector_t;

static hg_return_t hg_proc_vector_t(hg_proc_t proc, void *arg)
{
    vector_t *vector = arg;
    hg_return_t ret = hg_proc_uint64_t(proc, &vector->count);
    if (ret != HG_SUCCESS)
        return ret;
    switch (hg_proc_get_op(proc)) {
        case HG_DECODE:
            if (vector->count > 1 << 20)
                return HG_MSGSIZE;
            vector->values = malloc(vector->count * sizeof(double));
            return hg_proc_bytes(proc, vector->values, vector->count * sizeof(double));
        case HG_ENCODE:
            return hg_proc_bytes(proc, vector->values, vector->count * sizeof(double));
        default:
            free(vector->values);
            return HG_SUCCESS;
    }
}

/* The values with each one changed, so that nobody takes an echo for an understanding. */
static values_t changed(values_t values)
{
    values.flag = !values.flag;
    values.tiny = (int8_t) (values.tiny - 1);
    values.small = (uint16_t) (values.small + 1);
    values.medium *= 2;
    values.large += 1;
    values.single /= 2;
    values.twice *= 4;
    return values;
}

static void values_ult(hg_handle_t handle)
{
    values_t in, out;
    margo_get_input(handle, &in);
    out = changed(in);
    margo_free_input(handle, &in);
    margo_respond(handle, &out);
    margo_destroy(handle);
}
DEFINE_MARGO_RPC_HANDLER(values_ult)

static void double_ult(hg_handle_t handle)
{
    vector_t vector;
    margo_get_input(handle, &vector);
    for (uint64_t i = 0; i < vector.count; i++)
        vector.values[i] *= 2;
    margo_respond(handle, &vector);
    margo_free_input(handle, &vector);
    margo_destroy(handle);
}
DEFINE_MARGO_RPC_HANDLER(double_ult)

static void sum_ult(hg_handle_t handle)
{
    sum_in_t in;
    sum_out_t out;
    margo_get_input(handle, &in);
    /* The one with a provider adds its number, so that nobody takes one for the other. */
    out.sum = in.a + in.b + ((margo_get_info(handle)->id & 0xffff) == PROVIDER ? PROVIDER : 0);
    margo_free_input(handle, &in);
    margo_respond(handle, &out);
    margo_destroy(handle);
}
DEFINE_MARGO_RPC_HANDLER(sum_ult)
DECLARE_MARGO_RPC_HANDLER(sum_ult)

static void greet_ult(hg_handle_t handle)
{
    text_t in, out;
    char buffer[256];
    margo_get_input(handle, &in);
    snprintf(buffer, sizeof buffer, "hello, %s", in.text);
    margo_free_input(handle, &in);
    out.text = buffer;
    margo_respond(handle, &out);
    margo_destroy(handle);
}
DEFINE_MARGO_RPC_HANDLER(greet_ult)

static void echo_ult(hg_handle_t handle)
{
    blob_t blob;
    margo_get_input(handle, &blob);
    margo_respond(handle, &blob);
    margo_free_input(handle, &blob);
    margo_destroy(handle);
}
DEFINE_MARGO_RPC_HANDLER(echo_ult)

/* Calls the server of this crate that is named, from within a handler: its answer is who it thinks the caller was. */
static hg_id_t parent_id;
static void relay_ult(hg_handle_t handle)
{
    margo_instance_id mid = margo_hg_handle_get_instance(handle);
    text_t in;
    id_t_ out = {0};
    hg_addr_t to;
    hg_handle_t call;
    margo_get_input(handle, &in);
    if (margo_addr_lookup(mid, in.text, &to) == HG_SUCCESS) {
        margo_create(mid, to, parent_id, &call);
        if (margo_forward(call, NULL) == HG_SUCCESS && margo_get_output(call, &out) == HG_SUCCESS)
            margo_free_output(call, &out);
        margo_destroy(call);
        margo_addr_free(mid, to);
    }
    margo_free_input(handle, &in);
    margo_respond(handle, &out);
    margo_destroy(handle);
}
DEFINE_MARGO_RPC_HANDLER(relay_ult)

static int serve(const char *protocol, bool can_be_ended)
{
    margo_instance_id mid = margo_init(protocol, MARGO_SERVER_MODE, 1, 1);
    hg_addr_t self;
    char address[256];
    hg_size_t size = sizeof address;
    if (mid == MARGO_INSTANCE_NULL)
        return 1;
    MARGO_REGISTER(mid, "sum", sum_in_t, sum_out_t, sum_ult);
    MARGO_REGISTER_PROVIDER(mid, "sum", sum_in_t, sum_out_t, sum_ult, PROVIDER, ABT_POOL_NULL);
    MARGO_REGISTER(mid, "values", values_t, values_t, values_ult);
    MARGO_REGISTER(mid, "double", vector_t, vector_t, double_ult);
    MARGO_REGISTER(mid, "greet", text_t, text_t, greet_ult);
    MARGO_REGISTER(mid, "echo", blob_t, blob_t, echo_ult);
    MARGO_REGISTER(mid, "relay", text_t, id_t_, relay_ult);
    parent_id = MARGO_REGISTER(mid, "parent", void, id_t_, NULL);
    margo_provider_register_identity(mid, PROVIDER, "adder");
    if (can_be_ended)
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
static bool has_output;
static void check(const char *what, int right)
{
    printf("%s: %s\n", what, right ? "right" : "WRONG");
    failures += !right;
}

static hg_return_t forward(margo_instance_id mid, hg_addr_t to, hg_id_t id, uint16_t provider, void *in, void *out,
    hg_handle_t *handle)
{
    hg_return_t ret;
    margo_create(mid, to, id, handle);
    ret = margo_provider_forward(provider, *handle, in);
    if (ret == HG_SUCCESS && out)
        ret = margo_get_output(*handle, out);
    has_output = ret == HG_SUCCESS && out;
    printf("(%s) ", HG_Error_to_string(ret));
    return ret;
}

/* Ends what forward began. */
static void end(hg_handle_t handle, void *out)
{
    if (has_output)
        margo_free_output(handle, out);
    margo_destroy(handle);
}

static int call(const char *address)
{
    /* On the interface of the server: this client listens, too. */
    char protocol[256];
    snprintf(protocol, sizeof protocol, "%s", strncmp(address, "na+sm", 5) == 0 ? "na+sm" : "ofi+tcp://127.0.0.1");
    margo_instance_id mid = margo_init(protocol, MARGO_CLIENT_MODE, 0, 0);
    hg_addr_t to;
    hg_handle_t handle;
    if (mid == MARGO_INSTANCE_NULL || margo_addr_lookup(mid, address, &to) != HG_SUCCESS)
        return 1;
    hg_id_t sum = MARGO_REGISTER(mid, "sum", sum_in_t, sum_out_t, NULL);
    hg_id_t values = MARGO_REGISTER(mid, "values", values_t, values_t, NULL);
    hg_id_t twice = MARGO_REGISTER(mid, "double", vector_t, vector_t, NULL);
    hg_id_t greet = MARGO_REGISTER(mid, "greet", text_t, text_t, NULL);
    hg_id_t echo = MARGO_REGISTER(mid, "echo", blob_t, blob_t, NULL);
    hg_id_t fail = MARGO_REGISTER(mid, "fail", void, void, NULL);
    hg_id_t missing = MARGO_REGISTER(mid, "missing", void, void, NULL);
    hg_id_t short_sum = MARGO_REGISTER(mid, "short", void, sum_out_t, NULL);
    hg_id_t hang = MARGO_REGISTER(mid, "hang", void, void, NULL);
    hg_id_t parent = MARGO_REGISTER(mid, "parent", void, id_t_, NULL);

    sum_in_t in = {.a = 40, .b = -2};
    sum_out_t out = {0};
    check("sum", forward(mid, to, sum, MARGO_DEFAULT_PROVIDER_ID, &in, &out, &handle) == HG_SUCCESS && out.sum == 38);
    end(handle, &out);
    check("sum of a provider", forward(mid, to, sum, PROVIDER, &in, &out, &handle) == HG_SUCCESS && out.sum == 80);
    end(handle, &out);
    check("no such provider", forward(mid, to, sum, 7, &in, NULL, &handle) == HG_NOENTRY);
    end(handle, NULL);
    check("no such RPC", forward(mid, to, missing, MARGO_DEFAULT_PROVIDER_ID, NULL, NULL, &handle) == HG_NOENTRY);
    end(handle, NULL);

    values_t some = {true, -8, 65534, -70000, UINT64_C(1) << 60, 1.5f, 1e300}, others = {0};
    values_t expected = changed(some);
    check("values", forward(mid, to, values, MARGO_DEFAULT_PROVIDER_ID, &some, &others, &handle) == HG_SUCCESS &&
                        others.flag == expected.flag && others.tiny == expected.tiny &&
                        others.small == expected.small && others.medium == expected.medium &&
                        others.large == expected.large && others.single == expected.single &&
                        others.twice == expected.twice);
    end(handle, &others);

    vector_t numbers = {.count = VECTOR, .values = malloc(VECTOR * sizeof(double))}, doubled = {0};
    for (int i = 0; i < VECTOR; i++)
        numbers.values[i] = i;
    int same = forward(mid, to, twice, MARGO_DEFAULT_PROVIDER_ID, &numbers, &doubled, &handle) == HG_SUCCESS &&
               doubled.count == VECTOR;
    for (int i = 0; same && i < VECTOR; i++)
        same = doubled.values[i] == 2.0 * i;
    check("a vector", same);
    end(handle, &doubled);
    free(numbers.values);

    text_t name = {.text = "Margo"}, greeting = {0};
    check("greet", forward(mid, to, greet, MARGO_DEFAULT_PROVIDER_ID, &name, &greeting, &handle) == HG_SUCCESS &&
                       strcmp(greeting.text, "hello, Margo") == 0);
    end(handle, &greeting);

    blob_t blob = {.size = LARGE, .data = malloc(LARGE)}, back = {0};
    for (int i = 0; i < LARGE; i++)
        blob.data[i] = (unsigned char) (i * 31);
    check("echo", forward(mid, to, echo, MARGO_DEFAULT_PROVIDER_ID, &blob, &back, &handle) == HG_SUCCESS &&
                      back.size == LARGE && memcmp(blob.data, back.data, LARGE) == 0);
    end(handle, &back);
    free(blob.data);

    check("a failing handler", forward(mid, to, fail, MARGO_DEFAULT_PROVIDER_ID, NULL, NULL, &handle) == HG_FAULT);
    margo_destroy(handle);
    check("arguments that are too short",
        forward(mid, to, short_sum, MARGO_DEFAULT_PROVIDER_ID, NULL, NULL, &handle) == HG_INVALID_ARG);
    margo_destroy(handle);

    margo_create(mid, to, hang, &handle);
    check("a deadline", margo_forward_timed(handle, NULL, 50) == HG_TIMEOUT);
    margo_destroy(handle);

    id_t_ id = {0};
    check("no parent", forward(mid, to, parent, MARGO_DEFAULT_PROVIDER_ID, NULL, &id, &handle) == HG_SUCCESS &&
                           id.id == 0xffff);
    end(handle, &id);

    char identity[64] = "";
    size_t size = sizeof identity;
    check("identity", margo_provider_get_identity(mid, to, PROVIDER, identity, &size) == HG_SUCCESS &&
                          strcmp(identity, "adder") == 0);
    char nobody[64] = "";
    size = sizeof nobody;
    check("no identity", margo_provider_get_identity(mid, to, 7, nobody, &size) != HG_SUCCESS && nobody[0] == '\0');
    check("remote shutdown that is refused first", margo_shutdown_remote_instance(mid, to) != 0);
    check("remote shutdown", margo_shutdown_remote_instance(mid, to) == 0);
    margo_addr_free(mid, to);
    margo_finalize(mid);
    return failures != 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2], true);
    if (argc == 3 && strcmp(argv[1], "stay") == 0)
        return serve(argv[2], false);
    if (argc == 3 && strcmp(argv[1], "call") == 0)
        return call(argv[2]);
    fprintf(stderr, "usage: %s serve PROTOCOL | stay PROTOCOL | call ADDRESS\n", argv[0]);
    return 2;
}
