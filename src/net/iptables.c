/* SPDX-License-Identifier: Apache-2.0 */
#include "net/iptables.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <linux/netfilter_ipv4/ip_tables.h>     /* behind the C library's, which it would else define anew */

#include "basic/io.h"
#include "basic/strv.h"
#include "net/firewall-internal.h"

#define NAMES_SIZE_MAX 4096U
#define SIZE_MAX_ALL (64U << 20)
#define ENTRIES_MAX 200000U
#define READS_MAX 10U                   /* the table may change while it is read */

typedef struct XtChain {
        char name[XT_FUNCTION_MAXNAMELEN];
} XtChain;

typedef struct Entry {
        size_t offset;
        uint32_t chain, number;         /* number of the rule, as 'iptables -L --line-numbers' has it */
} Entry;

typedef struct Walk {
        const IptablesTable *table;
        const FirewallPacket *packet;
        Entry *entries;
        XtChain *chains;
        size_t n_entries, n_chains;
        unsigned hook;
        size_t steps;
        char ***certain, ***possible;
        int error;
} Walk;

typedef enum Verdict { GO_ON, DROP, ACCEPT, RETURN, JUMP, GOTO } Verdict;

static const char *const hook_names[IPTABLES_HOOKS] = { "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING" };

/* All that is asked of an entry later is within it. */
static bool read_entry(const IptablesTable *t, size_t offset, struct ipt_entry *ret) {
        if (offset > t->size || t->size - offset < sizeof(*ret))
                return false;
        memcpy(ret, t->entries + offset, sizeof(*ret));
        return ret->target_offset >= sizeof(*ret) && ret->next_offset <= t->size - offset &&
                ret->next_offset >= sizeof(struct xt_entry_target) && ret->target_offset <= ret->next_offset - sizeof(struct xt_entry_target);
}

static struct xt_entry_target read_target(const IptablesTable *t, size_t offset, const struct ipt_entry *e, const uint8_t **ret_data, size_t *ret_size) {
        struct xt_entry_target target;

        memcpy(&target, t->entries + offset + e->target_offset, sizeof(target));
        target.u.user.name[sizeof(target.u.user.name) - 1] = '\0';
        *ret_data = t->entries + offset + e->target_offset + sizeof(target);
        *ret_size = e->next_offset - e->target_offset - sizeof(target);
        return target;
}

static int add_chain(Walk *w, const char *name, size_t size) {
        int r = grow_array(&w->chains, w->n_chains, ENTRIES_MAX, sizeof(XtChain));

        if (r < 0)
                return r;
        XtChain *c = w->chains + w->n_chains++;
        *c = (XtChain) {};
        for (size_t i = 0; i < MIN(size, sizeof(c->name) - 1) && name[i]; i++)
                c->name[i] = name[i] >= ' ' && name[i] <= '~' ? name[i] : '?';
        return 0;
}

/* Chains lie one behind the other: those of the hooks, and each of the others behind an entry that has its name for an error
 * (iptables: libiptc/libiptc.c). */
static int find_chains(Walk *w) {
        const IptablesTable *t = w->table;
        uint32_t number = 0;
        struct ipt_entry e;
        int r;

        for (size_t offset = 0; offset < t->size; offset += e.next_offset) {
                const uint8_t *data;
                size_t size;

                if (!read_entry(t, offset, &e))
                        return -EBADMSG;
                const struct xt_entry_target target = read_target(t, offset, &e, &data, &size);

                for (unsigned h = 0; h < IPTABLES_HOOKS; h++)
                        if ((t->hooks & BIT(h)) && t->hook_entry[h] == offset) {
                                r = add_chain(w, hook_names[h], strlen(hook_names[h]));
                                if (r < 0)
                                        return r;
                                number = 0;
                                break;
                        }
                if (streq(target.u.user.name, XT_ERROR_TARGET)) {
                        r = add_chain(w, (const char*) data, size);
                        if (r < 0)
                                return r;
                        number = 0;
                }
                if (w->n_chains == 0)
                        return -EBADMSG;
                r = grow_array(&w->entries, w->n_entries, ENTRIES_MAX, sizeof(Entry));
                if (r < 0)
                        return r;
                w->entries[w->n_entries++] = (Entry) { .offset = offset, .chain = w->n_chains - 1,
                                                       .number = streq(target.u.user.name, XT_ERROR_TARGET) ? 0 : ++number };
        }
        return 0;
}

