/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/secrets.h"

#include <fcntl.h>

#include "basic/env-file.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/strv.h"
#include "basic/util.h"

#define SIZE_MAX_BYTES (1U << 20)       /* systemd's own limit of a credential (systemd.exec(5)) */

static int take_variable(const char *key, const char *value, void *userdata) {
        int r;

        r = strv_extend(userdata, key);
        if (r < 0)
                return r;

        return setenv(key, value, /* overwrite= */ 1) < 0 ? -errno : 0;
}

int secrets_load(char ***ret_names) {
        _cleanup_(freep) char *path = NULL;
        const char *directory = getenv("CREDENTIALS_DIRECTORY");
        char *text = NULL;
        size_t size;
        int r;

        if (isempty(directory))
                return 0;
        if (asprintf(&path, "%s/" SECRETS_CREDENTIAL, directory) < 0)
                return -ENOMEM;
        r = read_full_file_at(AT_FDCWD, path, SIZE_MAX_BYTES, &text, &size);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return log_error_errno(r, "Failed to read credential '%s': %m", path);

        r = env_file_parse(text, size, take_variable, ret_names);
        erase_free(text, size);
        if (r < 0)
                return log_error_errno(r, "Failed to take the variables of credential '%s': %m", path);
        return 0;
}

void secrets_forget(char **names, const PeerpodProvider *module) {
        for (; names && *names; names++)
                (void) unsetenv(*names);
        for (uint32_t i = 0; i < module->n_options; i++)
                if ((module->options[i].flags & PEERPOD_OPTION_SECRET) && module->options[i].env)
                        (void) unsetenv(module->options[i].env);
}
