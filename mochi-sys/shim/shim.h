/* Functions with a symbol for what Mercury offers as inline functions and macros only, and one face for what its
 * releases 2.2 to 2.4 do in different ways. Written from the documented API. */
#ifndef MOCHI_SYS_SHIM_H
#define MOCHI_SYS_SHIM_H

#include <mercury.h>
#include <mercury_bulk.h>
#include <mercury_proc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes to be sent, in two parts, one after the other: what mochi_hg_proc_bytes takes as its argument. */
struct mochi_hg_bytes {
    const void *head;
    size_t head_size;
    const void *body;
    size_t body_size;
};

/* A received payload. */
struct mochi_hg_payload {
    void *data;
    /* What the peer sent. */
    size_t size;
    /* Whether Mercury fetched it into memory of its own, because it was too large for a message. */
    bool fetched;
};

/* Sends bytes as they are. Refuses to decode: payloads are read with mochi_hg_input and mochi_hg_output. */
hg_return_t mochi_hg_proc_bytes(hg_proc_t proc, void *bytes);

/* What hg_init_info holds, without its types that change between releases. What the installed Mercury does not have is
 * left alone; mochi_hg_at_least says which those are. */
struct mochi_hg_options {
    const char *ip_subnet;
    const char *auth_key;
    const char *sm_info_string;
    uint64_t max_unexpected_size;
    uint64_t max_expected_size;
    uint32_t request_post_init;
    int32_t request_post_incr;
    /* 2.4 */
    uint32_t multi_recv_op_max;
    uint32_t multi_recv_copy_threshold;
    uint8_t max_contexts;
    /* MOCHI_HG_ADDR_… */
    uint8_t addr_format;
    /* MOCHI_HG_CHECKSUM_… */
    uint8_t checksum_level;
    /* MOCHI_HG_TC_…; 2.4 */
    uint8_t traffic_class;
    bool no_block;
    bool no_retry;
    bool request_mem_device;
    bool auto_sm;
    bool no_bulk_eager;
    bool no_loopback;
    bool stats;
    /* 2.3 */
    bool no_multi_recv;
    bool release_input_early;
    /* 2.4 */
    bool no_overflow;
};

enum { MOCHI_HG_ADDR_UNSPEC, MOCHI_HG_ADDR_IPV4, MOCHI_HG_ADDR_IPV6, MOCHI_HG_ADDR_NATIVE };
enum { MOCHI_HG_CHECKSUM_NONE, MOCHI_HG_CHECKSUM_RPC_HEADERS, MOCHI_HG_CHECKSUM_RPC_PAYLOAD };
enum {
    MOCHI_HG_TC_UNSPEC,
    MOCHI_HG_TC_BEST_EFFORT,
    MOCHI_HG_TC_LOW_LATENCY,
    MOCHI_HG_TC_BULK_DATA,
    MOCHI_HG_TC_DEDICATED_ACCESS,
    MOCHI_HG_TC_SCAVENGER,
    MOCHI_HG_TC_NETWORK_CTRL
};

/* The defaults of the installed Mercury. */
void mochi_hg_options_default(struct mochi_hg_options *options);
hg_class_t *mochi_hg_init(const char *na_info, bool listen, const struct mochi_hg_options *options);
/* For classes of mochi_hg_init. */
hg_return_t mochi_hg_finalize(hg_class_t *hg_class);
/* Whether the headers that this was compiled against are of that release or a later one. */
bool mochi_hg_at_least(unsigned int major, unsigned int minor);
/* Whether the library that was loaded is of the same release, but for the patch. Structures differ between others. */
bool mochi_hg_is_compiled_release(void);
/* What Mercury was built with. */
bool mochi_hg_has_checksums(void);
bool mochi_hg_has_shared_memory(void);

hg_return_t mochi_hg_class_set_data(hg_class_t *hg_class, void *data);
void *mochi_hg_class_data(const hg_class_t *hg_class);
size_t mochi_hg_input_eager_size(const hg_class_t *hg_class);
size_t mochi_hg_output_eager_size(const hg_class_t *hg_class);

bool mochi_hg_class_is_listening(const hg_class_t *hg_class);
/* Whether the lengths of received messages are known: not before Mercury 2.4 if the class is not of mochi_hg_init. */
bool mochi_hg_class_tells_lengths(const hg_class_t *hg_class);

hg_class_t *mochi_hg_handle_class(hg_handle_t handle);
hg_context_t *mochi_hg_handle_context(hg_handle_t handle);
hg_id_t mochi_hg_handle_id(hg_handle_t handle);
/* Lives as long as the handle. */
hg_addr_t mochi_hg_handle_addr(hg_handle_t handle);

/* Mercury's, for handles of registered RPCs that encode with mochi_hg_proc_bytes. */
hg_return_t mochi_hg_forward(hg_handle_t handle, hg_cb_t callback, void *arg, struct mochi_hg_bytes *bytes);
hg_return_t mochi_hg_respond(hg_handle_t handle, hg_cb_t callback, void *arg, struct mochi_hg_bytes *bytes);

hg_return_t mochi_hg_input(hg_handle_t handle, struct mochi_hg_payload *payload);
hg_return_t mochi_hg_output(hg_handle_t handle, struct mochi_hg_payload *payload);
/* Gives the receive buffer back before the handle is destroyed, where Mercury can. */
hg_return_t mochi_hg_release_input(hg_handle_t handle);

/* A descriptor to poll, or -1. Before 2.4 it does not show what the class sends to itself. */
int mochi_hg_event_fd(const hg_context_t *context);
/* Must be called before the descriptor is polled; true if there is something to do at once. */
bool mochi_hg_event_ready(hg_context_t *context);
/* Neither of the two blocks. */
hg_return_t mochi_hg_progress(hg_context_t *context, unsigned int *count);
/* The same where others make progress on the context, too. */
hg_return_t mochi_hg_progress_shared(hg_context_t *context);
hg_return_t mochi_hg_trigger(hg_context_t *context, unsigned int max_count, unsigned int *count);

/* Whether a code says that the peer or the way to it is gone, not that this one operation failed. */
bool mochi_hg_is_network_error(hg_return_t code);

/* HG_Bulk_transfer, which holds nothing if it fails. */
hg_return_t mochi_hg_bulk_transfer(hg_context_t *context, hg_cb_t callback, void *arg, hg_bulk_op_t op,
    hg_addr_t origin_addr, hg_bulk_t origin, hg_size_t origin_offset, hg_bulk_t local, hg_size_t local_offset,
    hg_size_t size, hg_op_id_t *op_id);
hg_size_t mochi_hg_bulk_size(hg_bulk_t bulk);

/* As the C compiler sees them. */
size_t mochi_sizeof_init_info(void);
size_t mochi_sizeof_cb_info(void);

#endif
