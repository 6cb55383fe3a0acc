/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor-rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "basic/io.h"

extern char **environ;

const char *adaptor_program, *providerd_program, *module_directory, *fakes_program;
const char *const *adaptor_options, *const *provider_options;

bool take_arguments(int argc, char *argv[], int n) {
        const char *filter = getenv("CMOCKA_TEST_FILTER");

        if (argc != 1 + n)
                return false;

        adaptor_program = argv[1];
        providerd_program = argv[2];
        module_directory = argv[3];
        fakes_program = argv[4];
        if (filter)
                cmocka_set_test_filter(filter);
        return true;
}

/* ---- processes and files ---------------------------------------------------------------------------------------------------------- */

char* path_of(const Test *t, const char *name) {
        static char paths[8][256];
        static unsigned n;
        char *p = paths[n++ % 8];

        (void) snprintf(p, 256, "%s/%s", t->dir, name);
        return p;
}

pid_t spawn(const char *program, const char *const *args) {
        char *argv[32] = { (char*) program };
        pid_t pid;
        size_t n = 1;

        for (; args && *args; args++)
                argv[n++] = (char*) *args;
        assert_int_equal(posix_spawnp(&pid, program, NULL, NULL, argv, environ), 0);
        return pid;
}

int end_process(pid_t *pid, int sig) {
        int status = 0;

        if (*pid > 0) {
                (void) kill(*pid, sig);
                while (waitpid(*pid, &status, 0) < 0 && errno == EINTR)
                        ;
                *pid = 0;
        }
        return status;
}

static bool can_connect(const char *path) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0), r;

        (void) snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
        r = connect(fd, (struct sockaddr*) &sa, sizeof(sa));
        close_fd(fd);
        return r == 0;
}

void write_text(const char *path, const char *text) {
        assert_int_equal(write_file_atomic(path, text, strlen(text), 0600), 0);
}

void control_fakes(const Test *t, const char *text) {
        write_text(path_of(t, "control"), text);
}

void control_provider(const Test *t, const char *text) {
        write_text(path_of(t, "provider/control"), text);
}

char* read_text(const char *path) {
        char *text = NULL;

        if (read_full_file_at(AT_FDCWD, path, 1 << 20, &text, NULL) < 0)
                return strdup("");
        return text;
}

unsigned count(const char *path, const char *needle) {
        _cleanup_(freep) char *text = read_text(path);
        unsigned n = 0;

        for (char *p = text; (p = strstr(p, needle)); p++)
                n++;
        return n;
}

void tell_fakes(Test *t, const char *method, const char *one, const char *two) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;

        assert_true(sd_bus_message_new_method_call(t->bus, &m, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                                                   "org.freedesktop.systemd1.Manager", method) >= 0);
        assert_true(sd_bus_message_append(m, two ? "ss" : "s", one, two) >= 0);
        if (sd_bus_call(t->bus, m, 0, &error, NULL) < 0)
                fail_msg("%s: %s", method, error.message);
}

void let_the_cloud_be_asked(Test *t, unsigned n) {
        unsigned before = count(path_of(t, "provider/calls"), "list ");

        wait_until(t, count(path_of(t, "provider/calls"), "list ") >= before + n);
}

unsigned n_left_at_fakes(Test *t) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        uint32_t n;

        assert_true(sd_bus_call_method(t->bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
                                       "CountLeft", NULL, &reply, NULL) >= 0);
        assert_true(sd_bus_message_read(reply, "u", &n) >= 0);
        return n;
}

bool called(const Test *t, const char *line) {
        return count(path_of(t, "calls"), line) > 0;
}

unsigned entries(const char *path) {
        _cleanup_(closedirp) DIR *d = opendir(path);
        unsigned n = 0;

        if (!d)
                return 0;
        for (struct dirent *e; (e = readdir(d));)
                n += e->d_name[0] != '.';
        return n;
}

bool exists(const char *path) {
        return access(path, F_OK) == 0;
}

bool instance_exists(const Test *t) {
        return exists(path_of(t, "provider/" INSTANCE));
}

/* Nothing of any sandbox is left anywhere. */
bool all_gone(const Test *t) {
        return entries(path_of(t, "state/sandboxes")) == 0 && entries(path_of(t, "run")) == 0 && entries(path_of(t, "pods")) == 0 &&
               !instance_exists(t) && !exists(path_of(t, "provider/" INSTANCE ".tmp"));
}

static void append_options(const char **args, const char *const *options) {
        while (*args)
                args++;
        while (options && *options)
                *args++ = *options++;
}

void start_provider(Test *t) {
        const char *args[24] = { "--provider", "fake", "--module-directory", module_directory, "--state-directory",
                                 path_of(t, "provider"), "--socket", path_of(t, "provider.sock"), "--peer-user", "root" };

        append_options(args, provider_options);
        t->provider = spawn(providerd_program, args);
        wait_until(t, can_connect(path_of(t, "provider.sock")));
}

