/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/process-user-data/tsm-report.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/util.h"

#define REPORT_NAME "peerpod-initdata"
#define PROVIDER_SIZE_MAX 64U

/* AMD SEV-SNP ABI (56860) revision 1.57, table 23; the same place in all versions of the report so far, which begin with 2. */
#define SNP_REPORT_SIZE 1184U
#define SNP_VERSION_MIN 2U
#define SNP_HOST_DATA_OFFSET 0xc0U
#define SNP_HOST_DATA_SIZE 32U

/* Intel TDX DCAP quoting library API, appendix 3 (quote versions 4 and 5): header, in version 5 type and size of the body, body. In a
 * body, MRCONFIGID stands behind TEE_TCB_SVN, MRSEAM, MRSIGNERSEAM, SEAMATTRIBUTES, TDATTRIBUTES, XFAM and MRTD. */
#define TDX_HEADER_SIZE 48U
#define TDX_TEE_TYPE 0x81U
#define TDX_DESCRIPTOR_SIZE 6U
#define TDX_BODY_10 2U
#define TDX_BODY_15 3U
#define TDX_BODY_10_SIZE 584U
#define TDX_BODY_15_SIZE 648U
#define TDX_MRCONFIGID_OFFSET (16U + 48U + 48U + 8U + 8U + 8U + 48U)
#define TDX_MRCONFIGID_SIZE 48U

static uint32_t read_le32(const uint8_t *p) {
        return (uint32_t) p[3] << 24 | (uint32_t) p[2] << 16 | (uint32_t) p[1] << 8 | p[0];
}

static uint16_t read_le16(const uint8_t *p) {
        return (uint16_t) (p[1] << 8 | p[0]);
}

static int snp_host_data(const uint8_t *report, size_t size, TsmField *ret) {
        if (size != SNP_REPORT_SIZE || read_le32(report) < SNP_VERSION_MIN)
                return -EBADMSG;

        *ret = (TsmField) { "HOSTDATA", report + SNP_HOST_DATA_OFFSET, SNP_HOST_DATA_SIZE };
        return 1;
}

static int tdx_mrconfigid(const uint8_t *quote, size_t size, TsmField *ret) {
        size_t offset = TDX_HEADER_SIZE, body_size = TDX_BODY_10_SIZE;

        if (size < TDX_HEADER_SIZE + TDX_DESCRIPTOR_SIZE || read_le32(quote + 4) != TDX_TEE_TYPE)
                return -EBADMSG;

        switch (read_le16(quote)) {
        case 4:
                break;
        case 5: {
                uint16_t type = read_le16(quote + offset);

                if (type != TDX_BODY_10 && type != TDX_BODY_15)
                        return -EBADMSG;
                body_size = type == TDX_BODY_10 ? TDX_BODY_10_SIZE : TDX_BODY_15_SIZE;
                if (read_le32(quote + offset + 2) != body_size)
                        return -EBADMSG;
                offset += TDX_DESCRIPTOR_SIZE;
                break;
        }
        default:
                return -EBADMSG;
        }

        if (size - offset < body_size)
                return -EBADMSG;
        *ret = (TsmField) { "MRCONFIGID", quote + offset + TDX_MRCONFIGID_OFFSET, TDX_MRCONFIGID_SIZE };
        return 1;
}

int tsm_report_host_field(const char *provider, const void *report, size_t size, TsmField *ret) {
        if (streq(provider, "sev_guest"))
                return snp_host_data(report, size, ret);
        if (streq(provider, "tdx_guest"))
                return tdx_mrconfigid(report, size, ret);
        return 0;
}

/* The kernel makes the files of a report with its directory. */
static int write_inblob(int dir_fd, const uint8_t *inblob) {
        _cleanup_(close_fdp) int fd = openat(dir_fd, "inblob", O_WRONLY|O_CLOEXEC|O_NOFOLLOW);

        return fd < 0 ? -errno : write_full(fd, inblob, TSM_INBLOB_SIZE);
}

static int read_report(int dir_fd, const uint8_t *inblob, char **ret_provider, char **ret, size_t *ret_size) {
        _cleanup_(freep) char *provider = NULL;
        int r;

        r = write_inblob(dir_fd, inblob);
        if (r < 0)
                return r;
        r = read_full_file_at(dir_fd, "provider", PROVIDER_SIZE_MAX, &provider, NULL);
        if (r < 0)
                return r;
        provider[strcspn(provider, "\n")] = '\0';
        r = read_full_file_at(dir_fd, "outblob", TSM_REPORT_SIZE_MAX, ret, ret_size);
        if (r < 0)
                return r;

        *ret_provider = TAKE_PTR(provider);
        return 1;
}

int tsm_report_read(const char *sys_dir, const uint8_t inblob[static TSM_INBLOB_SIZE], char **ret_provider, char **ret, size_t *ret_size) {
        _cleanup_(close_fdp) int reports_fd = -EBADF, dir_fd = -EBADF;
        _cleanup_(freep) char *path = NULL;
        int r;

        if (asprintf(&path, "%s/kernel/config/tsm/report", sys_dir) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        reports_fd = open(path, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (reports_fd < 0)
                return errno == ENOENT ? 0 : -errno;

        /* One that is there was left by a run that was killed. */
        if (mkdirat(reports_fd, REPORT_NAME, 0700) < 0 && errno != EEXIST)
                return errno == ENXIO ? 0 : -errno;             /* ENXIO: the interface without a TEE behind it */
        dir_fd = openat(reports_fd, REPORT_NAME, O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC);
        r = dir_fd < 0 ? -errno : read_report(dir_fd, inblob, ret_provider, ret, ret_size);
        dir_fd = close_fd(dir_fd);
        (void) unlinkat(reports_fd, REPORT_NAME, AT_REMOVEDIR);
        return r;
}
