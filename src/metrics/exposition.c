/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics/exposition.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <strings.h>

#include "basic/log.h"
#include "basic/util.h"

typedef enum FamilyType {
        FAMILY_COUNTER,
        FAMILY_GAUGE,
        FAMILY_HISTOGRAM,
        FAMILY_INFO,
} FamilyType;

typedef struct Family {
        const char *name;               /* as in OpenMetrics: without the suffix that a counter's or an info's sample has */
        FamilyType type;
        const char *unit;               /* NULL: a number of things; else the name ends in it */
        const char *help;
} Family;

static const Family families[] = {
        { "peerpod_adaptor", FAMILY_INFO, NULL, "The adaptor that was asked." },
        { "peerpod_adaptor_up", FAMILY_GAUGE, NULL, "Whether peerpod-adaptor runs and answered." },
        { "peerpod_adaptor_start_time_seconds", FAMILY_GAUGE, "seconds", "When the adaptor started; its counters began at 0 then." },
        { "peerpod_sandboxes", FAMILY_GAUGE, NULL, "Sandboxes by state." },
        { "peerpod_sandboxes_held", FAMILY_GAUGE, NULL, "Sandboxes whose pod VM is kept for somebody to look into it." },
        { "peerpod_oldest_delete_age_seconds", FAMILY_GAUGE, "seconds", "How long the oldest delete is under way; 0 if none is." },
        { "peerpod_starts", FAMILY_COUNTER, NULL, "StartVM calls that came to an end, by how." },
        { "peerpod_step_failures", FAMILY_COUNTER, NULL, "Failed steps of sandboxes' lives, with each repetition, by error name." },
        { "peerpod_phase_duration_seconds", FAMILY_HISTOGRAM, "seconds", "How long phases of sandboxes' lives took that succeeded." },
        { "peerpod_orphans_reaped", FAMILY_COUNTER, NULL, "Instances and tunnels that no record knew, and sandboxes whose shim was gone, that were removed." },
        { "peerpod_records_set_aside", FAMILY_COUNTER, NULL, "Records of sandboxes that could not be read." },
        { "peerpod_agent_proxy_failures", FAMILY_COUNTER, NULL, "Agent proxies of running sandboxes that failed or were killed." },
        { "peerpod_agent_proxy_link_up", FAMILY_GAUGE, NULL, "Whether a sandbox's agent proxy is connected to its pod VM." },
        { "peerpod_agent_proxy_links", FAMILY_COUNTER, NULL, "Connections to the pod VM that came up." },
        { "peerpod_agent_proxy_links_resumed", FAMILY_COUNTER, NULL, "Connections that went on where the last one had ended." },
        { "peerpod_agent_proxy_links_lost", FAMILY_COUNTER, NULL, "Connections to the pod VM that ended." },
        { "peerpod_agent_proxy_connections", FAMILY_GAUGE, NULL, "Connections of the shim and of tools." },
        { "peerpod_agent_proxy_calls", FAMILY_COUNTER, NULL, "Agent calls that were passed on to the pod VM." },
        { "peerpod_agent_proxy_calls_failed", FAMILY_COUNTER, NULL, "Agent calls that were answered with an error." },
        { "peerpod_agent_proxy_calls_in_flight", FAMILY_GAUGE, NULL, "Agent calls that wait for their answer." },
        { "peerpod_agent_proxy_transferred_bytes", FAMILY_COUNTER, "bytes", "Bytes of agent calls and answers." },
        { "peerpod_agent_proxy_boot_seconds", FAMILY_GAUGE, "seconds", "From the proxy's start until its pod VM took a connection." },
        { "peerpod_ctrl_leader", FAMILY_GAUGE, NULL, "Whether this controller leads." },
        { "peerpod_ctrl_peerpods", FAMILY_GAUGE, NULL, "PeerPod objects by state." },
        { "peerpod_ctrl_oldest_delete_age_seconds", FAMILY_GAUGE, "seconds", "How long the oldest deletion is under way; 0 if none is." },
        { "peerpod_ctrl_peerpods_released", FAMILY_COUNTER, NULL, "PeerPod objects whose finalizer was removed, as their instances are gone." },
        { "peerpod_ctrl_peerpods_superseded", FAMILY_COUNTER, NULL, "PeerPod objects that were deleted, as their pods have newer ones." },
        { "peerpod_ctrl_instances_deleted", FAMILY_COUNTER, NULL, "Calls to clouds after which an instance was gone." },
        { "peerpod_ctrl_delete_failures", FAMILY_COUNTER, NULL, "Calls to clouds after which an instance was not known to be gone." },
        { "peerpod_ctrl_provider_up", FAMILY_GAUGE, NULL, "Whether a provider's service runs with the settings that it has." },
        { "peerpod_ctrl_requests", FAMILY_COUNTER, NULL, "Requests to the API server, repetitions included." },
        { "peerpod_ctrl_request_failures", FAMILY_COUNTER, NULL, "Requests to the API server that had no answer, 429 or 5xx." },
};

