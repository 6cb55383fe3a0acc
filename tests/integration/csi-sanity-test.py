#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' conformance test of CSI (kubernetes-csi/csi-test), by itself at a driver in Go whose mounts are real, and then through peerpod-csi as
controller and node in front of it: what passes at the driver passes through the wrapper.

Usage: csi-sanity-test.py CONTROLLER NODE GO-PEER"""
import os
import re
import subprocess

from csi_rig import PATIENCE, Rig, connects, main, until


class Sanity(Rig):
    def setUp(self):
        super().setUp()
        self.spawn("driver", self.programs["peer"], "csi", "driver", self.path("driver.sock"), self.path("data"))
        until("the driver listens", lambda: connects(self.path("driver.sock")))

    def sanity(self, controller, node):
        p = subprocess.run([self.programs["peer"], "csi", "sanity", self.path(controller), self.path(node), self.path("mounts")],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, text=True, check=False)
        text = re.sub(r"\x1b\[[0-9;]*m", "", p.stdout)
        passed = re.search(r"(\d+) Passed \| (\d+) Failed", text)
        self.assertTrue(passed, text)
        self.assertEqual((p.returncode, int(passed[2])), (0, 0), text)
        return int(passed[1])

    def test_what_passes_at_the_driver_passes_through_the_wrapper(self):
        os.mkdir(self.path("mounts"))
        alone = self.sanity("driver.sock", "driver.sock")
        self.start("controller")
        self.start("node")
        self.assertEqual(self.sanity("controller.sock", "node.sock"), alone)
        self.assertGreater(alone, 25)
        self.assertEqual(self.volumes(), {})
        with open("/proc/self/mounts", encoding="utf-8") as f:
            self.assertNotIn(self.dir, f.read())


if __name__ == "__main__":
    main(["controller", "node", "peer"])
