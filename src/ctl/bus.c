/* SPDX-License-Identifier: Apache-2.0 */
/* How commands reach the adaptor's manager object. */
#include <stdarg.h>

#include "basic/main-func.h"
#include "ctl/ctl.h"
#include "ctl/podvms.h"

int connect_bus(sd_bus **ret) {
        int r;

        r = sd_bus_open_system(ret);
        if (r < 0)
                return complain("Cannot connect to the system bus: %s", strerror(-r));

        return 0;
}

int call_manager(const CommandLine *line, sd_bus *bus, const char *method, sd_bus_message **ret, const char *types, ...) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        va_list ap;
        int r;

        r = sd_bus_message_new_method_call(bus, &call, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, method);
        if (r >= 0)
                r = sd_bus_message_set_allow_interactive_authorization(call, !arguments(line)->no_ask_password);
        if (r >= 0) {
                va_start(ap, types);
                r = sd_bus_message_appendv(call, types, ap);
                va_end(ap);
        }
        if (r >= 0)
                r = sd_bus_call(bus, call, command_timeout(line), &error, ret);
        if (r < 0)
                return complain("%s: %s", line->command->name, sd_bus_error_has_name(&error, SD_BUS_ERROR_SERVICE_UNKNOWN) ?
                                "peerpod-adaptor is not on the bus, is peerpod-adaptor.service running?" :
                                error.message ?: strerror(-r));

        return 0;
}
