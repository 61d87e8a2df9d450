"""The proxies of failures.py: their configurations, from Debian's packages and (Envoy) from PyPI.

What a careful operator would write, not more: keep-alive to upstreams, WebSockets passed, certificates of upstreams
verified, a limit for every wait. The limits are equal and short: connecting 1 s, a response head 2 s, a body that
stands still 2 s (Envoy: 3 s). seawall pings WebSockets each second; the others have only an idle limit, 2 or 3 s.
All else is each proxy's default: retries, buffers, sizes of heads.
"""

from faults import TLS
from programs import find_envoy, tool, version
from servers import NGINX

NGINX_HTTP = """
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  proxy_http_version 1.1;
  proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
  proxy_connect_timeout 1s; proxy_read_timeout 2s; proxy_send_timeout 2s;
  proxy_ssl_verify on; proxy_ssl_trusted_certificate {trusted}; proxy_ssl_name localhost; proxy_ssl_server_name on;
  {upstreams}
  server {{ listen 127.0.0.1:{port}; {locations} }}
"""
HAPROXY = """
global
  nbthread 1
defaults
  mode http
  option forwardfor
  timeout connect 1s
  timeout client 30s
  timeout server 2s
  timeout tunnel 3s
frontend in
  bind 127.0.0.1:{port}
{rules}
{backends}
"""
CADDY = """
{{
  admin off
  auto_https off
  storage file_system {dir}/caddy
}}
http://:{port} {{
  bind 127.0.0.1
{handles}
}}
"""
CADDY_HANDLE = """
  handle {path} {{
    reverse_proxy {url} {{
      transport http {{ {lines}
      }}
    }}
  }}
"""
SEAWALL = """
workers: 1
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "off" }}
upstreams:
{upstreams}
routes:
{routes}
websocket: {{ ping_interval: 1s, pong_timeout: 1s }}
"""
SEAWALL_LIMITS = "timeouts: { connect: 1s, head: 2s, idle: 2s }"
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
          stream_idle_timeout: 3s
          upgrade_configs: [{{ upgrade_type: websocket }}]
          http_protocol_options: {{ accept_http_10: true, default_host_for_http_10: localhost }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
{routes}
  clusters:
{clusters}
"""
ENVOY_TLS = """
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context: {{ validation_context: {{ trusted_ca: {{ filename: {trusted} }} }} }}
"""


class Site:
    """What a configuration is written from: the port to listen on, and an app for each path."""

    def __init__(self, port, apps, directory, trusted):
        self.port, self.directory, self.trusted = port, directory, trusted
        # (name, path, port, whether over TLS)
        self.apps = [(name, f"/{name}", each.port, each.fault.upstream == TLS) for name, each in apps.items() if name]
        self.apps += [("origin", "/", each.port, False) for name, each in apps.items() if not name]

    def each(self, text):
        """`text(name, path, address, tls)` of each app, joined by line breaks."""
        return "\n".join(text(name, path, f"127.0.0.1:{port}", tls) for name, path, port, tls in self.apps)


def nginx(site):
    http = NGINX_HTTP.format(
        port=site.port,
        trusted=site.trusted,
        upstreams=site.each(lambda name, _, address, tls: f"upstream {name} {{ server {address}; keepalive 16; }}"),
        locations=site.each(
            lambda name, path, _, tls: f"location = {path} {{ proxy_pass http{'s' if tls else ''}://{name}; }}"
        ),
    )
    return NGINX.format(workers=1, dir=site.directory, port=site.port, http=http)


def haproxy(site):
    verified = f" ssl verify required ca-file {site.trusted} sni str(localhost)"
    return HAPROXY.format(
        port=site.port,
        rules=site.each(lambda name, path, address, tls: f"  use_backend {name} if {{ path {path} }}"),
        backends=site.each(
            lambda name, path, address, tls: f"backend {name}\n  server one {address}{verified if tls else ''}"
        ),
    )


def caddy(site):
    def handle(_, path, address, tls):
        lines = ["dial_timeout 1s", "response_header_timeout 2s", "read_timeout 2s", "write_timeout 2s"]
        if tls:
            lines += ["tls_server_name localhost", f"tls_trusted_ca_certs {site.trusted}"]
        url = f"http{'s' if tls else ''}://{address}"
        return CADDY_HANDLE.format(path=path, url=url, lines="".join(f"\n        {line}" for line in lines))

    return CADDY.format(port=site.port, dir=site.directory, handles=site.each(handle))


def seawall(site):
    def upstream(name, _, address, tls):
        verified = f", tls: {{ roots: {site.trusted}, server_name: localhost }}" if tls else ""
        return f'  {name}: {{ endpoints: ["http{"s" if tls else ""}://{address}"], {SEAWALL_LIMITS}{verified} }}'

    routes = site.each(lambda name, path, address, tls: f"  - {{ path: {path}, upstream: {name} }}")
    return SEAWALL.format(port=site.port, upstreams=site.each(upstream), routes=routes)


def envoy(site):
    def cluster(name, _, address, tls):
        port = address.rpartition(":")[2]
        endpoint = f"{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}"
        return (
            f"  - name: {name}\n    connect_timeout: 1s\n    load_assignment:\n      cluster_name: {name}\n"
            f"      endpoints: [{{ lb_endpoints: [{endpoint}] }}]"
            + (ENVOY_TLS.format(trusted=site.trusted).rstrip() if tls else "")
        )

    def route(name, path, _, tls):
        return f"              - {{ match: {{ path: {path} }}, route: {{ cluster: {name}, timeout: 2s }} }}"

    return ENVOY.format(port=site.port, routes=site.each(route), clusters=site.each(cluster))


def known(wanted, directory, seawall_path, envoy_path):
    """The wanted proxies: name to (label, configuration, suffix of its file, command before that file)."""
    found = {}

    def add(name, label, text, suffix, argv, *asks_version):
        if name in wanted:
            found[name] = (f"{label} {version(*asks_version)}", text, suffix, argv)

    add("seawall", "seawall", seawall, "yaml", [seawall_path, "-c"], seawall_path, "--version")
    add("nginx", "nginx", nginx, "conf", [tool("nginx"), "-c"], tool("nginx"), "-v")
    add("haproxy", "HAProxy", haproxy, "cfg", [tool("haproxy"), "-db", "-f"], tool("haproxy"), "-v")
    program = find_envoy(envoy_path) if "envoy" in wanted else None
    if program:
        argv = [program, "--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]
        add("envoy", "Envoy", envoy, "yaml", argv, program, "--version")
    # HOME: it keeps a copy of its configuration there.
    argv = [tool("env"), "-u", "XDG_CONFIG_HOME", f"HOME={directory}", tool("caddy"), "run", "--adapter", "caddyfile"]
    add("caddy", "Caddy", caddy, "caddyfile", [*argv, "--config"], tool("caddy"), "version")
    return found
