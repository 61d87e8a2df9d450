"""TLS towards clients, with OpenSSL, curl and Python as clients: names, tickets, client certificates, renewal."""

import base64
import socket
import ssl
import subprocess
import time

import pytest

from support import http1
from support.authority import Authority, openssl, replace
from support.processes import free_port
from support.recorder import Recorder
from support.seawall import BINARY
from support.waiting import until


@pytest.fixture
def app():
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def listener(port, pairs, more=""):
    """A listener with these certificates, to be appended to the others."""
    certificates = ", ".join(f"{{ chain: {chain}, key: {key} }}" for chain, key in pairs)
    return f', {{ address: "127.0.0.1:{port}", tls: {{ certificates: [{certificates}]{more} }} }}'


def context(roots, pair=None, version=None):
    made = ssl.create_default_context(cafile=roots)
    if pair:
        made.load_cert_chain(*pair)
    if version:
        made.minimum_version = made.maximum_version = version
    return made


def connect(port, tls, name="shop.example", session=None):
    tcp = socket.create_connection(("127.0.0.1", port), timeout=20)
    try:
        return tls.wrap_socket(tcp, server_hostname=name, session=session)
    except Exception:
        tcp.close()
        raise


def client(port, tls, **more):
    return http1.Client(port, connected=connect(port, tls, **more))


def get(port, tls, fields=(), **more):
    with client(port, tls, **more) as connection:
        return connection.request("GET", "/", fields=fields)


def serial(port, tls):
    with connect(port, tls) as session:
        return int(session.getpeercert()["serialNumber"], 16)


def curl(*argv):
    argv = ["curl", "--silent", "--show-error", "--max-time", "20", *map(str, argv)]
    done = subprocess.run(argv, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def s_client(port, *argv):
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *map(str, argv)]
    done = subprocess.run(argv, input=b"", capture_output=True, timeout=20)
    return (done.stdout + done.stderr).decode(errors="replace")


def test_each_name_gets_its_certificate_and_a_stranger_the_first(app, authority, start_seawall):
    names = [["shop.example"], ["*.shop.example"], ["pay.shop.example"]]
    port = free_port()
    pairs = [authority.sign(f"/CN={name}", [name]) for [name] in names]
    start_seawall(app.port, listeners_more=listener(port, pairs))
    tls = context(authority.roots)
    for name, expected in [("shop.example", 0), ("a.shop.example", 1), ("pay.shop.example", 2)]:
        with connect(port, tls, name) as session:
            assert session.getpeercert()["subjectAltName"] == (("DNS", names[expected][0]),)
            assert session.version() == "TLSv1.3"
    tls.check_hostname = False
    for name in ["a.b.shop.example", "other.example", None]:
        with connect(port, tls, name) as session:
            assert session.getpeercert()["subjectAltName"] == (("DNS", "shop.example"),), name
    answer = curl("--cacert", authority.roots, "--resolve", f"a.shop.example:{port}:127.0.0.1", "--write-out",
                  "%{http_version}", "--output", "/dev/null", f"https://a.shop.example:{port}/")
    assert answer == "2"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_session_goes_on_whatever_worker_it_meets(version, app, authority, start_seawall):
    port = free_port()
    start_seawall(app.port, listeners_more=listener(port, [authority.sign("/CN=a", ["shop.example"])]))
    tls = context(authority.roots, version=version)
    session = None
    for attempt in range(20):
        with client(port, tls, session=session) as connection:
            answer = connection.request("GET", "/")
            assert (answer.status, connection.connected.session_reused) == (200, attempt > 0), attempt
            # The tickets of TLS 1.3 come behind the handshake: they were read with the answer.
            session = connection.connected.session


