/* SPDX-License-Identifier: Apache-2.0 */
/* peerpodctl's command line, texts and messages, without any peer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <signal.h>

#include "basic/json.h"
#include "basic/text.h"
#include "basic/util.h"
#include "ctl/agent.h"
#include "ctl/container-request.h"
#include "ctl/ctl.h"
#include "ctl/podvms.h"
#include "proto-json/proto-json.h"
#include "proto/agent.pb-c.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/proto.h"

#define ARGV(...) { "peerpodctl", ##__VA_ARGS__, NULL }

typedef struct LineCase {
        const char *name;
        const char *argv[12];
        const char *command;            /* NULL: none found, or refused */
        const char *target;
        const char *words;              /* joined by '|' */
        const char *error;
} LineCase;

static const LineCase line_cases[] = {
        { "no word at all is list", ARGV(), "list", NULL, "", NULL },
        { "an option before the command", ARGV("--json", "list"), "list", NULL, "", NULL },
        { "an option after the command", ARGV("list", "--json"), "list", NULL, "", NULL },
        { "a word that is needed", ARGV("status", "web"), "status", NULL, "web", NULL },
        { "a word too few", ARGV("status"), NULL, NULL, NULL, "Command 'status' needs more words: SANDBOX" },
        { "a word too many", ARGV("status", "a", "b"), NULL, NULL, NULL, "Command 'status' has no use for 'b'" },
        { "an unknown command", ARGV("frob"), NULL, NULL, NULL, "Unknown command 'frob'" },
        { "a command that begins like another", ARGV("lis"), NULL, NULL, NULL, "Unknown command 'lis'" },
        { "a group without its second word", ARGV("hypervisor"), NULL, NULL, NULL,
          "Command 'hypervisor' needs another word, see 'peerpodctl --help'" },
        { "a group with an unknown second word", ARGV("hypervisor", "frob"), NULL, NULL, NULL,
          "Unknown command 'hypervisor frob'" },
        { "a group's second word alone", ARGV("create-vm", "x"), NULL, NULL, NULL, "Unknown command 'create-vm'" },
        { "a command of two words", ARGV("hypervisor", "start-vm", "x"), "hypervisor start-vm", NULL, "x", NULL },
        { "a target between the two", ARGV("agent", "web", "check"), "agent check", "web", "", NULL },
        { "a target that is named like a command", ARGV("agent", "check", "check"), "agent check", "check", "", NULL },
        { "a socket instead of the target", ARGV("agent", "--socket", "/s", "check"), "agent check", NULL, "", NULL },
        { "a socket given last", ARGV("agent", "check", "--socket=/s"), "agent check", NULL, "", NULL },
        { "socket and target both", ARGV("agent", "web", "check", "-s/s"), NULL, NULL, NULL, "Unknown command 'agent web'" },
        { "a target and no more", ARGV("agent", "web"), NULL, NULL, NULL,
          "Command 'agent' needs another word, see 'peerpodctl --help'" },
        { "words after the dashes keep theirs", ARGV("agent", "web", "exec", "c", "-i", "--", "ls", "-l", "--"),
          "agent exec", "web", "c|ls|-l|--", NULL },
        { "an option between words", ARGV("agent", "web", "exec", "-e", "A=1", "c", "ls"), "agent exec", "web", "c|ls", NULL },
        { "words for another program without the dashes", ARGV("agent", "web", "exec", "c", "ls", "-l", "x"), NULL, NULL, NULL,
          "Command 'agent exec' takes no option '--full'" },
        { "an unknown letter", ARGV("list", "-z"), NULL, NULL, NULL,
          "Unknown option '-z' (words for another program go after '--')" },
        { "an unknown option", ARGV("list", "--jsonx"), NULL, NULL, NULL,
          "Unknown option '--jsonx' (words for another program go after '--')" },
        { "a shortened option is unknown", ARGV("list", "--js"), NULL, NULL, NULL,
          "Unknown option '--js' (words for another program go after '--')" },
        { "an option of another command", ARGV("list", "--netns=/x"), NULL, NULL, NULL, "Command 'list' takes no option '--netns'" },
        { "a flag with a value", ARGV("list", "--json=yes"), NULL, NULL, NULL, "Option '--json=yes' takes no value" },
        { "a value that is missing", ARGV("list", "--timeout"), NULL, NULL, NULL, "Option '--timeout' needs a value" },
        { "a letter's value that is missing", ARGV("agent", "check", "-s"), NULL, NULL, NULL, "Option '-s' needs a value" },
        { "a duration that is none", ARGV("list", "--timeout=soon"), NULL, NULL, NULL, "--timeout: 'soon' is not a duration" },
        { "a number that is none", ARGV("hypervisor", "create-vm", "x", "--cpus=-1"), NULL, NULL, NULL,
          "--cpus: '-1' is not a number" },
        { "letters in one word", ARGV("agent", "web", "exec", "-it", "c", "sh"), "agent exec", "web", "c|sh", NULL },
        { "a single dash is a word", ARGV("agent", "web", "set-policy", "-"), "agent set-policy", "web", "-", NULL },
        { "an empty word is a word", ARGV("status", ""), "status", NULL, "", NULL },
        { "journalctl's options go through", ARGV("log", "web", "-f", "--json=short", "--"), "logs", NULL,
          "web|-f|--json=short|--", NULL },
        { "but not before the sandbox", ARGV("log", "-f", "web"), NULL, NULL, NULL,
          "Unknown option '-f' (words for another program go after '--')" },
        { "help for one command", ARGV("status", "--help"), "status", NULL, "", NULL },
        { "help for a group", ARGV("agent", "--help"), NULL, NULL, "agent", NULL },
};

