/* SPDX-License-Identifier: Apache-2.0 */
/* MESSAGE_ID of each event that an admin would search for. units/worker/peerpod.catalog explains each; a test compares. */
#pragma once

#define MSG_SANDBOX_STATE    "60c9042ae3e345e0a7916bda4da0e335"
#define MSG_SANDBOX_FAILED   "f9ac8f93359748eb85064bf403ddec12"
#define MSG_INSTANCE_CREATED "de53c4b235224a38a45aae8294e4102c"
#define MSG_INSTANCE_DELETED "90149571905846e7b94dfc7e0d1fb7cd"
#define MSG_DELETE_FAILED    "d908024a12794f01bd94550a981b2481"
#define MSG_RECORD_CORRUPT   "852e09ffecfe475aba1ef4b852c0303d"
#define MSG_TUNNEL_UP        "664bb61550fa45519a40f195837e0f23"
#define MSG_TUNNEL_FAILED    "200d88904f794279bc4997b2032722e8"
#define MSG_TUNNEL_DEAD      "8fb98b02a0d84e11a7d7808ddc971c21"
#define MSG_TUNNEL_MENDED    "5f6cdc23d0854b1e904f5de9b0f00ad7"
#define MSG_LINK_UP          "8c706e9c89754eb8bad85204a1871dab"
#define MSG_LINK_LOST        "134f9f3107cf4b0b965c2012c4e58325"
#define MSG_CREATE_SLOW      "a23aae2e646344ceb21ba7479f5d9b07"
#define MSG_ORPHAN_REAPED    "693d6105a8b146999fadfc7ba241012c"
#define MSG_USER_DATA        "25d4943eee214b898f7dba03e89a611a"
#define MSG_USER_DATA_REFUSED "a2e82951672c409990119de6e9b142d6"
#define MSG_SHIM_GONE        "0d0e1aab596a4c108fcd223fc029ea41"
#define MSG_CERTIFICATE_ENDS "1f5d8f1cb3ab4e24a7c0c2d5e9a1b6d4"
#define MSG_PROXY_FAILED     "108ef071547048808721aa63dd1081be"
#define MSG_SANDBOX_HELD     "936ac8ea655b4377bbcaf3e726a98e38"
