"""A Ray that a command starts can be reached from this machine only."""

from __future__ import annotations

import ipaddress

import psutil
import pytest
import ray


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_all_servers_of_an_own_ray_listen_on_loopback() -> None:
    @ray.remote(num_cpus=0)
    def work() -> int:
        return 1

    assert ray.get(work.remote()) == 1  # a worker, whose server listens as well
    me = psutil.Process()
    listening = {
        (process.name(), connection.laddr.ip)
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    addresses = {ipaddress.ip_address(ip.removeprefix("::ffff:")) for _, ip in listening}
    assert all(address.is_loopback for address in addresses), listening
