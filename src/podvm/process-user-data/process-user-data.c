/* SPDX-License-Identifier: Apache-2.0 */
/* First service of a pod VM: fetches the user data that its creator left with the platform, and writes its files. */
#include <stdio.h>

#include "basic/daemon.h"
#include "basic/error-text.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/messages.h"
#include "basic/options.h"
#include "basic/paths.h"
#include "basic/util.h"
#include "podvm/process-user-data/provision.h"
#include "podvm/process-user-data/source.h"

#define NAME "process-user-data"
#define SEED_DIR "/media/cidata"                /* cloud-api-adaptor: src/cloud-api-adaptor/pkg/userdata/provision.go */
#define RETRY_MIN_USEC (200 * USEC_PER_MSEC)
#define RETRY_MAX_USEC (5 * USEC_PER_SEC)
#define BAD_DATA_USEC (10 * USEC_PER_SEC)       /* a service that gives bad data for so long has no other */

typedef struct Settings {
        uint32_t fetch_timeout_sec;
        bool wait_for_seed;
        char *seed_dir;
        char *output_dir;
        char *tpm_device, *sys_dir;
} Settings;

static const Option options[] = {
        { .flag = "user-data-fetch-timeout", .type = OPTION_U32, .offset = offsetof(Settings, fetch_timeout_sec), .value = "180",
          .help = "Seconds that all attempts to fetch the user data may take", .metavar = "N", .max = 86400 },
        { .flag = "t", .type = OPTION_U32, .offset = offsetof(Settings, fetch_timeout_sec),
          .help = "The same", .metavar = "N", .max = 86400 },
        { .flag = "wait-for-seed", .type = OPTION_BOOL, .offset = offsetof(Settings, wait_for_seed), .value = "false",
          .help = "Wait that long for user data in the seed directory, if there is none yet" },
        { .flag = "seed-dir", .type = OPTION_STRING, .offset = offsetof(Settings, seed_dir), .value = SEED_DIR,
          .help = "Where the seed disk is mounted", .metavar = "DIR" },
        { .flag = "output-dir", .type = OPTION_STRING, .offset = offsetof(Settings, output_dir), .value = PODVM_DATA_DIR,
          .help = "Where the files go, for tests", .metavar = "DIR" },
        { .flag = "tpm-device", .type = OPTION_STRING, .offset = offsetof(Settings, tpm_device), .value = "/dev/tpmrm0",
          .help = "The TPM whose PCR 8 initdata is measured into", .metavar = "PATH" },
        { .flag = "sys-dir", .type = OPTION_STRING, .offset = offsetof(Settings, sys_dir), .value = "/sys",
          .help = "Where to look for a TPM and for attestation reports, for tests", .metavar = "DIR" },
        {}
};

static const Program program = {
        .name = NAME " provision-files",
        .usage = "[OPTIONS…]",
        .description = "Fetch this pod VM's user data and write the files that its services read.",
        .options = options,
        .man = NAME "(8)",
};

static void settings_done(Settings *s) {
        options_done(options, s);
}

static int print_commands(FILE *f) {
        fprintf(f,
                "Usage: " NAME " COMMAND\n\n"
                "Set up a pod VM from the user data that the platform has for it.\n\n"
                "  provision-files [OPTIONS…]   Fetch the user data and write its files; see --help behind it\n"
                "  -v, --version                Show the version\n"
                "  -h, --help                   Show this help\n\n"
                "See the " NAME "(8) man page.\n");
        return 0;
}

/* The first source that has something to say, within the time there is. */
static const Source* wait_for_source(const Settings *s, const SourceSettings *where) {
        for (;;) {
                const Source *source = source_find(where);

                if (source || !s->wait_for_seed || now_usec(CLOCK_MONOTONIC) >= where->deadline_usec)
                        return source;
                (void) usleep(RETRY_MIN_USEC);
        }
}

/* Once: a PROVISION_… result, or what Source.fetch() or provision() returned, with a sentence. */
static int attempt(const Settings *s, const Source *source, const SourceSettings *where, char **reterr) {
        _cleanup_(freep) char *why = NULL;
        char *text;
        size_t size;
        int r;

        r = source->fetch(where, &text, &size, &why);
        if (r < 0)
                return error_text(reterr, r, "Failed to fetch user data (%s): %s.", source->name, why ?: strerror(-r));

        if (size == 0) {
                free(text);
                return error_text(reterr, source->remote || s->wait_for_seed ? -EAGAIN : -EBADMSG,
                                   "The user data (%s) is empty.", source->name);
        }
        if (size >= 2 && (unsigned char) text[0] == 0x1f && (unsigned char) text[1] == 0x8b) {
                erase_free(text, size);
                return error_text(reterr, -EOPNOTSUPP, "The user data (%s) is compressed, which this source does not allow.", source->name);
        }

        /* Writers of user data end each line (cloud-api-adaptor: src/cloud-providers/util/cloudinit/cloudconfig.go). A disk is what it
         * is, but an upload that broke off may come again. */
        if (s->wait_for_seed && !source->remote && text[size - 1] != '\n') {
                erase_free(text, size);
                return error_text(reterr, -EBADMSG, "The user data (%s) is cut off: its last line has no end.", source->name);
        }

        r = provision(text, size, s->output_dir, &(MeasureSettings) { .tpm_device = s->tpm_device, .sys_dir = s->sys_dir }, &why);
        erase_free(text, size);
        if (r < 0)
                return error_text(reterr, r, "Failed to process user data (%s): %s", source->name, why ?: strerror(-r));
        return r;
}

