/* SPDX-License-Identifier: Apache-2.0 */
/* Structured logging: the journal where stderr is connected to it, "<N>" prefixed lines on stderr elsewhere. */
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <syslog.h>

#include "basic/util.h"

/* Journal fields that every line about one object carries, as "NAME=value". Built once, when the object is made. */
typedef struct LogContext {
        char **fields;          /* strv, owned */
} LogContext;

/* log_context_add() - add a field; @value NULL is nothing. Returns 0, -ENOMEM. */
int log_context_add(LogContext *c, const char *name, const char *value);
void log_context_done(LogContext *c);

/* log_open() - decide where lines go, by $JOURNAL_STREAM; called by DEFINE_MAIN_FUNCTION(). $PEERPOD_LOG_LEVEL (0…7 or a name
 * such as "debug") sets the highest level that is written, "info" by default. */
void log_open(void);
void log_set_max_level(int level);
int log_get_max_level(void) __attribute__((pure));

/**
 * log_internal() - write one line; use the macros
 * @context:    fields of the object, may be NULL
 * @message_id: one of messages.h, may be NULL
 * @error:      errno (either sign) that %m stands for, 0 for none
 *
 * Returns -|error|. Keeps errno.
 */
int log_internal(const LogContext *context, int level, const char *message_id, int error,
                 const char *file, int line, const char *func, const char *format, ...) PRINTF(8, 9);
int log_internalv(const LogContext *context, int level, const char *message_id, int error,
                  const char *file, int line, const char *func, const char *format, va_list ap) PRINTF(8, 0);

#define log_full(context, level, message_id, error, ...)                                                \
        ({                                                                                              \
                int _level = (level), _error = (error);                                                 \
                _level <= log_get_max_level()                                                           \
                        ? log_internal((context), _level, (message_id), _error, __FILE__, __LINE__, __func__, __VA_ARGS__) \
                        : -abs(_error);                                                                 \
        })

#define log_debug(...)   ((void) log_full(NULL, LOG_DEBUG, NULL, 0, __VA_ARGS__))
#define log_info(...)    ((void) log_full(NULL, LOG_INFO, NULL, 0, __VA_ARGS__))
#define log_notice(...)  ((void) log_full(NULL, LOG_NOTICE, NULL, 0, __VA_ARGS__))
#define log_warning(...) ((void) log_full(NULL, LOG_WARNING, NULL, 0, __VA_ARGS__))
#define log_error(...)   ((void) log_full(NULL, LOG_ERR, NULL, 0, __VA_ARGS__))

/* These return the error: return log_error_errno(r, "Failed to …: %m"); */
#define log_debug_errno(error, ...)   log_full(NULL, LOG_DEBUG, NULL, (error), __VA_ARGS__)
#define log_info_errno(error, ...)    log_full(NULL, LOG_INFO, NULL, (error), __VA_ARGS__)
#define log_notice_errno(error, ...)  log_full(NULL, LOG_NOTICE, NULL, (error), __VA_ARGS__)
#define log_warning_errno(error, ...) log_full(NULL, LOG_WARNING, NULL, (error), __VA_ARGS__)
#define log_error_errno(error, ...)   log_full(NULL, LOG_ERR, NULL, (error), __VA_ARGS__)

#define log_oom() log_full(NULL, LOG_ERR, NULL, ENOMEM, "Out of memory.")

/* FORMAT_USEC() - a span for people, "1.234s" or "3min 5s"; valid until the end of the expression's block */
#define FORMAT_USEC(usec) format_usec((char[32]) {}, 32, (usec))
const char* format_usec(char *buffer, size_t size, uint64_t usec);
