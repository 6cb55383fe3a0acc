#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Where a pod VM's user data comes from: process-user-data, and azure-ready, in the rig of sources_rig.py; the services fail there in all the ways in
which services fail.

Usage: sources-test.py PROCESS-USER-DATA AZURE-READY BACKDOOR-PEER      (root; makes its own namespaces)"""
import base64
import gzip
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import unittest

from sources_rig import (ALIBABA, AWS6, AZURE_READY, BACKDOOR_PEER, GCP6, GOAL_STATE, GOOD, LINK_LOCAL, PATIENCE, PROGRAM, TOKEN,
                         VERSIONS, WIRE, Rig, Service, Wire, add_addresses, alibaba, aws, azure, gcp, ibm, in_turn, ip, reply,
                         wait_for_opens)


class Clouds(Rig):
    """What each cloud documents."""

    def test_aws_wants_a_token(self):
        self.machine("aws")
        s = self.service(LINK_LOCAL, aws(reply(GOOD)))
        self.succeeds()
        self.assertEqual([r.method for r in s.requests], ["PUT", "GET"])

    def test_aws_is_asked_by_ipv6_where_there_is_no_ipv4(self):
        self.machine("aws")
        ip("address", "del", LINK_LOCAL + "/32", "dev", "lo")
        self.addCleanup(ip, "address", "add", LINK_LOCAL + "/32", "dev", "lo")
        s = self.service(AWS6, aws(reply(GOOD)))
        self.succeeds()
        self.assertEqual(s.requests[0].headers["host"], f"[{AWS6}]")

    def test_azure_gives_base64(self):
        self.machine("azure")
        self.service(LINK_LOCAL, azure(reply(base64.b64encode(GOOD))))
        self.succeeds()

    def test_base64_may_be_in_lines(self):
        self.machine("azure")
        self.service(LINK_LOCAL, azure(reply(base64.encodebytes(GOOD).replace(b"\n", b"\r\n"))))
        self.succeeds()

    def test_gcp_is_asked_without_a_resolver(self):
        self.machine("gcp")
        self.service(LINK_LOCAL, gcp(base64.b64encode(GOOD)))
        self.succeeds()

    def test_gcp_is_asked_by_ipv6_where_there_is_no_ipv4(self):
        self.machine("gcp")
        ip("address", "del", LINK_LOCAL + "/32", "dev", "lo")
        self.addCleanup(ip, "address", "add", LINK_LOCAL + "/32", "dev", "lo")
        self.service(GCP6, gcp(base64.b64encode(GOOD)))
        self.succeeds()

    def test_gcp_s_answer_must_say_that_it_is_google_s(self):
        self.machine("gcp")
        self.service(LINK_LOCAL, gcp(base64.b64encode(GOOD), flavor="Elgoog"))
        self.fails(1, "the answer comes from somebody else", "-t", "1")

    def test_ibm_gives_json_for_a_token_in_json(self):
        self.machine("ibm")
        self.service(LINK_LOCAL, ibm(GOOD.decode()))
        self.succeeds()

    def test_a_token_may_be_created(self):
        self.machine("ibm")
        documented = ibm(GOOD.decode())
        self.service(LINK_LOCAL, lambda request, connection: documented(request, connection).replace(b" 200 ", b" 201 ", 1)
                     if request.method == "PUT" else documented(request, connection))
        self.succeeds()

    def test_ibm_answers_that_are_not_what_they_should_be(self):
        self.machine("ibm")
        for answer, text in ((b'{"user_data": 5}', "the answer cannot be read"), (b"<html>", "the answer cannot be read"),
                             (b'{"user_data": "a\\u0000b"}', "the answer cannot be read")):
            with self.subTest(answer=answer):
                with Service(LINK_LOCAL, ibm(answer)):
                    self.fails(78, text, "-t", "3")

    def test_ibm_without_user_data_is_a_failure(self):
        self.machine("ibm")
        self.service(LINK_LOCAL, ibm(b'{"keys": []}'))
        self.fails(1, "the user data is empty", "-t", "1")

    def test_alibaba_wants_a_token(self):
        self.machine("alibaba")
        s = self.service(ALIBABA, alibaba(reply(GOOD)))
        self.succeeds()
        self.assertEqual([r.method for r in s.requests], ["PUT", "GET"])

    def test_a_machine_that_is_known_by_nothing_asks_nobody(self):
        s = self.service(LINK_LOCAL, aws(reply(GOOD)))
        self.fails(1, "There is no user data")
        self.assertEqual(s.connections, 0)

    def test_another_hypervisor_of_microsoft_s_is_not_azure(self):
        self.machine("azure")
        os.remove("/sys/class/dmi/id/chassis_asset_tag")
        s = self.service(LINK_LOCAL, azure(reply(base64.b64encode(GOOD))))
        self.fails(1, "There is no user data")
        self.assertEqual(s.connections, 0)

    def test_the_same_again_is_no_error(self):
        self.machine("aws")
        self.service(LINK_LOCAL, aws(reply(GOOD)))
        self.succeeds()
        self.succeeds()
        self.assertIn("processed before", self.log)


class Failures(Rig):
    """What services do when they do not do what is documented."""

    def aws(self, data):
        self.machine("aws")
        return self.service(LINK_LOCAL, aws(data))

    def azure(self, data):
        self.machine("azure")
        return self.service(LINK_LOCAL, azure(data))

    def test_a_network_that_comes_late_is_waited_for(self):
        self.machine("alibaba")
        ip("address", "del", ALIBABA + "/32", "dev", "lo")
        p = self.start()
        first = p.stdout.readline().decode()
        self.assertIn("Trying again", first)
        ip("address", "add", ALIBABA + "/32", "dev", "lo")
        self.service(ALIBABA, alibaba(reply(GOOD)))
        self.finish(p, 0)
        self.check_files()

    def test_a_network_that_never_comes_ends_in_time(self):
        self.machine("alibaba")
        ip("address", "del", ALIBABA + "/32", "dev", "lo")
        self.addCleanup(ip, "address", "add", ALIBABA + "/32", "dev", "lo")
        self.fails(1, ALIBABA, "-t", "2")
        self.assertEqual(self.log.count("Trying again"), 1, "each reason is told once")

    def test_a_service_that_starts_late_is_waited_for(self):
        self.machine("aws")
        p = self.start()
        self.assertIn("Trying again", p.stdout.readline().decode())
        self.service(LINK_LOCAL, aws(reply(GOOD)))
        self.finish(p, 0)
        self.check_files()

    def test_errors_of_the_service_are_tried_again(self):
        self.machine("aws")
        for status in (404, 429, 500, 503):
            with self.subTest(status=status):
                with Service(LINK_LOCAL, aws(in_turn(reply(b"oh", status=status), reply(GOOD)))):
                    self.succeeds()
                self.assertIn(f"HTTP status {status}", self.log)
                shutil.rmtree(self.path("out"))

    def test_no_data_is_a_failure_in_the_end(self):
        s = self.aws(reply(status=404))
        self.fails(1, "HTTP status 404", "-t", "2")
        self.assertGreater(len(s.requests), 2)

    def test_a_token_that_is_refused_is_fetched_anew(self):
        self.machine("aws")
        tokens = []

        def answer(request, _):
            if request.method == "PUT":
                tokens.append(f"{TOKEN}{len(tokens)}")
                return reply(tokens[-1].encode())
            good = len(tokens) > 1 and request.headers["x-aws-ec2-metadata-token"] == tokens[-1]
            return reply(GOOD) if good else reply(status=401)
        self.service(LINK_LOCAL, answer)
        self.succeeds()
        self.assertIn("it refuses us or the token", self.log)

    def test_a_token_service_that_is_off_is_a_failure(self):
        self.machine("aws")
        s = self.service(LINK_LOCAL, lambda request, _: reply(status=403) if request.method == "PUT" else reply(GOOD))
        self.fails(1, "HTTP status 403", "-t", "1")
        self.assertEqual({r.method for r in s.requests}, {"PUT"})

    def test_a_token_with_a_line_end_makes_no_header(self):
        self.machine("aws")
        for token in (b"a\r\nX-Other: b", b"", b"a b", b"\xc3\xa4", b"x" * 9000):
            with self.subTest(token=token[:20]):
                with Service(LINK_LOCAL, lambda request, _, t=token: reply(t) if request.method == "PUT" else reply(GOOD)) as s:
                    self.fails(78, "the token", "-t", "3")
                self.assertEqual({r.method for r in s.requests}, {"PUT"})

    def test_redirects_are_not_followed(self):
        self.machine("aws")
        elsewhere = self.service("127.0.0.1", lambda *_: reply(GOOD), port=8080)
        for location in ("http://127.0.0.1:8080/", "/latest/other", "file:///etc/passwd"):
            with self.subTest(location=location):
                with Service(LINK_LOCAL, aws(reply(status=302, Location=location))) as s:
                    self.fails(1, "a redirect, which is not followed", "-t", "3")
                self.assertNotIn("/latest/other", [r.path for r in s.requests])
        self.assertEqual(elsewhere.connections, 0)

    def test_a_proxy_in_the_environment_is_not_used(self):
        proxy = self.service("127.0.0.1", lambda *_: reply(status=500), port=3128)
        self.environment.update({name: "http://127.0.0.1:3128" for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")})
        self.aws(reply(GOOD))
        self.succeeds()
        self.assertEqual(proxy.connections, 0)

    def test_a_reset_connection_is_tried_again(self):
        def reset(_, connection):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.aws(in_turn(reset, reply(GOOD)))
        self.succeeds()

    def test_an_answer_that_is_cut_off_is_tried_again(self):
        whole = reply(GOOD)
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(GOOD) + GOOD + b"\r\n"
        self.aws(in_turn(whole[:-100], whole[:20], chunked, whole))
        self.succeeds()

    def test_data_that_is_not_complete_yet_is_tried_again(self):
        without = GOOD.replace(b"apf.json", b"other.json")
        self.aws(in_turn(reply(), reply(GOOD[:-30] + b"["), reply(without), reply(GOOD)))
        self.succeeds()

    def test_empty_data_is_a_failure_in_the_end(self):
        self.aws(reply())
        self.fails(1, "the user data is empty", "-t", "2")

    def test_bad_data_is_final_after_a_while(self):
        self.aws(reply(b"write_files: ["))
        self.fails(78, "The user data cannot be read")

    def test_base64_is_strict(self):
        self.machine("azure")
        for bad in (b"abc", b"ab=c", b"ab-_", base64.b64encode(GOOD) + b"!", base64.b64encode(GOOD).rstrip(b"=") + b"===="):
            with self.subTest(bad=bad[-10:]):
                with Service(LINK_LOCAL, azure(reply(bad))):
                    self.fails(78, "the user data is no base64", "-t", "3")

    def test_a_service_that_never_answers_ends_in_time(self):
        end = threading.Event()
        self.addCleanup(end.set)
        self.aws(lambda *_: end.wait(PATIENCE) and None)
        self.fails(1, "Failed to fetch user data (AWS)", "-t", "2")

    def test_a_request_that_hangs_does_not_take_all_the_time(self):
        end = threading.Event()
        self.addCleanup(end.set)
        self.aws(in_turn(lambda *_: end.wait(PATIENCE) and None, reply(GOOD)))
        self.succeeds("-t", "100")

    def test_an_answer_byte_by_byte_ends_in_time(self):
        end = threading.Event()
        self.addCleanup(end.set)

        def drip(_, connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not end.wait(0.1):
                connection.sendall(b"#")
        self.aws(drip)
        self.fails(1, "Failed to fetch user data (AWS)", "-t", "2")

    def test_an_answer_that_is_too_big_is_refused_before_it_is_read(self):
        self.aws(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000\r\n\r\n")
        self.fails(78, "the answer is too big")

    def test_an_answer_without_an_end_is_refused(self):
        sent = []

        def endless(_, connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                sent.append(65536)
                connection.sendall(b"10000\r\n" + b"#" * 65536 + b"\r\n")
        self.aws(endless)
        self.fails(78, "the answer is too big")
        self.assertLess(sum(sent), 64 << 20)

    def test_headers_without_an_end_are_refused(self):
        def endless(_, connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(b"X-Header: " + b"x" * 1000 + b"\r\n")
        self.aws(endless)
        self.fails(1, "Failed to fetch user data (AWS)", "-t", "2")

    def test_data_above_the_limit_is_refused(self):
        self.aws(reply(GOOD + b"#" * (1 << 20)))
        self.fails(78, "the user data is too big")

    def test_compressed_data_is_refused(self):
        self.aws(reply(gzip.compress(GOOD)))
        self.fails(78, "is compressed")

    def test_a_gzip_bomb_by_content_encoding_is_not_unpacked(self):
        self.environment["MALLOC_ARENA_MAX"] = "1"
        self.aws(reply(gzip.compress(b"#" * (64 << 20)), Content_Encoding="gzip"))
        self.fails(78, "is compressed")

    def test_what_is_no_http_is_a_failure(self):
        self.aws(b"220 smtp.example ESMTP\r\n")
        self.fails(1, "Failed to fetch user data (AWS)", "-t", "1")

    def test_http_1_1_is_spoken(self):
        self.machine("aws")
        s = self.service(LINK_LOCAL, aws(reply(GOOD)))
        self.succeeds()
        self.assertEqual({r.version for r in s.requests}, {"HTTP/1.1"})


class Files(Rig):
    """Seed disk, config drive, a file that Docker binds, a directory that somebody fills."""

    def test_a_seed_is_taken_before_a_cloud_is_asked(self):
        self.machine("ibm")
        s = self.service(LINK_LOCAL, ibm(GOOD.decode()))
        self.write("seed/user-data", GOOD)
        self.succeeds()
        self.assertEqual(s.connections, 0)

    def test_a_config_drive(self):
        self.write("seed/openstack/latest/user_data", GOOD)
        self.write("seed/openstack/latest/meta_data.json", b"{}")
        self.succeeds()
        self.assertIn("config drive", self.log)

    def test_a_config_drive_without_user_data_is_a_failure(self):
        self.write("seed/openstack/latest/meta_data.json", b"{}")
        self.fails(1, "openstack/latest/user_data': No such file")

    def test_no_symbolic_link_is_followed(self):
        self.write("secret/user_data", GOOD)
        self.write("secret/user-data", GOOD)
        for link, target in (("user-data", "../secret/user-data"), ("openstack", "../secret"),
                             ("openstack/latest", "../../secret"), ("openstack/latest/user_data", "../../../secret/user_data")):
            with self.subTest(link=link):
                os.makedirs(os.path.dirname(self.path("seed", link)), exist_ok=True)
                os.symlink(target, self.path("seed", link))
                self.fails(1, "a symbolic link")
                shutil.rmtree(self.path("seed"))
                os.mkdir(self.path("seed"))

    def test_what_is_no_file_does_not_hold_it_up(self):
        os.mkfifo(self.path("seed/user-data"))
        self.fails(1, "it is no regular file")

    def test_a_bad_disk_is_final(self):
        self.write("seed/user-data", GOOD[:-30] + b"[")
        self.fails(78, "The user data cannot be read")
        self.assertNotIn("Trying again", self.log)

    def test_an_empty_disk_is_final(self):
        self.write("seed/user-data", b"")
        self.fails(78, "is empty")

    def test_a_file_bound_by_docker(self):
        self.write("host-file", GOOD)
        self.write("seed/user-data", b"")
        subprocess.run(["mount", "--bind", self.path("host-file"), self.path("seed/user-data")], check=True)
        self.addCleanup(subprocess.run, ["umount", self.path("seed/user-data")], check=True)
        self.succeeds()

    def test_an_upload_in_place_is_waited_for(self):
        p = self.start("--wait-for-seed")
        with open(self.path("seed/user-data"), "wb", buffering=0) as f:
            self.assertIn("it is being written", p.stdout.readline().decode())
            f.write(GOOD[:GOOD.index(b"  - path: /run/peerpod/auth.json")])     # would be whole by itself
            wait_for_opens(self.path("seed/user-data"), 3)
            self.assertIsNone(p.poll())
            f.write(GOOD[GOOD.index(b"  - path: /run/peerpod/auth.json"):])
        self.finish(p, 0)
        self.check_files()

    def test_an_upload_by_another_name_is_seen_when_it_is_whole(self):
        p = self.start("--wait-for-seed")
        self.write("seed/user-data.tmp", GOOD)
        os.rename(self.path("seed/user-data.tmp"), self.path("seed/user-data"))
        self.finish(p, 0)
        self.check_files()

    def test_an_upload_that_broke_off_may_come_again(self):
        for size in (0, 20, 100, len(GOOD) - 1):
            with self.subTest(size=size):
                self.write("seed/user-data", GOOD[:size])
                p = self.start("--wait-for-seed")
                self.assertIn("Trying again", p.stdout.readline().decode())
                self.write("seed/.new", GOOD)
                os.rename(self.path("seed/.new"), self.path("seed/user-data"))
                self.finish(p, 0)
                self.check_files()
                shutil.rmtree(self.path("out"))

    def test_an_upload_that_broke_off_is_a_failure_in_the_end(self):
        self.write("seed/user-data", GOOD[:-1])
        self.fails(78, "its last line has no end", "--wait-for-seed", "-t", "1")

    def test_an_uploader_is_not_held_up(self):
        """The lease that tells of writers would, if it were kept."""
        self.write("seed/user-data", GOOD)
        self.succeeds("--wait-for-seed")
        with open(self.path("seed/user-data"), "r+b"):
            pass


class Vsphere(Rig):
    """The hypervisor is backdoor-peer.c, which traces the program and acts on the instruction that VMware's would act on."""

    def setUp(self):
        super().setUp()
        self.machine("vsphere")
        # A leak check is a tracer, too.
        self.environment["ASAN_OPTIONS"] = self.environment.get("ASAN_OPTIONS", "") + ":detect_leaks=0"

    def peer(self, *options, **values):
        for name, value in values.items():
            self.write("guestinfo/guestinfo." + name.replace("_", "."), value)
        os.makedirs(self.path("guestinfo"), exist_ok=True)
        return {"program": (BACKDOOR_PEER, *options, self.path("guestinfo"), PROGRAM, "provision-files")}

    def test_plain_data(self):
        self.succeeds(**self.peer(userdata=GOOD))

    def test_base64(self):
        for name in (b"base64", b"b64"):
            with self.subTest(name=name):
                self.succeeds(**self.peer(userdata=base64.b64encode(GOOD), userdata_encoding=name))

    def test_gzip(self):
        for name in (b"gzip+base64", b"gz+b64"):
            with self.subTest(name=name):
                self.succeeds(**self.peer(userdata=base64.b64encode(gzip.compress(GOOD)), userdata_encoding=name))

    def test_the_largest_variable(self):
        big = GOOD + b"#" * (65536 - len(GOOD) - 1) + b"\n"
        self.run_to(0, **self.peer(userdata=big))

    def test_a_gzip_bomb_is_bounded(self):
        bomb = gzip.compress(b"#" * (256 << 20))
        self.fails(78, "too big when it is unpacked", **self.peer(userdata=base64.b64encode(bomb), userdata_encoding=b"gzip+base64"))

    def test_what_the_encoding_does_not_fit(self):
        for data, encoding, text in ((GOOD, b"base64", "it is no base64"), (base64.b64encode(GOOD), b"gz+b64", "it is no gzip file"),
                                     (base64.b64encode(gzip.compress(GOOD)[:-5]), b"gz+b64", "or cut off"),
                                     (GOOD, b"rot13", "its encoding is neither")):
            with self.subTest(text=text):
                self.fails(78, text, **self.peer(userdata=data, userdata_encoding=encoding))

    def test_absent_or_emptied_data_is_a_failure(self):
        self.fails(1, "there is no such variable", "-t", "1", **self.peer())
        for absent in (b"", b" \n", b"---", b"---\n"):
            with self.subTest(absent=absent):
                self.fails(1, "it is empty", "-t", "1", **self.peer(userdata=absent))

    def test_a_checkpoint_in_the_middle_begins_the_message_again(self):
        for n in (2, 5, 9, 30, 60):
            with self.subTest(n=n):
                self.succeeds(**self.peer("--checkpoint", str(n), userdata=GOOD))
                shutil.rmtree(self.path("out"))

    def test_checkpoints_without_an_end_are_a_failure(self):
        self.fails(1, "moved or suspended", "-t", "1", **self.peer("--checkpoint", "always", userdata=GOOD))

    def test_a_size_that_is_too_big_is_refused_before_memory_is_taken(self):
        self.fails(78, "it is too big", **self.peer("--size", str(0xffffffff), userdata=GOOD))

    def test_no_channel(self):
        self.fails(1, "refuses the message channel", "-t", "1", **self.peer("--refuse", userdata=GOOD))

    def test_another_protocol(self):
        self.fails(78, "does not keep to the protocol", "-t", "1", **self.peer("--garbage", userdata=GOOD))

    def test_a_backdoor_that_is_closed_is_told(self):
        self.fails(1, "does not let programs use its backdoor")

    def test_what_was_processed_is_erased(self):
        self.succeeds(**self.peer(userdata=GOOD))
        with open(self.path("guestinfo/guestinfo.userdata"), "rb") as f:
            self.assertEqual(f.read(), b"---")

    def test_what_was_refused_is_left(self):
        self.fails(78, "its encoding is neither", **self.peer(userdata=GOOD, userdata_encoding=b"rot13"))
        with open(self.path("guestinfo/guestinfo.userdata"), "rb") as f:
            self.assertEqual(f.read(), GOOD)

    def test_data_that_cannot_be_erased_is_a_warning(self):
        self.succeeds(**self.peer("--read-only", userdata=GOOD))
        self.assertIn("does not let the VM change it", self.log)

    def test_channels_are_closed(self):
        self.succeeds(**self.peer("--expect-closed", userdata=GOOD))