typedef struct Line {
        Arguments arg;
        CommandLine line;
        char *error;
} Line;


static void join(char *const *words, size_t n, char *ret, size_t size) {
        size_t used = 0;

        ret[0] = '\0';
        for (size_t i = 0; i < n; i++)
                used += (size_t) snprintf(ret + used, size - used, "%s%s", i ? "|" : "", words[i]);
}

static int count(const char *const *argv) {
        int n = 0;

        while (argv[n])
                n++;
        return n;
}

static void line_is_understood(void **state) {
        const LineCase *c = *state;
        char words[256];
        Line l = {};
        int r;

        r = command_line_parse(&command_table, count(c->argv), (char**) c->argv, &l.arg, &l.line, &l.error);
        if (c->error) {
                assert_int_equal(r, -EINVAL);
                assert_string_equal(l.error, c->error);
        } else {
                assert_int_equal(r, 0);
                assert_null(l.error);
                if (c->command)
                        assert_string_equal(l.line.command->name, c->command);
                else
                        assert_null(l.line.command);
                if (c->target)
                        assert_string_equal(l.line.target, c->target);
                else
                        assert_null(l.line.target);
                join(l.line.words, l.line.n_words, words, sizeof(words));
                assert_string_equal(words, c->words);
        }

        free(l.error);
        command_line_done(&l.line);
}

static void options_reach_their_fields(void **state) {
        const char *argv[] = ARGV("hypervisor", "create-vm", "x", "--netns=/n", "--pod-name", "p", "--annotation", "a=1", "-ab=2",
                                  "--cpus=2", "--timeout=1m30s");
        Arguments arg = {};
        CommandLine line;
        char *error = NULL;

        assert_int_equal(command_line_parse(&command_table, (int) ELEMENTSOF(argv) - 1, (char**) argv, &arg, &line, &error), 0);
        assert_string_equal(arg.netns, "/n");
        assert_string_equal(arg.pod_name, "p");
        assert_null(arg.pod_namespace);
        assert_int_equal(arg.annotations.n_items, 2);
        assert_string_equal(arg.annotations.items[0], "a=1");
        assert_string_equal(arg.annotations.items[1], "b=2");
        assert_true(arg.cpus.is_set);
        assert_int_equal(arg.cpus.value, 2);
        assert_false(arg.memory.is_set);
        assert_int_equal(command_timeout(&line), 90 * USEC_PER_SEC);
        command_line_done(&line);
        assert_null(arg.annotations.items);
}

static void without_timeout_the_command_s_own_counts(void **state) {
        static const struct { const char *command; uint64_t usec; } cases[] = {
                { "start-vm", 600 * USEC_PER_SEC },     /* kata-containers: configuration-remote.toml.in */
                { "stop-vm", USEC_INFINITY },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const char *argv[] = ARGV("hypervisor", cases[i].command, "x");
                Arguments arg = {};
                CommandLine line;
                char *error = NULL;

                assert_int_equal(command_line_parse(&command_table, 4, (char**) argv, &arg, &line, &error), 0);
                assert_int_equal(command_timeout(&line), cases[i].usec);
                command_line_done(&line);
        }
}

