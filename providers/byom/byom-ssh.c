/* SPDX-License-Identifier: Apache-2.0 */
/* What is done on a machine, all by SFTP: its user is chrooted to /media, and what is in cidata/ there is a tmpfs's, gone after a reboot.
 *
 * libssh blocks. So each connection has a thread beside it that shuts the socket down once the call is cancelled or its time is over, which
 * ends whatever libssh waits for: connecting, key exchange, authentication and transfer are under one deadline.
 *
 * A machine is marked (the allocation's id, in a file that nobody else touches) before it gets user data. It counts as clean only if neither
 * mark nor user data nor a request to reboot is there: that is, after a boot. */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <libssh/libssh.h>
#include <libssh/sftp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <syslog.h>

#include "basic/io.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "byom-provider.h"
#include "cloud-config.h"

#define DIRECTORY "cidata"
#define USER_DATA DIRECTORY "/user-data"
#define USER_DATA_NEW DIRECTORY "/.user-data.new"
#define MARK DIRECTORY "/.peerpod-allocation"
#define REBOOT DIRECTORY "/reboot"
#define PROBE DIRECTORY "/.peerpod-probe"
#define CHUNK 32768U                    /* what every SFTP server takes in one packet (draft-ietf-secsh-filexfer-02 section 3) */
#define KEYS_MAX 100U
#define KEY_FILE_MAX 16384U

typedef struct Link {
        const PeerpodCall *call;
        const char *address;
        uint64_t deadline_usec;
        int fd, stop_fd;                /* fd: a duplicate of libssh's */
        pthread_t guard;
        bool has_guard;
        ssh_session ssh;
        sftp_session sftp;
} Link;

/* Shuts the socket down when the call is over. */
static void* guard_thread(void *userdata) {
        Link *l = userdata;
        struct pollfd p[] = { { .fd = l->call->cancel_fd, .events = POLLIN }, { .fd = l->stop_fd, .events = POLLIN } };

        for (;;) {
                uint64_t now = now_usec(CLOCK_MONOTONIC), left = now < l->deadline_usec ? l->deadline_usec - now : 0;
                int n = poll(p, 2, (int) MIN(left / USEC_PER_MSEC + 1, (uint64_t) 60000));

                if (n > 0 && p[1].revents != 0)
                        return NULL;
                if ((n > 0 && p[0].revents != 0) || now >= l->deadline_usec) {
                        (void) shutdown(l->fd, SHUT_RDWR);
                        return NULL;
                }
        }
}

static int start_guard(Link *l) {
        sigset_t all, saved;
        int r;

        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &saved);
        r = pthread_create(&l->guard, NULL, guard_thread, l);
        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
        return r;
}

static void link_done(Link *l) {
        if (l->sftp)
                sftp_free(l->sftp);
        if (l->has_guard) {
                (void) eventfd_write(l->stop_fd, 1);
                (void) pthread_join(l->guard, NULL);
        }
        if (l->ssh) {
                /* Without a farewell: the peer may be dead. And without ssh_disconnect(), after which nobody closes a descriptor that was not libssh's
                 * own (libssh 0.11, src/client.c); ssh_free() does. */
                (void) shutdown(l->fd, SHUT_RDWR);
                ssh_free(l->ssh);
        }
        l->fd = close_fd(l->fd);
        l->stop_fd = close_fd(l->stop_fd);
}

/* Why the link failed: the call's end, if that is why. */
static int link_error(Link *l, PeerpodErrorKind kind, const char *what, PeerpodError *error) {
        _cleanup_(freep) char *why = text_make_plain(l->ssh ? ssh_get_error(l->ssh) : "", 300);
        int r = peerpod_call_check(l->call, error);

        if (r < 0)
                return r;
        if (now_usec(CLOCK_MONOTONIC) >= l->deadline_usec)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "VM %s: %s: no answer in time (SSH_TIMEOUT).", l->address, what);
        if (l->ssh && !ssh_is_connected(l->ssh))
                kind = PEERPOD_E_UNAVAILABLE;   /* whatever it was that it broke in */
        return peerpod_error_set(error, kind, "VM %s: %s%s%s", l->address, what, isempty(why) ? "" : ": ", strempty(why));
}

