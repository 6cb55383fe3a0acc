/* SPDX-License-Identifier: Apache-2.0 */
/* What RunInstances is asked for. */
#pragma once

#include "aws-describe.h"
#include "aws-metadata.h"

typedef struct AwsPlan {
        const PeerpodInstanceSpec *spec;        /* borrowed */
        AwsPlace place;
        AwsImage image;                         /* id "" if the launch template has it */
        char *type;                             /* "" if the launch template has it */
        char *user_data;                        /* base64, a secret */
        bool multi_nic;
} AwsPlan;

void plan_done(AwsPlan *p);

/* plan_make() - checks the request and looks up what is needed for it; makes nothing */
int plan_make(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, AwsPlan *ret, PeerpodError *error);

/* plan_form() - the parameters, without ClientToken and DryRun */
void plan_form(const Aws *a, const AwsPlan *p, Form *f);

/* form_add_owner() - TagSpecification.N of @resource with the owner's tags and those of the settings */
void form_add_owner(Form *f, unsigned n, const char *resource, const PeerpodInstanceSpec *spec, const char *tags);