/* Index of the entry at an offset; the number of entries if there is none. */
static size_t find_entry(const Walk *w, size_t offset) {
        size_t low = 0, high = w->n_entries;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (w->entries[middle].offset < offset)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low < w->n_entries && w->entries[low].offset == offset ? low : w->n_entries;
}

/* Of what one line says of the packet: @inverted turns certain answers round. */
static Match turn(Match m, bool inverted) {
        return inverted ? (Match) (YES - m) : m;
}

static Match match_address(const IPAddress *a, uint32_t wanted, uint32_t mask) {
        uint32_t value;

        if (mask == 0)
                return YES;
        if (!ip_address_is_set(a))
                return PERHAPS;
        memcpy(&value, a->bytes, sizeof(value));
        return (value & mask) == wanted ? YES : NO;
}

/* @ours: the side of the device that is known; the other one has none. */
static Match match_device(const FirewallPacket *p, bool ours, const char *wanted, const unsigned char *mask) {
        char name[IFNAMSIZ] = {};
        bool asked = false;

        if (ours)
                memcpy(name, p->device, sizeof(name));
        for (size_t i = 0; i < IFNAMSIZ; i++)
                asked = asked || mask[i];
        if (!asked)
                return YES;
        if (ours && !name[0])
                return PERHAPS;
        for (size_t i = 0; i < IFNAMSIZ; i++)
                if ((name[i] ^ wanted[i]) & mask[i])
                        return NO;
        return YES;
}

static Match match_header(const FirewallPacket *p, const struct ipt_ip *ip) {
        Match parts[] = {
                turn(match_address(&p->source, ip->src.s_addr, ip->smsk.s_addr), ip->invflags & IPT_INV_SRCIP),
                turn(match_address(&p->destination, ip->dst.s_addr, ip->dmsk.s_addr), ip->invflags & IPT_INV_DSTIP),
                turn(match_device(p, p->incoming, ip->iniface, ip->iniface_mask), ip->invflags & IPT_INV_VIA_IN),
                turn(match_device(p, !p->incoming, ip->outiface, ip->outiface_mask), ip->invflags & IPT_INV_VIA_OUT),
                ip->proto == 0 ? YES : turn(ip->proto == IPPROTO_UDP ? YES : NO, ip->invflags & XT_INV_PROTO),
                /* Not a second or later fragment */
                ip->flags & IPT_F_FRAG ? turn(NO, ip->invflags & IPT_INV_FRAG) : YES,
        };
        Match all = YES;

        FOREACH_ELEMENT(const Match, m, parts, ELEMENTSOF(parts))
                all = MIN(all, *m);
        return all;
}

static Match match_entry(const Walk *w, size_t offset, const struct ipt_entry *e) {
        const uint8_t *base = w->table->entries + offset;
        Match all = match_header(w->packet, &e->ip);

        for (size_t at = sizeof(*e), size; all != NO && at < e->target_offset; at += size) {
                struct xt_entry_match m;

                if (e->target_offset - at < sizeof(m))
                        return PERHAPS;
                memcpy(&m, base + at, sizeof(m));
                size = m.u.user.match_size;
                if (size < sizeof(m) || size > e->target_offset - at)
                        return PERHAPS;
                m.u.user.name[sizeof(m.u.user.name) - 1] = '\0';
                all = MIN(all, firewall_xt_match(w->packet, m.u.user.name, base + at + sizeof(m), size - sizeof(m)));
        }
        return all;
}