static int connect_to(Link *l, uint16_t port, PeerpodError *error) {
        struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
        struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
        bool is_six = inet_pton(AF_INET6, l->address, &six.sin6_addr) == 1;
        _cleanup_(close_fdp) int fd = -EBADF;
        PeerpodCall call = *l->call;
        int r, e = 0, one = 1;
        socklen_t n = sizeof(e);

        if (!is_six && inet_pton(AF_INET, l->address, &four.sin_addr) != 1)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "VM '%s': no address.", l->address);
        fd = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        if (fd < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "socket: %s", strerror(errno));
        r = connect(fd, is_six ? (struct sockaddr*) &six : (struct sockaddr*) &four, is_six ? sizeof(six) : sizeof(four));
        if (r < 0 && errno != EINPROGRESS)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "VM %s: no connection to port %u: %s", l->address, port, strerror(errno));
        if (r < 0) {
                uint64_t now = now_usec(CLOCK_MONOTONIC);

                r = peerpod_call_wait(&call, fd, POLLOUT, l->deadline_usec > now ? l->deadline_usec - now : 0, error);
                if (r < 0)
                        return r;
                if (r == 0)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "VM %s: no connection to port %u in time.", l->address, port);
                if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0 || e != 0)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "VM %s: no connection to port %u: %s", l->address, port, strerror(e));
        }
        (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        l->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (l->fd < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "fcntl: %s", strerror(errno));
        return TAKE_FD(fd);
}

/* Is the key in one of the directory's *.pub? A file that is named after an address vouches for that one only. */
static bool is_in_allowlist(const Byom *b, const char *address, ssh_key key) {
        _cleanup_(closedirp) DIR *d = opendir(b->allowlist);
        bool found = false;
        unsigned n = 0;

        for (struct dirent *e; d && !found && n < KEYS_MAX && (e = readdir(d));) {
                _cleanup_(freep) char *text = NULL, *name = strdup(e->d_name), *base64 = NULL;
                size_t size = strlen(e->d_name);
                struct in6_addr a;
                const char *start;
                ssh_key k = NULL;
                char type[64];

                if (!name || size < 5 || !streq(e->d_name + size - 4, ".pub") || e->d_name[0] == '.')
                        continue;
                name[size - 4] = '\0';
                if ((inet_pton(AF_INET, name, &a) == 1 || inet_pton(AF_INET6, name, &a) == 1) && !streq(name, address))
                        continue;
                n++;
                _cleanup_(close_fdp) int fd = openat(dirfd(d), e->d_name, O_RDONLY|O_CLOEXEC);
                if (fd < 0 || read_full_fd(fd, KEY_FILE_MAX, &text, NULL) < 0)
                        continue;
                if (sscanf(text, " %63s", type) != 1)
                        continue;
                start = strstr(text, type) + strlen(type);
                start += strspn(start, " \t");
                base64 = strndup(start, strcspn(start, " \t\r\n"));
                if (base64 && ssh_pki_import_pubkey_base64(base64, ssh_key_type_from_name(type), &k) == SSH_OK)
                        found = ssh_key_cmp(k, key, SSH_KEY_CMP_PUBLIC) == 0;
                ssh_key_free(k);
        }
        return found;
}

