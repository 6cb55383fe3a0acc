/* SPDX-License-Identifier: Apache-2.0 */
/* complete: what could stand where the shell's cursor is, one word on a line, by the same table that the command line is read with.
 * data/completion/ has the shells' ends of it. */
#include <stdio.h>

#include "ctl/ctl.h"
#include "ctl/podvms.h"

static void offer(const char *word, const char *begin) {
        if (startswith(word, begin))
                puts(word);
}

static const CommandOption* find_option(const CommandTable *t, const char *word) {
        const char *name = startswith(word, "--");

        for (size_t i = 0; i < t->n_options; i++)
                if (name ? streq(t->options[i].name, name) :
                           word[0] == '-' && word[1] && word[1] == t->options[i].letter && !word[2])
                        return t->options + i;

        return NULL;
}

static const char* first_word_end(const char *name) {
        return strchrnul(name, ' ');
}

static bool first_word_is(const char *name, const char *word) {
        return (size_t) (first_word_end(name) - name) == strlen(word) && startswith(name, word);
}

static void offer_groups(const CommandTable *t, const char *begin) {
        char last[64] = "";

        for (size_t i = 0; i < t->n_commands; i++) {
                char word[64];

                if (t->commands[i].hidden)
                        continue;
                (void) snprintf(word, sizeof(word), "%.*s", (int) (first_word_end(t->commands[i].name) - t->commands[i].name),
                                t->commands[i].name);
                if (!streq(word, last))         /* the table has groups together */
                        offer(word, begin);
                memcpy(last, word, sizeof(last));
        }
}

static void offer_verbs(const CommandTable *t, const char *group, const char *begin) {
        for (size_t i = 0; i < t->n_commands; i++)
                if (first_word_is(t->commands[i].name, group) && *first_word_end(t->commands[i].name))
                        offer(first_word_end(t->commands[i].name) + 1, begin);
}

static void offer_sandboxes(const char *begin, bool pods, uint64_t timeout_usec) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(json_object_putp) json_object *podvms = NULL;
        _cleanup_(freep) char *ignored = NULL;

        if (sd_bus_open_system(&bus) < 0 || podvms_read(bus, timeout_usec, &podvms, &ignored) < 0)
                return;
        for (size_t i = 0; i < json_object_array_length(podvms); i++) {
                json_object *p = json_object_array_get_idx(podvms, i);
                char pod[512];

                offer(podvm_text(p, "SandboxId"), begin);
                (void) snprintf(pod, sizeof(pod), "%s/%s", podvm_text(p, "PodNamespace"), podvm_text(p, "PodName"));
                if (pods && *podvm_text(p, "PodName"))
                        offer(pod, begin);
        }
}

static const Command* find_command(const CommandTable *t, const char *group, const char *verb) {
        for (size_t i = 0; i < t->n_commands; i++) {
                const Command *c = t->commands + i;

                if (verb ? first_word_is(c->name, group) && streq(first_word_end(c->name), "") == false &&
                                streq(first_word_end(c->name) + 1, verb) :
                           streq(c->name, group) || streq_ptr(c->alias, group))
                        return c;
        }

        return NULL;
}

static bool is_group(const CommandTable *t, const char *word) {
        for (size_t i = 0; i < t->n_commands; i++)
                if (first_word_is(t->commands[i].name, word) && *first_word_end(t->commands[i].name))
                        return true;

        return false;
}

static bool takes_option(const Command *c, const char *name) {
        size_t n = strlen(name);

        for (const char *p = c->options; (p = strstr(p, name)); p += n)
                if ((p == c->options || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0'))
                        return true;

        return false;
}

static void offer_options(const CommandTable *t, const Command *c, const char *begin) {
        char option[80];

        for (size_t i = 0; i < t->n_options; i++) {
                if (c && !takes_option(c, t->options[i].name))
                        continue;
                (void) snprintf(option, sizeof(option), "--%s", t->options[i].name);
                offer(option, begin);
        }
        offer("--help", begin);
        if (!c)
                offer("--version", begin);
}

/* The words in front of the cursor, the last one begun or empty. */
int command_complete(const CommandLine *line) {
        const CommandTable *t = line->table;
        const char *words[3] = {}, *begin = line->n_words > 0 ? line->words[line->n_words - 1] : "";
        bool has_target_option = false;
        const Command *c = NULL;
        size_t n = 0;           /* words of the command line that are no options, the begun one not among them */

        for (size_t i = 0; i + 1 < line->n_words; i++) {
                const CommandOption *o = find_option(t, line->words[i]);

                if (streq(line->words[i], "--"))
                        return 0;               /* words of another program */
                if (line->words[i][0] == '-') {
                        has_target_option = has_target_option || (o && streq(o->name, t->target_option)) ||
                                startswith(line->words[i], "--socket=");
                        if (o && o->kind != ARGUMENT_FLAG && i++ + 2 == line->n_words)
                                return 0;       /* the option's value is being written: the shell knows files */
                        continue;
                }
                if (n < ELEMENTSOF(words))
                        words[n] = line->words[i];
                n++;
        }

        bool group = n > 0 && is_group(t, words[0]);
        bool target = group && streq(words[0], t->target_group) && !has_target_option;
        size_t before = !group ? 1 : target ? 3 : 2;    /* words that name the command */

        if (n >= before)
                c = find_command(t, words[0], group ? words[before - 1] : NULL);

        if (begin[0] == '-')
                offer_options(t, c, begin);
        else if (n == 0)
                offer_groups(t, begin);
        else if (target && n == 1)
                offer_sandboxes(begin, /* pods= */ false, command_timeout(line));
        else if (group && n == before - 1)
                offer_verbs(t, words[0], begin);
        else if (c && n == before && startswith(c->arguments, "SANDBOX"))
                offer_sandboxes(begin, strstr(c->arguments, "NAMESPACE/POD"), command_timeout(line));

        return flush_stdout();
}
