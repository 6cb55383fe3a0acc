/* SPDX-License-Identifier: Apache-2.0 */
/* The command line by one table: parsing, usage texts and the man page's check all read it. */
#include "ctl/command.h"

#include <errno.h>

#include "basic/parse.h"
#include "basic/text.h"
#include "basic/util.h"

#define HELP_COLUMN 44

static const char* next_word(const char *text, size_t *ret_size) {
        text += strspn(text, " ");
        *ret_size = strcspn(text, " ");
        return *ret_size > 0 ? text : NULL;
}

static bool has_word(const char *text, const char *word) {
        size_t size;

        for (const char *p = text; (p = next_word(p, &size)); p += size)
                if (strlen(word) == size && strncmp(p, word, size) == 0)
                        return true;

        return false;
}

/* "ID", "[METHOD]", "ARGV…", "[ARGV…]": how many words of the command line this one of the usage line asks for. */
static void count_words(const Command *c, size_t *ret_min, size_t *ret_max) {
        size_t size, min = 0, max = 0;

        for (const char *p = c->arguments; (p = next_word(p, &size)); p += size) {
                bool optional = p[0] == '[';
                size_t end = optional ? size - 1 : size;
                bool endless = end > strlen("…") && strncmp(p + end - strlen("…"), "…", strlen("…")) == 0;

                if (size == 2 && strncmp(p, "--", 2) == 0)
                        continue;       /* says only where the options end */
                if (!optional)
                        min++;
                max = endless || max == SIZE_MAX ? SIZE_MAX : max + 1;
        }

        *ret_min = min;
        *ret_max = max;
}

static const CommandOption* option_find(const CommandTable *t, const char *name, size_t size, char letter) {
        for (size_t i = 0; i < t->n_options; i++)
                if (name ? strlen(t->options[i].name) == size && strncmp(t->options[i].name, name, size) == 0 :
                           t->options[i].letter != 0 && t->options[i].letter == letter)
                        return t->options + i;

        return NULL;
}

static int option_set(const CommandOption *o, const char *value, void *values, char **reterr) {
        void *p = (uint8_t*) values + o->offset;

        switch (o->kind) {
        case ARGUMENT_FLAG:
                *(bool*) p = true;
                return 0;
        case ARGUMENT_TEXT:
                *(const char**) p = value;
                return 0;
        case ARGUMENT_LIST: {
                TextList *list = p;
                const char **items;

                items = reallocarray(list->items, list->n_items + 1, sizeof(*items));
                if (!items)
                        return -ENOMEM;
                items[list->n_items++] = value;
                list->items = items;
                return 0;
        }
        case ARGUMENT_NUMBER:
        case ARGUMENT_DURATION: {
                OptionalNumber *n = p;

                if (o->kind == ARGUMENT_DURATION && streq(value, "infinity"))
                        n->value = USEC_INFINITY;
                else if ((o->kind == ARGUMENT_NUMBER ? parse_u64(value, &n->value) :
                                                       parse_duration_usec(value, &n->value)) < 0)
                        return refuse_text(reterr, "--%s: '%s' is not a %s", o->name, value,
                                           o->kind == ARGUMENT_NUMBER ? "number" : "duration");
                n->is_set = true;
                return 0;
        }
        }

        return -EINVAL;
}

typedef struct Scan {
        const CommandTable *table;
        int argc;
        char **argv;
        int i;                  /* the next argument */
        void *values;
        CommandLine *line;
        uint64_t given;         /* by index into the table: which options there were */
} Scan;

static int scan_option(Scan *s, const CommandOption *o, const char *shown, const char *value, char **reterr) {
        if (o->kind == ARGUMENT_FLAG && value)
                return refuse_text(reterr, "Option '%s' takes no value", shown);
        if (o->kind != ARGUMENT_FLAG && !value) {
                if (s->i >= s->argc)
                        return refuse_text(reterr, "Option '%s' needs a value", shown);
                value = s->argv[s->i++];
        }

        s->given |= UINT64_C(1) << (o - s->table->options);
        return option_set(o, value, s->values, reterr);
}