/* Is another attempt worth it? Bad data may be an incomplete answer, or an upload that was cut off and comes again. */
static bool may_change(const Settings *s, const Source *source, int error, uint64_t *bad_until_usec) {
        if (error == -EAGAIN || error == -EHOSTUNREACH)
                return true;
        if (error != -EBADMSG)
                return false;
        if (!source->remote)
                return s->wait_for_seed;

        if (*bad_until_usec == 0)
                *bad_until_usec = usec_add(now_usec(CLOCK_MONOTONIC), BAD_DATA_USEC);
        return now_usec(CLOCK_MONOTONIC) < *bad_until_usec;
}

/* Attempts until the deadline: often while there is no network, since it will be there all at once, and less and less often when
 * there is somebody who answers. */
static int attempt_until(const Settings *s, const Source *source, const SourceSettings *where, char **reterr) {
        uint64_t pause_usec = RETRY_MIN_USEC, bad_until_usec = 0;

        for (;;) {
                _cleanup_(freep) char *error = NULL;
                bool told;
                int r;

                r = attempt(s, source, where, &error);
                told = streq_ptr(error, *reterr);
                free(*reterr);
                *reterr = TAKE_PTR(error);
                if (r >= 0 || !may_change(s, source, r, &bad_until_usec))
                        return r;

                if (r == -EHOSTUNREACH)
                        pause_usec = RETRY_MIN_USEC;
                if (usec_add(now_usec(CLOCK_MONOTONIC), pause_usec) >= where->deadline_usec)
                        return r;
                if (!told)
                        log_info("%s Trying again.", strempty(*reterr));
                (void) usleep((useconds_t) pause_usec);
                pause_usec = MIN(pause_usec * 2, RETRY_MAX_USEC);
        }
}

/* Bad data stays bad: systemd is told not to start us again. */
static int exit_status(int r) {
        return r == -EBADMSG || r == -E2BIG || r == -EOPNOTSUPP || r == -EEXIST ? EXIT_CONFIGURATION : r;
}

static int provision_files(const Settings *s) {
        SourceSettings where = {
                .seed_dir = s->seed_dir,
                .deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), s->fetch_timeout_sec * USEC_PER_SEC),
        };
        _cleanup_(freep) char *error = NULL;
        const Source *source;
        int r;

        source = wait_for_source(s, &where);
        if (!source) {
                (void) log_full(NULL, LOG_ERR, MSG_USER_DATA_REFUSED, 0,
                                "There is no user data: '%s/user-data' is missing, and this is no cloud that %s knows.",
                                s->seed_dir, NAME);
                return -ENOENT;
        }

        r = attempt_until(s, source, &where, &error);
        if (r < 0) {
                (void) log_full(NULL, LOG_ERR, MSG_USER_DATA_REFUSED, r, "%s", error ?: strerror(-r));
                return exit_status(r);
        }

        if (source->erase) {
                _cleanup_(freep) char *why = NULL;
                int k = source->erase(&where, &why);

                if (k < 0)
                        log_warning("Failed to erase the user data (%s), which every program in this VM can read: %s.", source->name, why ?: strerror(-k));
        }

        if (r == PROVISION_ALREADY)
                log_info("This user data (%s) was processed before, nothing to do.", source->name);
        else
                (void) log_full(NULL, LOG_NOTICE, MSG_USER_DATA, 0, "User data (%s) processed.", source->name);
        return 0;
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = {};
        int r, exit;

        if (argc < 2 || streq(argv[1], "-h") || streq(argv[1], "-help") || streq(argv[1], "--help") || streq(argv[1], "help"))
                return print_commands(stdout);
        if (streq(argv[1], "-v") || streq(argv[1], "-version") || streq(argv[1], "--version"))
                return daemon_print_version(NAME);
        if (!streq(argv[1], "provision-files")) {
                log_error("Unknown command '%.64s'. Try '" NAME " --help'.", argv[1]);
                return EXIT_USAGE;
        }

        r = options_load(&program, argc - 1, argv + 1, &settings, NULL, &exit);
        if (r != 0)
                return r < 0 ? r : exit;

        return provision_files(&settings);
}

DEFINE_MAIN_FUNCTION(run);
