/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands of peerpodctl share: their options, how they speak, where sandboxes are found. */
#pragma once

#include <systemd/sd-bus.h>

#include "basic/json.h"
#include "basic/util.h"
#include "ctl/command.h"

typedef struct Arguments {
        bool all, dry_run, full, interactive, json, no_ask_password, raw, read_only, release, tty, wait;
        const char *bundle_config, *config_dir, *cwd, *exec_id, *file, *gpu_model, *hex, *hostname, *image, *initdata, *kata_config, *machine_type,
                *netns, *pod_name, *pod_namespace, *rootfs, *sandbox, *socket, *user;
        TextList annotations, dns, env, mounts;
        OptionalNumber cpus, gpus, length, memory, span, timeout;
} Arguments;

extern const CommandTable command_table;

static inline const Arguments* arguments(const CommandLine *line) {
        return line->values;
}

/* --timeout=, else the command's own; USEC_INFINITY: none. */
uint64_t command_timeout(const CommandLine *line);

/* Every run function returns an exit status, or -errno for which main() finds the words (in practice -ENOMEM). */

/* complain() - one message on stderr, fit for a terminal. Returns EXIT_FAILURE. */
int complain(const char *format, ...) PRINTF(1, 2);

/* complain_usage() - the same for what a user wrote wrongly. Returns EXIT_USAGE. */
int complain_usage(const char *format, ...) PRINTF(1, 2);

/* printf_for_terminal() - on stdout, made harmless as a whole */
void printf_for_terminal(const char *format, ...) PRINTF(1, 2);

/* print_json() - on stdout. Returns 0 or EXIT_FAILURE. */
int print_json(json_object *o);

/* print_field() - "     Name: value" on stdout, aligned; nothing for an empty value */
void print_field(const char *name, const char *value);

/* flush_stdout() - the last thing a command does: a full disk is a failure. Returns 0 or EXIT_FAILURE. */
int flush_stdout(void);

/* read_input() - a file of the user's, or "-" for standard input. 0, EXIT_FAILURE (told why), -ENOMEM.
 * @ret_size: NULL: a text, without NUL bytes */
int read_input(const char *path, size_t max_size, char **ret, size_t *ret_size);

#define INPUT_TEXT_MAX (4U << 20)       /* what is sent in one ttrpc frame cannot be longer */

/* connect_bus() - to the system bus. Returns 0 or EXIT_FAILURE (told why). */
int connect_bus(sd_bus **ret);

/* call_manager() - a method of the adaptor's manager object, with the command's time limit; a question of polkit's may go to the user
 * unless --no-ask-password was given. Returns 0, EXIT_FAILURE (told why). */
int call_manager(const CommandLine *line, sd_bus *bus, const char *method, sd_bus_message **ret, const char *types, ...);

/* A table for people. */
typedef struct Table Table;

int table_new(const char *const *headers, size_t n_columns, Table **ret);
Table* table_free(Table *t);
DEFINE_CLEANUP(Table*, table_free);
int table_add(Table *t, const char *const *cells);      /* as many as there are columns; copied. 0 or -ENOMEM */
void table_print(const Table *t);

/* age_of() - "34s", "5m", "3h", "12d" since @realtime_usec, as kubectl has it; "-" for 0. @buffer has 24 bytes. */
const char* age_of(uint64_t realtime_usec, uint64_t now, char *buffer);

/* Commands, one for each line of the table in peerpodctl.c. */
int command_list(const CommandLine *line);
int command_status(const CommandLine *line);
int command_stop(const CommandLine *line);
int command_why(const CommandLine *line);
int command_check(const CommandLine *line);
int command_hold(const CommandLine *line);
int command_reap(const CommandLine *line);
int command_monitor(const CommandLine *line);
int command_complete(const CommandLine *line);
int command_logs(const CommandLine *line);
int command_info(const CommandLine *line);
int command_hypervisor_version(const CommandLine *line);
int command_hypervisor_create_vm(const CommandLine *line);
int command_hypervisor_start_vm(const CommandLine *line);
int command_hypervisor_stop_vm(const CommandLine *line);
int command_agent_check(const CommandLine *line);
int command_agent_version(const CommandLine *line);
int command_agent_guest_details(const CommandLine *line);
int command_agent_metrics(const CommandLine *line);
int command_agent_create_sandbox(const CommandLine *line);
int command_agent_create_container(const CommandLine *line);
int command_agent_container(const CommandLine *line);        /* of several: the message has but a container id */
int command_agent_stats(const CommandLine *line);
int command_agent_remove_container(const CommandLine *line);
int command_agent_exec(const CommandLine *line);
int command_agent_wait(const CommandLine *line);
int command_agent_signal(const CommandLine *line);
int command_agent_read(const CommandLine *line);             /* read-stdout, read-stderr */
int command_agent_write_stdin(const CommandLine *line);
int command_agent_close_stdin(const CommandLine *line);
int command_agent_resize_tty(const CommandLine *line);
int command_agent_copy_file(const CommandLine *line);
int command_agent_oom(const CommandLine *line);
int command_agent_set_policy(const CommandLine *line);
int command_agent_destroy_sandbox(const CommandLine *line);
int command_agent_call(const CommandLine *line);
