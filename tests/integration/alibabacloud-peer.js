// SPDX-License-Identifier: Apache-2.0
// A cloud for the tests of provider alibabacloud: ECS, VPC, STS and the metadata service in one process, in memory. What it takes and says
// is not ours to decide: each query is mapped back to the vendor's request class of that action (unknown or mistyped keys, and keys that
// the vendor's own client would not send so, are violations), signatures are verified by the vendor's library, answers are built with the
// vendor's response classes. Prints its port. Tests steer it by POST /_set, /_fault, and read GET /_state.
'use strict';
const crypto = require('crypto');
const http = require('http');
const assert = require('assert');
const $dara = require('@darabonba/typescript');
const { OpenApiUtil } = require('@alicloud/openapi-core');
const Signer = require('@alicloud/openapi-util').default;

// One class at a time: a package has thousands. Files do not always spell as their class does.
const classesOf = (name) => new Proxy({}, { get: (_, c) => require(`@alicloud/${name}/dist/models/${c.replace('VSwitch', 'Vswitch')}`)[c] });
const Ecs = classesOf('ecs20140526'), Vpc = classesOf('vpc20160428'), Sts = require('@alicloud/sts20150401');


const REGION = 'cn-beijing';
const defaults = () => ({               // what tests may set
    keys: { testid: { secret: 'testsecret', token: '' } },
    startMs: 100, visibleMs: 0, initializingMs: 0, goneMs: 30, addressMs: 0,
    pageSize: 100, perSecond: 0, keyLifeSeconds: 3600, imdsToken: true, oidcToken: 'the-oidc-token',
    failToStart: false, denied: [],
});
let o = defaults();
let s;                                  // what there is

function reset() {
    s = { instances: new Map(), eips: new Map(), disks: new Map(), tokens: new Map(), nonces: new Set(), violations: [], calls: [], faults: [],
          held: 0, keysIssued: 0, nMade: 0, nRequests: 0, busyMs: 0, peak: 0, bucket: { at: Date.now(), left: 0 }, n: 0 };
    for (const id of ['d-one', 'd-two'])
        s.disks.set(id, { id, status: 'Available', holder: '' });
}
reset();

const TYPES = [
    { InstanceTypeId: 'ecs.g8i.large', CpuCoreCount: 2, MemorySize: 8, GPUAmount: 0, GPUSpec: '', CpuArchitecture: 'X86' },
    { InstanceTypeId: 'ecs.g8i.xlarge', CpuCoreCount: 4, MemorySize: 16, GPUAmount: 0, GPUSpec: '', CpuArchitecture: 'X86' },
    { InstanceTypeId: 'ecs.g8i.4xlarge', CpuCoreCount: 16, MemorySize: 64, GPUAmount: 0, GPUSpec: '', CpuArchitecture: 'X86' },
    { InstanceTypeId: 'ecs.gn7i-c8g1.2xlarge', CpuCoreCount: 8, MemorySize: 30, GPUAmount: 1, GPUSpec: 'NVIDIA A10', CpuArchitecture: 'X86' },
    { InstanceTypeId: 'ecs.t6-c4m1.large', CpuCoreCount: 2, MemorySize: 0.5, GPUAmount: 0, GPUSpec: '', CpuArchitecture: 'X86' },
];

class Refusal extends Error {
    constructor(status, code, message, headers) {
        super(message || code);
        Object.assign(this, { status, code, headers: headers || {} });
    }
}

function violation(text) {
    s.violations.push(text);
    return new Refusal(400, 'Violation', text);
}

// ---- the vendor's request classes, backwards ----

function treeOf(query) {
    const tree = {};
    for (const [key, value] of Object.entries(query)) {
        const parts = key.split('.');
        let t = tree;
        for (const part of parts.slice(0, -1)) {
            if (typeof t[part] === 'string') throw violation(`${key}: '${part}' is a value, too`);
            t = t[part] = t[part] || {};
        }
        t[parts[parts.length - 1]] = value;
    }
    return tree;
}

function scalar(path, type, value) {
    if (typeof value !== 'string') throw violation(`${path}: not one value`);
    switch (type) {
    case 'string': return value;
    case 'number':
        if (!/^-?\d+(\.\d+)?$/.test(value)) throw violation(`${path}: '${value}' is no number`);
        return Number(value);
    case 'boolean':
        if (value !== 'true' && value !== 'false') throw violation(`${path}: '${value}' is no boolean`);
        return value === 'true';
    default: throw violation(`${path}: type ${type} of the class is not known`);
    }
}