/* What an entry does with the packets that match; @ret_to: index of the entry to jump to. */
static Verdict verdict_of(const Walk *w, size_t index, const struct ipt_entry *e, size_t *ret_to) {
        const uint8_t *data;
        size_t size;
        const struct xt_entry_target target = read_target(w->table, w->entries[index].offset, e, &data, &size);
        int32_t number;

        if (firewall_xt_target_drops(target.u.user.name))
                return DROP;
        if (target.u.user.name[0] || size < sizeof(number))
                return GO_ON;
        memcpy(&number, data, sizeof(number));
        if (number == -NF_DROP - 1)
                return DROP;
        if (number == XT_RETURN)
                return RETURN;
        if (number < 0)
                return ACCEPT;
        *ret_to = find_entry(w, (uint32_t) number);
        return e->ip.flags & IPT_F_GOTO ? GOTO : JUMP;
}

static void add_finding(Walk *w, bool certain, const Entry *e, bool policy) {
        const char *chain = w->chains[e->chain].name, *table = w->table->name;
        char text[256];
        int r;

        if (strv_length(certain ? *w->certain : *w->possible) >= FIREWALL_FINDINGS_MAX)
                return;
        if (policy)
                (void) snprintf(text, sizeof(text), "iptables-legacy: policy of table '%s', chain '%s' %s", table, chain,
                                certain ? "drops them, and no rule accepts them" : "may drop them");
        else
                (void) snprintf(text, sizeof(text), "iptables-legacy: rule %u of table '%s', chain '%s' (hook %s) %s them", e->number, table,
                                chain, hook_names[w->hook], certain ? "drops" : "may drop");
        r = strv_extend(certain ? w->certain : w->possible, text);
        if (r < 0)
                w->error = r;
}

/* Who leaves a hook's chain comes to its policy. Sets @index so that the next entry is that one. */
static bool go_to_policy(const Walk *w, unsigned depth, size_t *index) {
        size_t policy = find_entry(w, w->table->underflow[w->hook]);

        if (depth > 0 || policy >= w->n_entries || policy <= *index)
                return false;
        *index = policy - 1;
        return true;
}

/* @sure: we got here for certain. */
static FirewallOutcome run_chain(Walk *w, size_t first, bool sure, unsigned depth) {
        FirewallOutcome end = GOES_ON;

        for (size_t i = first; i < w->n_entries && w->entries[i].chain == w->entries[first].chain; i++) {
                const Entry *entry = w->entries + i;
                FirewallOutcome o;
                struct ipt_entry e;
                size_t to = 0;
                Match m;

                if (++w->steps > FIREWALL_STEPS_MAX || !read_entry(w->table, entry->offset, &e))
                        return GOES_ON_PERHAPS;
                m = match_entry(w, entry->offset, &e);
                if (m == NO)
                        continue;

                switch (verdict_of(w, i, &e, &to)) {
                case GO_ON:
                        break;
                case DROP:
                        add_finding(w, sure && end == GOES_ON && m == YES, entry,
                                    depth == 0 && entry->offset == w->table->underflow[w->hook]);
                        if (m == YES)
                                return DROPPED;
                        break;
                case ACCEPT:
                        if (m == YES)
                                return ACCEPTED;
                        end = GOES_ON_PERHAPS;
                        break;
                case RETURN:
                        if (m == YES && !go_to_policy(w, depth, &i))
                                return end;
                        if (m != YES)
                                end = GOES_ON_PERHAPS;
                        break;
                case JUMP:
                case GOTO:
                        o = to >= w->n_entries || depth >= FIREWALL_DEPTH_MAX ? GOES_ON_PERHAPS :
                                run_chain(w, to, sure && end == GOES_ON && m == YES, depth + 1);
                        if (m == YES && (o == ACCEPTED || o == DROPPED))
                                return o;
                        if (o == ACCEPTED || o == GOES_ON_PERHAPS)
                                end = GOES_ON_PERHAPS;
                        if (m == YES && (e.ip.flags & IPT_F_GOTO) && !go_to_policy(w, depth, &i))
                                return end;
                        break;
                }
        }
        return end;
}

