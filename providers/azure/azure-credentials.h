/* SPDX-License-Identifier: Apache-2.0 */
/* Access tokens: by a client's secret, by a workload identity's assertion, or by the machine's managed identity. */
#pragma once

#include "azure.h"

/* azure_token_fetch() - TokenFetch; @userdata is the Azure. The first that is configured: AZURE_CLIENT_SECRET, AZURE_FEDERATED_TOKEN_FILE
 * (read anew each time, as the kubelet replaces it), and without either the metadata service. */
int azure_token_fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error);

/* azure_token_judge() - of Azure.token_api: the metadata service's passing faults are other ones than elsewhere */
HttpVerdict azure_token_judge(void *userdata, const HttpReply *reply);

/* azure_credentials_check() - are the settings complete for the way they choose? */
int azure_credentials_check(const Azure *a, PeerpodError *error);