struct Exposition {
        struct {
                char *text;             /* lines of samples */
                size_t size, allocated;
        } samples[ELEMENTSOF(families)];
        size_t size;
};

int exposition_new(Exposition **ret) {
        Exposition *e = new0(Exposition, 1);

        if (!e)
                return -ENOMEM;
        *ret = e;
        return 0;
}

Exposition* exposition_free(Exposition *e) {
        if (!e)
                return NULL;

        for (size_t i = 0; i < ELEMENTSOF(families); i++)
                free(e->samples[i].text);
        free(e);
        return NULL;
}

static int find_family(const char *name, size_t *ret) {
        for (size_t i = 0; i < ELEMENTSOF(families); i++)
                if (streq(families[i].name, name)) {
                        *ret = i;
                        return 0;
                }

        return -ENOENT;
}

static int append(Exposition *e, size_t family, const char *text, size_t size) {
        size_t wanted = e->samples[family].size + size;

        if (e->size + size > EXPOSITION_SIZE_MAX)
                return -EFBIG;
        if (wanted > e->samples[family].allocated) {
                size_t allocated = MAX(wanted, 2 * e->samples[family].allocated);
                char *p = realloc(e->samples[family].text, allocated);

                if (!p)
                        return -ENOMEM;
                e->samples[family].text = p;
                e->samples[family].allocated = allocated;
        }

        memcpy(e->samples[family].text + e->samples[family].size, text, size);
        e->samples[family].size = wanted;
        e->size += size;
        return 0;
}

static bool labels_are_valid(const MetricLabel *labels, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (isempty(labels[i].name) || labels[i].name[strspn(labels[i].name, "abcdefghijklmnopqrstuvwxyz_")] != '\0')
                        return false;
        return true;
}

/* A label's value between quotes. What is no printable ASCII has no business in a label of ours, and so becomes "?": whatever a pod is
 * called, the text stays valid. */
static void print_escaped(FILE *f, const char *value) {
        for (size_t i = 0; value[i] && i < METRIC_LABEL_SIZE_MAX; i++) {
                unsigned char c = value[i];

                if (c == '"' || c == '\\')
                        fputc('\\', f);
                fputc(c < ' ' || c > '~' ? '?' : c, f);
        }
}

/* NAME SUFFIX {LABELS,EXTRA}, without the value; nothing between the braces if there is no label */
static void print_name(FILE *f, const char *name, const char *suffix, const MetricLabel *labels, size_t n_labels, const char *le) {
        fprintf(f, "%s%s", name, suffix);
        if (n_labels == 0 && !le) {
                fputc(' ', f);
                return;
        }

        fputc('{', f);
        for (size_t i = 0; i < n_labels; i++) {
                fprintf(f, "%s%s=\"", i > 0 ? "," : "", labels[i].name);
                print_escaped(f, strempty(labels[i].value));
                fputc('"', f);
        }
        if (le)
                fprintf(f, "%sle=\"%s\"", n_labels > 0 ? "," : "", le);
        fputs("} ", f);
}