int iptables_find_drops_in(const IptablesTable *t, const FirewallPacket *p, char ***certain, char ***possible) {
        const uint32_t hooks = p->incoming ? BIT(NF_INET_PRE_ROUTING) | BIT(NF_INET_LOCAL_IN) :
                                             BIT(NF_INET_LOCAL_OUT) | BIT(NF_INET_POST_ROUTING);
        Walk w = { .table = t, .packet = p, .certain = certain, .possible = possible };
        int r;

        r = find_chains(&w);
        for (unsigned h = 0; r >= 0 && h < IPTABLES_HOOKS; h++) {
                size_t first;

                if (!(t->hooks & hooks & BIT(h)))
                        continue;
                first = find_entry(&w, t->hook_entry[h]);
                w.hook = h;
                if (first < w.n_entries)
                        (void) run_chain(&w, first, /* sure= */ true, 0);
                r = w.error;
        }
        free(w.entries);
        free(w.chains);
        return r;
}

/* ---- from the kernel ---- */

/* Returns 1 with @ret and its entries (malloc()ed), 0 if there is no such table, negative. */
static int read_table(int fd, const char *name, IptablesTable *ret, void **ret_memory) {
        for (unsigned i = 0; i < READS_MAX; i++) {
                _cleanup_(freep) struct ipt_get_entries *entries = NULL;
                struct ipt_getinfo info = {};
                socklen_t size = sizeof(info);

                (void) snprintf(info.name, sizeof(info.name), "%s", name);
                if (getsockopt(fd, IPPROTO_IP, IPT_SO_GET_INFO, &info, &size) < 0)
                        return errno == ENOENT ? 0 : -errno;
                if (info.size > SIZE_MAX_ALL)
                        return -E2BIG;

                size = sizeof(*entries) + info.size;
                entries = calloc(1, size);
                if (!entries)
                        return -ENOMEM;
                (void) snprintf(entries->name, sizeof(entries->name), "%s", name);
                entries->size = info.size;
                if (getsockopt(fd, IPPROTO_IP, IPT_SO_GET_ENTRIES, entries, &size) < 0) {
                        if (errno == EAGAIN)            /* it has another size by now */
                                continue;
                        return -errno;
                }

                *ret = (IptablesTable) { .hooks = info.valid_hooks, .entries = (const uint8_t*) entries->entrytable, .size = info.size };
                (void) snprintf(ret->name, sizeof(ret->name), "%s", name);
                memcpy(ret->hook_entry, info.hook_entry, sizeof(ret->hook_entry));
                memcpy(ret->underflow, info.underflow, sizeof(ret->underflow));
                *ret_memory = TAKE_PTR(entries);
                return 1;
        }
        return -EAGAIN;
}

int iptables_find_drops(const FirewallPacket *p, char ***certain, char ***possible) {
        _cleanup_(freep) char *names = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        size_t size;
        int r;

        /* One that nobody has used is not in the list, and would be made by asking for it. */
        r = read_full_file_at(AT_FDCWD, "/proc/thread-self/net/ip_tables_names", NAMES_SIZE_MAX, &names, &size);
        if (r == -ENOENT || (r >= 0 && isempty(names)))
                return 0;
        if (r < 0)
                return r;
        fd = socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;

        for (char *name = names, *next; *name; name = next) {
                _cleanup_(freep) void *memory = NULL;
                IptablesTable t;

                next = name + strcspn(name, "\n");
                if (*next)
                        *next++ = '\0';
                r = read_table(fd, name, &t, &memory);
                if (r > 0)
                        r = iptables_find_drops_in(&t, p, certain, possible);
                if (r < 0)
                        return r;
        }
        return 0;
}
