/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-libvirt-generator: opens peerpod-provider.service's sandbox for QEMU where, and only where, the configuration asks for
 * libvirt's embedded driver (systemd.generator(7)). It reads what the unit's EnvironmentFile= lines read. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "basic/env-file.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/util.h"

#define UNIT_DIRECTORY "peerpod-provider.service.d"
#define LINK_NAME "50-libvirt-embed.conf"
#define FILE_SIZE_MAX (1024 * 1024)
#define VALUE_SIZE 512

typedef struct Setting {
        const char *name;
        char value[VALUE_SIZE];
} Setting;

typedef struct Settings {
        Setting *settings;
        size_t n;
} Settings;

static int take(const char *key, const char *value, void *userdata) {
        Settings *s = userdata;

        for (size_t i = 0; i < s->n; i++)
                if (streq(key, s->settings[i].name) && strlen(value) < VALUE_SIZE)
                        strcpy(s->settings[i].value, value);
        return 0;
}

static void read_file(const char *path, Setting *settings, size_t n) {
        Settings s = { settings, n };
        char *text;
        size_t size;
        int r;

        r = read_full_file_at(AT_FDCWD, path, FILE_SIZE_MAX, &text, &size);
        if (r >= 0) {
                r = env_file_parse(text, size, take, &s);
                erase_free(text, size);         /* the secrets are in one of them */
        }
        if (r < 0 && r != -ENOENT)
                log_warning_errno(r, "Failed to read '%s', ignoring: %m", path);
}

static int enable(const char *directory, const char *target) {
        _cleanup_(freep) char *unit = NULL, *path = NULL;
        int r;

        if (asprintf(&unit, "%s/" UNIT_DIRECTORY, directory) < 0 || asprintf(&path, "%s/" LINK_NAME, unit) < 0)
                return log_oom();
        r = mkdir_p(unit, 0755);
        if (r < 0)
                return log_error_errno(r, "Failed to create '%s': %m", unit);
        if (symlink(target, path) < 0 && errno != EEXIST)
                return log_error_errno(errno, "Failed to create '%s': %m", path);
        return 0;
}

static int run(int argc, char *argv[]) {
        /* Another root is for the test. */
        const char *root = strempty(getenv("PEERPOD_GENERATOR_ROOT"));
        Setting settings[] = { { "CLOUD_PROVIDER", "" }, { "LIBVIRT_URI", "" } };
        static const char *const files[] = { "/etc/peerpod/peer-pods-cm.env", "/etc/peerpod/peer-pods-secret.env" };

        if (argc != 2 && argc != 4) {
                log_error("This program is for systemd, which gives it one or three directories.");
                return EXIT_USAGE;
        }
        for (size_t i = 0; i < ELEMENTSOF(files); i++) {
                _cleanup_(freep) char *path = NULL;

                if (asprintf(&path, "%s%s", root, files[i]) < 0)
                        return log_oom();
                read_file(path, settings, ELEMENTSOF(settings));
        }

        if (!isempty(settings[0].value) && !streq(settings[0].value, "libvirt"))
                return 0;
        if (!isempty(settings[1].value) && !startswith(settings[1].value, "qemu:///embed"))
                return 0;
        /* The module is what needs it. */
        if (isempty(root) && access(PROVIDERMODULEDIR "/libvirt.so", F_OK) < 0)
                return 0;
        return enable(argv[1], PKGLIBEXECDIR "/peerpod-provider-embed.conf");
}

DEFINE_MAIN_FUNCTION(run);
