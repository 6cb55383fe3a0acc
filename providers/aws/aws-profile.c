/* SPDX-License-Identifier: Apache-2.0 */
#include "aws-profile.h"

#include "basic/util.h"

void profile_done(Profile *p) {
        erase_free_stringp(&p->secret);
        erase_free_stringp(&p->session);
        free(p->key_id);
        free(p->role_arn);
        free(p->source_profile);
        free(p->credential_source);
        free(p->web_identity_file);
        free(p->role_session);
        free(p->external_id);
        free(p->duration);
        free(p->region);
        *p = (Profile) {};
}

typedef struct Span {
        const char *p;
        size_t n;
} Span;

static Span strip(const char *p, size_t n) {
        for (; n > 0 && strchr(" \t\r", *p); p++)
                n--;
        while (n > 0 && strchr(" \t\r", p[n - 1]))
                n--;
        return (Span) { p, n };
}

static bool span_is(Span s, const char *text) {
        return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/* "[profile NAME]" or "[NAME]" → is it the one? */
static int read_section(Span line, const char *name, bool config, bool *ret) {
        static const char word[] = "profile";
        const char *end = memchr(line.p, ']', line.n);
        Span title;

        if (!end)
                return -EBADMSG;
        title = strip(line.p + 1, end - line.p - 1);
        if (config && !span_is(title, "default")) {
                size_t n = strlen(word);

                if (title.n <= n || memcmp(title.p, word, n) != 0 || !strchr(" \t", title.p[n])) {
                        *ret = false;
                        return 0;
                }
                title = strip(title.p + n, title.n - n);
        }
        if (title.n >= 2 && title.p[0] == '"' && title.p[title.n - 1] == '"')
                title = (Span) { title.p + 1, title.n - 2 };
        *ret = span_is(title, name);
        return 0;
}

static int set_value(Profile *p, Span key, Span value) {
        const struct {
                const char *key;
                char **field;
        } fields[] = {
                { "aws_access_key_id", &p->key_id },
                { "aws_secret_access_key", &p->secret },
                { "aws_session_token", &p->session },
                { "role_arn", &p->role_arn },
                { "source_profile", &p->source_profile },
                { "credential_source", &p->credential_source },
                { "web_identity_token_file", &p->web_identity_file },
                { "role_session_name", &p->role_session },
                { "external_id", &p->external_id },
                { "duration_seconds", &p->duration },
                { "region", &p->region },
        };

        if (span_is(key, "credential_process") || (key.n >= 4 && memcmp(key.p, "sso_", 4) == 0))
                p->unsupported = true;
        for (size_t i = 0; i < ELEMENTSOF(fields); i++)
                if (span_is(key, fields[i].key) && !*fields[i].field) {
                        *fields[i].field = strndup(value.p, value.n);
                        return *fields[i].field ? 0 : -ENOMEM;
                }
        return 0;
}

int profile_parse(const char *text, size_t size, const char *name, bool config, Profile *p) {
        bool inside = false;
        int r;

        if (size > PROFILE_FILE_MAX || memchr(text, '\0', size))
                return -EBADMSG;
        for (const char *next, *line = text, *end = text + size; line < end; line = next) {
                const char *newline = memchr(line, '\n', end - line), *equals;
                bool nested = strchr(" \t", *line);
                Span s = strip(line, (newline ?: end) - line);

                next = newline ? newline + 1 : end;
                if (s.n == 0 || s.p[0] == '#' || s.p[0] == ';')
                        continue;
                if (s.p[0] == '[') {
                        r = read_section(s, name, config, &inside);
                        if (r < 0)
                                return r;
                        p->found |= inside;
                        continue;
                }
                if (nested)     /* a setting of a setting ("s3 = …"): none that we read */
                        continue;
                equals = memchr(s.p, '=', s.n);
                if (!equals)
                        return -EBADMSG;
                if (inside) {
                        r = set_value(p, strip(s.p, equals - s.p), strip(equals + 1, s.p + s.n - equals - 1));
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}
