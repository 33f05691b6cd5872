/* How long received messages are, where Mercury does not say it: before 2.4. */
#ifndef MOCHI_SYS_LENGTHS_H
#define MOCHI_SYS_LENGTHS_H

#include <mercury.h>
#include <mercury_core.h>
#include <stdbool.h>
#include <stddef.h>

#define AT_LEAST(major, minor) \
    (HG_VERSION_MAJOR > (major) || (HG_VERSION_MAJOR == (major) && HG_VERSION_MINOR >= (minor)))

#if !AT_LEAST(2, 4)

/* Notes the lengths of all that a class receives. To be called before the class has a context. False if its plugin does
 * not tell them, or for want of memory. */
bool mochi_lengths_watch(hg_class_t *hg_class);

/* Finalizes a class, watched or not. */
hg_return_t mochi_lengths_finalize(hg_class_t *hg_class);

/* Notes that so many bytes are in a buffer of a handle's: what a message to oneself is read from. False for want of
 * memory. */
bool mochi_lengths_note(hg_handle_t handle, const void *buffer, size_t length);

/* Whether a class is watched: all buffers are noted then, but those that hold many messages. */
bool mochi_lengths_watches(const hg_class_t *hg_class);

/* Bytes received into a buffer, with all headers. False if none were. */
bool mochi_lengths_find(hg_handle_t handle, const void *buffer, size_t *length);

#endif
#endif
