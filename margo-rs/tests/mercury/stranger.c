/* A program on plain Mercury, which knows nothing of Margo's headers. Its RPC ids come from its caller. */
#include <mercury.h>
#include <mercury_proc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bytes {
    const void *data;
    size_t size;
};

static hg_class_t *class;
static hg_context_t *context;
/* The answer being waited for. */
static int done;
static hg_return_t result;

static hg_return_t proc_bytes(hg_proc_t proc, void *data)
{
    struct bytes *bytes = data;
    if (hg_proc_get_op(proc) != HG_ENCODE || bytes->size == 0)
        return HG_SUCCESS;
    return hg_proc_bytes(proc, (void *) bytes->data, bytes->size);
}

static void drive(unsigned timeout_ms)
{
    unsigned count = 0;
    do {
        HG_Trigger(context, 0, 16, &count);
    } while (count > 0);
    HG_Progress(context, timeout_ms);
    HG_Trigger(context, 0, 16, &count);
}

/* What each RPC of the server answers with, in the order of its arguments. */
static struct bytes answers[8];
static hg_id_t ids[8];

static hg_return_t on_request(hg_handle_t handle)
{
    hg_id_t id = HG_Get_info(handle)->id;
    for (int at = 0; at < 8; at++) {
        if (ids[at] != id)
            continue;
        if (answers[at].data == NULL)
            return HG_SUCCESS; /* never answered */
        HG_Respond(handle, NULL, NULL, &answers[at]);
    }
    HG_Destroy(handle);
    return HG_SUCCESS;
}

static hg_return_t on_stop(hg_handle_t handle)
{
    (void) handle;
    raise(SIGSTOP);
    return HG_SUCCESS;
}

/* serve PROTOCOL STATUS_CUT VALUE_CUT EMPTY HUGE SILENT STOP */
static int serve(char **id)
{
    static char huge[1 << 20];
    static const char value_cut[7] = { 0, 0, 0, 0, 1, 2, 3 };
    const struct bytes with[] = {
        { "\1\0", 2 }, { value_cut, sizeof value_cut }, { "", 0 }, { huge, sizeof huge }, { NULL, 0 }
    };
    for (int at = 0; at < 5; at++) {
        ids[at] = strtoull(id[at], NULL, 0);
        answers[at] = with[at];
        HG_Register(class, ids[at], proc_bytes, proc_bytes, on_request);
    }
    HG_Register(class, strtoull(id[5], NULL, 0), proc_bytes, proc_bytes, on_stop);
    hg_addr_t self;
    char text[256];
    hg_size_t size = sizeof text;
    if (HG_Addr_self(class, &self) != HG_SUCCESS || HG_Addr_to_string(class, text, &size, self) != HG_SUCCESS)
        return 1;
    HG_Addr_free(class, self);
    printf("%s\n", text);
    fflush(stdout);
    for (;;)
        drive(10);
}

static hg_return_t on_answer(const struct hg_cb_info *info)
{
    result = info->ret;
    done = 1;
    return HG_SUCCESS;
}

/* Sends it and prints what comes: Mercury's error, or the status in the answer. */
static void ask(hg_addr_t addr, const char *name, hg_id_t id, const void *data, size_t size)
{
    hg_handle_t handle;
    struct bytes bytes = { data, size };
    hg_return_t ret = HG_Create(context, addr, id, &handle);
    done = 0;
    if (ret == HG_SUCCESS)
        ret = HG_Forward(handle, on_answer, NULL, &bytes);
    if (ret != HG_SUCCESS) {
        printf("%s: not sent: %s\n", name, HG_Error_to_string(ret));
        return;
    }
    for (int waited = 0; !done && waited < 10000; waited += 10)
        drive(10);
    if (!done) {
        printf("%s: no answer\n", name);
        return;
    }
    void *answer = NULL;
    hg_size_t length = 0;
    if (result != HG_SUCCESS) {
        printf("%s: Mercury: %s\n", name, HG_Error_to_string(result));
    } else if (HG_Get_output_buf(handle, &answer, &length) == HG_SUCCESS && length >= 4) {
        int status;
        memcpy(&status, answer, 4);
        printf("%s: status %d\n", name, status);
    } else {
        printf("%s: nothing\n", name);
    }
    HG_Destroy(handle);
}