static int check_host(const Byom *b, Link *l, PeerpodError *error) {
        unsigned char *hash = NULL;
        char *text = NULL;
        ssh_key key = NULL;
        size_t n = 0;
        bool good = b->accept_any;

        if (ssh_get_server_publickey(l->ssh, &key) != SSH_OK)
                return link_error(l, PEERPOD_E_UNAVAILABLE, "no host key", error);
        if (!good && !isempty(b->known_hosts))
                good = ssh_session_is_known_server(l->ssh) == SSH_KNOWN_HOSTS_OK;
        if (!good && !isempty(b->allowlist))
                good = is_in_allowlist(b, l->address, key);
        if (ssh_get_publickey_hash(key, SSH_PUBLICKEY_HASH_SHA256, &hash, &n) == SSH_OK)
                text = ssh_get_fingerprint_hash(SSH_PUBLICKEY_HASH_SHA256, hash, n);
        if (!good)
                (void) peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "VM %s: its host key %s is not a known one of that address.", l->address,
                                         text ?: "");
        ssh_string_free_char(text);
        ssh_clean_pubkey_hash(&hash);
        ssh_key_free(key);
        return good ? 0 : -EACCES;
}

static int log_in(const Byom *b, Link *l, PeerpodError *error) {
        ssh_key key = NULL;
        int r;

        if (ssh_pki_import_privkey_base64(b->private_key, NULL, NULL, NULL, &key) != SSH_OK)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "The private key of SSH_PRIV_KEY_PATH cannot be used.");
        r = ssh_userauth_publickey(l->ssh, NULL, key);
        ssh_key_free(key);
        if (r == SSH_AUTH_SUCCESS)
                return 0;
        /* An error is a connection that broke, as it does while the VM goes down. */
        if (r == SSH_AUTH_ERROR)
                return link_error(l, PEERPOD_E_UNAVAILABLE, "no log-in", error);
        return link_error(l, PEERPOD_E_UNAUTHENTICATED, "our key is not accepted", error);
}

static int link_open(const Byom *b, const PeerpodCall *call, const char *address, Link *l, PeerpodError *error) {
        long seconds = (long) (b->ssh_timeout_usec / USEC_PER_SEC + 1);
        int fd, r, off = 0;
        unsigned port = b->ssh_port;

        *l = (Link) {
                .call = call, .address = address, .fd = -EBADF, .stop_fd = eventfd(0, EFD_CLOEXEC),
                .deadline_usec = MIN(call->deadline_usec, usec_add(now_usec(CLOCK_MONOTONIC), b->ssh_timeout_usec)),
        };
        if (l->stop_fd < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "eventfd: %s", strerror(errno));
        fd = connect_to(l, b->ssh_port, error);
        if (fd < 0)
                return fd;
        l->ssh = ssh_new();
        if (!l->ssh) {
                (void) close(fd);
                return oom(error);
        }
        if (ssh_options_set(l->ssh, SSH_OPTIONS_PROCESS_CONFIG, &off) < 0 || ssh_options_set(l->ssh, SSH_OPTIONS_HOST, address) < 0 ||
            ssh_options_set(l->ssh, SSH_OPTIONS_PORT, &port) < 0 || ssh_options_set(l->ssh, SSH_OPTIONS_USER, b->user) < 0 ||
            ssh_options_set(l->ssh, SSH_OPTIONS_TIMEOUT, &seconds) < 0 ||
            ssh_options_set(l->ssh, SSH_OPTIONS_KNOWNHOSTS, isempty(b->known_hosts) ? "/dev/null" : b->known_hosts) < 0 ||
            ssh_options_set(l->ssh, SSH_OPTIONS_GLOBAL_KNOWNHOSTS, "/dev/null") < 0 || ssh_options_set(l->ssh, SSH_OPTIONS_FD, &fd) < 0) {
                (void) close(fd);
                return link_error(l, PEERPOD_E_INTERNAL, "SSH cannot be set up", error);
        }
        r = start_guard(l);
        if (r != 0) {
                (void) close(fd);
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "pthread_create: %s", strerror(r));
        }
        l->has_guard = true;

        if (ssh_connect(l->ssh) != SSH_OK)
                return link_error(l, PEERPOD_E_UNAVAILABLE, "no SSH", error);
        r = check_host(b, l, error);
        if (r == 0)
                r = log_in(b, l, error);
        if (r < 0)
                return r;
        l->sftp = sftp_new(l->ssh);
        if (!l->sftp || sftp_init(l->sftp) != SSH_OK)
                return link_error(l, ssh_get_error_code(l->ssh) == SSH_FATAL ? PEERPOD_E_UNAVAILABLE : PEERPOD_E_FAILED_PRECONDITION, "no SFTP", error);
        return 0;
}

