"""The servers of run.py: the origin, the floor (`direct`, a TCP relay), the peers and seawall.

Equal settings: keep-alive on both sides, for any number of requests, one upstream, the client's address passed on, no
access log, as many workers.
All else is as shipped, with two exceptions. nginx writes neither a large answer nor a POST of 16 KiB to the disk: that
would measure the disk and, since it then sends the content in small pieces, Nagle's algorithm. HAProxy does not wait a
second and try again when a connection is refused (`retries 0`). What fails is logged where it is by default: by nginx
and seawall, into a file.
"""

import os
import socket
import subprocess
import sys

from programs import find_envoy, tool, version
from scenarios import SIZES
from servers import BODY, NGINX, Server, free_port

# A plain and a TLS listener; the third speaks HTTP/2 without TLS to the relay, which ends TLS itself.
ORIGIN = """
  sendfile on; tcp_nopush on; open_file_cache max=16;
  ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls} ssl http2 backlog=4096;
    listen 127.0.0.1:{http2} http2 backlog=4096;
    default_type text/plain;
    root {dir};
    location = /small {{ return 200 "{body}"; }}
    # Reads the head of a request and closes the connection: what a client of a crashing app sees.
    location = /crash {{ return 444; }}
  }}
"""
# nginx would answer before it has read the content.
UPLOAD = """
global
  nbthread 1
  tune.bufsize 65536
defaults
  mode http
  timeout client 300s
  timeout http-keep-alive 300s
frontend in
  bind 127.0.0.1:{port} backlog 4096
  http-request wait-for-body time 10s
  http-request return status 200 content-type text/plain string "read\\n"
"""
NGINX_PROXY = """
  upstream app {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; keepalive_timeout 300s; }}
  server {{ listen 127.0.0.1:{port}{tls} backlog=4096;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_max_temp_file_size 0; client_body_buffer_size 64k;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Host $host; }} }}
"""
NGINX_TLS = "  ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key;\n"
HAPROXY = """
global
  nbthread {workers}
  maxconn 8192
defaults
  mode http
  option forwardfor
  http-reuse always
  retries 0
  timeout connect 5s
  timeout client 300s
  timeout server 30s
  timeout http-keep-alive 300s
frontend in
  bind 127.0.0.1:{port}{tls} backlog 4096
  default_backend app
backend app
  server one 127.0.0.1:{upstream} pool-max-conn 1024
"""
RELAY = """
global
  nbthread {workers}
  maxconn 8192
defaults
  mode tcp
  timeout connect 5s
  timeout client 300s
  timeout server 300s
listen in
  bind 127.0.0.1:{port}{tls} backlog 4096
  server one 127.0.0.1:{upstream}
"""
ENVOY = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          use_remote_address: true
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: app }} }}]
{tls}
  clusters:
  - name: app
    connect_timeout: 5s
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }} }}]
"""
ENVOY_TLS = """
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - {{ certificate_chain: {{ filename: {dir}/server.pem }}, private_key: {{ filename: {dir}/server.key }} }}
"""
SEAWALL = """
workers: {workers}
listeners: [{{ address: "127.0.0.1:{port}"{tls} }}]
admin: {{ address: "127.0.0.1:{admin}" }}
clients: {{ requests_per_connection: 100000000 }}
upstreams:
  app: {{ endpoints: ["http://127.0.0.1:{upstream}"] }}