function valueOf(path, type, value) {
    if (typeof type === 'string') return scalar(path, type, value);
    if (typeof type === 'function') return objectOf(path, type, value);
    if (type.type === 'array') {
        const n = Object.keys(value).length;
        return Array.from({ length: n }, (_, i) => {
            if (!(String(i + 1) in value)) throw violation(`${path}: items are not numbered from 1 on`);
            return valueOf(`${path}.${i + 1}`, type.itemType, value[i + 1]);
        });
    }
    throw violation(`${path}: type of the class is not known`);
}

function objectOf(path, Class, tree) {
    if (typeof tree === 'string') throw violation(`${path}: a value where members belong`);
    const byWire = Object.fromEntries(Object.entries(Class.names()).map(([k, v]) => [v, k]));
    const out = {};
    for (const [wire, value] of Object.entries(tree)) {
        const name = byWire[wire];
        if (!name) throw violation(`${path}.${wire}: ${Class.name} knows no such key`);
        out[name] = valueOf(`${path}.${wire}`, Class.types()[name], value);
    }
    return new Class(out);
}

function requestOf(action, Class, query) {
    const request = objectOf(action, Class, treeOf(query));
    request.validate();
    assert.deepStrictEqual({ ...OpenApiUtil.query(request.toMap()) }, { ...query }, `${action}: the vendor's client would send it differently`);
    return request;
}

// Through the vendor's class and back: what it does not know would be lost.
function answerOf(Class, map) {
    const full = { RequestId: crypto.randomUUID().toUpperCase(), ...map };
    const model = $dara.cast(full, new Class({}));
    model.validate();
    assert.deepStrictEqual(JSON.parse(JSON.stringify(model.toMap())), JSON.parse(JSON.stringify(full)), `${Class.name}: the answer has other members`);
    return model.toMap();
}

// ---- ECS and VPC ----

const id = (prefix) => `${prefix}-${String(++s.n).padStart(6, '0')}`;
const age = (x) => Date.now() - x.since;

function sweep() {
    for (const [k, i] of s.instances)
        if (i.deleted && Date.now() - i.deleted >= o.goneMs) {
            s.instances.delete(k);
            for (const d of s.disks.values()) if (d.holder === k) Object.assign(d, { status: 'Available', holder: '' });
            for (const e of s.eips.values()) if (i.eni && e.instance === i.eni) Object.assign(e, { status: 'Available', instance: '' });
        }
}

function statusOf(i) {
    if (i.deleted) return 'Stopping';
    if (o.failToStart) return age(i) < o.startMs ? 'Starting' : 'Stopped';
    if (i.stopped) return 'Stopped';
    return age(i) >= o.startMs ? 'Running' : age(i) >= o.startMs / 2 ? 'Starting' : 'Pending';
}

function instanceMap(i) {
    const hasAddress = age(i) >= o.addressMs;
    const interfaces = [{ NetworkInterfaceId: `eni-p-${i.id}`, PrimaryIpAddress: i.ip, Type: 'Primary', MacAddress: '00:16:3e:00:00:01' }];
    if (i.eni) interfaces.unshift({ NetworkInterfaceId: i.eni, PrimaryIpAddress: i.eniIp, Type: 'Secondary', MacAddress: '00:16:3e:00:00:02' });
    return {
        InstanceId: i.id, InstanceName: i.name, Status: statusOf(i), InstanceType: i.type, RegionId: REGION, ImageId: i.image,
        Tags: { Tag: i.tags.map((t) => ({ TagKey: t.key, TagValue: t.value })) },
        VpcAttributes: { PrivateIpAddress: { IpAddress: hasAddress ? [i.ip] : [] }, VSwitchId: 'vsw-1', VpcId: 'vpc-1' },
        PublicIpAddress: { IpAddress: hasAddress && i.publicIp ? [i.publicIp] : [] },
        EipAddress: { AllocationId: '', IpAddress: '', InternetChargeType: '' },
        NetworkInterfaces: { NetworkInterface: interfaces },
    };
}

