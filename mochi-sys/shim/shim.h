/* Functions with a symbol for what Mercury offers as inline functions and macros only, and one face for what its
 * releases 2.2 to 2.4 do in different ways. Written from the documented API. */
#ifndef MOCHI_SYS_SHIM_H
#define MOCHI_SYS_SHIM_H

#include <mercury.h>
#include <mercury_bulk.h>
#include <mercury_proc.h>
#include <stdbool.h>
#include <stddef.h>

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
    size_t size;
    /* Whether size is what the peer sent; before Mercury 2.4 it may be more. */
    bool exact;
    /* Whether Mercury fetched it into memory of its own, because it was too large for a message. */
    bool fetched;
};

/* Sends bytes as they are. Refuses to decode: payloads are read with mochi_hg_input and mochi_hg_output. */
hg_return_t mochi_hg_proc_bytes(hg_proc_t proc, void *bytes);

/* Fills in the defaults of the installed Mercury. */
void mochi_hg_init_info_default(struct hg_init_info *info);
hg_class_t *mochi_hg_init(const char *na_info, bool listen, const struct hg_init_info *info);

hg_return_t mochi_hg_class_set_data(hg_class_t *hg_class, void *data);
void *mochi_hg_class_data(const hg_class_t *hg_class);
size_t mochi_hg_input_eager_size(const hg_class_t *hg_class);
size_t mochi_hg_output_eager_size(const hg_class_t *hg_class);

hg_class_t *mochi_hg_handle_class(hg_handle_t handle);
hg_id_t mochi_hg_handle_id(hg_handle_t handle);
/* Lives as long as the handle. */
hg_addr_t mochi_hg_handle_addr(hg_handle_t handle);

hg_return_t mochi_hg_input(hg_handle_t handle, struct mochi_hg_payload *payload);
hg_return_t mochi_hg_output(hg_handle_t handle, struct mochi_hg_payload *payload);
/* Gives the receive buffer back before the handle is destroyed, where Mercury can. */
hg_return_t mochi_hg_release_input(hg_handle_t handle);

/* A descriptor to poll, or -1. */
int mochi_hg_event_fd(const hg_context_t *context);
/* Must be called before the descriptor is polled; true if there is something to do at once. */
bool mochi_hg_event_ready(hg_context_t *context);
/* Neither of the two blocks. */
hg_return_t mochi_hg_progress(hg_context_t *context, unsigned int *count);
hg_return_t mochi_hg_trigger(hg_context_t *context, unsigned int max_count, unsigned int *count);

/* Whether a code says that the peer or the way to it is gone, not that this one operation failed. */
bool mochi_hg_is_network_error(hg_return_t code);

hg_size_t mochi_hg_bulk_size(hg_bulk_t bulk);

/* As the C compiler sees them. */
size_t mochi_sizeof_init_info(void);
size_t mochi_sizeof_cb_info(void);

#endif