routes: [{{ upstream: app{hold} }}]
"""
SEAWALL_TLS = ", tls: {{ certificates: [{{ chain: {dir}/server.pem, key: {dir}/server.key }}] }}"

FLOOR = ("direct", "relay")
PEERS = ("nginx", "haproxy", "envoy")
DEFAULT = (*FLOOR, *PEERS, "seawall")
NAMES = (*DEFAULT, "unheld")


class Stage:
    """Starts the origin once and the servers of a scenario each time, and stops all of them at the end."""

    def __init__(self, directory, cores, arguments, wrap=lambda name: []):
        """`wrap` gives what a proxy of this name is started under."""
        self.wrap = wrap
        self.directory, self.cores, self.workers, self.running = directory, cores, arguments.workers, []
        self.seawall = arguments.seawall
        self.envoy = find_envoy(arguments.envoy) if "envoy" in arguments.proxy else None
        self.names = [name for name in NAMES if name in arguments.proxy and (name != "envoy" or self.envoy)]
        haproxy = version(tool("haproxy"), "-v")
        self.labels = {
            "direct": "direct",
            "relay": f"TCP relay (HAProxy {haproxy})",
            "nginx": f"nginx {version(tool('nginx'), '-v')}",
            "haproxy": f"HAProxy {haproxy}",
            "envoy": f"Envoy {version(self.envoy, '--version')}" if self.envoy else "Envoy",
            "seawall": "seawall",
            "unheld": "seawall, hold off",
        }
        # Bound and not listening: the kernel refuses every connection.
        self.refusing = socket.socket()
        self.refusing.bind(("127.0.0.1", 0))
        self.ports = {"tls": free_port(), "http2": free_port()}

    def open(self):
        """The origin, and what it needs."""
        self.certificate()
        for name, size in SIZES.items():
            (self.directory / name).write_text("x" * size)
        body = BODY.replace("\n", "\\n")
        self.origin = self.start("origin", ORIGIN, body=body, **self.ports)
        self.upload = self.start("upload", UPLOAD)

    def certificate(self):
        """ECDSA, as most sites have now. HAProxy wants the key behind the chain, the others take no notice."""
        chain, key = self.directory / "server.pem", self.directory / "server.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
            + ["-out", chain, "-keyout", key],
            check=True,
            capture_output=True,
        )
        chain.write_text(chain.read_text() + key.read_text())

    def start(self, name, text, **values):
        """Starts a server from its configuration; those that are no proxies run where the load does."""
        port = free_port()
        values = {"port": port, "dir": self.directory, "workers": self.workers, **values}
        if name in ("nginx", "origin"):
            text = NGINX.replace("{http}", text)
        if name == "origin":
            values["workers"] = 1
        suffix = {"envoy": "yaml", "seawall": "yaml", "unheld": "yaml"}.get(name, "conf")
        config = self.directory / f"{name}.{suffix}"
        config.write_text(text.format(**values))
        if name in ("nginx", "origin"):
            argv = [tool("nginx"), "-p", self.directory, "-c", config]
        elif name in ("haproxy", "relay", "upload"):
            argv = [tool("haproxy"), "-db", "-f", config]
        elif name == "envoy":
            argv = [self.envoy, "--concurrency", self.workers, "--disable-hot-restart", "-l", "error", "-c", config]
        else:
            argv = [self.seawall, "-c", config]
        is_proxy = name not in ("origin", "upload")
        core = self.cores.proxy if is_proxy else self.cores.load
        wrap = self.wrap(name) if is_proxy else []
        server = Server(name, [*wrap, *argv], core, port, self.directory / f"{name}.log")
        # From its start on, so that it is stopped whatever happens.
        self.running.append(server)
        server.wait_until_it_listens()
        return server

    def servers(self, scenario):
        """Name to server and port, of all that take part in a scenario."""
        upstream = {"refuse": self.refusing.getsockname()[1], "upload": self.upload.port}.get(
            scenario.app, self.origin.port
        )
        found = {}
        for name in self.names:
            # They answer no failure.
            if name in FLOOR and scenario.fails:
                continue
            if name == "direct":
                found[name] = (None, self.ports["tls"] if scenario.tls else upstream)
            else:
                server = self.proxy(name, scenario, upstream)
                found[name] = (server, server.port)
        return found

    def proxy(self, name, scenario, upstream):
        if name == "relay" and scenario.http2:
            upstream = self.ports["http2"]
        values = {"upstream": upstream, "tls": ""}
        if name == "nginx":
            tls = NGINX_TLS if scenario.tls else ""
            return self.start(name, tls + NGINX_PROXY, **values | {"tls": " ssl http2" if scenario.tls else ""})
        if name in ("haproxy", "relay"):
            alpn = "h2,http/1.1" if name == "haproxy" else "h2" if scenario.http2 else "http/1.1"
            if scenario.tls:
                values["tls"] = f" ssl crt {self.directory}/server.pem alpn {alpn}"
            return self.start(name, HAPROXY if name == "haproxy" else RELAY, **values)
        if name == "envoy":
            values["tls"] = ENVOY_TLS.format(dir=self.directory).rstrip() if scenario.tls else ""
            return self.start(name, ENVOY, **values)
        if scenario.tls:
            values["tls"] = SEAWALL_TLS.format(dir=self.directory)
        hold = ", hold: off" if name == "unheld" else ""
        return self.start(name, SEAWALL, admin=free_port(), hold=hold, **values)

    def stop(self, *servers):
        """These, or all. What has ended by itself ends the run."""
        for server in servers or list(self.running):
            ended = server.child.poll()
            server.stop()
            self.running.remove(server)
            if ended is not None and servers:
                sys.exit(f"{server.name} ended with {ended}: {server.log.read_text(errors='replace')[-2000:]}")


class Cores:
    """Which cores the proxies have, and which the load and the origin; as text for taskset."""

    def __init__(self, workers):
        every = sorted(os.sched_getaffinity(0))
        if len(every) < 2:
            sys.exit("two cores are needed: one for the proxy, one for the load and the origin")
        proxy = every[:workers]
        # With no core left, they share all of them.
        load = every[workers:] or every
        self.proxy, self.load = (",".join(map(str, cores)) for cores in (proxy, load))
        self.threads, self.shared = min(len(load), workers), len(every) <= workers
