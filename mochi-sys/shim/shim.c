#include "shim.h"

#include "lengths.h"

hg_return_t mochi_hg_proc_bytes(hg_proc_t proc, void *bytes)
{
    const struct mochi_hg_bytes *parts = bytes;
    hg_return_t ret = HG_SUCCESS;
    switch (hg_proc_get_op(proc)) {
        case HG_ENCODE:
            /* Encoding only reads what the pointers name. */
            if (parts->head_size > 0)
                ret = hg_proc_bytes(proc, (void *) parts->head, parts->head_size);
            if (ret == HG_SUCCESS && parts->body_size > 0)
                ret = hg_proc_bytes(proc, (void *) parts->body, parts->body_size);
            return ret;
        case HG_FREE:
            return HG_SUCCESS;
        default:
            return HG_INVALID_ARG;
    }
}

void mochi_hg_options_default(struct mochi_hg_options *options)
{
    const struct hg_init_info info = HG_INIT_INFO_INITIALIZER;
    const struct mochi_hg_options defaults = {
        .ip_subnet = info.na_init_info.ip_subnet,
        .auth_key = info.na_init_info.auth_key,
        .sm_info_string = info.sm_info_string,
        .max_unexpected_size = info.na_init_info.max_unexpected_size,
        .max_expected_size = info.na_init_info.max_expected_size,
        .request_post_init = info.request_post_init,
        .request_post_incr = (int32_t) info.request_post_incr,
        .max_contexts = info.na_init_info.max_contexts,
        .request_mem_device = info.na_init_info.request_mem_device,
        .auto_sm = info.auto_sm,
        .no_bulk_eager = info.no_bulk_eager,
        .no_loopback = info.no_loopback,
        .stats = info.stats,
#if AT_LEAST(2, 3)
        .no_multi_recv = info.no_multi_recv,
        .release_input_early = info.release_input_early,
#endif
#if AT_LEAST(2, 4)
        .no_overflow = info.no_overflow,
        .multi_recv_op_max = info.multi_recv_op_max,
        .multi_recv_copy_threshold = info.multi_recv_copy_threshold,
#endif
    };
    *options = defaults;
}

static enum na_addr_format addr_format(uint8_t format)
{
    switch (format) {
        case MOCHI_HG_ADDR_IPV4:
            return NA_ADDR_IPV4;
        case MOCHI_HG_ADDR_IPV6:
            return NA_ADDR_IPV6;
        case MOCHI_HG_ADDR_NATIVE:
            return NA_ADDR_NATIVE;
        default:
            return NA_ADDR_UNSPEC;
    }
}

static hg_checksum_level_t checksum_level(uint8_t level)
{
    switch (level) {
        case MOCHI_HG_CHECKSUM_RPC_HEADERS:
            return HG_CHECKSUM_RPC_HEADERS;
        case MOCHI_HG_CHECKSUM_RPC_PAYLOAD:
            return HG_CHECKSUM_RPC_PAYLOAD;
        default:
            return HG_CHECKSUM_NONE;
    }
}

#if AT_LEAST(2, 4)
static enum na_traffic_class traffic_class(uint8_t class)
{
    switch (class) {
        case MOCHI_HG_TC_BEST_EFFORT:
            return NA_TC_BEST_EFFORT;
        case MOCHI_HG_TC_LOW_LATENCY:
            return NA_TC_LOW_LATENCY;
        case MOCHI_HG_TC_BULK_DATA:
            return NA_TC_BULK_DATA;
        case MOCHI_HG_TC_DEDICATED_ACCESS:
            return NA_TC_DEDICATED_ACCESS;
        case MOCHI_HG_TC_SCAVENGER:
            return NA_TC_SCAVENGER;
        case MOCHI_HG_TC_NETWORK_CTRL:
            return NA_TC_NETWORK_CTRL;
        default:
            return NA_TC_UNSPEC;
    }
}
#endif

