/* SPDX-License-Identifier: Apache-2.0 */
/* Pod VMs as peerpod-adaptor shows them on the system bus. */
#include "ctl/podvms.h"

#include <json-c/json.h>

#include "basic/parse.h"
#include "basic/paths.h"
#include "basic/text.h"
#include "basic/util.h"

#define DEPTH_MAX 16


static int basic_to_json(sd_bus_message *m, char type, json_object **ret) {
        union {
                uint8_t y;
                int b;          /* sd-bus gives a boolean as int */
                int16_t n;
                uint16_t q;
                int32_t i;
                uint32_t u;
                int64_t x;
                uint64_t t;
                double d;
                const char *s;
        } v;
        json_object *o;
        int r;

        if (type == SD_BUS_TYPE_UNIX_FD)        /* says nothing in text, and is closed with the message */
                return -EOPNOTSUPP;

        r = sd_bus_message_read_basic(m, type, &v);
        if (r < 0)
                return r;

        switch (type) {
        case SD_BUS_TYPE_BYTE:
                o = json_object_new_int(v.y);
                break;
        case SD_BUS_TYPE_BOOLEAN:
                o = json_object_new_boolean(v.b);
                break;
        case SD_BUS_TYPE_INT16:
                o = json_object_new_int(v.n);
                break;
        case SD_BUS_TYPE_UINT16:
                o = json_object_new_int(v.q);
                break;
        case SD_BUS_TYPE_INT32:
                o = json_object_new_int(v.i);
                break;
        case SD_BUS_TYPE_UINT32:
                o = json_object_new_int64(v.u);
                break;
        case SD_BUS_TYPE_INT64:
                o = json_object_new_int64(v.x);
                break;
        case SD_BUS_TYPE_UINT64:
                o = json_object_new_uint64(v.t);
                break;
        case SD_BUS_TYPE_DOUBLE:
                o = json_object_new_double(v.d);
                break;
        default:
                o = json_object_new_string(v.s);        /* s, o, g: D-Bus texts are UTF-8 */
        }

        if (!o)
                return -ENOMEM;
        *ret = o;
        return 0;
}

static int value_to_json(sd_bus_message *m, unsigned depth, json_object **ret);

static int container_to_json(sd_bus_message *m, char type, const char *contents, unsigned depth, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        bool map = type == SD_BUS_TYPE_ARRAY && startswith(contents, "{s");
        bool variant = type == SD_BUS_TYPE_VARIANT;
        int r;

        r = sd_bus_message_enter_container(m, type, contents);
        if (r < 0)
                return r;

        if (!variant) {
                o = map ? json_object_new_object() : json_object_new_array();
                if (!o)
                        return -ENOMEM;
        }

        while ((r = sd_bus_message_at_end(m, /* complete= */ false)) == 0) {
                _cleanup_(json_object_putp) json_object *value = NULL;
                const char *key = NULL;

                if (map) {
                        const char *pair;

                        r = sd_bus_message_peek_type(m, /* ret_type= */ NULL, &pair);
                        if (r < 0)
                                return r;
                        r = sd_bus_message_enter_container(m, SD_BUS_TYPE_DICT_ENTRY, pair);
                        if (r < 0)
                                return r;
                        r = sd_bus_message_read_basic(m, SD_BUS_TYPE_STRING, &key);
                        if (r < 0)
                                return r;
                }

                r = value_to_json(m, depth + 1, &value);
                if (r < 0)
                        return r;

                if (map) {
                        r = sd_bus_message_exit_container(m);
                        if (r < 0)
                                return r;
                        r = json_object_object_add(o, key, value);
                } else if (variant) {
                        o = TAKE_PTR(value);
                        continue;
                } else
                        r = json_object_array_add(o, value);
                if (r < 0)
                        return -ENOMEM;
                (void) TAKE_PTR(value);
        }
        if (r < 0)
                return r;

        r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(o);
        return 0;
}

static int value_to_json(sd_bus_message *m, unsigned depth, json_object **ret) {
        const char *contents;
        char type;
        int r;

        if (depth > DEPTH_MAX)
                return -ELOOP;

        r = sd_bus_message_peek_type(m, &type, &contents);
        if (r < 0)
                return r;
        if (r == 0)
                return -ENXIO;

        return contents ? container_to_json(m, type, contents, depth, ret) : basic_to_json(m, type, ret);
}

