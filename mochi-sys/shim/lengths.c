/* Mercury's plugins tell the length of each message that they receive, and Mercury below 2.4 keeps it to itself. So the
 * functions that a class has from its plugin are replaced by ones that call them, and note the length on the way back.
 * The table of functions is part of the installed na.h, whose inline functions call through it.
 *
 * What lies behind a message in its buffer is from messages before it. It is overwritten before Mercury sees the message:
 * Mercury decodes its own headers, and descriptors of what did not fit, by the size of the buffer. */
#include "lengths.h"

#if !AT_LEAST(2, 4)

#    include <mercury_mem.h>
#    include <na.h>
#    include <pthread.h>
#    include <stdint.h>
#    include <stdlib.h>
#    include <string.h>

#    if AT_LEAST(2, 3)
typedef na_addr_t *mochi_na_addr;
typedef void mochi_na_done;
#        define DONE(call) call
typedef void mochi_na_freed;
#        define FREED(call) call
#    else
typedef na_addr_t mochi_na_addr;
typedef int mochi_na_done;
#        define DONE(call) return call
typedef na_return_t mochi_na_freed;
#        define FREED(call) return call
#    endif

#    define BUCKETS 1024

/* A buffer that was posted, or that a message to oneself is in. One receive at a time goes into it. */
struct buffer {
    struct buffer *next;
    const void *start;
    /* Of the receive that is under way. */
    size_t size;
    na_cb_t callback;
    void *arg;
    /* Of the last message, in bytes. */
    size_t length;
};

/* The buffers of one class of HG's, which has up to two of NA's. */
struct lengths {
    pthread_mutex_t lock;
    struct buffer *buckets[BUCKETS];
};

/* What a class of NA's has in place of its plugin's functions. */
struct watch {
    struct na_class_ops ops;
    const struct na_class_ops *plugin;
    struct lengths *lengths;
};

static struct buffer **bucket_of(struct lengths *lengths, const void *start)
{
    uint64_t hash = (uint64_t) (uintptr_t) start * UINT64_C(0x9e3779b97f4a7c15);
    return &lengths->buckets[hash >> 54];
}

/* Under the lock. */
static struct buffer *find(struct lengths *lengths, const void *start)
{
    struct buffer *buffer = *bucket_of(lengths, start);
    while (buffer != NULL && buffer->start != start)
        buffer = buffer->next;
    return buffer;
}

/* Under the lock. NULL for want of memory. */
static struct buffer *find_or_add(struct lengths *lengths, const void *start)
{
    struct buffer *buffer = find(lengths, start);
    if (buffer == NULL && (buffer = calloc(1, sizeof(*buffer))) != NULL) {
        struct buffer **bucket = bucket_of(lengths, start);
        buffer->start = start;
        buffer->next = *bucket;
        *bucket = buffer;
    }
    return buffer;
}

static void forget(struct lengths *lengths, const void *start)
{
    pthread_mutex_lock(&lengths->lock);
    struct buffer **at = bucket_of(lengths, start);
    while (*at != NULL && (*at)->start != start)
        at = &(*at)->next;
    struct buffer *buffer = *at;
    if (buffer != NULL)
        *at = buffer->next;
    pthread_mutex_unlock(&lengths->lock);
    free(buffer);
}

/* A receive is about to begin. */
static struct buffer *begin(struct watch *watch, void *start, size_t size, na_cb_t callback, void *arg)
{
    pthread_mutex_lock(&watch->lengths->lock);
    struct buffer *buffer = find_or_add(watch->lengths, start);
    if (buffer != NULL) {
        buffer->size = size;
        buffer->callback = callback;
        buffer->arg = arg;
        buffer->length = 0;
    }
    pthread_mutex_unlock(&watch->lengths->lock);
    return buffer;
}

/* A receive has ended. The buffer's entry is not freed before Mercury frees the buffer, which it does inside of its own
 * callback at the earliest. */
static mochi_na_done end(const struct na_cb_info *info, size_t length)
{
    struct buffer *buffer = info->arg;
    struct na_cb_info told = *info;
    told.arg = buffer->arg;
    if (info->ret == NA_SUCCESS) {
        if (length > buffer->size)
            length = buffer->size;
        memset((char *) (uintptr_t) buffer->start + length, 0, buffer->size - length);
        buffer->length = length;
    }
    DONE(buffer->callback(&told));
}

static mochi_na_done on_unexpected(const struct na_cb_info *info)
{
    DONE(end(info, info->info.recv_unexpected.actual_buf_size));
}

static mochi_na_done on_expected(const struct na_cb_info *info)
{
    DONE(end(info, info->info.recv_expected.actual_buf_size));
}

static na_return_t recv_unexpected(na_class_t *na_class, na_context_t *context, na_cb_t callback, void *arg, void *buf,
    size_t buf_size, void *plugin_data, na_op_id_t *op_id)
{
    struct watch *watch = (struct watch *) na_class->ops;
    struct buffer *buffer = begin(watch, buf, buf_size, callback, arg);
    if (buffer == NULL)
        return NA_NOMEM;
    return watch->plugin->msg_recv_unexpected(
        na_class, context, on_unexpected, buffer, buf, buf_size, plugin_data, op_id);
}

