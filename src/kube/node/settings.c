/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/settings.h"

#include <ctype.h>
#include <sys/utsname.h>

#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/parse.h"
#include "basic/paths.h"
#include "basic/util.h"
#include "kube/kube-object.h"

#define LIMIT_MAX INT32_MAX             /* quantities of extended resources are whole numbers; no node has as many pods */
#define REGISTER_TIMEOUT_MAX_USEC (8 * USEC_PER_SEC)    /* the adaptor gives up after ten seconds */

static const Option options[] = {
        { "kubeconfig", NULL, OPTION_STRING, offsetof(Settings, kubeconfig), NULL,
          "How to reach the API server (default: $KUBECONFIG, the credential 'kubeconfig', what a pod is given)", "PATH" },
        { "node-name", "NODE_NAME", OPTION_STRING, offsetof(Settings, node), NULL,
          "Name of this machine's Node (default: the host name in lower case)", "NAME" },
        { "peerpods-limit-per-node", "PEERPODS_LIMIT_PER_NODE", OPTION_STRING, offsetof(Settings, limit_text), "10",
          "How many pod VMs the node offers to the scheduler; negative: it offers none, and leaves the Node alone", "N" },
        { "register-timeout", "PEERPOD_REGISTER_TIMEOUT", OPTION_DURATION, offsetof(Settings, register_timeout_usec), "5s",
          "How long a pod VM waits for the API server at its start, at most 8 s", "TIME" },
        { "records-max", "PEERPOD_NODE_RECORDS_MAX", OPTION_U32, offsetof(Settings, records_max), "4096",
          "How many sandboxes are remembered, with those that the API server has not been told the end of", "N", .min = 1, .max = 65536 },
        { "state-dir", "STATE_DIRECTORY", OPTION_STRING, offsetof(Settings, state_dir), PEERPOD_NODE_STATE_DIR,
          "Where the records are kept", "PATH" },
        { "check-settings", NULL, OPTION_BOOL, offsetof(Settings, check_settings), "false",
          "Say whether these settings would be taken, and exit", NULL },
        {}
};

static const Program program = {
        .name = "peerpod-node",
        .usage = "[OPTIONS…]",
        .description = "Keeps the Kubernetes objects of this node's pod VMs.",
        .options = options,
        .man = "peerpod-node(8)",
};

static int configuration_error(int *ret_exit) {
        *ret_exit = EXIT_CONFIGURATION;
        return 1;
}

static int check_limit(Settings *s, int *ret_exit) {
        const char *digits = s->limit_text[0] == '-' ? s->limit_text + 1 : s->limit_text;
        uint64_t value;

        if (parse_u64(digits, &value) < 0 || value > LIMIT_MAX) {
                log_error("Value of 'PEERPODS_LIMIT_PER_NODE' is no whole number of at most %i.", LIMIT_MAX);
                return configuration_error(ret_exit);
        }
        s->limit = digits == s->limit_text ? (int32_t) value : -(int32_t) value;
        return 0;
}

static int check_node(Settings *s, int *ret_exit) {
        struct utsname u;

        if (isempty(s->node)) {
                if (uname(&u) < 0)
                        return log_error_errno(errno, "Failed to read the host name: %m");
                for (char *c = u.nodename; *c; c++)
                        *c = (char) tolower((unsigned char) *c);
                free(s->node);
                s->node = strdup(u.nodename);
                if (!s->node)
                        return log_oom();
        }
        if (!kube_name_is_valid(s->node)) {
                log_error("Value of 'NODE_NAME', or else the host name, is no name of a Kubernetes node: '%.64s'.", s->node);
                return configuration_error(ret_exit);
        }

        return 0;
}

int settings_load(int argc, char *argv[], Settings *ret, int *ret_exit) {
        _cleanup_(settings_done) Settings s = SETTINGS_NULL;
        int r;

        r = options_load(&program, argc, argv, &s, /* ret_rest= */ NULL, ret_exit);
        if (r != 0)
                return r;
        r = check_limit(&s, ret_exit);
        if (r != 0)
                return r;
        if (s.register_timeout_usec == 0 || s.register_timeout_usec > REGISTER_TIMEOUT_MAX_USEC) {
                log_error("Value of 'register-timeout' is not between 0 and %s.", FORMAT_USEC(REGISTER_TIMEOUT_MAX_USEC));
                return configuration_error(ret_exit);
        }
        if (isempty(s.state_dir) || s.state_dir[0] != '/') {
                log_error("Value of 'state-dir' is not an absolute path.");
                return configuration_error(ret_exit);
        }
        r = check_node(&s, ret_exit);
        if (r != 0)
                return r;

        *ret = s;
        s = SETTINGS_NULL;
        return 0;
}

void settings_done(Settings *s) {
        options_done(options, s);
        *s = SETTINGS_NULL;
}