void start_fakes(Test *t) {
        const char *const args[] = { t->dir, NULL };

        t->fakes = spawn(fakes_program, args);
        wait_until(t, sd_bus_get_name_creds(t->bus, "org.freedesktop.systemd1", 0, NULL) >= 0);
}

void start_adaptor(Test *t) {
        char socket[256], state[256], runtime[256], pods[256], tunnel[256], provider[256];
        const char *args[24] = { socket, state, runtime, pods, tunnel, provider, "--node-name=node-1", "--start-timeout=15s" };

        (void) snprintf(socket, sizeof(socket), "--socket=%s", path_of(t, "hypervisor.sock"));
        (void) snprintf(state, sizeof(state), "--state-dir=%s", path_of(t, "state"));
        (void) snprintf(runtime, sizeof(runtime), "--runtime-dir=%s", path_of(t, "run"));
        (void) snprintf(pods, sizeof(pods), "--pods-dir=%s", path_of(t, "pods"));
        (void) snprintf(tunnel, sizeof(tunnel), "--tunnel-socket=%s", path_of(t, "tunnel.sock"));
        (void) snprintf(provider, sizeof(provider), "--provider-socket=%s", path_of(t, "provider.sock"));
        append_options(args, adaptor_options);
        t->adaptor = spawn(adaptor_program, args);
        wait_until(t, sd_bus_get_name_creds(t->bus, NAME, 0, NULL) >= 0);
}

void end_adaptor(Test *t, int sig) {
        (void) end_process(&t->adaptor, sig);
        wait_until(t, sd_bus_get_name_creds(t->bus, NAME, 0, NULL) < 0);
}

void restart_adaptor(Test *t, int sig) {
        end_adaptor(t, sig);
        start_adaptor(t);
}

int setup(void **state) {
        static const char config[] =
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" "
                "\"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n"
                "<busconfig><type>system</type><listen>unix:path=%s/bus</listen><auth>EXTERNAL</auth>"
                "<policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\" eavesdrop=\"true\"/>"
                "<allow receive_sender=\"*\" eavesdrop=\"true\"/></policy></busconfig>\n";
        _cleanup_(freep) char *text = NULL;
        Test *t = calloc(1, sizeof(Test));
        char argument[256], address[256];

        assert_non_null(t);
        *state = t;
        strcpy(t->dir, "/tmp/pp-XXXXXX");
        assert_non_null(mkdtemp(t->dir));
        assert_int_equal(chmod(t->dir, 0755), 0);
        assert_int_equal(mkdir(path_of(t, "provider"), 0700), 0);
        assert_int_equal(sd_event_new(&t->event), 0);

        assert_true(asprintf(&text, config, t->dir) > 0);
        write_text(path_of(t, "dbus.conf"), text);
        (void) snprintf(argument, sizeof(argument), "--config-file=%s", path_of(t, "dbus.conf"));
        const char *const args[] = { argument, "--nofork", "--nopidfile", NULL };
        t->dbus = spawn("dbus-daemon", args);
        wait_until(t, can_connect(path_of(t, "bus")));
        (void) snprintf(address, sizeof(address), "unix:path=%s", path_of(t, "bus"));
        assert_int_equal(setenv("DBUS_SYSTEM_BUS_ADDRESS", address, 1), 0);
        assert_true(sd_bus_open_system(&t->bus) >= 0);

        start_fakes(t);
        start_provider(t);
        start_adaptor(t);
        return 0;
}

int setup_curious(void **state) {
        static const char *const options[] = { "--reconcile-interval=300ms", NULL };

        adaptor_options = options;
        return setup(state);
}

int teardown(void **state) {
        Test *t = *state;
        int status = end_process(&t->adaptor, SIGTERM);

        (void) end_process(&t->provider, SIGTERM);
        (void) end_process(&t->fakes, SIGTERM);
        sd_bus_flush_close_unref(t->bus);
        (void) end_process(&t->dbus, SIGTERM);
        sd_event_unref(t->event);
        (void) remove_tree(t->dir);
        free(t);
        adaptor_options = provider_options = NULL;
        return status == 0 ? 0 : -1;            /* a crash, a sanitizer's report */
}

/* ---- the shim ---------------------------------------------------------------------------------------------------------------------- */

TtrpcClient* connect_shim(Test *t) {
        TtrpcClient *c;

        assert_int_equal(ttrpc_client_new_unix(t->event, path_of(t, "hypervisor.sock"), &c), 0);
        return c;
}

static void on_reply(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        Call *c = userdata;

        c->done = true;
        c->code = reply->code;
        (void) snprintf(c->text, sizeof(c->text), "%s", reply->message);
        if (reply->error == 0 && c->type == &hypervisor__create_vmresponse__descriptor) {
                Hypervisor__CreateVMResponse *m = hypervisor__create_vmresponse__unpack(NULL, reply->size, reply->payload);
                assert_non_null(m);
                (void) snprintf(c->value, sizeof(c->value), "%s", m->agentsocketpath);
                hypervisor__create_vmresponse__free_unpacked(m, NULL);
        }
        if (reply->error == 0 && c->type == &podvminfo__get_info_response__descriptor) {
                Podvminfo__GetInfoResponse *m = podvminfo__get_info_response__unpack(NULL, reply->size, reply->payload);
                assert_non_null(m);
                (void) snprintf(c->value, sizeof(c->value), "%s", m->vmid);
                podvminfo__get_info_response__free_unpacked(m, NULL);
        }
}

