/* SPDX-License-Identifier: Apache-2.0 */
/* A YAML document as a tree of JSON, bounded in every direction: for configuration of a few kilobytes. */
#pragma once

#include <stddef.h>

#include "basic/json.h"

#define KUBE_YAML_DEPTH_MAX 16U
#define KUBE_YAML_EVENTS_MAX 32768U

/**
 * kube_yaml_parse() - the one document of a text, whose top is a mapping
 *
 * Scalars become strings, but a plain true or false a boolean and a plain null or nothing null. Anchors, aliases, tags of types, and a
 * key twice are refused. Returns 0; -EBADMSG with *reterr (may be NULL) naming the line, never quoting the text; -ENOMEM.
 */
int kube_yaml_parse(const char *text, size_t size, json_object **ret, char **reterr);

/* kube_json_erase() - overwrite all strings of a tree, which is not used any more */
void kube_json_erase(json_object *o);