/* The table is text for the most part: a wrong word in it would be found by a user only. */
static void table_is_sound(void **state) {
        const CommandTable *t = &command_table;

        assert_true(t->n_options <= 64);
        for (size_t i = 0; i < t->n_options; i++)
                for (size_t j = 0; j < i; j++) {
                        assert_string_not_equal(t->options[i].name, t->options[j].name);
                        assert_true(!t->options[i].letter || t->options[i].letter != t->options[j].letter);
                }

        for (size_t i = 0; i < t->n_commands; i++) {
                const Command *c = t->commands + i;
                char *copy = strdup(c->options), *rest = copy;

                assert_non_null(c->run);
                assert_true(c->timeout_usec > 0);
                for (const char *word; (word = strsep(&rest, " "));) {
                        bool found = *word == '\0';

                        for (size_t j = 0; j < t->n_options; j++)
                                found = found || streq(t->options[j].name, word);
                        if (!found)
                                fail_msg("command '%s' takes option '%s', which is not in the table", c->name, word);
                }
                free(copy);
                for (size_t j = 0; j < i; j++)
                        assert_string_not_equal(c->name, t->commands[j].name);
        }
}

static void help_names_every_command(void **state) {
        char *text = NULL;
        size_t size;
        FILE *f = open_memstream(&text, &size);

        command_table_print_help(&command_table, NULL, f);
        fclose(f);
        for (size_t i = 0; i < command_table.n_commands; i++)
                assert_int_equal(!strstr(text, command_table.commands[i].help), command_table.commands[i].hidden);
        for (size_t i = 0; i < command_table.n_options; i++)
                assert_non_null(strstr(text, command_table.options[i].name));
        assert_non_null(strstr(text, "agent SANDBOX exec CID -- ARGV…"));
        free(text);
}

typedef struct TextCase {
        const char *name, *in, *utf8, *terminal;
} TextCase;

