/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "basic/parse.h"
#include "basic/strv.h"

#define FIELDS_MAX 32
#define TEXT_MAX 2048           /* longer messages are cut: a peer's text may be part of them */

static int max_level = LOG_INFO;
static bool to_journal = false;

int log_context_add(LogContext *c, const char *name, const char *value) {
        _cleanup_(freep) char *field = NULL;

        if (isempty(value))
                return 0;
        if (asprintf(&field, "%s=%s", name, value) < 0)
                return -ENOMEM;
        return strv_extend(&c->fields, field);
}

void log_context_done(LogContext *c) {
        c->fields = strv_free(c->fields);
}

void log_set_max_level(int level) {
        max_level = level;
}

int log_get_max_level(void) {
        return max_level;
}

static int level_from_string(const char *s, int *ret) {
        static const char *const names[] = {
                [LOG_EMERG] = "emerg", [LOG_ALERT] = "alert", [LOG_CRIT] = "crit", [LOG_ERR] = "err",
                [LOG_WARNING] = "warning", [LOG_NOTICE] = "notice", [LOG_INFO] = "info", [LOG_DEBUG] = "debug",
        };
        uint32_t n;

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (streq(s, names[i])) {
                        *ret = i;
                        return 0;
                }
        if (parse_u32(s, &n) < 0 || n > LOG_DEBUG)
                return -EINVAL;
        *ret = n;
        return 0;
}

void log_open(void) {
        const char *stream = getenv("JOURNAL_STREAM"), *level = getenv("PEERPOD_LOG_LEVEL");
        uintmax_t dev, ino;
        struct stat st;

        /* $JOURNAL_STREAM is inherited by children whose stderr is something else: compare (systemd.exec(5)). */
        to_journal = stream && sscanf(stream, "%ju:%ju", &dev, &ino) == 2 &&
                fstat(STDERR_FILENO, &st) >= 0 && st.st_dev == dev && st.st_ino == ino;

        if (!isempty(level) && level_from_string(level, &max_level) < 0)
                log_warning("PEERPOD_LOG_LEVEL='%s' is neither a level name nor 0 to 7, ignoring.", level);
}

static int log_to_journal(const LogContext *context, int level, const char *message_id, int error,
                          const char *file, int line, const char *func, const char *text) {
        char priority[sizeof("PRIORITY=7")], errno_field[sizeof("ERRNO=") + 11], code_line[sizeof("CODE_LINE=") + 11];
        char id[sizeof("MESSAGE_ID=") + 32], message[sizeof("MESSAGE=") + TEXT_MAX], code_file[256], code_func[128];
        struct iovec iov[FIELDS_MAX];
        int n = 0;

#define FIELD(buffer, ...) ({                                                                   \
                int _size = snprintf(buffer, sizeof(buffer), __VA_ARGS__);                      \
                iov[n++] = (struct iovec) { buffer, MIN((size_t) _size, sizeof(buffer) - 1) };  \
        })

        FIELD(message, "MESSAGE=%s", text);
        FIELD(priority, "PRIORITY=%i", level);
        FIELD(code_file, "CODE_FILE=%s", file);
        FIELD(code_line, "CODE_LINE=%i", line);
        FIELD(code_func, "CODE_FUNC=%s", func);
        if (message_id)
                FIELD(id, "MESSAGE_ID=%s", message_id);
        if (error != 0)
                FIELD(errno_field, "ERRNO=%i", abs(error));
#undef FIELD

        for (char **f = context ? context->fields : NULL; f && *f && n < FIELDS_MAX; f++)
                iov[n++] = (struct iovec) { *f, strlen(*f) };

        return sd_journal_sendv(iov, n);
}

int log_internalv(const LogContext *context, int level, const char *message_id, int error,
                  const char *file, int line, const char *func, const char *format, va_list ap) {
        char text[TEXT_MAX];
        int saved = errno;

        error = abs(error);
        errno = error;          /* for %m */
        (void) vsnprintf(text, sizeof(text), format, ap);

        if (!to_journal || log_to_journal(context, level, message_id, error, file, line, func, text) < 0)
                dprintf(STDERR_FILENO, "<%i>%s\n", level, text);

        errno = saved;
        return -error;
}

int log_internal(const LogContext *context, int level, const char *message_id, int error,
                 const char *file, int line, const char *func, const char *format, ...) {
        va_list ap;
        int r;

        va_start(ap, format);
        r = log_internalv(context, level, message_id, error, file, line, func, format, ap);
        va_end(ap);
        return r;
}

const char* format_usec(char *buffer, size_t size, uint64_t usec) {
        if (usec == USEC_INFINITY)
                (void) snprintf(buffer, size, "infinity");
        else if (usec < USEC_PER_SEC)
                (void) snprintf(buffer, size, "%" PRIu64 "ms", usec / USEC_PER_MSEC);
        else if (usec < 60 * USEC_PER_SEC)
                (void) snprintf(buffer, size, "%" PRIu64 ".%03" PRIu64 "s", usec / USEC_PER_SEC,
                                usec % USEC_PER_SEC / USEC_PER_MSEC);
        else
                (void) snprintf(buffer, size, "%" PRIu64 "min %" PRIu64 "s", usec / (60 * USEC_PER_SEC),
                                usec / USEC_PER_SEC % 60);
        return buffer;
}