static na_return_t recv_expected(na_class_t *na_class, na_context_t *context, na_cb_t callback, void *arg, void *buf,
    size_t buf_size, void *plugin_data, mochi_na_addr source, uint8_t source_id, na_tag_t tag, na_op_id_t *op_id)
{
    struct watch *watch = (struct watch *) na_class->ops;
    struct buffer *buffer = begin(watch, buf, buf_size, callback, arg);
    if (buffer == NULL)
        return NA_NOMEM;
    return watch->plugin->msg_recv_expected(
        na_class, context, on_expected, buffer, buf, buf_size, plugin_data, source, source_id, tag, op_id);
}

static mochi_na_freed free_buffer(na_class_t *na_class, void *buf, void *plugin_data)
{
    struct watch *watch = (struct watch *) na_class->ops;
    forget(watch->lengths, buf);
    FREED(watch->plugin->msg_buf_free(na_class, buf, plugin_data));
}

/* Of plugins that leave it to NA, which allocates with this function's twin. */
static mochi_na_freed free_plain_buffer(na_class_t *na_class, void *buf, void *plugin_data)
{
    (void) plugin_data;
    forget(((struct watch *) na_class->ops)->lengths, buf);
    hg_mem_aligned_free(buf);
#    if !AT_LEAST(2, 3)
    return NA_SUCCESS;
#    endif
}

/* Whether the plugin tells the length of expected messages, too. */
static bool tells_lengths(const na_class_t *na_class)
{
    static const char *const those[] = {"na", "ofi", "ucx"};
    for (size_t i = 0; i < sizeof(those) / sizeof(*those); i++)
        if (strcmp(na_class->ops->class_name, those[i]) == 0)
            return true;
    return false;
}

static bool is_watched(const na_class_t *na_class)
{
    return na_class != NULL && na_class->ops->msg_recv_expected == recv_expected;
}

static bool watch_class(na_class_t *na_class, struct lengths *lengths)
{
    if (na_class == NULL)
        return true;
    struct watch *watch = tells_lengths(na_class) ? calloc(1, sizeof(*watch)) : NULL;
    if (watch == NULL)
        return false;
    watch->ops = *na_class->ops;
    watch->plugin = na_class->ops;
    watch->lengths = lengths;
    watch->ops.msg_recv_unexpected = recv_unexpected;
    watch->ops.msg_recv_expected = recv_expected;
    watch->ops.msg_buf_free = watch->plugin->msg_buf_free != NULL ? free_buffer : free_plain_buffer;
    na_class->ops = &watch->ops;
    return true;
}

static na_class_t *sm_class_of(const hg_class_t *hg_class)
{
#    ifdef NA_HAS_SM
    return hg_class->core_class->na_sm_class;
#    else
    (void) hg_class;
    return NULL;
#    endif
}

/* The table of a class's buffers, or NULL. */
static struct lengths *lengths_of(const hg_class_t *hg_class)
{
    const na_class_t *na_class = hg_class->core_class->na_class;
    return is_watched(na_class) ? ((struct watch *) na_class->ops)->lengths : NULL;
}

bool mochi_lengths_watch(hg_class_t *hg_class)
{
    struct lengths *lengths = calloc(1, sizeof(*lengths));
    if (lengths == NULL)
        return false;
    pthread_mutex_init(&lengths->lock, NULL);
    if (!watch_class(hg_class->core_class->na_class, lengths)) {
        free(lengths);
        return false;
    }
    /* The first class has the table from here on, and mochi_lengths_finalize frees it. */
    return watch_class(sm_class_of(hg_class), lengths);
}

hg_return_t mochi_lengths_finalize(hg_class_t *hg_class)
{
    na_class_t *classes[] = {hg_class->core_class->na_class, sm_class_of(hg_class)};
    struct watch *watches[2] = {NULL, NULL};
    struct lengths *lengths = lengths_of(hg_class);
    for (size_t i = 0; i < 2; i++)
        if (is_watched(classes[i]))
            watches[i] = (struct watch *) classes[i]->ops;
    hg_return_t ret = HG_Finalize(hg_class);
    /* Otherwise the class lives on. */
    if (ret != HG_SUCCESS || lengths == NULL)
        return ret;
    for (size_t i = 0; i < 2; i++)
        free(watches[i]);
    for (size_t i = 0; i < BUCKETS; i++) {
        while (lengths->buckets[i] != NULL) {
            struct buffer *buffer = lengths->buckets[i];
            lengths->buckets[i] = buffer->next;
            free(buffer);
        }
    }
    pthread_mutex_destroy(&lengths->lock);
    free(lengths);
    return ret;
}

bool mochi_lengths_note(hg_handle_t handle, const void *buffer, size_t length)
{
    struct lengths *lengths = lengths_of(HG_Get_info(handle)->hg_class);
    if (lengths == NULL)
        return false;
    pthread_mutex_lock(&lengths->lock);
    struct buffer *noted = find_or_add(lengths, buffer);
    if (noted != NULL)
        noted->length = length;
    pthread_mutex_unlock(&lengths->lock);
    return noted != NULL;
}

bool mochi_lengths_watches(const hg_class_t *hg_class)
{
    return lengths_of(hg_class) != NULL;
}

bool mochi_lengths_find(hg_handle_t handle, const void *buffer, size_t *length)
{
    struct lengths *lengths = lengths_of(HG_Get_info(handle)->hg_class);
    if (lengths == NULL)
        return false;
    pthread_mutex_lock(&lengths->lock);
    const struct buffer *noted = find(lengths, buffer);
    if (noted != NULL)
        *length = noted->length;
    pthread_mutex_unlock(&lengths->lock);
    return noted != NULL;
}

#else
/* A file must declare something. */
typedef int mochi_lengths_unused;
#endif
