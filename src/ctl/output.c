/* SPDX-License-Identifier: Apache-2.0 */
/* How peerpodctl speaks: messages, tables, JSON. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>

#include "basic/io.h"
#include "basic/main-func.h"
#include "basic/text.h"
#include "ctl/ctl.h"

#define FIELD_WIDTH 18   /* a longer name moves its value, no other */
#define COLUMN_GAP 2

static PRINTF(1, 0) void complainv(const char *format, va_list ap) {
        _cleanup_(freep) char *raw = NULL, *shown = NULL;

        if (vasprintf(&raw, format, ap) < 0)
                raw = NULL;
        else
                shown = text_for_terminal(raw);

        (void) fflush(stdout);  /* where both go to one place, in the order of events */
        fprintf(stderr, "%s: %s\n", command_table.program, shown ?: "Out of memory");
}

int complain(const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        complainv(format, ap);
        va_end(ap);
        return EXIT_FAILURE;
}

int complain_usage(const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        complainv(format, ap);
        va_end(ap);
        return EXIT_USAGE;
}

uint64_t command_timeout(const CommandLine *line) {
        const OptionalNumber *t = &arguments(line)->timeout;

        return t->is_set ? t->value : line->command->timeout_usec;
}

int flush_stdout(void) {
        if (fflush(stdout) != 0 || ferror(stdout))
                return complain("Cannot write to standard output: %s", strerror(errno));

        return 0;
}

int print_json(json_object *o) {
        const char *text;

        text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY|JSON_C_TO_STRING_SPACED|JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!text)
                return -ENOMEM;

        (void) puts(text);
        return flush_stdout();
}

void printf_for_terminal(const char *format, ...) {
        _cleanup_(freep) char *raw = NULL, *shown = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&raw, format, ap);
        va_end(ap);
        if (n < 0)
                raw = NULL;             /* vasprintf() leaves it undefined */
        else
                shown = text_for_terminal(raw);

        fputs(shown ?: "?\n", stdout);
}

void print_field(const char *name, const char *value) {
        _cleanup_(freep) char *shown = NULL;

        if (isempty(value))
                return;

        shown = text_for_terminal(value);
        printf("%*s: %s\n", FIELD_WIDTH, name, shown ?: "?");
}

int read_input(const char *path, size_t max_size, char **ret, size_t *ret_size) {
        _cleanup_(close_fdp) int fd = -EBADF;
        int r;

        if (!streq(path, "-")) {
                fd = open(path, O_RDONLY|O_CLOEXEC|O_NOCTTY);
                if (fd < 0)
                        return complain("Cannot open '%s': %s", path, strerror(errno));
        }

        r = read_full_fd(fd < 0 ? STDIN_FILENO : fd, max_size, ret, ret_size);
        if (r == -ENOMEM)
                return r;
        if (r == -EFBIG)
                return complain("'%s' is longer than %zu bytes", path, max_size);
        if (r == -EBADMSG)
                return complain("'%s' is no text, it has a NUL byte", path);
        if (r < 0)
                return complain("Cannot read '%s': %s", path, strerror(-r));

        return 0;
}

struct Table {
        size_t n_columns, n_cells;
        char **cells;           /* row by row, the headers first */
};

int table_new(const char *const *headers, size_t n_columns, Table **ret) {
        _cleanup_(table_freep) Table *t = NULL;
        int r;

        t = new(Table);
        if (!t)
                return -ENOMEM;
        *t = (Table) { .n_columns = n_columns };

        r = table_add(t, headers);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(t);
        return 0;
}

Table* table_free(Table *t) {
        if (!t)
                return NULL;

        for (size_t i = 0; i < t->n_cells; i++)
                free(t->cells[i]);
        free(t->cells);
        free(t);
        return NULL;
}

int table_add(Table *t, const char *const *cells) {
        char **grown;

        grown = reallocarray(t->cells, t->n_cells + t->n_columns, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        t->cells = grown;

        for (size_t i = 0; i < t->n_columns; i++) {
                char *cell = text_for_terminal(isempty(cells[i]) ? "-" : cells[i]);

                if (!cell) {    /* no half row */
                        while (i-- > 0)
                                free(t->cells[t->n_cells + i]);
                        return -ENOMEM;
                }
                for (char *p = cell; *p; p++)
                        if (*p == '\n' || *p == '\t')
                                *p = ' ';
                t->cells[t->n_cells + i] = cell;
        }

        t->n_cells += t->n_columns;
        return 0;
}

static int column_width(const Table *t, size_t column) {
        int width = 0;

        for (size_t i = column; i < t->n_cells; i += t->n_columns)
                width = MAX(width, text_width(t->cells[i]));

        return width;
}

void table_print(const Table *t) {
        for (size_t i = 0; i < t->n_cells; i++) {
                size_t column = i % t->n_columns;

                if (column + 1 == t->n_columns)
                        printf("%s\n", t->cells[i]);
                else
                        printf("%s%*s", t->cells[i],
                               column_width(t, column) - text_width(t->cells[i]) + COLUMN_GAP, "");
        }
}

const char* age_of(uint64_t realtime_usec, uint64_t now, char *buffer) {
        static const struct { uint64_t seconds; char unit; } units[] = {
                { 86400, 'd' }, { 3600, 'h' }, { 60, 'm' }, { 1, 's' },
        };
        uint64_t s = now > realtime_usec ? (now - realtime_usec) / USEC_PER_SEC : 0;

        if (realtime_usec == 0)
                return "-";

        for (size_t i = 0; i < ELEMENTSOF(units); i++)
                if (s >= 2 * units[i].seconds || units[i].seconds == 1) {       /* "90s" says more than "1m" */
                        (void) snprintf(buffer, 24, "%" PRIu64 "%c", s / units[i].seconds, units[i].unit);
                        break;
                }

        return buffer;
}
