# SPDX-License-Identifier: Apache-2.0
"""What tests of programs share: waiting for a condition, and a message bus of their own."""
import pathlib
import socket
import time

PATIENCE = 120          # seconds: how long a condition may take on a machine that is busy


def until(what, condition):
    """what condition() returns, as soon as that is true"""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError("waited in vain until " + what)
        time.sleep(0.02)
    return value


def connects(path):
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(path) == 0


def bus_configuration(directory, more=""):
    """everybody may do all there, on the socket `bus` of the directory; @more: further elements"""
    return f"""<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={directory}/bus</listen><auth>EXTERNAL</auth>{more}
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
"""


def start_bus(spawn, directory, configuration):
    """dbus-daemon, by spawn(*argv); it listens when this returns"""
    path = pathlib.Path(directory, "dbus.conf")
    path.write_text(configuration, encoding="utf-8")
    spawn("dbus-daemon", f"--config-file={path}", "--nofork", "--nopidfile")
    until("there is a bus", lambda: connects(f"{directory}/bus"))