hg_class_t *mochi_hg_init(const char *na_info, bool listen, const struct mochi_hg_options *options)
{
    struct hg_init_info info = HG_INIT_INFO_INITIALIZER;
    info.na_init_info.ip_subnet = options->ip_subnet;
    info.na_init_info.auth_key = options->auth_key;
    info.na_init_info.max_unexpected_size = options->max_unexpected_size;
    info.na_init_info.max_expected_size = options->max_expected_size;
    if (options->no_block)
        info.na_init_info.progress_mode |= NA_NO_BLOCK;
    if (options->no_retry)
        info.na_init_info.progress_mode |= NA_NO_RETRY;
    info.na_init_info.max_contexts = options->max_contexts;
    info.na_init_info.addr_format = addr_format(options->addr_format);
    info.na_init_info.request_mem_device = options->request_mem_device;
    info.sm_info_string = options->sm_info_string;
    info.request_post_init = options->request_post_init;
    info.request_post_incr = options->request_post_incr;
#if !AT_LEAST(2, 4)
    /* It has no sign there, and 0 means what -1 means later. */
    if (options->request_post_incr < 0)
        info.request_post_incr = 0;
#endif
    info.auto_sm = options->auto_sm;
    info.checksum_level = checksum_level(options->checksum_level);
    info.no_bulk_eager = options->no_bulk_eager;
    info.no_loopback = options->no_loopback;
    info.stats = options->stats;
#if AT_LEAST(2, 3)
    info.no_multi_recv = options->no_multi_recv;
    info.release_input_early = options->release_input_early;
#endif
#if AT_LEAST(2, 4)
    info.traffic_class = traffic_class(options->traffic_class);
    info.no_overflow = options->no_overflow;
    info.multi_recv_op_max = options->multi_recv_op_max;
    info.multi_recv_copy_threshold = options->multi_recv_copy_threshold;
#endif
#if AT_LEAST(2, 3)
    hg_class_t *hg_class = HG_Init_opt2(na_info, listen, HG_VERSION(HG_VERSION_MAJOR, HG_VERSION_MINOR), &info);
#else
    hg_class_t *hg_class = HG_Init_opt(na_info, listen, &info);
#endif
#if !AT_LEAST(2, 4)
    if (hg_class != NULL && !mochi_lengths_watch(hg_class)) {
        (void) mochi_lengths_finalize(hg_class);
        return NULL;
    }
#endif
    return hg_class;
}

hg_return_t mochi_hg_finalize(hg_class_t *hg_class)
{
#if AT_LEAST(2, 4)
    return HG_Finalize(hg_class);
#else
    return mochi_lengths_finalize(hg_class);
#endif
}

bool mochi_hg_is_compiled_release(void)
{
    unsigned int major = 0, minor = 0, patch = 0;
    return HG_Version_get(&major, &minor, &patch) == HG_SUCCESS && major == HG_VERSION_MAJOR &&
           minor == HG_VERSION_MINOR;
}

bool mochi_hg_at_least(unsigned int major, unsigned int minor)
{
    return AT_LEAST(major, minor);
}

bool mochi_hg_has_checksums(void)
{
#ifdef HG_HAS_CHECKSUMS
    return true;
#else
    return false;
#endif
}

bool mochi_hg_has_shared_memory(void)
{
#ifdef NA_HAS_SM
    return true;
#else
    return false;
#endif
}

hg_return_t mochi_hg_class_set_data(hg_class_t *hg_class, void *data)
{
    return HG_Class_set_data(hg_class, data, NULL);
}

void *mochi_hg_class_data(const hg_class_t *hg_class)
{
    return HG_Class_get_data(hg_class);
}

size_t mochi_hg_input_eager_size(const hg_class_t *hg_class)
{
    return HG_Class_get_input_eager_size(hg_class);
}

size_t mochi_hg_output_eager_size(const hg_class_t *hg_class)
{
    return HG_Class_get_output_eager_size(hg_class);
}

bool mochi_hg_class_is_listening(const hg_class_t *hg_class)
{
    return HG_Class_is_listening(hg_class);
}

bool mochi_hg_class_tells_lengths(const hg_class_t *hg_class)
{
#if AT_LEAST(2, 4)
    (void) hg_class;
    return true;
#else
    return mochi_lengths_watches(hg_class);
#endif
}

hg_context_t *mochi_hg_handle_context(hg_handle_t handle)
{
    return HG_Get_info(handle)->context;
}

hg_class_t *mochi_hg_handle_class(hg_handle_t handle)
{
    return HG_Get_info(handle)->hg_class;
}

hg_id_t mochi_hg_handle_id(hg_handle_t handle)
{
    return HG_Get_info(handle)->id;
}

hg_addr_t mochi_hg_handle_addr(hg_handle_t handle)
{
    return HG_Get_info(handle)->addr;
}