int bus_value_to_json(sd_bus_message *m, json_object **ret) {
        return value_to_json(m, 0, ret);
}

const char* podvm_text(json_object *podvm, const char *property) {
        json_object *v;

        return json_object_object_get_ex(podvm, property, &v) && json_object_is_type(v, json_type_string) ?
                json_object_get_string(v) : "";
}

uint64_t podvm_number(json_object *podvm, const char *property) {
        json_object *v;

        return json_object_object_get_ex(podvm, property, &v) && json_object_is_type(v, json_type_int) ?
                json_object_get_uint64(v) : 0;
}

static uint64_t created(const void *element) {
        json_object *v, *const *o = element;

        return json_object_object_get_ex(*o, "CreatedTimestamp", &v) ? json_object_get_uint64(v) : 0;
}

static int by_age(const void *a, const void *b) {
        uint64_t x = created(a), y = created(b);

        return x < y ? -1 : x > y ? 1 :
                strcmp(podvm_text(*(json_object *const*) a, "SandboxId"), podvm_text(*(json_object *const*) b, "SandboxId"));
}

/* {path → {interface → {property → value}}} to a list of pod VMs */
static int podvms_of_tree(json_object *tree, json_object **ret) {
        _cleanup_(json_object_putp) json_object *list = NULL;

        list = json_object_new_array();
        if (!list)
                return -ENOMEM;

        json_object_object_foreach(tree, path, interfaces) {
                json_object *podvm, *text;

                if (!json_object_object_get_ex(interfaces, PEERPOD_PODVM_INTERFACE, &podvm) ||
                    !json_object_is_type(podvm, json_type_object))
                        continue;

                text = json_object_new_string(path);
                if (!text)
                        return -ENOMEM;
                if (json_object_object_add(podvm, "Path", text) < 0) {
                        json_object_put(text);
                        return -ENOMEM;
                }
                json_object_get(podvm);
                if (json_object_array_add(list, podvm) < 0) {
                        json_object_put(podvm);
                        return -ENOMEM;
                }
        }

        json_object_array_sort(list, by_age);
        *ret = TAKE_PTR(list);
        return 0;
}