class AzureReady(Rig):
    def ready(self, status, *arguments, total="2s"):
        self.run_to(status, "--total-timeout", total, *arguments, program=(AZURE_READY,))

    def test_azure_is_told(self):
        wire = Wire()
        self.service(WIRE, wire)
        self.ready(0)
        health, = wire.health
        self.assertEqual(health.tag, "Health")
        self.assertEqual(health.findtext("GoalStateIncarnation"), "1")
        self.assertEqual(health.findtext("Container/ContainerId"), "c6d5526c-5ac2-4200-b6e2-56f2b70c5ab2")
        role, = health.findall("Container/RoleInstanceList/Role")
        self.assertEqual(role.findtext("InstanceId"), "b61f93d0.MachineRole_IN_0")
        self.assertEqual(role.findtext("Health/State"), "Ready")

    def test_the_first_version_is_taken_where_ours_is_not_listed(self):
        def answer(request, _):
            if request.path == "/?comp=versions":
                return reply(VERSIONS.replace(b"2015-04-05", b"2099-01-01"))
            return reply(GOAL_STATE) if request.headers["x-ms-version"] == "2015-06-05" else reply(status=400)
        self.service(WIRE, answer)
        self.ready(0)

    def test_ids_are_escaped(self):
        wire = Wire(goalstate=GOAL_STATE.replace(b"c6d5526c-5ac2-4200-b6e2-56f2b70c5ab2", b"&lt;/ContainerId&gt;&amp;"))
        self.service(WIRE, wire)
        self.ready(0)
        self.assertEqual(wire.health[0].findtext("Container/ContainerId"), "</ContainerId>&")

    def test_failures_are_tried_again(self):
        wire = Wire()
        first = in_turn(reply(status=503), reply(b"<Versions/>"), b"no http", reply(status=410), wire)
        self.service(WIRE, first)
        self.ready(0, total="1m")
        self.assertEqual(len(wire.health), 1)

    def test_it_waits_for_the_network(self):
        p = self.start("--total-timeout", "1m", program=(AZURE_READY,))
        self.assertIn("168.63.129.16", p.stdout.readline().decode())
        wire = Wire()
        self.service(WIRE, wire)
        self.finish(p, 0)
        self.assertEqual(len(wire.health), 1)

    def test_what_is_no_goal_state_is_a_failure_in_the_end(self):
        bomb = b'<!DOCTYPE GoalState [<!ENTITY a "aaaaaaaaaa">' + b"".join(
            b'<!ENTITY %c "%s">' % (97 + i, b"&%c;" % (96 + i) * 10) for i in range(1, 12)) + b"]>"
        for bad in (b"", b"<GoalState/>", b"<GoalState", b"{}", GOAL_STATE.replace(b"<Incarnation>1</Incarnation>", b""),
                    GOAL_STATE.replace(b"MachineRole_IN_0", b"x" * 300), GOAL_STATE[:-20],
                    bomb + b"<GoalState><Incarnation>&l;</Incarnation></GoalState>",
                    b'<!DOCTYPE G [<!ENTITY x SYSTEM "file:///etc/hostname">]>' + GOAL_STATE.split(b"?>")[1].replace(b">1<", b">&x;<"),
                    b"<a>" * 10000):
            with self.subTest(bad=bad[:40]):
                wire = Wire(goalstate=bad)
                with Service(WIRE, wire):
                    self.ready(1, total="1s")
                self.assertIn("goal state cannot be read", self.log)
                self.assertEqual(wire.health, [])

    def test_an_answer_that_is_too_big_is_refused(self):
        self.service(WIRE, Wire(versions=b"<Versions>" + b" " * (1 << 20)))
        self.ready(1)
        self.assertIn("the answer is too big", self.log)

    def test_a_request_that_hangs_ends_in_time(self):
        end = threading.Event()
        self.addCleanup(end.set)
        self.service(WIRE, lambda *_: end.wait(PATIENCE) and None)
        self.ready(1, "--timeout", "1s")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    add_addresses()
    unittest.main(argv=["sources-test", "-v", *sys.argv[4:]])