static const TextCase text_cases[] = {
        { "plain text stays", "web-1", "web-1", "web-1" },
        { "letters beyond ASCII stay", "caf\xc3\xa9", "caf\xc3\xa9", "caf\xc3\xa9" },
        { "lines and tabs stay", "a\n\tb", "a\n\tb", "a\n\tb" },
        { "an escape sequence is shown", "\x1b[2J", "\x1b[2J", "\\x1b[2J" },
        { "a carriage return is shown", "a\rb", "a\rb", "a\\x0db" },
        { "the C1 form of CSI is shown", "\xc2\x9b" "2J", "\xc2\x9b" "2J", "\\xc2\\x9b2J" },
        { "no-break space is no control", "\xc2\xa0", "\xc2\xa0", "\xc2\xa0" },
        { "a lone continuation byte", "a\x80", "a\xef\xbf\xbd", "a\\x80" },
        { "a cut character", "\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd", "\\xe2\\x82" },
        { "overlong slash", "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd", "\\xc0\\xaf" },
        { "a surrogate", "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "\\xed\\xa0\\x80" },
        { "beyond U+10FFFF", "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "\\xf4\\x90\\x80\\x80" },
        { "delete", "\x7f", "\x7f", "\\x7f" },
};

static void text_is_made_safe(void **state) {
        const TextCase *c = *state;
        char *utf8 = text_make_utf8(c->in), *terminal = text_for_terminal(c->in);

        assert_string_equal(utf8, c->utf8);
        assert_string_equal(terminal, c->terminal);
        free(utf8);
        free(terminal);
}

static void base64_is_rfc4648(void **state) {
        /* RFC 4648, section 10 */
        static const struct { const char *plain, *text; } cases[] = {
                { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" }, { "foob", "Zm9vYg==" },
                { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" },
        };
        static const char *const bad[] = { "Z", "Zg", "Zg=", "Z===", "====", "Zh==", "Zm9=", "Zg==Zg==", "Zm 9v", "Zm9v\n", "Zm9-" };
        uint8_t *data;
        size_t size;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                assert_int_equal(base64_decode_strict(cases[i].text, &data, &size), 0);
                assert_int_equal(size, strlen(cases[i].plain));
                assert_memory_equal(data, cases[i].plain, size);
                free(data);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(base64_decode_strict(bad[i], &data, &size), -EINVAL);
}

static void hex_is_pairs_of_digits(void **state) {
        static const char *const bad[] = { "0", "0g", "a b", "0x00", "00:" };
        uint8_t *data;
        size_t size;

        assert_int_equal(hex_decode("0aFf 00", &data, &size), 0);
        assert_int_equal(size, 3);
        assert_memory_equal(data, "\x0a\xff\x00", 3);
        free(data);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(hex_decode(bad[i], &data, &size), -EINVAL);
}

static void age_is_kubectl_s(void **state) {
        static const struct { uint64_t seconds; const char *text; } cases[] = {
                { 0, "0s" }, { 119, "119s" }, { 120, "2m" }, { 7199, "119m" }, { 7200, "2h" }, { 172799, "47h" }, { 172800, "2d" },
        };
        const uint64_t now = UINT64_C(1800000000) * USEC_PER_SEC;
        char buffer[24];

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                assert_string_equal(age_of(now - cases[i].seconds * USEC_PER_SEC, now, buffer), cases[i].text);
        assert_string_equal(age_of(0, now, buffer), "-");
        assert_string_equal(age_of(now + USEC_PER_SEC, now, buffer), "0s");     /* a clock that was set back */
}

static void signals_have_names_and_numbers(void **state) {
        assert_int_equal(signal_from_text("TERM"), SIGTERM);
        assert_int_equal(signal_from_text("SIGKILL"), SIGKILL);
        assert_int_equal(signal_from_text("15"), 15);
        assert_int_equal(signal_from_text("0"), -EINVAL);
        assert_int_equal(signal_from_text("65"), -EINVAL);
        assert_int_equal(signal_from_text("-1"), -EINVAL);
        assert_int_equal(signal_from_text("FROB"), -EINVAL);
        assert_int_equal(signal_from_text(""), -EINVAL);
}

typedef struct ProtoCase {
        const char *name;
        const ProtobufCMessageDescriptor *type;
        bool lenient;
        const char *in;
        const char *out;                /* NULL: as in */
        const char *error;
} ProtoCase;

static const ProtoCase proto_cases[] = {
        { "all fields of one message", &grpc__copy_file_request__descriptor, false,
          "{\"path\":\"/x\",\"file_size\":9007199254740993,\"file_mode\":33188,\"dir_mode\":488,\"uid\":-1,\"gid\":0,\"offset\":-5,\"data\":\"AP8=\"}",
          NULL, NULL },
        { "64 bits as text", &grpc__set_guest_date_time_request__descriptor, false,
          "{\"Sec\":\"9223372036854775807\",\"Usec\":\"-9223372036854775808\"}",
          "{\"Sec\":9223372036854775807,\"Usec\":-9223372036854775808}", NULL },
        { "what is missing has its default", &grpc__wait_process_request__descriptor, false,
          "{}", "{\"container_id\":\"\",\"exec_id\":\"\"}", NULL },
        { "null is not set", &grpc__wait_process_request__descriptor, false,
          "{\"exec_id\":null}", "{\"container_id\":\"\",\"exec_id\":\"\"}", NULL },
        { "a map is an object", &hypervisor__create_vmrequest__descriptor, false,
          "{\"id\":\"x\",\"annotations\":{\"a\":\"1\",\"b\":\"\"},\"networkNamespacePath\":\"/n\"}", NULL, NULL },
        { "an enum has names", &grpc__health_check_response__descriptor, false, "{\"status\":\"SERVING\"}", NULL, NULL },
        { "an enum has numbers", &grpc__health_check_response__descriptor, false, "{\"status\":2}", "{\"status\":\"NOT_SERVING\"}", NULL },
        { "a number that the enum lacks", &grpc__health_check_response__descriptor, false, "{\"status\":7}", NULL, NULL },
        { "optional fields only when set", &grpc__mem_agent_memcg_config__descriptor, false,
          "{\"disabled\":false,\"period_secs\":5}", NULL, NULL },
        { "a choice keeps a zero", &grpc__linux_syscall__descriptor, false,
          "{\"Names\":[\"mount\"],\"Action\":\"a\",\"errnoret\":0,\"Args\":[]}", NULL, NULL },
        { "a list in a message in a list", &grpc__create_sandbox_request__descriptor, false,
          "{\"hostname\":\"\",\"dns\":[\"a\",\"b\"],\"storages\":[{\"driver\":\"d\",\"driver_options\":[\"o\"],\"source\":\"\",\"fstype\":\"\","
          "\"options\":[],\"mount_point\":\"\",\"shared\":true}],\"sandbox_pidns\":false,\"sandbox_id\":\"\",\"guest_hook_path\":\"\","
          "\"kernel_modules\":[]}", NULL, NULL },
        { "OCI's names", &grpc__process__descriptor, true,
          "{\"terminal\":true,\"user\":{\"uid\":1,\"gid\":2,\"additionalGids\":[3],\"umask\":18},\"args\":[\"sh\"],\"env\":[\"A=1\"],"
          "\"cwd\":\"/\",\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"hard\":18446744073709551615,\"soft\":1}],\"noNewPrivileges\":true,"
          "\"oomScoreAdj\":-998,\"ioPriority\":{\"class\":\"x\"}}",
          "{\"Terminal\":true,\"User\":{\"UID\":1,\"GID\":2,\"AdditionalGids\":[3],\"Username\":\"\"},\"Args\":[\"sh\"],\"Env\":[\"A=1\"],"
          "\"Cwd\":\"/\",\"Rlimits\":[{\"Type\":\"RLIMIT_NOFILE\",\"Hard\":18446744073709551615,\"Soft\":1}],\"NoNewPrivileges\":true,"
          "\"ApparmorProfile\":\"\",\"OOMScoreAdj\":-998,\"SelinuxLabel\":\"\"}", NULL },
        { "OCI's version", &grpc__spec__descriptor, true, "{\"ociVersion\":\"1.1.0\"}",
          "{\"Version\":\"1.1.0\",\"Hostname\":\"\",\"Mounts\":[],\"Annotations\":{}}", NULL },
        { "a name that is no field", &grpc__wait_process_request__descriptor, false, "{\"cid\":\"x\"}", NULL,
          "cid: WaitProcessRequest has no such field" },
        { "names in another case are unknown", &grpc__wait_process_request__descriptor, false, "{\"Exec_ID\":\"x\"}", NULL,
          "Exec_ID: WaitProcessRequest has no such field" },
        { "a number for a text", &grpc__wait_process_request__descriptor, false, "{\"exec_id\":5}", NULL, "exec_id: not a string" },
        { "a NUL in a text", &grpc__wait_process_request__descriptor, false, "{\"exec_id\":\"a\\u0000b\"}", NULL,
          "exec_id: text with a NUL byte" },
        { "a fraction for a number", &grpc__signal_process_request__descriptor, false, "{\"signal\":1.5}", NULL, "signal: not a number" },
        { "33 bits for 32", &grpc__signal_process_request__descriptor, false, "{\"signal\":4294967296}", NULL,
          "signal: number out of range" },
        { "a negative for an unsigned one", &grpc__signal_process_request__descriptor, false, "{\"signal\":-1}", NULL,
          "signal: number out of range" },
        { "65 bits for 64", &grpc__set_guest_date_time_request__descriptor, false, "{\"Sec\":9223372036854775808}", NULL,
          "Sec: number out of range" },
        { "65 bits as text", &grpc__resize_volume_request__descriptor, false, "{\"size\":\"18446744073709551616\"}", NULL,
          "size: number out of range" },
        { "hexadecimal text", &grpc__resize_volume_request__descriptor, false, "{\"size\":\"0x10\"}", NULL, "size: not a number" },
        { "a dash for a number", &grpc__set_guest_date_time_request__descriptor, false, "{\"Sec\":\"-\"}", NULL, "Sec: not a number" },
        { "the place of a wrong element", &grpc__exec_process_request__descriptor, false,
          "{\"process\":{\"Args\":[\"a\",true]}}", NULL, "process.Args[1]: not a string" },
        { "the place in a list of messages", &grpc__create_sandbox_request__descriptor, false,
          "{\"storages\":[{},{\"options\":[1]}]}", NULL, "storages[1].options[0]: not a string" },
        { "an object for a list", &grpc__create_sandbox_request__descriptor, false, "{\"dns\":{}}", NULL, "dns: not a list" },
        { "a list for a map", &hypervisor__create_vmrequest__descriptor, false, "{\"annotations\":[]}", NULL,
          "annotations: not an object" },
        { "a null in a list", &grpc__create_sandbox_request__descriptor, false, "{\"dns\":[null]}", NULL, "dns[0]: not a string" },
        { "a null in a map", &hypervisor__create_vmrequest__descriptor, false, "{\"annotations\":{\"k\":null}}", NULL,
          "annotations.k: not a string" },
        { "the same field twice in two cases", &grpc__process__descriptor, true, "{\"args\":[\"a\"],\"Args\":[\"b\"]}", NULL,
          "Args: set twice, or beside another of the same choice" },
        { "text that is no base64", &grpc__copy_file_request__descriptor, false, "{\"data\":\"?\"}", NULL,
          "data: not a base64 string" },
        { "an enum's name that is none", &grpc__health_check_response__descriptor, false, "{\"status\":\"UP\"}", NULL,
          "status: no such value: 'UP'" },
};

static void message_and_json_agree(void **state) {
        const ProtoCase *c = *state;
        _cleanup_(json_object_putp) json_object *in = NULL, *out = NULL;
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL, *copy = NULL;
        _cleanup_(freep) uint8_t *wire = NULL;
        _cleanup_(freep) char *error = NULL;
        size_t size;

        in = json_tokener_parse(c->in);
        assert_non_null(in);

        if (c->error) {
                assert_int_equal(proto_from_json(c->type, in, c->lenient ? PROTO_JSON_OCI : PROTO_JSON_PLAIN, &m, &error), -EINVAL);
                assert_string_equal(error, c->error);
                return;
        }

        assert_int_equal(proto_from_json(c->type, in, c->lenient ? PROTO_JSON_OCI : PROTO_JSON_PLAIN, &m, &error), 0);

        /* Through the wire form, so that what the library makes of our struct is what we see. */
        size = protobuf_c_message_get_packed_size(m);
        wire = malloc(size + 1);
        assert_int_equal(protobuf_c_message_pack(m, wire), size);
        assert_int_equal(proto_unpack(c->type, wire, size, &copy), 0);
        assert_int_equal(proto_to_json(copy, PROTO_JSON_PLAIN, &out), 0);
        assert_string_equal(json_object_to_json_string_ext(out, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE),
                            c->out ?: c->in);
}

static void text_of_a_peer_is_valid_json(void **state) {
        Grpc__OOMEvent event = GRPC__OOMEVENT__INIT;
        _cleanup_(json_object_putp) json_object *o = NULL;

        event.container_id = (char*) "a\xff\"\n";
        assert_int_equal(proto_to_json(&event.base, PROTO_JSON_PLAIN, &o), 0);
        assert_string_equal(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), "{\"container_id\":\"a\xef\xbf\xbd\\\"\\n\"}");
}

static Grpc__CreateContainerRequest* request_of(const char *config, const Arguments *arg, const char *const *argv,
                                                int expected, char **error) {
        ProtobufCMessage *m = NULL;

        assert_int_equal(container_request_new("web", "sandbox1", config, arg, (char *const*) argv, &m, error), expected);
        return (Grpc__CreateContainerRequest*) m;
}

static const char* annotation_of(const Grpc__Spec *spec, const char *key) {
        for (size_t i = 0; i < spec->n_annotations; i++)
                if (streq(spec->annotations[i]->key, key))
                        return spec->annotations[i]->value;
        return NULL;
}

static void container_of_options(void **state) {
        const char *env[] = { "A=1", "PATH=/x" }, *mounts[] = { "bind:/src:/dst:ro,rbind" }, *annotations[] = { "k=v=w" };
        const Arguments arg = {
                .rootfs = "/srv/root", .cwd = "/tmp", .user = "1000:100", .tty = true, .read_only = true, .hostname = "h",
                .env = { env, 2 }, .mounts = { mounts, 1 }, .annotations = { annotations, 1 },
        };
        const char *argv[] = { "/bin/sh", "-c", "true", NULL };
        Grpc__CreateContainerRequest *m = request_of(NULL, &arg, argv, 0, NULL);
        Grpc__Spec *s = m->oci;
        Grpc__Mount *mount = s->mounts[s->n_mounts - 1];

        assert_string_equal(m->container_id, "web");
        assert_string_equal(m->exec_id, "web");
        assert_int_equal(m->n_storages, 0);
        assert_int_equal(s->process->n_args, 3);
        assert_string_equal(s->process->args[2], "true");
        assert_int_equal(s->process->n_env, 2);
        assert_string_equal(s->process->env[1], "PATH=/x");
        assert_string_equal(s->process->cwd, "/tmp");
        assert_true(s->process->terminal);
        assert_true(s->process->nonewprivileges);
        assert_int_equal(s->process->user->uid, 1000);
        assert_int_equal(s->process->user->gid, 100);
        assert_int_equal(s->process->capabilities->n_bounding, 14);
        assert_string_equal(s->root->path, "/srv/root");
        assert_true(s->root->readonly);
        assert_string_equal(s->hostname, "h");
        assert_string_equal(mount->type, "bind");
        assert_string_equal(mount->source, "/src");
        assert_string_equal(mount->destination, "/dst");
        assert_int_equal(mount->n_options, 2);
        assert_string_equal(s->linux->cgroupspath, "/peerpod/web");
        assert_int_equal(s->linux->n_namespaces, 3);
        assert_string_equal(annotation_of(s, "k"), "v=w");
        assert_string_equal(annotation_of(s, "io.kubernetes.cri.container-type"), "container");
        assert_string_equal(annotation_of(s, "io.kubernetes.cri.sandbox-id"), "sandbox1");
        proto_free(&m->base);
}

static void container_of_an_image_is_pulled_in_the_vm(void **state) {
        const Arguments arg = { .image = "docker.io/library/busybox:1" };
        const char *argv[] = { "sh", NULL };
        Grpc__CreateContainerRequest *m = request_of(NULL, &arg, argv, 0, NULL);

        assert_int_equal(m->n_storages, 1);
        assert_string_equal(m->storages[0]->driver, "image_guest_pull");
        assert_string_equal(m->storages[0]->source, "docker.io/library/busybox:1");
        assert_string_equal(m->storages[0]->fstype, "overlay");
        assert_string_equal(m->storages[0]->mount_point, "/run/kata-containers/web/rootfs");
        assert_int_equal(m->storages[0]->n_driver_options, 1);
        assert_non_null(startswith(m->storages[0]->driver_options[0], "image_guest_pull={\"metadata\":{"));
        assert_non_null(strstr(m->storages[0]->driver_options[0], "\"io.kubernetes.cri.container-type\":\"container\""));
        assert_string_equal(m->oci->root->path, "/run/kata-containers/web/rootfs");
        assert_string_equal(annotation_of(m->oci, "io.kubernetes.cri.image-name"), "docker.io/library/busybox:1");
        proto_free(&m->base);
}

static void container_without_a_root_has_the_bundle_s(void **state) {
        const Arguments arg = {};
        const char *argv[] = { "sh", NULL };
        Grpc__CreateContainerRequest *m = request_of(NULL, &arg, argv, 0, NULL);

        assert_string_equal(m->oci->root->path, "/run/kata-containers/web/rootfs");
        assert_int_equal(m->n_storages, 0);
        proto_free(&m->base);
}

static void container_of_a_bundle_is_constrained(void **state) {
        static const char config[] =
                "{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"old\"],\"env\":[\"A=0\",\"AB=2\"],\"cwd\":\"/\"},\"root\":{\"path\":\"rootfs\"},"
                "\"hooks\":{\"prestart\":[{\"path\":\"/x\"}]},\"annotations\":{\"k\":\"1\"},"
                "\"linux\":{\"cgroupsPath\":\"/kubepods/x\",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ERRNO\"},"
                "\"namespaces\":[{\"type\":\"network\",\"path\":\"/run/netns/x\"},{\"type\":\"pid\"},{\"type\":\"ipc\",\"path\":\"/proc/1/ns/ipc\"},"
                "{\"type\":\"mount\"},{\"type\":\"cgroup\"}]}}";
        const char *env[] = { "A=1" }, *argv[] = { NULL };
        const Arguments arg = { .env = { env, 1 } };
        Grpc__CreateContainerRequest *m = request_of(config, &arg, argv, 0, NULL);
        Grpc__Spec *s = m->oci;

        assert_string_equal(s->version, "1.0.2");
        assert_string_equal(s->process->args[0], "old");
        assert_int_equal(s->process->n_env, 2);
        assert_string_equal(s->process->env[0], "AB=2");
        assert_string_equal(s->process->env[1], "A=1");
        assert_string_equal(s->root->path, "rootfs");
        assert_null(s->hooks);
        assert_null(s->linux->seccomp);
        assert_int_equal(s->linux->n_namespaces, 2);
        assert_string_equal(s->linux->namespaces[0]->type, "ipc");
        assert_string_equal(s->linux->namespaces[0]->path, "");
        assert_string_equal(s->linux->cgroupspath, "/kubepods/x");
        assert_string_equal(annotation_of(s, "k"), "1");
        proto_free(&m->base);
}

typedef struct RefusedCase {
        const char *name, *config;
        const char *env, *mount, *annotation, *user;
        bool no_command;
        const char *error;
} RefusedCase;

static const RefusedCase refused_cases[] = {
        { "no command", .no_command = true, .error = "No command: give one after '--' or in the config" },
        { "a variable without a value", .env = "A", .error = "--env: 'A' is not NAME=VALUE" },
        { "a mount of two parts", .mount = "bind:/a", .error = "--mount: 'bind:/a' is not TYPE:SOURCE:DESTINATION[:OPTION,…]" },
        { "a mount on a relative path", .mount = "bind:/a:b", .error = "--mount: 'bind:/a:b' is not TYPE:SOURCE:DESTINATION[:OPTION,…]" },
        { "an annotation without a key", .annotation = "=v", .error = "--annotation: '=v' is not KEY=VALUE" },
        { "a user by name", .user = "root", .error = "--user: 'root' is not UID or UID:GID, in numbers" },
        { "a config that is no JSON", .config = "{", .error = "default: the text ends too early" },
        { "a config whose process is a number", .config = "{\"process\":5}", .error = "process: not an object" },
        { "a config with a wrong type", .config = "{\"process\":{\"cwd\":5,\"args\":[\"x\"]}}", .error = "Process.Cwd: not a string" },
        { "a config with namespaces of numbers", .config = "{\"linux\":{\"namespaces\":[5]},\"process\":{\"args\":[\"x\"]}}",
          .error = "linux.namespaces[0]: not an object" },
};

static void container_is_refused(void **state) {
        const RefusedCase *c = *state;
        Arguments arg = { .user = c->user };
        const char *argv[] = { "sh", NULL };
        _cleanup_(freep) char *error = NULL;

        if (c->env)
                arg.env = (TextList) { (const char**) &c->env, 1 };
        if (c->mount)
                arg.mounts = (TextList) { (const char**) &c->mount, 1 };
        if (c->annotation)
                arg.annotations = (TextList) { (const char**) &c->annotation, 1 };
        if (c->no_command)
                argv[0] = NULL;

        assert_null(request_of(c->config, &arg, argv, -EINVAL, &error));
        assert_string_equal(error, c->error);
}

static void process_of_exec(void **state) {
        const Arguments arg = { .tty = true };
        const char *argv[] = { "ls", "-l", NULL };
        ProtobufCMessage *m;
        char *error = NULL;

        assert_int_equal(process_new(&arg, (char *const*) argv, &m, &error), 0);
        assert_int_equal(((Grpc__Process*) m)->n_args, 2);
        assert_true(((Grpc__Process*) m)->terminal);
        assert_string_equal(((Grpc__Process*) m)->cwd, "/");
        proto_free(m);
}

static void sandbox_is_found_by_the_begin_of_its_id(void **state) {
        _cleanup_(json_object_putp) json_object *list = json_tokener_parse(
                        "[{\"SandboxId\":\"abc1\"},{\"SandboxId\":\"abc12\"},{\"SandboxId\":\"abd\"}]");
        static const struct { const char *id, *found; int r; } cases[] = {
                { "abd", "abd", 0 }, { "abc12", "abc12", 0 }, { "abc1", "abc1", 0 }, { "abc", NULL, -EEXIST },
                { "x", NULL, -ENOENT }, { "abcd", NULL, -ENOENT },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                json_object *found = NULL;
                char *error = NULL;

                assert_int_equal(podvm_find(list, cases[i].id, &found, &error), cases[i].r);
                if (cases[i].found)
                        assert_string_equal(podvm_text(found, "SandboxId"), cases[i].found);
                else
                        assert_non_null(error);
                free(error);
        }
}

int main(void) {
        static const struct CMUnitTest plain[] = {
                cmocka_unit_test(options_reach_their_fields),
                cmocka_unit_test(without_timeout_the_command_s_own_counts),
                cmocka_unit_test(table_is_sound),
                cmocka_unit_test(help_names_every_command),
                cmocka_unit_test(base64_is_rfc4648),
                cmocka_unit_test(hex_is_pairs_of_digits),
                cmocka_unit_test(age_is_kubectl_s),
                cmocka_unit_test(signals_have_names_and_numbers),
                cmocka_unit_test(text_of_a_peer_is_valid_json),
                cmocka_unit_test(container_of_options),
                cmocka_unit_test(container_of_an_image_is_pulled_in_the_vm),
                cmocka_unit_test(container_without_a_root_has_the_bundle_s),
                cmocka_unit_test(container_of_a_bundle_is_constrained),
                cmocka_unit_test(process_of_exec),
                cmocka_unit_test(sandbox_is_found_by_the_begin_of_its_id),
        };
        struct CMUnitTest tests[ELEMENTSOF(plain) + ELEMENTSOF(line_cases) + ELEMENTSOF(text_cases) + ELEMENTSOF(proto_cases) +
                                ELEMENTSOF(refused_cases)];
        size_t n = 0;

#define ADD_CASES(cases, function)                                                                      \
        for (size_t i = 0; i < ELEMENTSOF(cases); i++)                                                  \
                tests[n++] = (struct CMUnitTest) { .name = cases[i].name, .test_func = function,        \
                                                   .initial_state = (void*) &cases[i] }

        for (size_t i = 0; i < ELEMENTSOF(plain); i++)
                tests[n++] = plain[i];
        ADD_CASES(line_cases, line_is_understood);
        ADD_CASES(text_cases, text_is_made_safe);
        ADD_CASES(proto_cases, message_and_json_agree);
        ADD_CASES(refused_cases, container_is_refused);

        return cmocka_run_group_tests_name("ctl", tests, NULL, NULL);
}