const hasTags = (tags, wanted) => (wanted || []).every((w) => tags.some((t) => t.key === w.key && (w.value === undefined || t.value === w.value)));
function checkTags(tags) {
    if ((tags || []).length > 20) throw new Refusal(400, 'NumberExceed.Tags');
    for (const t of tags || []) {
        if (!t.key || t.key.length > 128 || /^(aliyun|acs:)/.test(t.key) || /https?:\/\//.test(t.key)) throw new Refusal(400, 'InvalidTagKey.Malformed');
        if ((t.value || '').length > 128 || /https?:\/\//.test(t.value || '')) throw new Refusal(400, 'InvalidTagValue.Malformed');
    }
    if (new Set((tags || []).map((t) => t.key)).size !== (tags || []).length) throw new Refusal(400, 'Duplicate.TagKey');
}

const find = (map, key, code) => {
    const x = map.get(key);
    if (!x) throw new Refusal(404, code, `The specified resource ${key} does not exist.`);
    return x;
};

const actions = {
    RunInstances(r) {
        const { clientToken, ...rest } = r.toMap ? { ...r } : r;
        const print = JSON.stringify(rest);
        if (r.imageId !== 'm-podvm' && r.imageId !== 'm-other') throw new Refusal(404, 'InvalidImageId.NotFound');
        if (!TYPES.some((t) => t.InstanceTypeId === r.instanceType)) throw new Refusal(403, 'InvalidInstanceType.ValueNotSupported');
        if (r.vSwitchId !== 'vsw-1') throw new Refusal(404, 'InvalidVSwitchId.NotFound');
        if (!r.securityGroupIds || r.securityGroupIds.some((g) => !/^sg-\d$/.test(g))) throw new Refusal(404, 'InvalidSecurityGroupId.NotFound');
        if (Number(r.amount) !== 1 || Number(r.minAmount) !== 1) throw violation('RunInstances: not one');
        checkTags(r.tag);
        const userData = Buffer.from(r.userData || '', 'base64');
        if (userData.toString('base64') !== (r.userData || '')) throw violation('RunInstances: UserData is not base64');
        if (userData.length > 32768) throw new Refusal(400, 'InvalidUserData.SizeExceeded');
        if (r.dryRun) throw new Refusal(400, 'DryRunOperation', 'Request validation has been passed with DryRun flag set.');
        if (!clientToken || clientToken.length > 64 || !/^[\x20-\x7e]+$/.test(clientToken)) throw violation('RunInstances: ClientToken');
        const before = s.tokens.get(clientToken);
        if (before && before.print !== print) throw new Refusal(400, 'IdempotentParameterMismatch');
        if (before) return answerOf(Ecs.RunInstancesResponseBody, { InstanceIdSets: { InstanceIdSet: [before.id] } });

        const i = { id: id('i'), name: r.instanceName, type: r.instanceType, image: r.imageId, tags: r.tag || [], since: Date.now(), request: r,
                    userData: userData.toString(), ip: `10.1.${s.n >> 8 & 255}.${s.n & 255}` };
        if (r.internetMaxBandwidthOut > 0) i.publicIp = `203.0.113.${s.n & 255}`;
        for (const n of r.networkInterface || []) {
            if (n.instanceType !== 'Secondary' || n.deleteOnRelease !== true) throw violation('RunInstances: NetworkInterface');
            i.eni = id('eni');
            i.eniIp = `10.2.${s.n >> 8 & 255}.${s.n & 255}`;
        }
        s.instances.set(i.id, i);
        s.nMade++;
        s.tokens.set(clientToken, { print, id: i.id });
        return answerOf(Ecs.RunInstancesResponseBody, { InstanceIdSets: { InstanceIdSet: [i.id] } });
    },

    DescribeInstances(r) {
        const ids = r.instanceIds ? JSON.parse(r.instanceIds) : null;
        const all = [...s.instances.values()].filter((i) => age(i) >= o.visibleMs && (!ids || ids.includes(i.id)) &&
            (!r.instanceName || i.name === r.instanceName) && hasTags(i.tags, r.tag));
        const from = r.nextToken ? Number(Buffer.from(r.nextToken, 'base64').toString()) : 0;
        const page = all.slice(from, from + Math.min(r.maxResults || 10, o.pageSize));
        const next = from + page.length < all.length ? Buffer.from(String(from + page.length)).toString('base64') : '';
        return answerOf(Ecs.DescribeInstancesResponseBody, { Instances: { Instance: page.map(instanceMap) }, TotalCount: all.length, NextToken: next });
    },

    DeleteInstance(r) {
        const i = find(s.instances, r.instanceId, 'InvalidInstanceId.NotFound');
        if (age(i) < o.initializingMs) throw new Refusal(403, 'IncorrectInstanceStatus.Initializing', 'The specified instance status does not support this operation.');
        if (r.force !== true && statusOf(i) !== 'Stopped') throw new Refusal(403, 'IncorrectInstanceStatus');
        i.deleted = i.deleted || Date.now();
        return answerOf(Ecs.DeleteInstanceResponseBody, {});
    },

    DescribeInstanceTypes(r) {
        if ((r.instanceTypes || []).length > 10) throw new Refusal(400, 'InvalidParameter');
        const all = TYPES.filter((t) => !r.instanceTypes || r.instanceTypes.includes(t.InstanceTypeId));
        return answerOf(Ecs.DescribeInstanceTypesResponseBody, { InstanceTypes: { InstanceType: all }, NextToken: '' });
    },

    DescribeImages(r) {
        const all = r.imageId === 'm-podvm' || r.imageId === 'm-other' ? [{ ImageId: r.imageId, Status: 'Available', Architecture: 'x86_64' }] : [];
        return answerOf(Ecs.DescribeImagesResponseBody, { Images: { Image: all }, TotalCount: all.length, PageNumber: 1, PageSize: 10 });
    },

    DescribeDisks(r) {
        const all = [...s.disks.values()].filter((d) => JSON.parse(r.diskIds).includes(d.id));
        return answerOf(Ecs.DescribeDisksResponseBody, {
            Disks: { Disk: all.map((d) => ({ DiskId: d.id, Status: d.status, InstanceId: d.holder, RegionId: REGION })) }, TotalCount: all.length });
    },

    AttachDisk(r) {
        const i = find(s.instances, r.instanceId, 'InvalidInstanceId.NotFound');
        const d = find(s.disks, r.diskId, 'InvalidDiskId.NotFound');
        if (statusOf(i) !== 'Running') throw new Refusal(403, 'IncorrectInstanceStatus');
        if (d.status !== 'Available') throw new Refusal(400, 'IncorrectDiskStatus');
        if (r.deleteWithInstance !== false) throw violation('AttachDisk: the disk would go with the instance');
        Object.assign(d, { status: 'In_use', holder: i.id });
        (i.disks = i.disks || []).push(d.id);
        return answerOf(Ecs.AttachDiskResponseBody, {});
    },

    DescribeVSwitchAttributes(r) {
        if (r.vSwitchId !== 'vsw-1') return answerOf(Vpc.DescribeVSwitchAttributesResponseBody, { VSwitchId: '', VpcId: '' });
        return answerOf(Vpc.DescribeVSwitchAttributesResponseBody,
            { VSwitchId: 'vsw-1', VpcId: 'vpc-1', ZoneId: 'cn-beijing-i', Status: 'Available' });
    },

    AllocateEipAddress(r) {
        checkTags(r.tag);
        if (!r.clientToken) throw violation('AllocateEipAddress: no ClientToken');
        const before = s.tokens.get(r.clientToken);
        const e = before ? s.eips.get(before.id) || { id: before.id, ip: '' } :
            { id: id('eip'), ip: `198.51.100.${s.n & 255}`, tags: r.tag || [], status: 'Available', instance: '', since: Date.now(), name: r.name };
        if (!before) {
            s.eips.set(e.id, e);
            s.tokens.set(r.clientToken, { id: e.id });
        }
        return answerOf(Vpc.AllocateEipAddressResponseBody, { AllocationId: e.id, EipAddress: e.ip });
    },

    DescribeEipAddresses(r) {
        const all = [...s.eips.values()].filter((e) => age(e) >= o.visibleMs && (!r.allocationId || e.id === r.allocationId) && hasTags(e.tags, r.tag));
        const size = Math.min(r.pageSize || 10, o.pageSize), from = ((r.pageNumber || 1) - 1) * size;
        return answerOf(Vpc.DescribeEipAddressesResponseBody, {
            EipAddresses: { EipAddress: all.slice(from, from + size).map((e) => ({
                AllocationId: e.id, IpAddress: e.ip, Status: e.status, InstanceId: e.instance, InstanceType: e.instance ? 'NetworkInterface' : '',
                Name: e.name || '', Tags: { Tag: e.tags.map((t) => ({ Key: t.key, Value: t.value })) } })) },
            TotalCount: all.length, PageNumber: r.pageNumber || 1, PageSize: size });
    },

    AssociateEipAddress(r) {
        const e = find(s.eips, r.allocationId, 'InvalidAllocationId.NotFound');
        const i = [...s.instances.values()].find((x) => x.eni === r.instanceId);
        if (!i || r.instanceType !== 'NetworkInterface') throw new Refusal(404, 'InvalidInstanceId.NotFound');
        if (e.status !== 'Available') throw new Refusal(400, 'IncorrectEipStatus');
        Object.assign(e, { status: 'InUse', instance: r.instanceId });
        return answerOf(Vpc.AssociateEipAddressResponseBody, {});
    },

    UnassociateEipAddress(r) {
        const e = find(s.eips, r.allocationId, 'InvalidAllocationId.NotFound');
        if (e.status !== 'InUse') throw new Refusal(400, 'IncorrectEipStatus');
        Object.assign(e, { status: 'Available', instance: '' });
        return answerOf(Vpc.UnassociateEipAddressResponseBody, {});
    },

    ReleaseEipAddress(r) {
        const e = find(s.eips, r.allocationId, 'InvalidAllocationId.NotFound');
        if (e.status !== 'Available') throw new Refusal(400, 'IncorrectEipStatus');
        s.eips.delete(e.id);
        return answerOf(Vpc.ReleaseEipAddressResponseBody, {});
    },
};

// ---- the gateway ----

function throttle() {
    if (!o.perSecond) return;
    const b = s.bucket, now = Date.now();
    b.left = Math.min(o.perSecond, b.left + (now - b.at) / 1000 * o.perSecond);
    b.at = now;
    if (b.left < 1)
        throw new Refusal(400, 'Throttling.User', 'Request was denied due to user flow control.', { 'x-ratelimit-user-api': 'Limit:10,Remain:0,TimeLeft:50' });
    b.left -= 1;
}

function authenticate(req, query, body) {
    const h = req.headers;
    if (h['content-type']) throw violation('a content-type without content');
    const m = /^ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=([0-9a-f]{64})$/.exec(h.authorization || '');
    if (!m) throw violation(`Authorization: ${h.authorization}`);
    const key = o.keys[m[1]];
    if (!key) throw new Refusal(404, 'InvalidAccessKeyId.NotFound');
    const payload = Signer.hexEncode(Signer.hash(body, 'ACS3-HMAC-SHA256'));
    if (h['x-acs-content-sha256'] !== payload) throw violation('x-acs-content-sha256');
    const expected = Signer.getAuthorization({ pathname: '/', method: req.method, query, headers: h }, 'ACS3-HMAC-SHA256', payload, m[1], key.secret);
    if (expected !== h.authorization) throw violation(`signature: '${h.authorization}' instead of '${expected}'`);
    if (Math.abs(Date.now() - Date.parse(h['x-acs-date'])) > 900000) throw new Refusal(400, 'InvalidTimeStamp.Expired');
    if (s.nonces.has(h['x-acs-signature-nonce'])) throw new Refusal(400, 'SignatureNonceUsed');
    s.nonces.add(h['x-acs-signature-nonce']);
    if ((h['x-acs-security-token'] || '') !== key.token) throw violation('x-acs-security-token');
    if (key.expires && Date.now() > key.expires) throw new Refusal(403, 'InvalidSecurityToken.Expired', 'Specified SecurityToken is expired.');
}

function issueKey() {
    const k = `STS.${crypto.randomBytes(6).toString('hex')}`;
    s.keysIssued++;
    o.keys[k] = { secret: crypto.randomBytes(12).toString('hex'), token: `token+/=${crypto.randomBytes(8).toString('hex')}` };
    return { AccessKeyId: k, AccessKeySecret: o.keys[k].secret, SecurityToken: o.keys[k].token,
             Expiration: new Date(Date.now() + o.keyLifeSeconds * 1000).toISOString().replace(/\.\d+Z/, 'Z') };
}

function queryOf(text) {
    const q = {};
    for (const [k, v] of new URLSearchParams(text)) {
        if (k in q) throw violation(`${k} comes twice`);
        q[k] = v;
    }
    return q;
}

function sts(req, query, body) {
    if (req.headers.authorization) throw violation('AssumeRoleWithOIDC is not signed');
    if (req.headers['content-type'] !== 'application/x-www-form-urlencoded') throw violation('AssumeRoleWithOIDC: content-type');
    const { Action, Version, Format, Timestamp, ...rest } = query;
    if (Action !== 'AssumeRoleWithOIDC' || Version !== '2015-04-01' || Format !== 'JSON' || isNaN(Date.parse(Timestamp))) throw violation('AssumeRoleWithOIDC: query');
    const r = requestOf('AssumeRoleWithOIDC', Sts.AssumeRoleWithOIDCRequest, { ...rest, ...queryOf(body.toString()) });
    if (r.OIDCToken !== o.oidcToken) throw new Refusal(400, 'AuthenticationFail.OIDCToken.Invalid', 'This JWT token is invalid.');
    if (r.roleArn !== 'acs:ram::1:role/podvm' || r.OIDCProviderArn !== 'acs:ram::1:oidc-provider/ack') throw new Refusal(404, 'EntityNotExist.Role');
    return answerOf(Sts.AssumeRoleWithOIDCResponseBody, { Credentials: issueKey() });
}

function metadata(req, path) {
    const h = req.headers;
    if (req.method === 'PUT' && path === '/latest/api/token') {
        if (!o.imdsToken) throw new Refusal(404, 'x');
        if (!h['x-aliyun-ecs-metadata-token-ttl-seconds']) throw violation('metadata: no life time');
        return 'the-metadata-token';
    }
    if (o.imdsToken && h['x-aliyun-ecs-metadata-token'] !== 'the-metadata-token') throw new Refusal(403, 'x');
    if (path === '/latest/meta-data/ram/security-credentials/') return o.role === undefined ? 'podvm-role' : o.role;
    if (path === '/latest/meta-data/ram/security-credentials/podvm-role')
        return JSON.stringify({ ...issueKey(), LastUpdated: new Date().toISOString(), Code: 'Success' });
    throw new Refusal(404, 'x');
}

function handle(req, url, body) {
    if (url.pathname.startsWith('/latest/')) return metadata(req, url.pathname);
    const query = queryOf(url.search.slice(1));
    if (query.Action) return sts(req, query, body);
    if (req.method !== 'POST' || url.pathname !== '/' || body.length > 0) throw violation(`${req.method} ${url.pathname}`);
    const action = req.headers['x-acs-action'], vpc = /VSwitch|Eip/.test(action);
    if (req.headers['x-acs-version'] !== (vpc ? '2016-04-28' : '2014-05-26')) throw violation(`${action}: version`);
    authenticate(req, query, body);
    throttle();
    if (o.denied.includes(action)) throw new Refusal(403, 'Forbidden.RAM', 'User not authorized to operate on the specified resource.');
    if (!Object.hasOwn(actions, action)) throw violation(`${action}: no such action`);
    const r = requestOf(action, (vpc ? Vpc : Ecs)[`${action}Request`], query);
    if (r.regionId !== undefined && r.regionId !== REGION) throw violation(`${action}: region ${r.regionId}`);
    sweep();
    return actions[action](r);
}

// A fault: { action, nth, kind, status, code }. nth counts the calls of that action since it was set, from 1 on; 0: each.
function faultFor(action) {
    for (const f of s.faults)
        if ((f.action === action || f.action === '*') && (++f.seen === f.nth || f.nth === 0)) return f;
    return null;
}

function outcomeOf(req, url, body) {
    try {
        const a = handle(req, url, body);
        return { status: 200, headers: { 'content-type': 'application/json;charset=utf-8' }, body: typeof a === 'string' ? a : JSON.stringify(a) };
    } catch (e) {
        if (!(e instanceof Refusal)) {
            s.violations.push(String(e.stack));
            e = new Refusal(500, 'Peer', e.message);
        }
        return { status: e.status, headers: { 'content-type': 'application/json;charset=utf-8', ...e.headers },
                 body: JSON.stringify({ RequestId: crypto.randomUUID(), HostId: 'peer', Code: e.code, Message: e.message, Recommend: '' }) };
    }
}

function send(res, x) {
    res.writeHead(x.status, { ...x.headers, 'content-length': Buffer.byteLength(x.body) });
    res.end(x.body);
}

function answer(req, res, url, body) {
    const action = req.headers['x-acs-action'] || (url.pathname === '/' ? 'STS' : 'IMDS');
    const f = faultFor(action);
    s.calls.push(action);
    if (!f) return send(res, outcomeOf(req, url, body));

    switch (f.kind) {
    case 'reset': return req.socket.resetAndDestroy();
    case 'hold': s.held++; return undefined;
    case 'error':
        return send(res, { status: f.status, headers: f.headers || {}, body: f.code ? JSON.stringify({ RequestId: 'x', HostId: 'x', Code: f.code, Message: 'scripted' }) : '<html>' });
    case 'expire':                      // the key that was used is not valid any more
        for (const k of Object.values(o.keys)) if (k.token) k.expires = 1;
        return send(res, outcomeOf(req, url, body));
    default: break;
    }
    const x = outcomeOf(req, url, body); // it is done; only the answer is lost
    switch (f.kind) {
    case 'reset-after': return req.socket.resetAndDestroy();
    case 'hold-after': s.held++; return undefined;
    case 'error-after': return send(res, { status: f.status, headers: {}, body: '' });
    case 'garbage': return send(res, { status: 200, headers: {}, body: '\u0000{]garbage' });
    case 'truncate':
        res.writeHead(x.status, { ...x.headers, 'content-length': Buffer.byteLength(x.body) });
        res.write(x.body.slice(0, x.body.length / 2), () => req.socket.resetAndDestroy());
        return undefined;
    case 'slow':
        res.writeHead(x.status, { ...x.headers, 'content-length': Buffer.byteLength(x.body) });
        res.write(x.body.slice(0, 1));
        s.held++;
        return undefined;
    default: throw new Error(`fault ${f.kind}`);
    }
}

function state() {
    sweep();
    return {
        instances: [...s.instances.values()].map((i) => ({ id: i.id, name: i.name, type: i.type, image: i.image, deleted: !!i.deleted, userData: i.userData,
            tags: Object.fromEntries(i.tags.map((t) => [t.key, t.value])), request: OpenApiUtil.query(i.request.toMap()), disks: i.disks || [],
            addresses: [i.ip, i.publicIp, i.eniIp, ...[...s.eips.values()].filter((e) => i.eni && e.instance === i.eni).map((e) => e.ip)].filter((a) => a) })),
        eips: [...s.eips.values()].map((e) => ({ id: e.id, status: e.status })),
        disks: [...s.disks.values()],
        violations: s.violations, calls: s.calls, held: s.held, keysIssued: s.keysIssued, nMade: s.nMade, nRequests: s.nRequests, busyMs: s.busyMs,
    };
}

function control(url, body) {
    const arg = body.length ? JSON.parse(body.toString()) : {};
    switch (url.pathname) {
    case '/_state': return state();
    case '/_reset': o = defaults(); reset(); return {};
    case '/_set': Object.assign(o, arg); return {};
    case '/_fault': s.faults = (Array.isArray(arg) ? arg : [arg]).map((f) => ({ nth: 1, ...f, seen: 0 })); s.calls = []; s.held = 0; return {};
    case '/_stop': for (const i of s.instances.values()) i.stopped = true; return {};
    case '/_instance': {                // one that somebody else made
        const i = { id: id('i'), type: 'ecs.g8i.xlarge', image: 'm-podvm', since: Date.now() - 60000, ip: '10.9.9.9', request: new Ecs.RunInstancesRequest({}), ...arg,
                    tags: Object.entries(arg.tags || {}).map(([key, value]) => ({ key, value })) };
        s.instances.set(i.id, i);
        return { id: i.id };
    }
    case '/_eip': {
        const e = { id: id('eip'), ip: '198.51.100.9', status: 'Available', instance: '', since: Date.now() - 60000,
                    tags: Object.entries(arg.tags || {}).map(([key, value]) => ({ key, value })) };
        s.eips.set(e.id, e);
        return { id: e.id };
    }
    case '/_remove': for (const i of s.instances.values()) i.deleted = 1; sweep(); return {};
    default: throw new Error(url.pathname);
    }
}

// The vendor's gateway takes its clients' queries whole: user data is among them.
const server = http.createServer({ maxHeaderSize: 1 << 18, keepAliveTimeout: 60000 }, (req, res) => {
    const parts = [], begin = performance.now();
    if (!req.url.startsWith('/_'))
        res.on('finish', () => { s.nRequests++; s.busyMs += performance.now() - begin; });
    req.on('data', (d) => parts.push(d));
    req.on('end', () => {
        const body = Buffer.concat(parts), url = new URL(req.url, 'http://peer');
        if (url.pathname.startsWith('/_')) return send(res, { status: 200, headers: {}, body: JSON.stringify(control(url, body)) });
        return answer(req, res, url, body);
    });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit(0));        // the test has gone
process.stdin.resume();
