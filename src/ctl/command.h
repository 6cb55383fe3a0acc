/* SPDX-License-Identifier: Apache-2.0 */
/* The command line by one table: parsing, usage texts and the man page's check all read it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * The grammar is the same for every command. Words and options may come in any order; "--" ends the options; a value
 * follows its option as "--name VALUE", "--name=VALUE", "-n VALUE" or "-nVALUE".
 *
 * A command's name has one word or two. The first of two is its group, and a group may have a target ("agent SANDBOX
 * check"): the word between the two, which one option (--socket) replaces.
 */

typedef struct Command Command;
typedef struct CommandLine CommandLine;

typedef enum ArgumentKind {
        ARGUMENT_FLAG,          /* bool */
        ARGUMENT_TEXT,          /* const char*, borrowed from argv */
        ARGUMENT_LIST,          /* TextList; given any number of times */
        ARGUMENT_NUMBER,        /* OptionalNumber; decimal */
        ARGUMENT_DURATION,      /* OptionalNumber; usec, written as "90", "1.5s", "2m30s", "infinity" */
} ArgumentKind;

typedef struct TextList {
        const char **items;     /* the array is owned, the texts are borrowed from argv */
        size_t n_items;
} TextList;

typedef struct OptionalNumber {
        uint64_t value;
        bool is_set;
} OptionalNumber;

typedef struct CommandOption {
        const char *name;       /* without dashes */
        char letter;            /* 0: none */
        ArgumentKind kind;
        const char *metavar;    /* NULL for flags */
        const char *help;
        size_t offset;          /* of the value in the program's arguments */
} CommandOption;

struct Command {
        const char *name;
        const char *arguments;  /* the usage line's words, which are also the rule: "WORD [WORD]", last one maybe "WORD…" */
        const char *options;    /* names of those it takes, between blanks; --help goes with every command */
        const char *help;
        const char *alias;      /* an older name of one word, which is not shown; NULL */
        bool hidden;            /* for programs: no word of it in any help */
        bool rest_verbatim;     /* whatever follows the required words belongs to another program, options included */
        uint64_t timeout_usec;  /* what --timeout= replaces; UINT64_MAX: none */
        int (*run)(const CommandLine *line);
};

typedef struct CommandTable {
        const char *program;
        const char *summary;
        const CommandOption *options;
        size_t n_options;
        const Command *commands;
        size_t n_commands;
        const char *default_command;
        const char *target_group, *target_word, *target_option;
} CommandTable;

struct CommandLine {
        const CommandTable *table;
        const Command *command; /* NULL: only --help or --version was asked for */
        bool help, version;
        const char *target;     /* NULL: its option was given */
        char **words;           /* arguments of the command, NULL at the end; the array is owned */
        size_t n_words;
        void *values;           /* borrowed: the struct that CommandOption.offset points into */
};

/**
 * command_line_parse() - find the command and its arguments
 * @values: the program's arguments, zeroed or filled with defaults; borrowed as long as @ret is used
 * @ret:    command_line_done() it, also after an error
 * @reterr: one sentence for the user on -EINVAL; the caller frees it
 *
 * Returns 0, -EINVAL or -ENOMEM.
 */
int command_line_parse(const CommandTable *table, int argc, char **argv, void *values,
                       CommandLine *ret, char **reterr);
void command_line_done(CommandLine *line);

/* Usage of the program, or of one command where @command is not NULL. */
void command_table_print_help(const CommandTable *table, const Command *command, FILE *f);