/* What came with the message itself, unless it was too large for that and Mercury fetched it. */
static hg_return_t choose(struct mochi_hg_payload *payload, void *extra, hg_size_t extra_size, void *eager,
    hg_size_t eager_size, hg_size_t sent)
{
    payload->fetched = extra != NULL;
    payload->data = extra != NULL ? extra : eager;
    payload->size = extra != NULL ? extra_size : sent < eager_size ? sent : eager_size;
    return HG_SUCCESS;
}

#if !AT_LEAST(2, 4)
/* Bytes of a received payload that starts somewhere in a buffer. */
static hg_size_t sent_of(hg_handle_t handle, const void *buffer, const void *payload)
{
    const size_t headers = (size_t) ((const char *) payload - (const char *) buffer);
    size_t length = 0;
    if (!mochi_lengths_find(handle, buffer, &length))
        return 0;
    return length > headers ? length - headers : 0;
}

/* The same of a request. */
static hg_size_t input_sent_of(hg_handle_t handle, const void *payload, hg_size_t size)
{
    const struct hg_core_handle *core = handle->core_handle;
#    if AT_LEAST(2, 3)
    /* What is noted nowhere is a part of a buffer for many messages, which is as long as its message. */
    size_t length;
    if (mochi_lengths_watches(handle->info.hg_class) && !mochi_lengths_find(handle, core->in_buf, &length))
        return size;
#    endif
    (void) size;
    return sent_of(handle, core->in_buf, payload);
}

/* Notes what a message to oneself holds; what goes elsewhere needs it not. */
static hg_return_t note(hg_handle_t handle, const void *buffer, const void *payload, const struct mochi_hg_bytes *bytes)
{
    const size_t headers = (size_t) ((const char *) payload - (const char *) buffer);
    const size_t length = headers + bytes->head_size + bytes->body_size;
    return mochi_lengths_note(handle, buffer, length) ? HG_SUCCESS : HG_NOMEM;
}
#endif

hg_return_t mochi_hg_forward(hg_handle_t handle, hg_cb_t callback, void *arg, struct mochi_hg_bytes *bytes)
{
#if !AT_LEAST(2, 4)
    void *payload = NULL;
    hg_return_t ret = HG_Get_input_buf(handle, &payload, NULL);
    if (ret == HG_SUCCESS)
        ret = note(handle, handle->core_handle->in_buf, payload, bytes);
    if (ret != HG_SUCCESS)
        return ret;
#endif
    return HG_Forward(handle, callback, arg, bytes);
}

hg_return_t mochi_hg_respond(hg_handle_t handle, hg_cb_t callback, void *arg, struct mochi_hg_bytes *bytes)
{
#if !AT_LEAST(2, 4)
    void *payload = NULL;
    hg_return_t ret = HG_Get_output_buf(handle, &payload, NULL);
    if (ret == HG_SUCCESS)
        ret = note(handle, handle->core_handle->out_buf, payload, bytes);
    if (ret != HG_SUCCESS)
        return ret;
#endif
    return HG_Respond(handle, callback, arg, bytes);
}

hg_return_t mochi_hg_input(hg_handle_t handle, struct mochi_hg_payload *payload)
{
    void *extra = NULL, *eager = NULL;
    hg_size_t extra_size = 0, eager_size = 0, sent = 0;
    hg_return_t ret = HG_Get_input_extra_buf(handle, &extra, &extra_size);
    if (ret == HG_SUCCESS && extra == NULL)
        ret = HG_Get_input_buf(handle, &eager, &eager_size);
    if (ret != HG_SUCCESS)
        return ret;
#if AT_LEAST(2, 4)
    sent = HG_Get_input_payload_size(handle);
#else
    if (extra == NULL)
        sent = input_sent_of(handle, eager, eager_size);
#endif
    return choose(payload, extra, extra_size, eager, eager_size, sent);
}

hg_return_t mochi_hg_output(hg_handle_t handle, struct mochi_hg_payload *payload)
{
    void *extra = NULL, *eager = NULL;
    hg_size_t extra_size = 0, eager_size = 0, sent = 0;
    hg_return_t ret = HG_Get_output_extra_buf(handle, &extra, &extra_size);
    if (ret == HG_SUCCESS && extra == NULL)
        ret = HG_Get_output_buf(handle, &eager, &eager_size);
    if (ret != HG_SUCCESS)
        return ret;
#if AT_LEAST(2, 4)
    sent = HG_Get_output_payload_size(handle);
#else
    if (extra == NULL)
        sent = sent_of(handle, handle->core_handle->out_buf, eager);
#endif
    return choose(payload, extra, extra_size, eager, eager_size, sent);
}