/* Files. */

static int sftp_failed(Link *l, const char *what, PeerpodError *error) {
        int code = sftp_get_error(l->sftp);
        char text[160];

        (void) snprintf(text, sizeof(text), "%s%s", what,
                        code == SSH_FX_PERMISSION_DENIED ? " (permission denied)" : code == SSH_FX_NO_SUCH_FILE ? " (no such directory)" : "");
        return link_error(l, code == SSH_FX_OK || code >= SSH_FX_NO_CONNECTION ? PEERPOD_E_UNAVAILABLE : PEERPOD_E_FAILED_PRECONDITION, text, error);
}

/* 1 there, 0 not, or a negative errno with *error set */
static int exists(Link *l, const char *path, PeerpodError *error) {
        sftp_attributes a = sftp_lstat(l->sftp, path);

        if (a) {
                sftp_attributes_free(a);
                return 1;
        }
        return sftp_get_error(l->sftp) == SSH_FX_NO_SUCH_FILE ? 0 : sftp_failed(l, "looking at cidata", error);
}

static int write_file(Link *l, const char *path, const void *data, size_t size, PeerpodError *error) {
        sftp_file f = sftp_open(l->sftp, path, O_WRONLY|O_CREAT|O_TRUNC, 0600);

        if (!f)
                return sftp_failed(l, "writing into cidata", error);
        for (size_t at = 0; at < size;) {
                ssize_t n = sftp_write(f, (const char*) data + at, MIN(size - at, (size_t) CHUNK));

                if (n <= 0) {
                        int r = sftp_failed(l, "writing into cidata", error);

                        (void) sftp_close(f);
                        return r;
                }
                at += (size_t) n;
        }
        if (sftp_extension_supported(l->sftp, "fsync@openssh.com", "1") && sftp_fsync(f) < 0) {
                int r = sftp_failed(l, "writing into cidata", error);

                (void) sftp_close(f);
                return r;
        }
        return sftp_close(f) == SSH_OK ? 0 : sftp_failed(l, "writing into cidata", error);
}

/* An empty directory that is not ours is no sign of a boot: the tmpfs may have been unmounted from it. */
static int try_to_write(Link *l, PeerpodError *error) {
        int r = write_file(l, PROBE, "", 0, error);

        if (r == 0 && sftp_unlink(l->sftp, PROBE) < 0)
                r = sftp_failed(l, "removing a file from cidata", error);
        return r;
}

/* Does the file hold these bytes? 1, 0, or a negative errno with *error set */
static int holds(Link *l, const char *path, const void *data, size_t size, PeerpodError *error) {
        sftp_file f = sftp_open(l->sftp, path, O_RDONLY, 0);
        char buffer[CHUNK];
        size_t at = 0;
        ssize_t n;

        if (!f)
                return sftp_get_error(l->sftp) == SSH_FX_NO_SUCH_FILE ? 0 : sftp_failed(l, "reading from cidata", error);
        while ((n = sftp_read(f, buffer, sizeof(buffer))) > 0) {
                if ((size_t) n > size - at || memcmp((const char*) data + at, buffer, (size_t) n) != 0)
                        break;
                at += (size_t) n;
        }
        explicit_bzero(buffer, sizeof(buffer));
        (void) sftp_close(f);
        return n < 0 ? sftp_failed(l, "reading from cidata", error) : n == 0 && at == size;
}

