/* SPDX-License-Identifier: Apache-2.0 */
/* MESSAGE_ID of each event that an admin would search for. units/worker/peerpod.catalog explains each; a test compares. */
#pragma once

#define MSG_SANDBOX_STATE    "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a01"
#define MSG_SANDBOX_FAILED   "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a02"
#define MSG_INSTANCE_CREATED "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a03"
#define MSG_INSTANCE_DELETED "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a04"
#define MSG_DELETE_FAILED    "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a05"
#define MSG_RECORD_CORRUPT   "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a06"
#define MSG_TUNNEL_UP        "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a07"
#define MSG_TUNNEL_FAILED    "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a08"
#define MSG_LINK_UP          "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a09"
#define MSG_LINK_LOST        "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a0a"
#define MSG_ORPHAN_REAPED    "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a0b"
#define MSG_USER_DATA        "6d2d7b6cba7d4f4f8dc0c1e7ab1f5a0c"