static int scan_long(Scan *s, const char *argument, char **reterr) {
        const char *name = argument + 2, *value = strchr(name, '=');
        size_t size = value ? (size_t) (value - name) : strlen(name);
        const CommandOption *o;

        if (streq(name, "help"))
                s->line->help = true;
        else if (streq(name, "version"))
                s->line->version = true;
        else if ((o = option_find(s->table, name, size, 0)))
                return scan_option(s, o, argument, value ? value + 1 : NULL, reterr);
        else
                return refuse_text(reterr, "Unknown option '%s' (words for another program go after '--')", argument);

        return 0;
}

static int scan_short(Scan *s, const char *argument, char **reterr) {
        int r;

        for (const char *p = argument + 1; *p; p++) {
                char shown[] = { '-', *p, 0 };
                const CommandOption *o;

                if (*p == 'h') {
                        s->line->help = true;
                        continue;
                }

                o = option_find(s->table, NULL, 0, *p);
                if (!o)
                        return refuse_text(reterr, "Unknown option '-%c' (words for another program go after '--')", *p);
                if (o->kind != ARGUMENT_FLAG)
                        return scan_option(s, o, shown, p[1] ? p + 1 : NULL, reterr);

                r = scan_option(s, o, shown, NULL, reterr);
                if (r < 0)
                        return r;
        }

        return 0;
}

static bool name_equals(const Command *c, const char *group, const char *verb) {
        size_t n = strlen(group);

        if (!verb)
                return streq(c->name, group) || streq_ptr(c->alias, group);
        return strncmp(c->name, group, n) == 0 && c->name[n] == ' ' && strcmp(c->name + n + 1, verb) == 0;
}

/* True where a command that hands its arguments on has all that it takes itself. */
static bool rest_is_verbatim(const CommandTable *t, char *const *words, size_t n_words) {
        size_t min, max;

        for (size_t i = 0; i < t->n_commands; i++)
                if (t->commands[i].rest_verbatim && n_words > 0 && name_equals(t->commands + i, words[0], /* verb= */ NULL)) {
                        count_words(t->commands + i, &min, &max);
                        return n_words > min;
                }

        return false;
}

static bool is_group(const CommandTable *t, const char *word) {
        size_t n = strlen(word);

        for (size_t i = 0; i < t->n_commands; i++)
                if (strncmp(t->commands[i].name, word, n) == 0 && t->commands[i].name[n] == ' ')
                        return true;

        return false;
}

/* Takes the command's own words from the front of the line's. */
static int find_command(const CommandTable *t, bool has_target_option, CommandLine *line, char **reterr) {
        const char *group, *verb = NULL;
        size_t used = 1;

        if (line->n_words == 0 && (line->help || line->version))
                return 0;

        group = line->n_words > 0 ? line->words[0] : t->default_command;
        if (line->n_words == 0)
                used = 0;
        else if (is_group(t, group)) {
                if (streq(group, t->target_group) && !has_target_option && line->n_words > 1) {
                        line->target = line->words[1];
                        used++;
                }
                if (line->n_words == used) {
                        if (line->help)
                                return 0;
                        return refuse_text(reterr, "Command '%s' needs another word, see '%s --help'", group, t->program);
                }
                verb = line->words[used++];
        }

        for (size_t i = 0; i < t->n_commands; i++)
                if (name_equals(t->commands + i, group, verb)) {
                        line->command = t->commands + i;
                        line->n_words -= used;
                        memmove(line->words, line->words + used, (line->n_words + 1) * sizeof(char*));
                        return 0;
                }

        return refuse_text(reterr, "Unknown command '%s%s%s'", group, verb ? " " : "", verb ? verb : "");
}

static int check_command(const Scan *s, char **reterr) {
        const Command *c = s->line->command;
        size_t min, max;

        for (size_t i = 0; i < s->table->n_options; i++)
                if ((s->given & (UINT64_C(1) << i)) && !has_word(c->options, s->table->options[i].name))
                        return refuse_text(reterr, "Command '%s' takes no option '--%s'", c->name, s->table->options[i].name);

        count_words(c, &min, &max);
        if (s->line->n_words < min)
                return refuse_text(reterr, "Command '%s' needs more words: %s", c->name, c->arguments);
        if (s->line->n_words > max)
                return refuse_text(reterr, "Command '%s' has no use for '%s'", c->name, s->line->words[max]);

        return 0;
}