/* @data: NULL if the user data is not asked about */
static int look(Link *l, const char *allocation, const void *data, size_t size, VmState *ret, PeerpodError *error) {
        int directory, reboot, mark, user_data;

        directory = exists(l, DIRECTORY, error);
        if (directory < 0)
                return directory;
        if (directory == 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM %s: it has no directory '" DIRECTORY "': no pod VM image for this.",
                                         l->address);
        reboot = exists(l, REBOOT, error);
        mark = reboot < 0 ? reboot : exists(l, MARK, error);
        user_data = mark < 0 ? mark : exists(l, USER_DATA, error);
        if (user_data < 0)
                return user_data;
        *ret = VM_DIRTY;
        if (!reboot && !mark && !user_data) {
                int r = try_to_write(l, error);

                if (r < 0)
                        return r;
                *ret = VM_CLEAN;
        } else if (!reboot && mark) {
                int r = holds(l, MARK, allocation, strlen(allocation), error);

                if (r < 0)
                        return r;
                if (r > 0 && !user_data)
                        *ret = VM_MARKED;
                else if (r > 0 && data) {
                        r = holds(l, USER_DATA, data, size, error);
                        if (r < 0)
                                return r;
                        *ret = r > 0 ? VM_SERVING : VM_DIRTY;
                }
        }
        return 0;
}

int vm_look(Byom *b, const PeerpodCall *call, const char *address, const char *allocation, VmState *ret, PeerpodError *error) {
        _cleanup_(link_done) Link l = { .fd = -EBADF, .stop_fd = -EBADF };
        int r = link_open(b, call, address, &l, error);

        return r < 0 ? r : look(&l, allocation, NULL, 0, ret, error);
}

int vm_upload(Byom *b, const PeerpodCall *call, const char *address, const char *allocation, const void *data, size_t size, bool *ret_touched,
              PeerpodError *error) {
        _cleanup_(link_done) Link l = { .fd = -EBADF, .stop_fd = -EBADF };
        VmState state;
        int r;

        *ret_touched = false;
        r = link_open(b, call, address, &l, error);
        if (r == 0)
                r = look(&l, allocation, data, size, &state, error);
        if (r < 0)
                return r;
        if (state == VM_SERVING)
                return 0;
        if (state == VM_DIRTY)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM %s: it has been used and not rebooted since.", address);

        *ret_touched = true;
        r = write_file(&l, MARK, allocation, strlen(allocation), error);
        /* What waits for user-data reads it as soon as there is one: it appears whole. */
        if (r == 0)
                r = write_file(&l, USER_DATA_NEW, data, size, error);
        if (r == 0 && sftp_rename(l.sftp, USER_DATA_NEW, USER_DATA) < 0)
                r = sftp_failed(&l, "renaming the user data", error);
        return r;
}

int vm_reboot(Byom *b, const PeerpodCall *call, const char *address, PeerpodError *error) {
        _cleanup_(link_done) Link l = { .fd = -EBADF, .stop_fd = -EBADF };
        int r = link_open(b, call, address, &l, error);

        return r < 0 ? r : write_file(&l, REBOOT, "reboot", strlen("reboot"), error);
}

int ssh_check_settings(Byom *b, PeerpodError *error) {
        ssh_key key = NULL;

        if (ssh_pki_import_privkey_base64(b->private_key, NULL, NULL, NULL, &key) != SSH_OK)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "The file of SSH_PRIV_KEY_PATH holds no private key without passphrase.");
        ssh_key_free(key);
        if (!isempty(b->allowlist)) {
                struct stat st;

                if (stat(b->allowlist, &st) < 0 || !S_ISDIR(st.st_mode))
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "SSH_HOST_KEY_ALLOWLIST_DIR '%s' is no directory.", b->allowlist);
        }
        if (!isempty(b->known_hosts) && access(b->known_hosts, R_OK) < 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "SSH_KNOWN_HOSTS '%s' cannot be read: %s", b->known_hosts, strerror(errno));
        if (isempty(b->allowlist) && isempty(b->known_hosts) && !b->accept_any)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT,
                                         "No host key is known: set SSH_KNOWN_HOSTS or SSH_HOST_KEY_ALLOWLIST_DIR, or, where nobody can be in between, "
                                         "SSH_ACCEPT_ANY_HOST_KEY=true.");
        return 0;
}