/* What kata's Go runtime sends, with values of a small pod (kata-containers: src/runtime/virtcontainers/remote.go). */
void begin_create(TtrpcClient *client, Call *c, const char *id, const char *netns, const char *pod, const Annotation *extra) {
        Hypervisor__CreateVMRequest m = HYPERVISOR__CREATE_VMREQUEST__INIT;
        const Annotation base[] = {
                { "io.kubernetes.cri.sandbox-name", pod }, { "io.kubernetes.cri.sandbox-namespace", "default" },
                { P "machine_type", "" }, { P "image", "" }, { P "default_vcpus", "1.5" }, { P "default_memory", "2048" },
                { P "default_gpus", "0" }, { P "default_gpu_model", "" }, { P "cc_init_data", "" },
        };
        Hypervisor__CreateVMRequest__AnnotationsEntry list[16], *pointers[16];
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(base) + (extra ? 1 : 0); i++) {
                const Annotation *a = i < ELEMENTSOF(base) ? base + i : extra;

                hypervisor__create_vmrequest__annotations_entry__init(list + n);
                list[n].key = (char*) a->key;
                list[n].value = (char*) a->value;
                pointers[n] = list + n;
                n++;
        }
        m.id = (char*) id;
        m.networknamespacepath = (char*) netns;
        m.annotations = pointers;
        m.n_annotations = n;
        *c = (Call) { .type = &hypervisor__create_vmresponse__descriptor };
        assert_int_equal(ttrpc_client_call_message(client, "hypervisor.Hypervisor", "CreateVM", &m.base, 0, NULL, on_reply, c, NULL), 0);
}

void begin_start(TtrpcClient *client, Call *c, const char *id, uint64_t timeout_usec) {
        Hypervisor__StartVMRequest m = HYPERVISOR__START_VMREQUEST__INIT;

        m.id = (char*) id;
        *c = (Call) {};
        assert_int_equal(ttrpc_client_call_message(client, "hypervisor.Hypervisor", "StartVM", &m.base, timeout_usec, NULL, on_reply, c, NULL), 0);
}

void begin_stop(TtrpcClient *client, Call *c, const char *id) {
        Hypervisor__StopVMRequest m = HYPERVISOR__STOP_VMREQUEST__INIT;

        m.id = (char*) id;
        *c = (Call) {};
        assert_int_equal(ttrpc_client_call_message(client, "hypervisor.Hypervisor", "StopVM", &m.base, 0, NULL, on_reply, c, NULL), 0);
}

void begin_get_info(TtrpcClient *client, Call *c, const char *pod, bool wait, uint64_t timeout_usec) {
        Podvminfo__GetInfoRequest m = PODVMINFO__GET_INFO_REQUEST__INIT;

        m.podname = (char*) pod;
        m.podnamespace = (char*) "default";
        m.wait = wait;
        *c = (Call) { .type = &podvminfo__get_info_response__descriptor };
        assert_int_equal(ttrpc_client_call_message(client, "podvminfo.PodVMInfo", "GetInfo", &m.base, timeout_usec, NULL, on_reply, c, NULL), 0);
}

void finish(Test *t, Call *c, int32_t code) {
        wait_until(t, c->done);
        if (c->code != code)
                fail_msg("code %i instead of %i: %s", c->code, code, c->text);
}

void create_ok(Test *t, TtrpcClient *client) {
        Call c;

        begin_create(client, &c, ID, NETNS, "web", NULL);
        finish(t, &c, TTRPC_OK);
        assert_string_equal(c.value, path_of(t, "pods/" ID "/agent.ttrpc"));
}

void start_ok(Test *t, TtrpcClient *client) {
        Call c;

        begin_start(client, &c, ID, 0);
        finish(t, &c, TTRPC_OK);
}

void stop_ok(Test *t, TtrpcClient *client) {
        Call c;

        begin_stop(client, &c, ID);
        finish(t, &c, TTRPC_OK);
}

/* ---- the bus ----------------------------------------------------------------------------------------------------------------------- */

const char* property_of(Test *t, const char *id, const char *name) {
        static char value[512];
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(freep) char *path = NULL, *text = NULL;

        assert_true(sd_bus_path_encode(ROOT "/podvm", id, &path) >= 0);
        if (sd_bus_get_property_string(t->bus, NAME, path, NAME ".PodVM", name, &error, &text) < 0)
                return "";
        (void) snprintf(value, sizeof(value), "%s", text);
        return value;
}

const char* property(Test *t, const char *name) {
        return property_of(t, ID, name);
}

unsigned n_descriptors(pid_t pid) {
        char path[64];

        (void) snprintf(path, sizeof(path), "/proc/%i/fd", pid);
        return entries(path);
}