int command_line_parse(const CommandTable *t, int argc, char **argv, void *values,
                       CommandLine *ret, char **reterr) {
        Scan s = { .table = t, .argc = argc, .argv = argv, .i = 1, .values = values, .line = ret };
        bool options_end = false;
        int r;

        assert(t->n_options <= 64);

        *ret = (CommandLine) { .table = t, .values = values };
        ret->words = calloc((size_t) argc + 1, sizeof(char*));
        if (!ret->words)
                return -ENOMEM;

        while (s.i < argc) {
                char *argument = argv[s.i++];

                if (!options_end && rest_is_verbatim(t, ret->words, ret->n_words))
                        options_end = true;

                if (options_end || argument[0] != '-' || argument[1] == '\0')
                        ret->words[ret->n_words++] = argument;
                else if (streq(argument, "--"))
                        options_end = true;
                else {
                        r = argument[1] == '-' ? scan_long(&s, argument, reterr) : scan_short(&s, argument, reterr);
                        if (r < 0)
                                return r;
                }
        }

        const CommandOption *target = option_find(t, t->target_option, strlen(t->target_option), 0);
        r = find_command(t, target && (s.given & (UINT64_C(1) << (target - t->options))), ret, reterr);
        if (r < 0 || !ret->command || ret->help || ret->version)
                return r;

        return check_command(&s, reterr);
}

void command_line_done(CommandLine *line) {
        if (line->table)
                for (size_t i = 0; i < line->table->n_options; i++)
                        if (line->table->options[i].kind == ARGUMENT_LIST) {
                                TextList *list = (TextList*) ((uint8_t*) line->values + line->table->options[i].offset);

                                free(list->items);
                                *list = (TextList) {};
                        }

        free(line->words);
        *line = (CommandLine) {};
}

static void print_line(FILE *f, const char *left, const char *help) {
        int width = text_width(left);

        if (width > HELP_COLUMN - 4)
                fprintf(f, "  %s\n%*s%s\n", left, HELP_COLUMN, "", help);
        else
                fprintf(f, "  %s%*s%s\n", left, HELP_COLUMN - 2 - width, "", help);
}

static void print_command(const CommandTable *t, const Command *c, FILE *f) {
        size_t group = strcspn(c->name, " ");
        bool targeted = c->name[group] && strlen(t->target_group) == group && strncmp(c->name, t->target_group, group) == 0;
        char left[256];

        (void) snprintf(left, sizeof(left), "%.*s%s%s%s%s%s", (int) group, c->name,
                        targeted ? " " : "", targeted ? t->target_word : "", c->name + group,
                        *c->arguments ? " " : "", c->arguments);
        print_line(f, left, c->help);
}

static void print_option(const CommandOption *o, FILE *f) {
        char left[128], letter[] = { '-', o->letter, ' ', 0 };

        (void) snprintf(left, sizeof(left), "%s--%s%s%s", o->letter ? letter : "   ", o->name,
                        o->metavar ? "=" : "", o->metavar ? o->metavar : "");
        print_line(f, left, o->help);
}

void command_table_print_help(const CommandTable *t, const Command *command, FILE *f) {
        if (!command)
                fprintf(f, "%s [OPTION…] COMMAND …\n%s\n\nCommands:\n", t->program, t->summary);
        else
                fprintf(f, "Usage of %s %s:\n", t->program, command->name);

        for (size_t i = 0; i < t->n_commands; i++)
                if (command ? command == t->commands + i : !t->commands[i].hidden)
                        print_command(t, t->commands + i, f);

        fprintf(f, "\nOptions:\n");
        for (size_t i = 0; i < t->n_options; i++)
                if (!command || has_word(command->options, t->options[i].name))
                        print_option(t->options + i, f);
        print_line(f, "-h --help", "Show this text, or that of one command");
        print_line(f, "   --version", "Show the version");
}