hg_return_t mochi_hg_release_input(hg_handle_t handle)
{
#if AT_LEAST(2, 3)
    return HG_Release_input_buf(handle);
#else
    (void) handle;
    return HG_SUCCESS;
#endif
}

#if !AT_LEAST(2, 4)
/* Of the class, or NULL where it has two, whose descriptors would have to be polled both. */
static na_class_t *only_na_class(const hg_context_t *context)
{
    const struct hg_core_class *core = context->hg_class->core_class;
#    ifdef NA_HAS_SM
    if (core->na_sm_class != NULL)
        return NULL;
#    endif
    return core->na_class;
}
#endif

int mochi_hg_event_fd(const hg_context_t *context)
{
#if AT_LEAST(2, 4)
    return HG_Event_get_wait_fd(context);
#else
    na_class_t *na_class = only_na_class(context);
    return na_class == NULL ? -1 : NA_Poll_get_fd(na_class, context->core_context->na_context);
#endif
}

bool mochi_hg_event_ready(hg_context_t *context)
{
#if AT_LEAST(2, 4)
    return HG_Event_ready(context);
#else
    na_class_t *na_class = only_na_class(context);
    return na_class != NULL && !NA_Poll_try_wait(na_class, context->core_context->na_context);
#endif
}

hg_return_t mochi_hg_progress(hg_context_t *context, unsigned int *count)
{
#if AT_LEAST(2, 4)
    return HG_Event_progress(context, count);
#else
    hg_return_t ret = HG_Progress(context, 0);
    *count = ret == HG_SUCCESS;
    return ret == HG_TIMEOUT ? HG_SUCCESS : ret;
#endif
}

hg_return_t mochi_hg_progress_shared(hg_context_t *context)
{
    hg_return_t ret = HG_Progress(context, 0);
    return ret == HG_TIMEOUT ? HG_SUCCESS : ret;
}

hg_return_t mochi_hg_trigger(hg_context_t *context, unsigned int max_count, unsigned int *count)
{
#if AT_LEAST(2, 4)
    return HG_Event_trigger(context, max_count, count);
#else
    hg_return_t ret = HG_Trigger(context, 0, max_count, count);
    return ret == HG_TIMEOUT ? HG_SUCCESS : ret;
#endif
}

bool mochi_hg_is_network_error(hg_return_t code)
{
    switch (code) {
        case HG_NODEV:
        case HG_PROTOCOL_ERROR:
        case HG_ADDRNOTAVAIL:
        case HG_HOSTUNREACH:
        case HG_TIMEOUT:
        case HG_NA_ERROR:
#if AT_LEAST(2, 4)
        case HG_IO_ERROR:
#endif
#if AT_LEAST(2, 5) || (AT_LEAST(2, 4) && HG_VERSION_PATCH >= 1)
        case HG_HOSTFIREWALL:
#endif
            return true;
        default:
            return false;
    }
}

hg_return_t mochi_hg_bulk_transfer(hg_context_t *context, hg_cb_t callback, void *arg, hg_bulk_op_t op,
    hg_addr_t origin_addr, hg_bulk_t origin, hg_size_t origin_offset, hg_bulk_t local, hg_size_t local_offset,
    hg_size_t size, hg_op_id_t *op_id)
{
    hg_return_t ret = HG_Bulk_transfer(
        context, callback, arg, op, origin_addr, origin, origin_offset, local, local_offset, size, op_id);
#if !AT_LEAST(2, 4)
    /* What the plugin refuses keeps a reference to either handle there; what is refused before that has none. */
    if (mochi_hg_is_network_error(ret)) {
        (void) HG_Bulk_free(origin);
        (void) HG_Bulk_free(local);
    }
#endif
    return ret;
}

hg_size_t mochi_hg_bulk_size(hg_bulk_t bulk)
{
    return HG_Bulk_get_size(bulk);
}

size_t mochi_sizeof_init_info(void)
{
    return sizeof(struct hg_init_info);
}

size_t mochi_sizeof_cb_info(void)
{
    return sizeof(struct hg_cb_info);
}