/* Seconds without loss, and with at least one decimal, as OpenMetrics wants the bounds of buckets. */
static const char* format_seconds(char *buffer, size_t size, uint64_t usec) {
        size_t n;

        (void) snprintf(buffer, size, "%" PRIu64 ".%06" PRIu64, usec / USEC_PER_SEC, usec % USEC_PER_SEC);
        for (n = strlen(buffer); buffer[n - 1] == '0' && buffer[n - 2] != '.'; n--)
                buffer[n - 1] = '\0';
        return buffer;
}

#define FORMAT_SECONDS(usec) format_seconds((char[32]) {}, 32, (usec))

static const char* sample_suffix(FamilyType type) {
        return type == FAMILY_COUNTER ? "_total" : type == FAMILY_INFO ? "_info" : "";
}

/* Takes what was printed into the stream. */
static int append_stream(Exposition *e, size_t family, FILE *f, char **text, size_t *size) {
        int r;

        r = fclose(f) == 0 ? append(e, family, *text, *size) : -ENOMEM;
        free(*text);
        return r;
}

int exposition_add(Exposition *e, const char *family, const MetricLabel *labels, size_t n_labels, uint64_t value) {
        char *text = NULL;
        size_t i, size;
        FILE *f;
        int r;

        r = find_family(family, &i);
        if (r < 0)
                return r;
        if (families[i].type == FAMILY_HISTOGRAM)
                return -ENOENT;
        if (!labels_are_valid(labels, n_labels))
                return -EINVAL;

        f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;
        print_name(f, families[i].name, sample_suffix(families[i].type), labels, n_labels, /* le= */ NULL);
        if (streq_ptr(families[i].unit, "seconds"))
                fprintf(f, "%s\n", FORMAT_SECONDS(value));
        else
                fprintf(f, "%" PRIu64 "\n", value);
        return append_stream(e, i, f, &text, &size);
}

static bool buckets_are_valid(const MetricBucket *buckets, size_t n) {
        if (n == 0 || buckets[n - 1].bound_usec != UINT64_MAX)
                return false;
        for (size_t i = 1; i < n; i++)
                if (buckets[i].bound_usec <= buckets[i - 1].bound_usec || buckets[i].count < buckets[i - 1].count)
                        return false;
        return true;
}

int exposition_add_histogram(Exposition *e, const char *family, const MetricLabel *labels, size_t n_labels, uint64_t sum_usec,
                             const MetricBucket *buckets, size_t n_buckets) {
        char *text = NULL;
        size_t i, size;
        FILE *f;
        int r;

        r = find_family(family, &i);
        if (r < 0)
                return r;
        if (families[i].type != FAMILY_HISTOGRAM)
                return -ENOENT;
        if (!labels_are_valid(labels, n_labels) || !buckets_are_valid(buckets, n_buckets))
                return -EINVAL;

        f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;
        for (size_t b = 0; b < n_buckets; b++) {
                print_name(f, families[i].name, "_bucket", labels, n_labels,
                           b == n_buckets - 1 ? "+Inf" : FORMAT_SECONDS(buckets[b].bound_usec));
                fprintf(f, "%" PRIu64 "\n", buckets[b].count);
        }
        print_name(f, families[i].name, "_count", labels, n_labels, /* le= */ NULL);
        fprintf(f, "%" PRIu64 "\n", buckets[n_buckets - 1].count);
        print_name(f, families[i].name, "_sum", labels, n_labels, /* le= */ NULL);
        fprintf(f, "%s\n", FORMAT_SECONDS(sum_usec));
        return append_stream(e, i, f, &text, &size);
}

