/* SPDX-License-Identifier: Apache-2.0 */
/* For edits-protoc.py: edits the message on standard input as one of our programs does, and writes what goes on. */
#include <stdio.h>

#include "agent-proxy/container-edit.h"
#include "basic/io.h"
#include "basic/util.h"
#include "podvm/forwarder/edits.h"

#define MESSAGE_MAX (4U << 20)

static ProxyVolume volumes[] = {
        { (char*) "/v/volumes/kubernetes.io~csi/a/mount", (char*) "disk-a", (char*) "xfs", (char*) "", (char*) "" },
        { (char*) "/v/volumes/kubernetes.io~csi/b/mount", (char*) "disk-b", (char*) "ext4", (char*) "luks", (char*) "kbs:///k" },
};

int main(int argc, char *argv[]) {
        _cleanup_(freep) char *message = NULL;
        TtrpcRequest request = {};
        RelayEdit edit = {};
        size_t size;

        if (argc != 2 || read_full_fd(STDIN_FILENO, MESSAGE_MAX, &message, &size) < 0)
                return 2;
        request.payload = (TtrpcSlice) { (const uint8_t*) message, size };
        if (streq(argv[1], "worker"))
                container_edit(volumes, ELEMENTSOF(volumes), &request, &edit);
        else if (streq(argv[1], "podvm"))
                edit_create_container("/run/netns/podns", "/nonexistent/root", NULL, NULL, &request, &edit);
        else
                edit_create_sandbox(&request, &edit);

        if (edit.code != TTRPC_OK)
                fprintf(stderr, "%s\n", edit.message);
        else if (write_full(STDOUT_FILENO, edit.payload ?: (const uint8_t*) message, edit.payload ? edit.size : size) < 0)
                edit.code = TTRPC_INTERNAL;
        free(edit.payload);
        return edit.code;
}