/* a{oa{sa{sv}}}: the outer keys are object paths, which only this level has. */
static int tree_of_reply(sd_bus_message *reply, json_object **ret) {
        _cleanup_(json_object_putp) json_object *tree = NULL;
        int r;

        tree = json_object_new_object();
        if (!tree)
                return -ENOMEM;

        r = sd_bus_message_enter_container(reply, SD_BUS_TYPE_ARRAY, "{oa{sa{sv}}}");
        if (r < 0)
                return r;

        while ((r = sd_bus_message_enter_container(reply, SD_BUS_TYPE_DICT_ENTRY, "oa{sa{sv}}")) > 0) {
                json_object *interfaces;
                const char *path;

                r = sd_bus_message_read_basic(reply, SD_BUS_TYPE_OBJECT_PATH, &path);
                if (r < 0)
                        return r;
                r = bus_value_to_json(reply, &interfaces);
                if (r < 0)
                        return r;
                if (json_object_object_add(tree, path, interfaces) < 0) {
                        json_object_put(interfaces);
                        return -ENOMEM;
                }
                r = sd_bus_message_exit_container(reply);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;

        *ret = TAKE_PTR(tree);
        return 0;
}

int podvms_read(sd_bus *bus, uint64_t timeout_usec, json_object **ret, char **reterr) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        _cleanup_(json_object_putp) json_object *tree = NULL;
        int r;

        r = sd_bus_message_new_method_call(bus, &call, PEERPOD_BUS_NAME, PEERPOD_BUS_PATH,
                                           "org.freedesktop.DBus.ObjectManager", "GetManagedObjects");
        if (r >= 0)
                r = sd_bus_call(bus, call, timeout_usec, &error, &reply);
        if (r < 0) {
                if (sd_bus_error_has_name(&error, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
                    sd_bus_error_has_name(&error, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
                        (void) refuse_text(reterr, "peerpod-adaptor is not on the bus, is peerpod-adaptor.service running?");
                else
                        (void) refuse_text(reterr, "Cannot list pod VMs: %s", error.message ?: strerror(-r));
                return r;
        }

        r = tree_of_reply(reply, &tree);
        if (r < 0) {
                (void) refuse_text(reterr, "peerpod-adaptor sent a list that is not understood: %s", strerror(-r));
                return r;
        }

        return podvms_of_tree(tree, ret);
}

int podvm_find(json_object *podvms, const char *id, json_object **ret, char **reterr) {
        json_object *found = NULL;

        for (size_t i = 0; i < json_object_array_length(podvms); i++) {
                json_object *p = json_object_array_get_idx(podvms, i);
                const char *sandbox = podvm_text(p, "SandboxId");

                if (streq(sandbox, id)) {
                        *ret = p;
                        return 0;
                }
                if (!startswith(sandbox, id))
                        continue;
                if (found) {
                        (void) refuse_text(reterr, "Several sandboxes begin with '%s', one is '%s'", id, sandbox);
                        return -EEXIST;
                }
                found = p;
        }

        if (!found) {
                (void) refuse_text(reterr, "There is no sandbox '%s'", id);
                return -ENOENT;
        }

        *ret = found;
        return 0;
}

static int socket_of_directory(const char *id, char **ret, char **ret_id, char **reterr) {
        const char *directory = getenv("PODS_DIR");
        _cleanup_(closedirp) DIR *d = NULL;
        _cleanup_(freep) char *found = NULL;

        if (isempty(directory))
                directory = PEERPOD_PODS_DIR;
        d = opendir(directory);
        if (!d && errno != ENOENT) {
                int saved = errno;

                (void) refuse_text(reterr, "Cannot look for sandboxes in '%s': %s", directory, strerror(saved));
                return -saved;
        }

        for (struct dirent *e; d && (e = readdir(d));) {
                if (!sandbox_id_is_valid(e->d_name) || !startswith(e->d_name, id))
                        continue;
                if (found && !streq(e->d_name, id)) {
                        if (streq(found, id))
                                continue;
                        (void) refuse_text(reterr, "Several sandboxes begin with '%s', one is '%s'", id, found);
                        return -EEXIST;
                }
                free(found);
                found = strdup(e->d_name);
                if (!found)
                        return -ENOMEM;
        }

        if (!found) {
                (void) refuse_text(reterr, "There is no sandbox '%s', neither on the bus nor in '%s'", id, directory);
                return -ENOENT;
        }

        if (asprintf(ret, "%s/%s/agent.ttrpc", directory, found) < 0)
                return -ENOMEM;
        if (ret_id)
                *ret_id = TAKE_PTR(found);
        return 0;
}

int podvm_agent_socket(const char *id, uint64_t timeout_usec, char **ret, char **ret_id, char **reterr) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(json_object_putp) json_object *podvms = NULL;
        _cleanup_(freep) char *ignored = NULL, *socket = NULL, *sandbox_id = NULL;
        json_object *podvm;
        int r;

        r = sd_bus_open_system(&bus);
        if (r >= 0)
                r = podvms_read(bus, timeout_usec, &podvms, &ignored);
        if (r < 0)
                return socket_of_directory(id, ret, ret_id, reterr);

        r = podvm_find(podvms, id, &podvm, reterr);
        if (r < 0)
                return r;
        if (isempty(podvm_text(podvm, "AgentSocket"))) {
                (void) refuse_text(reterr, "Sandbox '%s' is %s and has no agent socket", podvm_text(podvm, "SandboxId"),
                                   podvm_text(podvm, "State"));
                return -ENOTCONN;
        }

        socket = strdup(podvm_text(podvm, "AgentSocket"));
        sandbox_id = strdup(podvm_text(podvm, "SandboxId"));
        if (!socket || !sandbox_id)
                return -ENOMEM;

        *ret = TAKE_PTR(socket);
        if (ret_id)
                *ret_id = TAKE_PTR(sandbox_id);
        return 0;
}