/* call ADDRESS SUM UNKNOWN IDENTITY TUNNEL */
static int call(hg_addr_t addr, char **id)
{
    static char large[1 << 20];
    const hg_id_t sum = strtoull(id[0], NULL, 0), unknown = strtoull(id[1], NULL, 0),
                  identity = strtoull(id[2], NULL, 0), tunnel = strtoull(id[3], NULL, 0);
    const char right[24] = { -1, -1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0 };
    memset(large, 0x7f, sizeof large);
    const hg_id_t all[] = { sum, unknown, identity, tunnel };
    for (int at = 0; at < 4; at++)
        HG_Register(class, all[at], proc_bytes, proc_bytes, NULL);
    ask(addr, "right", sum, right, sizeof right);
    ask(addr, "empty", sum, right, 0);
    ask(addr, "half a header", sum, right, 5);
    ask(addr, "header only", sum, right, 8);
    ask(addr, "half an argument", sum, right, 20);
    ask(addr, "too long", sum, large, 4000);
    ask(addr, "large", sum, large, sizeof large);
    ask(addr, "unknown", unknown, right, sizeof right);
    ask(addr, "no identity", identity, right, 3);
    ask(addr, "tunnel without a head", tunnel, right, 8);
    ask(addr, "tunnel of nobody", tunnel, large, 200);
    ask(addr, "right again", sum, right, sizeof right);
    return 0;
}

/* How often: more than there are buffers to receive into. */
#define ROUNDS 300

/* peek ADDRESS ECHO UNKNOWN ONE_WAY: fills the server's buffers with a secret, then sends less than it says. */
static int peek(hg_addr_t addr, char **id)
{
    static char secret[4096];
    const hg_id_t echo = strtoull(id[0], NULL, 0), unknown = strtoull(id[1], NULL, 0),
                  one_way = strtoull(id[2], NULL, 0);
    const hg_size_t most = HG_Class_get_input_eager_size(class);
    /* Nobody's parent, and a blob of 256 bytes of which 4 are sent. */
    const char little[20] = { -1, -1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4 };
    memset(secret, 's', sizeof secret);
    const hg_id_t all[] = { echo, unknown, one_way };
    for (int at = 0; at < 3; at++)
        HG_Register(class, all[at], proc_bytes, proc_bytes, NULL);
    HG_Registered_disable_response(class, one_way, HG_TRUE);
    for (int at = 0; at < ROUNDS; at++) {
        ask(addr, "filled", unknown, secret, most);
        ask(addr, "filled one way", one_way, secret, most);
    }
    for (int at = 0; at < ROUNDS; at++)
        ask(addr, "peeked", echo, little, sizeof little);
    /* A blob that fills its message to the last byte. */
    memset(secret, 0, 16);
    secret[0] = secret[1] = -1;
    const uint64_t rest = most - 16;
    memcpy(secret + 8, &rest, 8);
    ask(addr, "full", echo, secret, most);
    secret[8]++;
    ask(addr, "one too many", echo, secret, most);
    return 0;
}

static int in_flight;

static hg_return_t on_one_less(const struct hg_cb_info *info)
{
    (void) info;
    in_flight--;
    return HG_SUCCESS;
}

/* storm ADDRESS SUM: asks without end, 64 at a time. */
static int storm(hg_addr_t addr, char **id)
{
    const char right[24] = { -1, -1 };
    const struct bytes bytes = { right, sizeof right };
    const hg_id_t sum = strtoull(id[0], NULL, 0);
    HG_Register(class, sum, proc_bytes, proc_bytes, NULL);
    printf("storming\n");
    fflush(stdout);
    for (;;) {
        hg_handle_t handle;
        if (in_flight < 64 && HG_Create(context, addr, sum, &handle) == HG_SUCCESS) {
            if (HG_Forward(handle, on_one_less, NULL, (void *) &bytes) == HG_SUCCESS)
                in_flight++;
            HG_Destroy(handle);
        }
        drive(0);
    }
}

int main(int count, char **arguments)
{
    if (count < 4)
        return 2;
    const char *protocol = arguments[2];
    char start[64];
    /* A client begins on the loopback of its server's protocol. */
    snprintf(start, sizeof start, "%.*s", (int) strcspn(protocol, ":"), protocol);
    if (strstr(start, "tcp") != NULL)
        strcat(start, "://127.0.0.1");
    class = HG_Init(start, HG_TRUE);
    context = class == NULL ? NULL : HG_Context_create(class);
    if (context == NULL)
        return 1;
    if (strcmp(arguments[1], "serve") == 0)
        return serve(arguments + 3);
    hg_addr_t addr;
    if (HG_Addr_lookup2(class, protocol, &addr) != HG_SUCCESS)
        return 1;
    if (strcmp(arguments[1], "storm") == 0)
        return storm(addr, arguments + 3);
    int ret = strcmp(arguments[1], "peek") == 0 ? peek(addr, arguments + 3) : call(addr, arguments + 3);
    HG_Addr_free(class, addr);
    HG_Context_destroy(context);
    HG_Finalize(class);
    return ret;
}
