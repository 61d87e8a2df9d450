"""A certificate authority of a test: openssl's, with as many certificates as the test needs."""

import os
import subprocess


def openssl(*argv, **more):
    return subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True, **more)


class Authority:
    """Signs certificates. `roots` is its own certificate."""

    def __init__(self, directory, name="authority"):
        self.directory, self.name = directory, name
        self.roots, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9"]
        openssl(*request, "-subj", f"/CN={name}", "-out", self.roots, "-keyout", self.key)
        self._count = 0

    def sign(self, subject, names=(), days=5):
        """A chain and a key in files of their own."""
        self._count += 1
        chain, key, asked, more = (
            self.directory / f"{self.name}-{self._count}.{end}" for end in ("crt", "key", "csr", "ext")
        )
        request = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-utf8"]
        openssl(*request, "-subj", subject, "-out", asked, "-keyout", key)
        extensions = "basicConstraints=critical,CA:FALSE\n"
        if names:
            extensions += f"subjectAltName={','.join(f'DNS:{name}' for name in names)}\n"
        more.write_text(extensions)
        signer = ["-CA", self.roots, "-CAkey", self.key, "-set_serial", self._count + 1000]
        openssl("x509", "-req", "-in", asked, "-out", chain, "-days", days, "-extfile", more, *signer)
        return chain, key

    def staple(self, chain):
        """A signed OCSP response that says that this certificate, the last one, is good."""
        asked, answer = self.directory / "ocsp.req", self.directory / "ocsp.der"
        index = self.directory / "index.txt"
        index.write_text(f"V\t491231235959Z\t\t{self._count + 1000:04X}\tunknown\t/CN=any\n")
        openssl("ocsp", "-issuer", self.roots, "-cert", chain, "-no_nonce", "-reqout", asked)
        signer = ["-rsigner", self.roots, "-rkey", self.key, "-CA", self.roots]
        openssl("ocsp", "-index", index, *signer, "-reqin", asked, "-respout", answer, "-ndays", "2")
        return answer


def replace(pair, files):
    """Puts a chain and a key in the place of files that are in use, each in one step."""
    for new, used in zip(pair, files):
        copy = used.with_suffix(".new")
        copy.write_bytes(new.read_bytes())
        os.replace(copy, used)