def test_only_new_versions_are_spoken(app, authority, start_seawall):
    port, strict = free_port(), free_port()
    pair = authority.sign("/CN=a", ["shop.example"])
    more = listener(port, [pair]) + listener(strict, [pair], ', min_version: "1.3"')
    seawall = start_seawall(app.port, listeners_more=more)
    assert "Protocol  : TLSv1.2" in s_client(port, "-tls1_2")
    assert "alert protocol version" in s_client(strict, "-tls1_2")
    assert "SSL alert number" in s_client(port, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    assert get(strict, context(authority.roots)).status == 200
    failed = "seawall_client_failures_total"
    seawall.counted(2, lambda metrics: metrics.total(failed, kind="tls_handshake_failed"), "refused handshakes")


def test_a_handshake_has_a_limit_and_who_just_looks_in_is_not_counted(app, authority, start_seawall):
    port = free_port()
    pair = authority.sign("/CN=a", ["shop.example"])
    more = "clients: { handshake_timeout: 500ms }"
    seawall = start_seawall(app.port, listeners_more=listener(port, [pair]), more=more)
    socket.create_connection(("127.0.0.1", port)).close()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as silent:
        silent.sendall(b"\x16\x03\x01")
        began = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - began < 10
    failed = "seawall_client_failures_total"
    seawall.counted(1, lambda metrics: metrics.total(failed, kind="tls_handshake_failed"), "slow handshakes")


def _told(answer, *names):
    return [[name, value] for name, value in answer.json()["fields"] if name.replace("_", "-") in names]


# What no client may say, in every spelling that an app may take for it.
_FORGED = ["Client-Cert: :AAAA:", "client_cert: :AAAA:", "CLIENT-CERT: :AAAA:", "Client-Cert-Chain: :AAAA:"]


def test_a_client_certificate_is_required_and_told(app, authority, tmp_path, start_seawall):
    port = free_port()
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    more = f", clients: {{ roots: {clients.roots} }}"
    pair = authority.sign("/CN=a", ["shop.example"])
    seawall = start_seawall(app.port, listeners_more=listener(port, [pair], more))
    chain, key = clients.sign("/CN=pilot 7")
    der = ssl.PEM_cert_to_DER_cert(chain.read_text())
    expected = [["client-cert", f":{base64.b64encode(der).decode()}:"]]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        tls = context(authority.roots, (chain, key), version)
        session = None
        # A session that goes on knows its client, too.
        for _ in range(3):
            with client(port, tls, session=session) as connection:
                answer = connection.request("GET", "/", fields=_FORGED)
                assert _told(answer, "client-cert", "client-cert-chain") == expected
                session = connection.connected.session
    # The plain listener knows nobody, and lets nobody pretend.
    answer = http1.get(seawall.port, "/", _FORGED)
    assert _told(answer, "client-cert", "client-cert-chain") == []
    for stranger in (None, others.sign("/CN=pilot 7")):
        # With TLS 1.3 a client learns of it when it reads.
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            get(port, context(authority.roots, stranger))
    failed = "seawall_client_failures_total"
    seawall.counted(2, lambda metrics: metrics.total(failed, kind="tls_handshake_failed"), "refused clients")
    out = curl("--cacert", authority.roots, "--cert", chain, "--key", key, "--http2", "--header", "Client-Cert: :AA:",
               "--resolve", f"shop.example:{port}:127.0.0.1", f"https://shop.example:{port}/")
    assert out.count("client-cert") == 1 and expected[0][1] in out


def test_an_optional_certificate_is_told_by_its_subject(app, authority, tmp_path, start_seawall):
    port = free_port()
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    more = f", clients: {{ roots: {clients.roots}, mode: optional, tell: subject, field: X-Client-Subject }}"
    pair = authority.sign("/CN=a", ["shop.example"])
    start_seawall(app.port, listeners_more=listener(port, [pair], more))
    forged = ["X-Client-Subject: CN=admin", "x_client-subject: CN=admin"]
    assert _told(get(port, context(authority.roots), forged), "x-client-subject") == []
    chain, key = clients.sign("/C=DE/O=Harbour, Inc./CN=pilot=7")
    answer = get(port, context(authority.roots, (chain, key)), forged)
    subject = openssl("x509", "-in", chain, "-noout", "-subject", "-nameopt", "RFC2253").stdout.decode()
    assert subject.strip() == "subject=CN=pilot=7,O=Harbour\\, Inc.,C=DE"
    # RFC 4514 allows to escape the equals sign, and we do.
    assert _told(answer, "x-client-subject") == [["x-client-subject", "CN=pilot\\=7,O=Harbour\\, Inc.,C=DE"]]
    # A certificate that is shown must be a good one.
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        get(port, context(authority.roots, others.sign("/CN=pilot 7")))


def test_certificates_are_renewed_under_open_connections(app, authority, tmp_path, start_seawall):
    port = free_port()
    used = authority.sign("/CN=a", ["shop.example"], days=2)
    more = ", reload: 100ms"
    seawall = start_seawall(app.port, listeners_more=listener(port, [used], more))
    tls = context(authority.roots)
    reloads = "seawall_certificate_reloads_total"

    def counted(result):
        return seawall.metrics().total(reloads, listener=f"127.0.0.1:{port}", result=result)

    def expiry():
        return seawall.metrics().total("seawall_certificate_expiry_timestamp_seconds", certificate=str(used[0]))

    def end_of(session):
        return ssl.cert_time_to_seconds(session.getpeercert()["notAfter"])

    with client(port, tls) as early:
        assert early.request("GET", "/").status == 200
        assert expiry() == end_of(early.connected)
        session = early.connected.session
        first = serial(port, tls)
        replace(authority.sign("/CN=b", ["shop.example"], days=5), used)
        until(lambda: serial(port, tls) != first, "the new certificate is shown")
        second = serial(port, tls)
        until(lambda: counted("ok") >= 1, "it is counted")
        with connect(port, tls) as later:
            assert expiry() == end_of(later) > end_of(early.connected)
        # The connection from before does not notice, nor does a session.
        assert early.request("GET", "/").status == 200
        with client(port, tls, session=session) as again:
            assert (again.request("GET", "/").status, again.connected.session_reused) == (200, True)

        failed = counted("failed")
        for content in (b"", b"no certificate at all", used[1].read_bytes()):
            failed += 1
            good = used[0].read_bytes()
            used[0].write_bytes(content)
            until(lambda: counted("failed") >= failed, f"{content[:20]} is refused")
            failed = counted("failed")
            assert serial(port, tls) == second
            used[0].write_bytes(good)
        used[0].unlink()
        until(lambda: counted("failed") > failed, "a missing file is told")
        assert serial(port, tls) == second
        third = authority.sign("/CN=c", ["shop.example"])
        # A chain without its key, then the key.
        refused = counted("failed")
        replace(third[:1], used[:1])
        until(lambda: counted("failed") > refused, "half a pair is refused")
        assert serial(port, tls) == second
        replace(third[1:], used[1:])
        until(lambda: serial(port, tls) != second, "both halves are shown")
        assert early.request("GET", "/").status == 200
    told = seawall.process.says("new certificates cannot be used; the old ones stay")
    assert any(str(used[0]) in line for line in told)
    assert "PRIVATE KEY" not in seawall.process.text()


def test_clients_of_a_root_that_is_gone_stay_out_with_their_sessions(app, authority, tmp_path, start_seawall):
    port = free_port()
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(old.roots.read_bytes())
    more = f", reload: 100ms, clients: {{ roots: {roots} }}"
    start_seawall(app.port, listeners_more=listener(port, [authority.sign("/CN=a", ["shop.example"])], more))
    before = context(authority.roots, old.sign("/CN=before"))
    after = context(authority.roots, new.sign("/CN=after"))
    with client(port, before) as connection:
        assert connection.request("GET", "/").status == 200
        session = connection.connected.session
        roots.write_bytes(new.roots.read_bytes())

        def admitted():
            try:
                return get(port, after).status == 200
            except (ssl.SSLError, ConnectionError, AssertionError):
                return False

        until(admitted, "clients of the new root are let in")
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            get(port, before, session=session)
        assert connection.request("GET", "/").status == 200, "what is open stays open"


def test_a_key_that_is_not_the_certificates_is_told_with_its_place(authority, tmp_path):
    (chain, _), (_, key) = authority.sign("/CN=a"), authority.sign("/CN=b")
    config = tmp_path / "seawall.yaml"
    text = f"listeners:\n  - address: :8443\n    tls: {{ certificates: [{{ chain: {chain}, key: {key} }}] }}\n"
    config.write_text(text + "upstreams: { app: { endpoints: [http://127.0.0.1:1] } }\nroutes: [{ upstream: app }]\n")
    done = subprocess.run([BINARY, "check", "-c", config], capture_output=True, timeout=20)
    assert done.returncode == 1 and b"seawall.yaml:3:" in done.stderr, done.stderr
    assert b"it does not fit the chain" in done.stderr


def test_an_ocsp_response_is_stapled(app, authority, start_seawall):
    port = free_port()
    chain, key = authority.sign("/CN=a", ["shop.example"])
    stapled = (chain, f"{key}, ocsp: {authority.staple(chain)}")
    start_seawall(app.port, listeners_more=listener(port, [stapled]))
    text = s_client(port, "-status", "-servername", "shop.example")
    assert "OCSP Response Status: successful" in text and "Cert Status: good" in text


def test_plain_http_is_sent_on_to_https(app, start_seawall):
    port, other = free_port(), free_port()
    more = f', {{ address: "127.0.0.1:{port}", redirect: {{}} }}'
    more += f', {{ address: "127.0.0.1:{other}", redirect: {{ port: 8443 }} }}'
    seawall = start_seawall(app.port, listeners_more=more)
    with http1.Client(port) as connection:
        for method, content in [("GET", None), ("POST", b"x" * 1000), ("HEAD", None), ("GET", None)]:
            answer = connection.request(method, "/a/b?c=d", content)
            assert (answer.status, answer.get("location")) == (308, "https://app.example/a/b?c=d"), method
            assert (answer.get("content-length"), answer.complete) == ("0", True)
            assert answer.get("x-request-id") and answer.get("strict-transport-security") is None
    assert http1.get(other, "/").get("location") == "https://app.example:8443/"
    with http1.Client(port) as connection:
        assert connection.request("OPTIONS", "*").status == 400
    out = curl("--http2-prior-knowledge", "--write-out", "%{http_version} %{http_code} %{redirect_url}",
               f"http://127.0.0.1:{other}/x")
    assert out == "2 308 https://127.0.0.1:8443/x"
    assert app.seen == []
    assert seawall.metrics().total("seawall_https_redirects_total") == 6


def test_every_answer_over_tls_says_to_come_back_over_tls(app, authority, start_seawall):
    port = free_port()
    more = ", hsts: { max_age: 24h, subdomains: true }"
    pair = authority.sign("/CN=a", ["shop.example"])
    seawall = start_seawall(app.port, listeners_more=listener(port, [pair], more))
    tls = context(authority.roots)
    expected = "max-age=86400; includeSubDomains"
    assert get(port, tls).get("strict-transport-security") == expected
    assert http1.get(seawall.port, "/").get("strict-transport-security") is None
    arguments = ["--cacert", authority.roots, "--resolve", f"shop.example:{port}:127.0.0.1", "--include"]
    assert expected in curl(*arguments, "--http2", f"https://shop.example:{port}/")
    app.close()
    # The first one still has an open connection to the app.
    other = free_port()
    start_seawall(app.port, listeners_more=listener(other, [pair], more))
    answer = get(other, tls)
    assert (answer.status, answer.error) == (500, "connection_refused")
    assert answer.get("strict-transport-security") == expected
