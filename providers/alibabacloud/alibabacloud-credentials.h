/* SPDX-License-Identifier: Apache-2.0 */
/* Where the key comes from: settings, STS for a token of OpenID Connect (RRSA), or the role of the machine. */
#pragma once

#include "alibabacloud-provider.h"

int credentials_fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error);        /* a TokenFetch; @userdata: Alibaba */