static void print_header(FILE *f, const Family *family, ExpositionFormat format) {
        static const char *const types[] = {
                [FAMILY_COUNTER]   = "counter",
                [FAMILY_GAUGE]     = "gauge",
                [FAMILY_HISTOGRAM] = "histogram",
                [FAMILY_INFO]      = "info",
        };

        if (format == FORMAT_OPENMETRICS) {
                fprintf(f, "# TYPE %s %s\n", family->name, types[family->type]);
                if (family->unit)
                        fprintf(f, "# UNIT %s %s\n", family->name, family->unit);
                fprintf(f, "# HELP %s %s\n", family->name, family->help);
                return;
        }

        /* The older format calls a family as its samples are called, and has no type for an info. */
        fprintf(f, "# HELP %s%s %s\n", family->name, sample_suffix(family->type), family->help);
        fprintf(f, "# TYPE %s%s %s\n", family->name, sample_suffix(family->type),
                family->type == FAMILY_INFO ? "gauge" : types[family->type]);
}

int exposition_render(Exposition *e, ExpositionFormat format, char **ret, size_t *ret_size) {
        char *text = NULL;
        size_t size;
        FILE *f;

        f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;
        for (size_t i = 0; i < ELEMENTSOF(families); i++) {
                if (e->samples[i].size == 0)
                        continue;
                print_header(f, families + i, format);
                (void) fwrite(e->samples[i].text, 1, e->samples[i].size, f);
        }
        if (format == FORMAT_OPENMETRICS)
                fputs("# EOF\n", f);
        if (fclose(f) != 0) {
                free(text);
                return -ENOMEM;
        }

        *ret = text;
        *ret_size = size;
        return 0;
}

const char* exposition_content_type(ExpositionFormat format) {
        return format == FORMAT_OPENMETRICS ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                            : "text/plain; version=0.0.4; charset=utf-8";
}

/* "q=0.5" in thousandths (RFC 9110, 12.4.2: at most three decimals); what is ill-formed counts as 1 */
static unsigned parse_quality(const char *s, size_t size) {
        unsigned q = 0, scale = 100;

        if (size == 0 || (s[0] != '0' && s[0] != '1'))
                return 1000;
        q = s[0] == '1' ? 1000 : 0;
        if (size < 2)
                return q;
        if (s[1] != '.')
                return 1000;
        for (size_t i = 2; i < size && i < 5; i++, scale /= 10) {
                if (s[i] < '0' || s[i] > '9')
                        break;
                q += (unsigned) (s[i] - '0') * scale;
        }

        return MIN(q, 1000U);
}

/* One range of an Accept: header, "type/subtype;a=b;q=0.5". Is it @type, and how much is it liked? */
static bool range_matches(const char *range, size_t size, const char *type, unsigned *ret_quality) {
        size_t n = 0;
        unsigned quality = 1000;

        while (size > 0 && (*range == ' ' || *range == '\t'))
                range++, size--;
        while (n < size && range[n] != ';' && range[n] != ' ' && range[n] != '\t')
                n++;
        if (n != strlen(type) || strncasecmp(range, type, n) != 0)
                return false;

        for (size_t i = n, next; i < size; i = next) {
                while (i < size && (range[i] == ';' || range[i] == ' ' || range[i] == '\t'))
                        i++;
                for (next = i; next < size && range[next] != ';'; next++)
                        ;
                if (next - i >= 2 && (range[i] == 'q' || range[i] == 'Q') && range[i + 1] == '=')
                        quality = parse_quality(range + i + 2, next - i - 2);
        }

        *ret_quality = quality;
        return true;
}

ExpositionFormat exposition_negotiate(const char *accept) {
        unsigned openmetrics = 0, text = 0;

        for (const char *p = strempty(accept); *p;) {
                size_t size = strcspn(p, ",");
                unsigned quality;

                if (range_matches(p, size, "application/openmetrics-text", &quality))
                        openmetrics = MAX(openmetrics, quality);
                if (range_matches(p, size, "text/plain", &quality))
                        text = MAX(text, quality);
                p += size + (p[size] == ',');
        }

        return openmetrics > 0 && openmetrics >= text ? FORMAT_OPENMETRICS : FORMAT_PROMETHEUS;
}
